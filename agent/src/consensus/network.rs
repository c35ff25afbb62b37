//! Raft's messages on their way to one peer.

use super::channels::{CallError, PeerChannels};
use super::state_machine::StateView;
use super::types::{LogId, RaftNode, RaftTypes, Snapshot, Vote};
use super::wire::{self, WireError};
use agent_core::ids::NodeId;
use futures::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use proto::peer;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// How long Raft waits before it tries an unreachable peer again. Constant: a peer that is back shall be heard at once.
const BACKOFF: Duration = Duration::from_millis(50);
/// The shortest deadline of a message that makes the other side write to its disk.
const WRITE_DEADLINE: Duration = Duration::from_millis(1_000);

/// Makes a [`PeerNetwork`] for each peer.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    cluster_id: String,
    me: u64,
    channels: PeerChannels,
    view: StateView,
}

impl Network {
    pub(super) fn new(cluster_id: String, me: u64, channels: PeerChannels, view: StateView) -> Network {
        Network(Arc::new(Shared {
            cluster_id,
            me,
            channels,
            view,
        }))
    }
}

impl RaftNetworkFactory<RaftTypes> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> PeerNetwork {
        PeerNetwork {
            shared: Arc::clone(&self.0),
            target,
            first_address: node.peer.clone(),
        }
    }
}

/// The way to one peer.
pub struct PeerNetwork {
    shared: Arc<Shared>,
    target: u64,
    /// Where the peer was when it was let in.
    first_address: String,
}

impl PeerNetwork {
    fn route(&self) -> Option<peer::Route> {
        Some(peer::Route {
            cluster_id: self.shared.cluster_id.clone(),
            from: self.shared.me,
            to: self.target,
        })
    }

    /// Where the peer says that it is now.
    fn address(&self) -> String {
        let state = self.shared.view.state();
        state
            .members
            .get(&NodeId(self.target))
            .map_or_else(|| self.first_address.clone(), |member| member.peer.clone())
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<RaftTypes> {
        Timeout {
            action,
            id: self.shared.me,
            target: self.target,
            timeout,
        }
    }

    fn failed(&self, action: RPCTypes, error: CallError) -> RPCError<RaftTypes> {
        match error {
            CallError::Timeout { waited, .. } => self.timeout(action, waited).into(),
            error
            @ (CallError::Unreachable { .. } | CallError::Refused { .. } | CallError::Broken { .. }) => {
                Unreachable::new(&error).into()
            }
        }
    }
}

fn unreadable(error: WireError) -> RPCError<RaftTypes> {
    NetworkError::new(&error).into()
}

impl RaftNetworkV2<RaftTypes> for PeerNetwork {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftTypes>, RPCError<RaftTypes>> {
        // A heartbeat that is late is useless; entries that are late because of a slow disk are not, and sending them
        // again would only add to its load.
        let deadline = if rpc.entries.is_empty() {
            option.soft_ttl()
        } else {
            option.soft_ttl().max(WRITE_DEADLINE)
        };
        let request = peer::AppendRequest {
            route: self.route(),
            vote: Some(wire::vote_out(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(wire::log_id_out),
            entries: rpc.entries.iter().map(wire::entry_out).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(wire::log_id_out),
        };
        let reply = self
            .shared
            .channels
            .call(&self.address(), deadline, |mut peer| async move {
                peer.append_entries(request).await
            })
            .await
            .map_err(|error| self.failed(RPCTypes::AppendEntries, error))?;
        append_reply_in(reply).map_err(unreadable)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RPCError<RaftTypes>> {
        let request = self.vote_request(&rpc);
        let reply = self
            .shared
            .channels
            .call(&self.address(), option.soft_ttl(), |mut peer| async move {
                peer.request_vote(request).await
            })
            .await
            .map_err(|error| self.failed(RPCTypes::Vote, error))?;
        vote_reply_in(reply).map_err(unreadable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RPCError<RaftTypes>> {
        let request = self.vote_request(&rpc);
        let reply = self
            .shared
            .channels
            .call(&self.address(), option.soft_ttl(), |mut peer| async move {
                peer.pre_vote(request).await
            })
            .await
            .map_err(|error| self.failed(RPCTypes::Vote, error))?;
        vote_reply_in(reply).map_err(unreadable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        let request = peer::SnapshotRequest {
            route: self.route(),
            vote: Some(wire::vote_out(&vote)),
            snapshot: Some(wire::snapshot_out(&snapshot)),
        };
        let address = self.address();
        let call = self
            .shared
            .channels
            .call(&address, option.soft_ttl(), |mut peer| async move {
                peer.install_snapshot(request).await
            });
        let reply = match select(pin!(call), pin!(cancel)).await {
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
            Either::Left((Ok(reply), _)) => reply,
            Either::Left((Err(CallError::Timeout { waited, .. }), _)) => {
                return Err(self.timeout(RPCTypes::InstallSnapshot, waited).into());
            }
            Either::Left((Err(error), _)) => return Err(Unreachable::new(&error).into()),
        };
        let vote = wire::required(reply.vote, "vote").and_then(wire::vote_in);
        Ok(SnapshotResponse::new(
            vote.map_err(|error| NetworkError::new(&error))?,
        ))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<RaftTypes>, RPCError<RaftTypes>> {
        let request = peer::TransferRequest {
            route: self.route(),
            from_leader: Some(wire::vote_out(req.from_leader())),
            last_log: req.last_log_id().map(wire::log_id_out),
        };
        let reply = self
            .shared
            .channels
            .call(&self.address(), option.soft_ttl(), |mut peer| async move {
                peer.transfer_leader(request).await
            })
            .await
            .map_err(|error| self.failed(RPCTypes::TransferLeader, error))?;
        transfer_reply_in(reply).map_err(unreadable)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

impl PeerNetwork {
    fn vote_request(&self, rpc: &VoteRequest<RaftTypes>) -> peer::VoteRequest {
        peer::VoteRequest {
            route: self.route(),
            vote: Some(wire::vote_out(&rpc.vote)),
            last_log: rpc.last_log_id.as_ref().map(wire::log_id_out),
            leadership_transfer: rpc.leadership_transfer,
        }
    }
}

fn append_reply_in(reply: peer::AppendReply) -> Result<AppendEntriesResponse<RaftTypes>, WireError> {
    use peer::append_reply::Outcome;
    Ok(match wire::required(reply.outcome, "outcome")? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(partial.matching.map(wire::log_id_in).transpose()?)
        }
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(wire::vote_in(vote)?),
    })
}

fn vote_reply_in(reply: peer::VoteReply) -> Result<VoteResponse<RaftTypes>, WireError> {
    let vote = wire::vote_in(wire::required(reply.vote, "vote")?)?;
    let last_log: Option<LogId> = reply.last_log.map(wire::log_id_in).transpose()?;
    Ok(VoteResponse::new(vote, last_log, reply.granted))
}

fn transfer_reply_in(reply: peer::TransferReply) -> Result<TransferLeaderResponse<RaftTypes>, WireError> {
    use peer::transfer_reply::Outcome;
    Ok(match wire::required(reply.outcome, "outcome")? {
        Outcome::Accepted(_) => Ok(()),
        Outcome::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: wire::vote_in(wire::required(changed.expected, "vote")?)?,
            actual: wire::vote_in(wire::required(changed.actual, "vote")?)?,
        }),
        Outcome::NotFlushed(behind) => Err(TransferLeaderError::LogNotFlushed {
            expected: behind.expected.map(wire::log_id_in).transpose()?,
            actual: behind.actual.map(wire::log_id_in).transpose()?,
        }),
    })
}
