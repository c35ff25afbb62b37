//! Every way in which a request can fail, as a gRPC status. This is the one place where the two meet.
//!
//! The message says what happened. The metadata carry `pgctl-id`, a stable kebab-case id that programs may test, and
//! `pgctl-next-bin`, what to do next.

use crate::ports::ProposeError;
use agent_core::cluster::{Rejected, Unfit};
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Status};

/// The metadata key of the id.
pub(super) const ID: &str = "pgctl-id";
/// The metadata key of the next step, UTF-8.
pub(super) const NEXT: &str = "pgctl-next-bin";

/// A refusal: what happened, and what to do next.
pub(super) fn refuse(code: Code, id: &str, message: impl Into<String>, next: &str) -> Status {
    let mut status = Status::new(code, message);
    // Our ids are kebab-case, so that they always fit.
    if let Ok(value) = MetadataValue::try_from(id) {
        status.metadata_mut().insert(ID, value);
    }
    if !next.is_empty() {
        status
            .metadata_mut()
            .insert_bin(NEXT, BinaryMetadataValue::from_bytes(next.as_bytes()));
    }
    status
}

/// The request itself is wrong.
pub(super) fn invalid(id: &str, message: impl Into<String>, next: &str) -> Status {
    refuse(Code::InvalidArgument, id, message, next)
}

/// The state of the cluster stands in the way.
pub(super) fn conflict(id: &str, message: impl Into<String>, next: &str) -> Status {
    refuse(Code::FailedPrecondition, id, message, next)
}

/// The request was taken, and how it ended is not known.
pub(super) fn unknown_outcome(message: impl Into<String>) -> Status {
    refuse(
        Code::Unknown,
        "outcome-unknown",
        message,
        "look with `pgctl status` and `pgctl events` before anything else; the same request id may be sent again",
    )
}

/// The cluster's answer to a command that was not carried out.
pub(super) fn of_propose(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(rejected) => of_rejection(rejected),
        ProposeError::NoLeader { waited, detail } => refuse(
            Code::Unavailable,
            "no-raft-leader",
            format!(
                "no Raft leader within {} ms ({detail}); nothing was changed",
                waited.as_millis()
            ),
            "a majority of the agents must run and reach each other: see `pgctl status` on each node",
        ),
        ProposeError::Unknown { detail } => unknown_outcome(format!(
            "the Raft leader took the request, and its answer did not come ({detail})"
        )),
        ProposeError::Stopped { detail } => refuse(
            Code::Unavailable,
            "consensus-stopped",
            format!("the consensus of this node has stopped ({detail})"),
            "ask another agent; restart this one, and read its log",
        ),
    }
}

fn of_rejection(rejected: Rejected) -> Status {
    match rejected {
        Rejected::Conflict { id, message } if id == "settings-changed" => refuse(
            Code::Aborted,
            &id,
            message,
            "read the settings again and repeat the change",
        ),
        Rejected::Conflict { id, message } => conflict(&id, message, ""),
        Rejected::Gate { gates } => {
            let next: Vec<&str> = gates
                .iter()
                .filter(|gate| !gate.open)
                .map(|gate| gate.next.as_str())
                .collect();
            let next = next.join("; ");
            conflict(
                "promotion-gate-is-shut",
                Rejected::Gate { gates }.to_string(),
                &next,
            )
        }
    }
}

/// A switchover that has no fit target.
pub(super) fn of_unfit(unfit: &Unfit) -> Status {
    conflict(unfit.id, unfit.found.clone(), &unfit.next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::reason::Reason;
    use std::time::Duration;

    fn id(status: &Status) -> &str {
        status
            .metadata()
            .get(ID)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn next(status: &Status) -> String {
        let value = status
            .metadata()
            .get_bin(NEXT)
            .and_then(|value| value.to_bytes().ok());
        value
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    #[test]
    fn each_failure_has_its_own_code_and_id() {
        let rejected = |id: &str| {
            ProposeError::Rejected(Rejected::Conflict {
                id: id.to_owned(),
                message: "so it is".to_owned(),
            })
        };
        let detail = || "test".to_owned();
        for (error, code, expected) in [
            (rejected("name-taken"), Code::FailedPrecondition, "name-taken"),
            (rejected("settings-changed"), Code::Aborted, "settings-changed"),
            (
                ProposeError::NoLeader {
                    waited: Duration::from_secs(5),
                    detail: detail(),
                },
                Code::Unavailable,
                "no-raft-leader",
            ),
            (
                ProposeError::Unknown { detail: detail() },
                Code::Unknown,
                "outcome-unknown",
            ),
            (
                ProposeError::Stopped { detail: detail() },
                Code::Unavailable,
                "consensus-stopped",
            ),
        ] {
            let status = of_propose(error);
            assert_eq!((status.code(), id(&status)), (code, expected));
        }
    }

    #[test]
    fn a_shut_gate_tells_what_would_open_it() {
        let gates = vec![
            Reason::open("a", "fine"),
            Reason::shut("b", "two of three are gone", "start n2 – or n3"),
        ];
        let status = of_propose(ProposeError::Rejected(Rejected::Gate { gates }));
        assert!(
            status.message().contains("b: two of three are gone"),
            "{}",
            status.message()
        );
        assert_eq!(next(&status), "start n2 – or n3");
    }
}
