//! Keeping Raft's membership in step with the members of the replicated state.
//!
//! The replicated state says who shall be a member; whoever leads makes Raft's group follow, one change at a time, for
//! as long as the two differ. There is nothing to resume: a leader that dies in the middle leaves a difference behind,
//! and the next one sees it.

use super::node::{Node, Refusal, refusal, wall_time};
use super::types::{RaftNode, RaftTypes};
use agent_core::cluster::{Applied, ClusterState, Command, Member};
use agent_core::ids::{NodeId, RequestId};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, RaftMetrics};
use proto::peer::HelloRequest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A change that no majority has acknowledged by then is left to the next round.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);
const HELLO_DEADLINE: Duration = Duration::from_secs(1);
/// A learner that lacks no more than this many entries becomes a voter.
const CAUGHT_UP: u64 = 100;
/// How often the two are compared while nothing calls for it.
const ROUND: Duration = Duration::from_millis(500);

/// What has to be done next to bring Raft's group in line.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A change was left half-way.
    Finish,
    /// Not a member any more.
    Remove { node: NodeId },
    /// A member that is not in the group; its agent must be there first.
    Admit { node: NodeId },
    /// A learner that has caught up.
    Promote { node: NodeId },
}

/// Runs until the agent ends. Does nothing where this node does not lead.
pub(super) async fn keep_in_step(node: Arc<Node>) {
    let mut states = node.view.watch();
    loop {
        // Either a new state, or a look round all the same: a learner catches up without any new state.
        drop(tokio::time::timeout(ROUND, states.changed()).await);
        if states.has_changed().is_err() {
            return;
        }
        states.mark_unchanged();
        if node.stopped().is_some() {
            return;
        }
        while node.leads() {
            match one_step(&node).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(refused) => {
                    tracing::debug!(?refused, "a change of the Raft group has to wait");
                    break;
                }
            }
        }
    }
}

