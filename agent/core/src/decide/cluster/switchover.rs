//! A planned change of primary, up to the point where the old primary has shut down; from there on it is the one
//! promotion path of [`super::failover`].

use super::{ClusterAction, CoordinatorView};
use crate::cluster::{Command, SwitchoverPhase, SyncMode};
use crate::decide::Decision;
use crate::ids::NodeId;
use crate::reason::Reason;
use crate::view::Server;
use std::collections::BTreeSet;
use std::time::Duration;

/// The target may be this much behind when the old primary is told to stop, bytes.
const LAG_ALLOWED: u64 = 16 << 20;

pub(super) fn decide(view: &CoordinatorView<'_>, holder: NodeId) -> Option<Decision<ClusterAction>> {
    let running = view.state.switchover.as_ref()?;
    let deadline = Duration::from_millis(view.state.settings.switchover_deadline_ms);
    let since = view.memory.switchover_since.unwrap_or(view.now);
    let late = view.now.since(since) >= deadline;
    if running.epoch != view.state.epoch {
        return Some(end(view, "the epoch that it was asked for is over"));
    }
    if running.phase == SwitchoverPhase::Stopping {
        let reason = Reason::shut(
            "old-primary-stopped",
            format!("{} shuts down", view.name(holder)),
            "its last session ends; `pgctl explain` on it names those in the way",
        );
        return Some(Decision::wait("switchover-stopping", reason));
    }
    let reasons = ready(view, holder, running.to);
    if reasons.iter().all(|reason| reason.open) {
        let prepared = view
            .fresh(holder)
            .is_some_and(|report| report.prepared_for.as_ref() == Some(&running.request));
        if prepared {
            let command = Command::StopForSwitchover {
                request: running.request.clone(),
                at: view.wall,
            };
            let decision = Decision::act("switchover-stop", ClusterAction::Propose(command));
            return Some(Decision { reasons, ..decision });
        }
    }
    if late {
        let shut: Vec<String> = reasons
            .iter()
            .filter(|reason| !reason.open)
            .map(|r| r.found.clone())
            .collect();
        let what = if shut.is_empty() {
            "the checkpoint on the primary did not end".to_owned()
        } else {
            shut.join("; ")
        };
        return Some(end(
            view,
            &format!(
                "not ready within {} s: {what}; the old primary serves on",
                deadline.as_secs()
            ),
        ));
    }
    let decision = Decision {
        reasons,
        ..Decision::rest("switchover-preparing")
    };
    Some(decision.again(since.plus(deadline), "give the switchover up"))
}

fn end(view: &CoordinatorView<'_>, why: &str) -> Decision<ClusterAction> {
    let request = view
        .state
        .switchover
        .as_ref()
        .map(|running| running.request.clone())
        .unwrap_or_default();
    Decision::act(
        "switchover-aborted",
        ClusterAction::Propose(Command::EndSwitchover {
            request,
            why: why.to_owned(),
            at: view.wall,
        }),
    )
}

/// What must be true before the old primary is stopped.
fn ready(view: &CoordinatorView<'_>, holder: NodeId, to: NodeId) -> Vec<Reason> {
    let target = view.name(to);
    let primary = view
        .fresh(holder)
        .and_then(|report| report.pg.as_ref())
        .and_then(|pg| match &pg.server {
            Server::Primary(primary) => Some(primary),
            _ => None,
        });
    let Some(primary) = primary else {
        return vec![Reason::shut(
            "primary-serves",
            format!("{} has not reported lately as a primary", view.name(holder)),
            "it reports, or a failover happens",
        )];
    };
    let name = view.state.application_name(to, view.state.epoch);
    let connection = primary
        .standbys
        .iter()
        .find(|standby| standby.application_name == name && standby.streaming);
    let behind = connection.map(|standby| primary.position.lsn.bytes_since(standby.flush));
    let streams = match behind {
        None => Reason::shut(
            "target-streams",
            format!("{target} does not stream from the primary"),
            format!("start {target}, and see `pgctl explain`"),
        ),
        Some(bytes) if bytes > LAG_ALLOWED => Reason::shut(
            "target-streams",
            format!("{target} is {bytes} bytes behind, {LAG_ALLOWED} are allowed"),
            "it catches up, or choose another node",
        ),
        Some(bytes) => Reason::open("target-streams", format!("{target} is {bytes} bytes behind")),
    };
    let in_sync = view.state.settings.sync_mode == SyncMode::Async
        || (!view.state.sync_unsettled()
            && view
                .state
                .sync_rule()
                .is_some_and(|rule| rule.members.contains(&to)));
    let member = if in_sync {
        Reason::open("target-in-sync", format!("{target} is in the synchronous set"))
    } else {
        Reason::shut(
            "target-in-sync",
            format!("{target} is not in the synchronous set, or the set is changing"),
            "it joins by itself once it streams, unless it is in maintenance",
        )
    };
    let alive = if view.fresh(to).is_some() {
        Reason::open("target-reports", format!("{target} reports"))
    } else {
        Reason::shut(
            "target-reports",
            format!("{target} has not reported lately"),
            format!("start the agent of {target}"),
        )
    };
    vec![alive, streams, member, free_to_release(view, to)]
}

/// The old primary stops only once those who must release it could do so at once: an agent that has just restarted
/// releases nothing for a while, and nobody would be primary for as long.
fn free_to_release(view: &CoordinatorView<'_>, to: NodeId) -> Reason {
    const ID: &str = "voters-may-release";
    let free = |node: &NodeId| {
        view.fresh(*node)
            .is_some_and(|report| report.voter.quarantine.is_zero())
    };
    let voters: BTreeSet<NodeId> = view.state.voters.all().into_iter().filter(free).collect();
    if free(&to) && view.state.voters.majority(&voters) {
        return Reason::open(
            ID,
            "a majority of the voters, and the target, can release the lease at once",
        );
    }
    let restarted: Vec<String> = view
        .state
        .voters
        .all()
        .into_iter()
        .chain([to])
        .collect::<BTreeSet<NodeId>>()
        .into_iter()
        .filter(|node| !free(node))
        .map(|node| view.name(node))
        .collect();
    Reason::shut(
        ID,
        format!(
            "{} has just restarted, or does not report: it would release nothing yet",
            restarted.join(", ")
        ),
        "nothing: it is over within the length of a promise, see `pgctl config check`",
    )
}
