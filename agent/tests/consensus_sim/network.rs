//! A simulated network: late, lossy, and cut in one direction or both.

use super::random::Random;
use super::runtime::{SimRaft, SimTypes};
use agent::consensus::types::{RaftNode, Snapshot, Vote};
use futures::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// All nodes and the links between them.
#[derive(Clone)]
pub struct SimNetwork(Arc<Mutex<Links>>);

pub struct Links {
    pub nodes: BTreeMap<u64, SimRaft>,
    /// From, to.
    pub cut: BTreeSet<(u64, u64)>,
    /// Of a hundred messages.
    pub lost_percent: u64,
    random: Random,
    start: Instant,
    /// A hash of every message that came through, with its time.
    pub trace: u64,
    pub snapshots: usize,
}

impl SimNetwork {
    pub fn new(random: Random) -> SimNetwork {
        SimNetwork(Arc::new(Mutex::new(Links {
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            lost_percent: 0,
            random,
            start: Instant::now(),
            trace: 0xcbf2_9ce4_8422_2325,
            snapshots: 0,
        })))
    }

    pub fn with<T>(&self, use_links: impl FnOnce(&mut Links) -> T) -> T {
        use_links(&mut self.0.lock().expect("no panic"))
    }

    /// How long a message from one to the other is under way; `None` if it is lost.
    fn passage(&self, from: u64, to: u64, kind: u64) -> Option<Duration> {
        self.with(|links| {
            let delay = if links.random.chance(3) {
                links.random.between_ms(20, 200)
            } else {
                links.random.between_ms(0, 4)
            };
            let lost_percent = links.lost_percent;
            if links.cut.contains(&(from, to)) || links.random.chance(lost_percent) {
                return None;
            }
            let at = u64::try_from(links.start.elapsed().as_micros()).expect("short");
            for part in [
                from,
                to,
                kind,
                at,
                u64::try_from(delay.as_micros()).expect("short"),
            ] {
                links.trace = (links.trace ^ part).wrapping_mul(0x100_0000_01b3);
            }
            Some(delay)
        })
    }
}

impl RaftNetworkFactory<SimTypes> for SimLink {
    type Network = SimLink;

    async fn new_client(&mut self, target: u64, _node: &RaftNode) -> SimLink {
        SimLink {
            target,
            ..self.clone()
        }
    }
}

/// The way from one node to another.
#[derive(Clone)]
pub struct SimLink {
    pub network: SimNetwork,
    pub me: u64,
    pub target: u64,
}

impl SimLink {
    /// Sends a message, has it handled, and brings the answer back, or runs into the deadline.
    async fn call<T, F: Future<Output = Option<T>>>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        handle: impl FnOnce(SimRaft) -> F,
    ) -> Result<T, RPCError<SimTypes>> {
        let kind = action as u64;
        let exchange = async {
            let Some(there) = self.network.passage(self.me, self.target, kind) else {
                return std::future::pending().await;
            };
            tokio::time::sleep(there).await;
            let Some(node) = self.network.with(|links| links.nodes.get(&self.target).cloned()) else {
                return Err(Unreachable::from_string("the node is down").into());
            };
            let Some(answer) = handle(node).await else {
                return Err(NetworkError::from_string("the node's Raft has stopped").into());
            };
            let Some(back) = self.network.passage(self.target, self.me, kind + 16) else {
                return std::future::pending().await;
            };
            tokio::time::sleep(back).await;
            Ok(answer)
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Timeout {
                action,
                id: self.me,
                target: self.target,
                timeout: deadline,
            }
            .into()),
        }
    }
}

impl RaftNetworkV2<SimTypes> for SimLink {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<SimTypes>, RPCError<SimTypes>> {
        let deadline = if rpc.entries.is_empty() {
            option.soft_ttl()
        } else {
            Duration::from_secs(1)
        };
        self.call(RPCTypes::AppendEntries, deadline, |raft| async move {
            raft.append_entries(rpc).await.ok()
        })
        .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimTypes>, RPCError<SimTypes>> {
        self.call(RPCTypes::Vote, option.soft_ttl(), |raft| async move {
            raft.vote(rpc).await.ok()
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimTypes>, RPCError<SimTypes>> {
        self.call(RPCTypes::Vote, option.soft_ttl(), |raft| async move {
            raft.pre_vote(rpc).await.ok()
        })
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<SimTypes>, StreamingError<SimTypes>> {
        self.network.with(|links| links.snapshots += 1);
        let call = self.call(RPCTypes::InstallSnapshot, option.soft_ttl(), |raft| async move {
            raft.install_full_snapshot(vote, snapshot).await.ok()
        });
        match select(pin!(call), pin!(cancel)).await {
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Left((Ok(reply), _)) => Ok(reply),
            Either::Left((Err(RPCError::Timeout(timeout)), _)) => Err(timeout.into()),
            Either::Left((Err(error), _)) => Err(Unreachable::new(&error).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<SimTypes>, RPCError<SimTypes>> {
        self.call(RPCTypes::TransferLeader, option.soft_ttl(), |raft| async move {
            raft.handle_transfer_leader(req).await.ok()
        })
        .await
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(50))))
    }
}