/// Makes one change. False if there is nothing that could be done now.
async fn one_step(node: &Node) -> Result<bool, Refusal> {
    let state = node.view.state();
    if state.cluster_id.is_empty() {
        return found(node).await;
    }
    let _changing = node.membership.lock().await;
    let metrics = node.metrics();
    for step in steps(&state, &metrics) {
        let done = match step {
            Step::Finish => change(node, &metrics, ChangeMembers::AddVoterIds(BTreeSet::new()))
                .await
                .map(|()| true)?,
            Step::Remove { node: gone } => remove_from_group(node, gone).await.map(|()| true)?,
            Step::Promote { node: ready } => {
                tracing::info!(node = %ready, name = state.name_of(ready), "taking a node into the vote");
                change(node, &metrics, ChangeMembers::AddVoterIds([ready.0].into()))
                    .await
                    .map(|()| true)?
            }
            Step::Admit { node: new } => match state.members.get(&new) {
                Some(member) if agent_is_there(node, new, member).await => {
                    tracing::info!(node = %new, name = member.name, "taking a node into the Raft group");
                    let listed = RaftNode {
                        name: member.name.clone(),
                        peer: member.peer.clone(),
                    };
                    change(
                        node,
                        &metrics,
                        ChangeMembers::AddNodes(BTreeMap::from([(new.0, listed)])),
                    )
                    .await?;
                    true
                }
                _ => false,
            },
        };
        if done {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where Raft's group and the replicated state differ.
fn steps(state: &ClusterState, metrics: &RaftMetrics<RaftTypes>) -> Vec<Step> {
    let group = metrics.membership_config.membership();
    if group.get_joint_config().len() > 1 {
        return vec![Step::Finish];
    }
    let voters: BTreeSet<u64> = group.voter_ids().collect();
    let listed: BTreeSet<u64> = group.nodes().map(|(id, _)| *id).collect();
    let gone = listed
        .iter()
        .copied()
        .map(NodeId)
        .filter(|id| !state.members.contains_key(id));
    let mut steps: Vec<Step> = gone.map(|node| Step::Remove { node }).collect();
    for node in state.members.keys().copied() {
        if voters.contains(&node.0) {
            continue;
        }
        if !listed.contains(&node.0) {
            steps.push(Step::Admit { node });
        } else if caught_up(metrics, node) {
            steps.push(Step::Promote { node });
        }
    }
    steps
}

fn caught_up(metrics: &RaftMetrics<RaftTypes>, node: NodeId) -> bool {
    let has = metrics
        .replication
        .as_ref()
        .and_then(|by_node| by_node.get(&node.0))
        .and_then(Option::as_ref);
    has.is_some_and(|has| has.index + CAUGHT_UP >= metrics.last_log_index.unwrap_or_default())
}

async fn agent_is_there(node: &Node, new: NodeId, member: &Member) -> bool {
    let hello = HelloRequest {
        cluster_name: node.cluster_name.clone(),
        from: node.identity.name.clone(),
    };
    match node.channels.hello(&member.peer, hello, HELLO_DEADLINE).await {
        Ok(reply) => reply.cluster_id == node.identity.cluster_id && reply.node_id == new.0,
        Err(_) => false,
    }
}

/// Makes the first entry of the replicated state.
async fn found(node: &Node) -> Result<bool, Refusal> {
    let members = node.identity.founding_members.clone();
    if members.is_empty() {
        return Ok(false);
    }
    let command = Command::Found {
        cluster_id: node.identity.cluster_id.clone(),
        name: node.cluster_name.clone(),
        members,
        settings: Box::new(node.settings.clone()),
        secrets: super::founding::new_secrets(),
    };
    node.propose_here(command, CHANGE_DEADLINE).await?;
    Ok(true)
}

/// Takes `gone` out of Raft's group, and hands the leadership over first where it is this node.
async fn remove_from_group(node: &Node, gone: NodeId) -> Result<(), Refusal> {
    let metrics = node.metrics();
    let group = metrics.membership_config.membership();
    if group.get_node(&gone.0).is_none() {
        return Ok(());
    }
    let voters: BTreeSet<u64> = group.voter_ids().collect();
    if !voters.contains(&gone.0) {
        return change(node, &metrics, ChangeMembers::RemoveNodes([gone.0].into())).await;
    }
    if voters.len() == 1 {
        return Err(Refusal::conflict(
            "last-member",
            "it is the last voter of the cluster: stop its agent instead",
        ));
    }
    if gone == node.id() {
        let Some(next) = best_successor(&metrics, gone) else {
            return Err(Refusal::NotLeader {
                leader: None,
                detail: "no other voter can lead now".to_owned(),
            });
        };
        tracing::info!(to = %next, "handing the Raft leadership over before leaving the group");
        drop(node.raft.trigger().transfer_leader(next.0).await);
        return Err(Refusal::NotLeader {
            leader: Some(next),
            detail: "the leadership is being handed over".to_owned(),
        });
    }
    change(node, &metrics, ChangeMembers::RemoveVoters([gone.0].into())).await
}

/// The voter beside `me` that has the most of the log.
pub(super) fn best_successor(metrics: &RaftMetrics<RaftTypes>, me: NodeId) -> Option<NodeId> {
    let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
    let replication = metrics.replication.as_ref()?;
    replication
        .iter()
        .filter(|(id, _)| voters.contains(id) && **id != me.0)
        .filter_map(|(id, has)| has.as_ref().map(|has| (has.index, *id)))
        .max()
        .map(|(_, id)| NodeId(id))
}

/// One change of the membership, refused if another one came in between.
async fn change(
    node: &Node,
    seen: &RaftMetrics<RaftTypes>,
    members: ChangeMembers<u64, RaftNode>,
) -> Result<(), Refusal> {
    let last_membership_log_id = *seen.membership_config.log_id();
    let unchanged = Precondition::LastMembershipLogId {
        last_membership_log_id,
    };
    let change = node.raft.change_membership_if(members, false, [unchanged]);
    match tokio::time::timeout(CHANGE_DEADLINE, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => Err(Refusal::Unknown {
            detail: format!("no majority acknowledged the change of the group within {CHANGE_DEADLINE:?}"),
        }),
    }
}

/// Gives a new member its number, if this node leads.
pub(super) async fn add_here(
    node: &Node,
    request: RequestId,
    member: Member,
    deadline: Duration,
) -> Result<NodeId, Refusal> {
    match node
        .propose_here(
            Command::AddMember {
                request,
                member,
                at: wall_time(),
            },
            deadline,
        )
        .await?
    {
        Applied::Member { node } => Ok(node),
        other => Err(Refusal::conflict(
            "request-reused",
            format!("that request was another one before ({other:?})"),
        )),
    }
}

/// Takes a member out of Raft's group, and then has it forgotten, if this node leads.
pub(super) async fn remove_here(
    node: &Node,
    request: RequestId,
    gone: NodeId,
    deadline: Duration,
) -> Result<(), Refusal> {
    let command = Command::RemoveMember {
        request,
        node: gone,
        at: wall_time(),
    };
    leave_group_then(node, gone, command, deadline).await.map(drop)
}

/// Takes `gone` out of Raft's group and then proposes `command`, which forgets it; does neither if the state would
/// refuse the command.
pub(super) async fn leave_group_then(
    node: &Node,
    gone: NodeId,
    command: Command,
    deadline: Duration,
) -> Result<Applied, Refusal> {
    let _changing = tokio::time::timeout(deadline, node.membership.lock())
        .await
        .map_err(|_| Refusal::NotLeader {
            leader: Some(node.id()),
            detail: "another change of the membership is under way".to_owned(),
        })?;
    if !node.leads() {
        let leader = node.raft_leader().filter(|leader| *leader != node.id());
        return Err(Refusal::NotLeader {
            leader,
            detail: "this node does not lead".to_owned(),
        });
    }
    let mut rehearsal = (*node.view.state()).clone();
    rehearsal.apply(&command).map_err(Refusal::Rejected)?;
    remove_from_group(node, gone).await?;
    node.propose_here(command, deadline).await
}
