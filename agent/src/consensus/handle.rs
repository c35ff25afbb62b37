//! The port [`Consensus`] of this node: proposing through whichever node leads.

use super::channels::CallError;
use super::node::{Node, Refusal};
use super::rpc::{Change, address_of, perform_here};
use super::store::DiskJobs;
use super::supervisor::RaftHealth;
use super::wire;
use crate::ports::{Consensus, ProposeError};
use agent_core::cluster::{Applied, ClusterState, Command, Member};
use agent_core::health::LogWrites;
use agent_core::ids::{NodeId, RequestId};
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::peer;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A change of the members, from the request to the answer.
const MEMBER_DEADLINE: Duration = Duration::from_secs(15);
/// How long one node is waited for before the next is tried.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long an answer is kept back for this node's own copy of the state.
const CATCH_UP: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long to wait for a Raft leader before looking again.
const AGAIN: Duration = Duration::from_millis(20);

/// Consensus as the rest of the agent uses it. Clones share it.
#[derive(Clone)]
pub struct ConsensusHandle {
    node: Arc<Node>,
    disk: DiskJobs,
    health: watch::Receiver<RaftHealth>,
}

impl ConsensusHandle {
    pub(super) fn new(
        node: Arc<Node>,
        disk: DiskJobs,
        health: watch::Receiver<RaftHealth>,
    ) -> ConsensusHandle {
        ConsensusHandle { node, disk, health }
    }

    /// Whether Raft works on this node. [`RaftHealth::Stopped`] is a reason to fence.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<RaftHealth> {
        self.health.clone()
    }

    /// The cluster's UUID.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.node.identity.cluster_id
    }

    /// Hands the Raft leadership to another voter, if this node has it; before a planned end of the agent.
    pub async fn give_leadership_away(&self) {
        let metrics = self.node.metrics();
        if metrics.current_leader == Some(self.node.id().0)
            && let Some(successor) = super::membership::best_successor(&metrics, self.node.id())
        {
            // The worst that can happen is an election.
            drop(self.node.raft.trigger().transfer_leader(successor.0).await);
        }
    }

    /// Ends Raft on this node, writes out what is pending, and frees the state directory.
    pub async fn shutdown(&self) {
        // The core may have ended by itself; its tasks are gone then as well.
        drop(self.node.raft.shutdown().await);
        self.disk.close().await;
    }

    async fn through_leader(&self, change: Change, deadline: Duration) -> Result<Applied, ProposeError> {
        let until = Instant::now() + deadline;
        let mut last = "no Raft leader is known".to_owned();
        let mut taken: Option<String> = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match taken {
                    Some(detail) => ProposeError::Unknown { detail },
                    None => ProposeError::NoLeader {
                        waited: deadline,
                        detail: last,
                    },
                });
            }
            let outcome = match self.node.raft_leader() {
                Some(leader) if leader != self.node.id() => {
                    self.forward(leader, &change, left.min(ATTEMPT)).await
                }
                _ => perform_here(&self.node, change.clone(), left).await,
            };
            match outcome {
                Ok(applied) => return Ok(applied),
                Err(Refusal::Rejected(rejected)) => return Err(ProposeError::Rejected(rejected)),
                Err(Refusal::Stopped { detail }) => return Err(ProposeError::Stopped { detail }),
                Err(Refusal::NotLeader { detail, .. }) => last = detail,
                Err(Refusal::Unknown { detail }) if change.may_be_repeated() => taken = Some(detail),
                Err(Refusal::Unknown { detail }) => return Err(ProposeError::Unknown { detail }),
            }
            tokio::time::sleep(AGAIN.min(left)).await;
        }
    }

    /// Waits until this node, too, has applied its log up to `index`, so that whoever was told that a change is made can
    /// see it here; not for long, since the change is made all the same.
    async fn catch_up(&self, index: u64) {
        let until = Instant::now() + CATCH_UP;
        // A node that is behind for longer shows what it knows, and says how far it is.
        while self.node.view.applied_index() < index && Instant::now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn forward(&self, leader: NodeId, change: &Change, deadline: Duration) -> Result<Applied, Refusal> {
        let not_leader = |detail: String| Refusal::NotLeader { leader: None, detail };
        let Some(address) = address_of(&self.node, leader) else {
            return Err(not_leader(format!(
                "the address of the Raft leader, node {leader}, is not known"
            )));
        };
        let identity = &self.node.identity;
        let request = peer::ForwardRequest {
            route: Some(peer::Route {
                cluster_id: identity.cluster_id.clone(),
                from: identity.node_id.0,
                to: leader.0,
            }),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            change: Some(change.to_message()),
        };
        let reply = self
            .node
            .channels
            .call(&address, deadline, |mut peer| async move {
                peer.forward(request).await
            })
            .await;
        use peer::forward_reply::Outcome;
        let unreadable = |error: wire::WireError| Refusal::Unknown {
            detail: error.to_string(),
        };
        match reply {
            Ok(peer::ForwardReply {
                outcome: Some(outcome),
                applied_index,
            }) => match outcome {
                Outcome::Applied(json) => {
                    self.catch_up(applied_index).await;
                    wire::from_json(&json, "answer").map_err(unreadable)
                }
                Outcome::Rejected(json) => {
                    Err(wire::from_json(&json, "refusal").map_or_else(unreadable, Refusal::Rejected))
                }
                Outcome::NotLeader(not) => Err(not_leader(not.detail)),
                Outcome::Unknown(detail) => Err(Refusal::Unknown { detail }),
                Outcome::Stopped(detail) => Err(not_leader(detail)),
            },
            Ok(peer::ForwardReply { outcome: None, .. }) => Err(Refusal::Unknown {
                detail: format!("node {leader} answered in words that are not known here"),
            }),
            Err(error @ (CallError::Unreachable { .. } | CallError::Refused { .. })) => {
                Err(not_leader(error.to_string()))
            }
            Err(error @ (CallError::Timeout { .. } | CallError::Broken { .. })) => Err(Refusal::Unknown {
                detail: error.to_string(),
            }),
        }
    }
}

