//! The Raft leader's answer to a node that asks to be let in.
//!
//! A number is given to one agent only, for a voter that has forgotten its votes must not vote again under its old
//! number. So an agent that comes without its state gets a fresh number even where its name is known, and it gets one
//! only if no agent lives under the old.

use super::membership;
use super::node::{Node, Refusal, wall_time};
use super::wire;
use agent_core::cluster::{Applied, Command, Member};
use agent_core::ids::{NodeId, RequestId};
use proto::peer::{Admission, HelloRequest, JoinReply, JoinRequest, join_reply};
use std::time::Duration;

const HELLO_DEADLINE: Duration = Duration::from_secs(2);
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Answers `request`; this node leads.
pub(super) async fn admit(node: &Node, request: &JoinRequest) -> JoinReply {
    let answer = match decide(node, request).await {
        Ok(number) => join_reply::Answer::Admitted(Admission {
            cluster_id: node.identity.cluster_id.clone(),
            node_id: number.0,
        }),
        Err(Refusal::Rejected(rejected)) => join_reply::Answer::Refused(rejected.to_string()),
        Err(
            Refusal::NotLeader { detail, .. } | Refusal::Unknown { detail } | Refusal::Stopped { detail },
        ) => join_reply::Answer::Later(detail),
    };
    JoinReply { answer: Some(answer) }
}

async fn decide(node: &Node, request: &JoinRequest) -> Result<NodeId, Refusal> {
    let member: Member = wire::from_json(&request.member, "member")
        .map_err(|error| Refusal::conflict("unreadable", error.to_string()))?;
    if member.http.is_empty() {
        // Whether a number is still to be had shows in the address that its agent tells.
        return Err(Refusal::conflict(
            "no-http-address",
            format!("{} did not tell its HTTP address", member.name),
        ));
    }
    let state = node.view.state();
    let Some((number, known)) = state.member_named(&member.name) else {
        return Err(Refusal::conflict(
            "unknown-member",
            format!(
                "the cluster {} has no member {}: run `pgctl member add {}` first",
                node.cluster_name, member.name, member.name
            ),
        ));
    };
    refuse_if_another_has_the_name(node, known, request.start_id).await?;
    if is_waiting(node, number, known) {
        // From now on the number is taken: the addresses are known.
        node.propose_here(Command::AnnounceMember { node: number, member }, PROPOSE_DEADLINE)
            .await?;
        return Ok(number);
    }
    tracing::warn!(name = member.name, old = %number, "its agent has lost its state: it gets a fresh number");
    let command = Command::ReplaceMember {
        request: RequestId(format!("join-{}-{}", member.name, request.start_id)),
        old: number,
        member,
        at: wall_time(),
    };
    match membership::leave_group_then(node, number, command, PROPOSE_DEADLINE).await? {
        Applied::Member { node: fresh } => Ok(fresh),
        other => Err(Refusal::conflict(
            "request-reused",
            format!("the answer was {other:?}"),
        )),
    }
}

/// Whether the number was given by `pgctl member add` and no agent has taken it up yet. An agent that does so tells
/// its addresses first.
fn is_waiting(node: &Node, number: NodeId, known: &Member) -> bool {
    known.http.is_empty()
        && node
            .metrics()
            .membership_config
            .membership()
            .get_node(&number.0)
            .is_none()
}

/// An agent that lives under the name, other than the one that asks, keeps it. The address where it was last is asked;
/// where nobody answers there, nobody can tell.
async fn refuse_if_another_has_the_name(node: &Node, known: &Member, start_id: u64) -> Result<(), Refusal> {
    let (name, address) = (&known.name, &known.peer);
    let hello = HelloRequest {
        cluster_name: node.cluster_name.clone(),
        from: node.identity.name.clone(),
    };
    match node.channels.hello(address, hello, HELLO_DEADLINE).await {
        Ok(told) if told.start_id == start_id => Ok(()),
        // The address has passed to somebody else.
        Ok(told) if told.name != *name || told.cluster_name != node.cluster_name => Ok(()),
        Ok(_) => Err(Refusal::conflict(
            "name-in-use",
            format!("another agent runs as {name} at {address}: two agents must not have one name"),
        )),
        Err(error) => Err(Refusal::conflict(
            "old-agent-silent",
            format!(
                "{name} is a member, and the Raft leader cannot ask its agent at {address} whether it is the one that \
                 wants to join ({error}): start the agent under that address, or, if that host is gone for good, run \
                 `pgctl member remove {name}` and `pgctl member add {name}`"
            ),
        )),
    }
}
