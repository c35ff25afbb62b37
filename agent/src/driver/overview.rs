//! The newest reports of all nodes, as this node has them.

use super::Clock;
use agent_core::ids::NodeId;
use agent_core::time::MonoTime;
use agent_core::view::{ClusterView, NodeReport};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Shared by the reporter, the coordinator and the API. Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    clock: Clock,
    view: Arc<Mutex<Arc<ClusterView>>>,
    /// Woken with every report that arrives.
    pub arrived: Arc<Notify>,
}

impl Reports {
    /// No report yet.
    #[must_use]
    pub fn new(clock: Clock) -> Reports {
        Reports { clock, view: Arc::default(), arrived: Arc::default() }
    }

    /// Takes a report that was made `age` ago, unless a newer one is there.
    pub fn take(&self, report: NodeReport, age: Duration) {
        let now = self.clock.now();
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let at = MonoTime(now.0.saturating_sub(age));
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let known = view.reports.get(&report.node);
        if known.is_some_and(|(seen, old)| old.incarnation > report.incarnation || *seen > at) {
            return;
        }
        Arc::make_mut(&mut view).reports.insert(report.node, (at, report));
        drop(view);
        self.arrived.notify_waiters();
    }

    /// Forgets nodes that are no members any more.
    pub fn keep(&self, is_member: impl Fn(NodeId) -> bool) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.reports.keys().any(|node| !is_member(*node)) {
            Arc::make_mut(&mut view).reports.retain(|node, _| is_member(*node));
        }
    }

    /// All of them.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How old a node's report is.
    #[must_use]
    pub fn age(&self, node: NodeId) -> Option<Duration> {
        let now = self.clock.now();
        self.view().reports.get(&node).map(|(at, _)| now.since(*at))
    }
}