/// A core that does not answer for so long is taken for dead.
const SILENT_FOR_GOOD: Duration = Duration::from_secs(10);

impl Consensus for ConsensusHandle {
    fn failed(&self) -> BoxFuture<'_, String> {
        let mut health = self.health.clone();
        Box::pin(async move {
            loop {
                match &*health.borrow_and_update() {
                    RaftHealth::Running => {}
                    RaftHealth::Silent { since } if *since < SILENT_FOR_GOOD => {}
                    RaftHealth::Silent { since } => return format!("it has not answered for {since:?}"),
                    RaftHealth::Stopped { detail } => return detail.clone(),
                }
                if health.changed().await.is_err() {
                    return "nobody watches over it any more".to_owned();
                }
            }
        })
    }

    fn state(&self) -> Arc<ClusterState> {
        self.node.view.state()
    }

    fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.node.view.watch()
    }

    fn node_id(&self) -> NodeId {
        self.node.id()
    }

    fn raft_leader(&self) -> Option<NodeId> {
        self.node.raft_leader()
    }

    fn log_writes(&self) -> Option<LogWrites> {
        self.node.disk.writes()
    }

    fn leads(&self) -> bool {
        self.node.leads()
    }

    fn applied_index(&self) -> u64 {
        self.node.view.applied_index()
    }

    fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        self.through_leader(Change::Propose(Box::new(command)), deadline)
            .boxed()
    }

    fn add_member(&self, request: RequestId, member: Member) -> BoxFuture<'_, Result<NodeId, ProposeError>> {
        async move {
            match self
                .through_leader(Change::AddMember { request, member }, MEMBER_DEADLINE)
                .await?
            {
                Applied::Member { node } => Ok(node),
                other => Err(ProposeError::Unknown {
                    detail: format!("the answer was {other:?}, not a number"),
                }),
            }
        }
        .boxed()
    }

    fn remove_member(&self, request: RequestId, node: NodeId) -> BoxFuture<'_, Result<(), ProposeError>> {
        async move {
            self.through_leader(Change::RemoveMember { request, node }, MEMBER_DEADLINE)
                .await
                .map(drop)
        }
        .boxed()
    }
}
