//! What is checked of a request before anything is done, so that a refusal comes at once and says what to do.

use super::refusal;
use crate::config::{HostPort, nearest};
use agent_core::cluster::{Applied, ClusterState, FailoverRisk, MemberKind};
use agent_core::ids::{NodeId, RequestId};
use tonic::Status;

/// The longest request id that is taken, bytes: ids are kept in the replicated state.
const REQUEST_ID_MAX: usize = 64;

/// The client's id of a request.
pub(super) fn request_id(id: String) -> Result<RequestId, Status> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > REQUEST_ID_MAX || !id.chars().all(plain) {
        let next = "give each request an id of its own, such as a UUID";
        return Err(refusal::invalid(
            "bad-request-id",
            "a request id is 1 to 64 of a-z A-Z 0-9 - _ .",
            next,
        ));
    }
    Ok(RequestId(id))
}

/// The member called `name`.
pub(super) fn member(state: &ClusterState, name: &str) -> Result<NodeId, Status> {
    if let Some((node, _)) = state.member_named(name) {
        return Ok(node);
    }
    let near = nearest(name, state.members.values().map(|member| member.name.as_str()));
    let hint = near
        .map(|near| format!("did you mean {near}? "))
        .unwrap_or_default();
    let message = format!("{name:?} is not a member of {}", state.name);
    Err(refusal::conflict(
        "not-a-member",
        message,
        &format!("{hint}choose a node of `pgctl list`"),
    ))
}

/// How the request was answered when it came before: `None` if it is new.
///
/// # Errors
/// It was refused then, and is so again.
pub(super) fn earlier(state: &ClusterState, request: &RequestId) -> Result<Option<Applied>, Status> {
    match state.requests.iter().find(|(seen, _)| seen == request) {
        None => Ok(None),
        Some((_, Ok(applied))) => Ok(Some(applied.clone())),
        Some((_, Err(rejected))) => Err(refusal::of_propose(rejected.clone().into())),
    }
}

/// Whether a node of that name and address can be added; the address in its usual form.
pub(super) fn new_member(state: &ClusterState, name: &str, peer: &str) -> Result<String, Status> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if !(1..=40).contains(&name.len()) || !name.chars().all(allowed) {
        let message = format!("{name:?} is no node name: it must be 1 to 40 of a-z 0-9 _ -");
        return Err(refusal::invalid(
            "bad-name",
            message,
            "choose another name, the one in its node.toml",
        ));
    }
    let Some(peer) = HostPort::parse(peer) else {
        let message = format!("{peer:?} is no address of an agent");
        return Err(refusal::invalid(
            "bad-peer",
            message,
            "give host:port of its gRPC port, such as 10.0.0.4:7432",
        ));
    };
    let peer = peer.to_string();
    match state
        .members
        .values()
        .find(|member| member.peer == peer && member.name != name)
    {
        Some(other) => {
            let message = format!("{} is reached at {peer} already", other.name);
            Err(refusal::conflict(
                "peer-taken",
                message,
                "give the new node's own address",
            ))
        }
        None => Ok(peer),
    }
}

/// Whether a member can be removed. The state machine checks it again; here, before the node has lost its vote.
pub(super) fn leaving_member(state: &ClusterState, name: &str) -> Result<NodeId, Status> {
    let node = member(state, name)?;
    if state.holder == Some(node) {
        let message = format!("{name} is the primary");
        return Err(refusal::conflict(
            "holder-stays",
            message,
            "pgctl switchover to another node first",
        ));
    }
    if state.sync.iter().any(|rule| rule.members.contains(&node)) {
        let message = format!("{name} is in the synchronous set");
        let next = format!("take it out first: pgctl member maintenance {name} on");
        return Err(refusal::conflict("in-synchronous-set", message, &next));
    }
    Ok(node)
}

/// Whether a failover with that risk may be ordered.
pub(super) fn allow_failover(
    state: &ClusterState,
    risk: &FailoverRisk,
    accept_data_loss: bool,
) -> Result<(), Status> {
    let to = state.name_of(risk.target);
    if state.holder == Some(risk.target) {
        let message = format!("{to} holds the newest epoch already");
        return Err(refusal::conflict(
            "already-primary",
            message,
            "see `pgctl explain` for what it waits for",
        ));
    }
    if state
        .members
        .get(&risk.target)
        .is_some_and(|member| member.kind == MemberKind::Witness)
    {
        let message = format!("{to} is a witness and has no data");
        return Err(refusal::conflict("witness", message, "choose a data node"));
    }
    if !risk.target_ready {
        let message = format!("{to} does not answer, or its server is not a running standby");
        return Err(refusal::conflict(
            "target-is-gone",
            message,
            "start it, or choose another node of `pgctl list`",
        ));
    }
    if risk.acknowledged_is_safe || accept_data_loss {
        return Ok(());
    }
    let bytes = risk
        .bytes
        .map_or_else(|| "an unknown number of".to_owned(), |bytes| bytes.to_string());
    let span = risk.span.map_or_else(
        || "unknown".to_owned(),
        |span| format!("{:.1} s", span.as_secs_f64()),
    );
    Err(refusal::conflict(
        "data-loss-not-accepted",
        format!("{to} may lack acknowledged commits: {bytes} bytes of WAL, from a span of {span}"),
        "bring back the nodes that `pgctl explain` names, or repeat with --accept-data-loss",
    ))
}
