//! A consensus that always agrees: one state that all nodes share.

use agent::ports::{Consensus, ProposeError};
use agent_core::cluster::{Applied, ClusterState, Command, Member};
use agent_core::ids::{NodeId, RequestId};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The log.
#[derive(Clone)]
pub struct SharedLog {
    state: Arc<watch::Sender<Arc<ClusterState>>>,
}

impl SharedLog {
    pub fn new(state: ClusterState) -> SharedLog {
        SharedLog {
            state: Arc::new(watch::channel(Arc::new(state)).0),
        }
    }

    pub fn state(&self) -> Arc<ClusterState> {
        self.state.borrow().clone()
    }

    pub fn state_mut<T>(&self, change: impl FnOnce(&mut ClusterState) -> T) -> T {
        let mut answer = None;
        self.state
            .send_modify(|state| answer = Some(change(Arc::make_mut(state))));
        answer.expect("the closure ran")
    }
}

/// One node's end of it.
pub struct Seat {
    pub node: NodeId,
    pub leader: NodeId,
    pub log: SharedLog,
}

impl Consensus for Seat {
    fn state(&self) -> Arc<ClusterState> {
        self.log.state()
    }
    fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.log.state.subscribe()
    }
    fn node_id(&self) -> NodeId {
        self.node
    }
    fn raft_leader(&self) -> Option<NodeId> {
        Some(self.leader)
    }
    fn leads(&self) -> bool {
        self.node == self.leader
    }
    fn applied_index(&self) -> u64 {
        0
    }
    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }
    fn propose(&self, command: Command, _: Duration) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        let answer = self.log.state_mut(|state| state.apply(&command));
        Box::pin(std::future::ready(answer.map_err(ProposeError::Rejected)))
    }
    fn add_member(&self, _: RequestId, _: Member) -> BoxFuture<'_, Result<NodeId, ProposeError>> {
        unimplemented_here()
    }
    fn remove_member(&self, _: RequestId, _: NodeId) -> BoxFuture<'_, Result<(), ProposeError>> {
        unimplemented_here()
    }
}

fn unimplemented_here<T: Send + 'static>() -> BoxFuture<'static, Result<T, ProposeError>> {
    let detail = "a shared log has no members of its own".to_owned();
    Box::pin(std::future::ready(Err(ProposeError::Stopped { detail })))
}
