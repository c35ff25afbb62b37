//! Raft at work on this node: proposing here, and knowing whether this node leads.

use super::channels::PeerChannels;
use super::identity::Identity;
use super::state_machine::StateView;
use super::store::DiskHealth;
use super::types::{Proposal, Raft, RaftTypes};
use agent_core::cluster::{Applied, Command, Rejected, Settings};
use agent_core::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{Instant, RaftMetrics, ServerState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Raft on this node, and what belongs to it.
pub(super) struct Node {
    pub identity: Arc<Identity>,
    pub cluster_name: String,
    /// The settings of a cluster that this node founds.
    pub settings: Settings,
    pub raft: Raft,
    pub view: StateView,
    pub channels: PeerChannels,
    pub disk: Arc<DiskHealth>,
    /// How long a leader may count on the last answer of a majority.
    pub lease: Duration,
    /// Held by whoever changes the membership.
    pub membership: Mutex<()>,
}

/// Why a proposal to this node came to nothing, or may have.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The state machine said no.
    Rejected(Rejected),
    /// This node does not lead, or is not sure that it still does: nothing was done.
    NotLeader { leader: Option<NodeId>, detail: String },
    /// The proposal was taken, and its outcome is not known.
    Unknown { detail: String },
    /// Raft has stopped on this node: nothing was done.
    Stopped { detail: String },
}

impl Refusal {
    pub fn conflict(id: &str, message: impl Into<String>) -> Refusal {
        Refusal::Rejected(Rejected::Conflict {
            id: id.to_owned(),
            message: message.into(),
        })
    }
}

impl From<ForwardToLeader<RaftTypes>> for Refusal {
    fn from(forward: ForwardToLeader<RaftTypes>) -> Refusal {
        let detail = match (&forward.reason, forward.leader_id) {
            (openraft::errors::ForwardReason::NotLeader, Some(leader)) => {
                format!("node {leader} is the Raft leader")
            }
            (openraft::errors::ForwardReason::NotLeader, None) => "no Raft leader is known".to_owned(),
            (openraft::errors::ForwardReason::LeadershipTransfer, _) => {
                "the leadership is being handed over".to_owned()
            }
            (openraft::errors::ForwardReason::LeaseExpired, _) => {
                "the Raft leader has not heard of a majority lately".to_owned()
            }
        };
        Refusal::NotLeader {
            leader: forward.leader_id.map(NodeId),
            detail,
        }
    }
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.identity.node_id
    }

    /// Raft's metrics as they are now. The guard is let go at once: Raft's core waits for it.
    pub fn metrics(&self) -> RaftMetrics<RaftTypes> {
        self.raft.metrics().borrow_watched().clone()
    }

    pub fn raft_leader(&self) -> Option<NodeId> {
        self.metrics().current_leader.map(NodeId)
    }

    /// Whether this node is the Raft leader, a majority has answered it within the lease, and it has applied an entry
    /// of its own term: only then is its state as new as any that was ever shown.
    pub fn leads(&self) -> bool {
        let metrics = self.metrics();
        metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && metrics.vote.leader_id.node_id == self.id().0
            && (self.is_the_majority(&metrics)
                || metrics
                    .last_quorum_acked
                    .is_some_and(|acked| acked.elapsed() < self.lease))
            && metrics
                .last_applied
                .is_some_and(|applied| applied.leader_id == metrics.vote.leader_id)
    }

    /// Whether this node is the only voter: then nobody answers it, and nobody has to.
    fn is_the_majority(&self, metrics: &RaftMetrics<RaftTypes>) -> bool {
        let mut voters = metrics.membership_config.membership().voter_ids().peekable();
        voters.peek().is_some() && voters.all(|voter| voter == self.id().0)
    }

    /// Why Raft no longer runs here, if so.
    pub fn stopped(&self) -> Option<String> {
        if let Some(failure) = self.disk.failure() {
            return Some(failure);
        }
        self.metrics().running_state.err().map(|fatal| fatal.to_string())
    }

    /// Has `command` committed and applied, if this node leads.
    pub async fn propose_here(&self, command: Command, deadline: Duration) -> Result<Applied, Refusal> {
        if let Some(detail) = self.stopped() {
            return Err(Refusal::Stopped { detail });
        }
        let write = self.raft.client_write(Proposal(command));
        match tokio::time::timeout(deadline, write).await {
            Err(_) => Err(Refusal::Unknown {
                detail: format!("no majority of the agents acknowledged it within {deadline:?}"),
            }),
            Ok(Ok(response)) => match response.data.0 {
                Some(outcome) => outcome.map_err(Refusal::Rejected),
                None => Err(Refusal::Unknown {
                    detail: "the state machine gave no answer".to_owned(),
                }),
            },
            Ok(Err(error)) => Err(refusal(error)),
        }
    }
}

/// What Raft's own error means for whoever proposed.
pub(super) fn refusal(error: RaftError<RaftTypes, ClientWriteError<RaftTypes>>) -> Refusal {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forward.into(),
        // A membership change that does not fit any more; nothing was written.
        RaftError::APIError(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => Refusal::NotLeader {
            leader: None,
            detail: error.to_string(),
        },
        RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => Refusal::Unknown {
            detail: error.to_string(),
        },
        // Raft stopped with the proposal in its hands.
        RaftError::Fatal(fatal) => Refusal::Unknown {
            detail: format!("Raft has stopped: {fatal}"),
        },
    }
}

pub(super) use crate::wall_time::stamp as wall_time;
