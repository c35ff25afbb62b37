//! The newest reports of all nodes, as this node has them, and the reasons behind the last decisions.

use super::Clock;
use super::coordinator::Coordinator;
use super::node::Node;
use super::peers::{Peers, envelope, within};
use crate::ports::{Overview, ProposeError};
use agent_core::ids::NodeId;
use agent_core::reason::Reason;
use agent_core::time::MonoTime;
use agent_core::view::{ClusterView, NodeReport};
use futures::future::BoxFuture;
use proto::supervision::ExplainRequest;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Shared by the reporter, the coordinator and the API. Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    clock: Clock,
    view: Arc<Mutex<Arc<ClusterView>>>,
    arrived: watch::Sender<u64>,
}

impl Reports {
    /// No report yet.
    #[must_use]
    pub fn new(clock: Clock) -> Reports {
        Reports {
            clock,
            view: Arc::default(),
            arrived: watch::channel(0).0,
        }
    }

    /// Takes a report that was made `age` ago, unless a newer one is there.
    pub fn take(&self, report: NodeReport, age: Duration) {
        if self.insert(report, age) {
            self.announce();
        }
    }

    /// Takes this node's own report, as of now, and wakes nobody.
    pub(super) fn take_quietly(&self, own: NodeReport) {
        self.insert(own, Duration::ZERO);
    }

    fn insert(&self, report: NodeReport, age: Duration) -> bool {
        let now = self.clock.now();
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let at = MonoTime(now.0.saturating_sub(age));
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let known = view.reports.get(&report.node);
        if known.is_some_and(|(seen, old)| old.incarnation > report.incarnation || *seen > at) {
            return false;
        }
        Arc::make_mut(&mut view).reports.insert(report.node, (at, report));
        true
    }

    /// Lets those who watch look again.
    pub(super) fn announce(&self) {
        self.arrived.send_modify(|count| *count += 1);
    }

    /// Changes with every report that arrives. A receiver that looks elsewhere for a while misses none.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Forgets nodes that are no members any more.
    pub fn keep(&self, is_member: impl Fn(NodeId) -> bool) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.reports.keys().any(|node| !is_member(*node)) {
            Arc::make_mut(&mut view)
                .reports
                .retain(|node, _| is_member(*node));
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

/// What the API shows of the driver.
pub struct DriverOverview {
    node: Arc<Node>,
    coordinator: Arc<Coordinator>,
    peers: Peers,
}

/// How long the Raft leader may take to explain itself.
const EXPLAIN: Duration = Duration::from_secs(2);

impl DriverOverview {
    /// Over this node and its coordinator.
    #[must_use]
    pub fn new(node: Arc<Node>, coordinator: Arc<Coordinator>) -> DriverOverview {
        DriverOverview {
            node,
            coordinator,
            peers: Peers::default(),
        }
    }

    async fn ask_leader(&self) -> Result<Vec<Reason>, ProposeError> {
        if self.node.consensus.leads() {
            return Ok(self.coordinator.reasons());
        }
        let no_leader = |detail: String| ProposeError::NoLeader {
            waited: EXPLAIN,
            detail,
        };
        let leader = self.node.consensus.raft_leader();
        let leader = leader.ok_or_else(|| no_leader("this node knows of none".to_owned()))?;
        let state = self.node.consensus.state();
        let client = self.peers.client(&state, leader);
        let mut client =
            client.ok_or_else(|| no_leader(format!("the address of node {leader} is not known")))?;
        let request = ExplainRequest {
            envelope: Some(envelope(&state, self.node.id(), leader)),
        };
        let reply = within(EXPLAIN, client.explain(request))
            .await
            .map_err(no_leader)?;
        if !reply.leads {
            return Err(no_leader(format!(
                "{} does not lead any more",
                state.name_of(leader)
            )));
        }
        serde_json::from_slice(&reply.reasons).map_err(|error| no_leader(error.to_string()))
    }
}

impl Overview for DriverOverview {
    fn view(&self) -> ClusterView {
        self.node.reports.view().as_ref().clone()
    }

    fn report_age(&self, node: NodeId) -> Option<Duration> {
        self.node.reports.age(node)
    }

    fn explain(&self) -> BoxFuture<'_, Result<Vec<Reason>, ProposeError>> {
        Box::pin(self.ask_leader())
    }

    fn explain_node(&self) -> Vec<Reason> {
        self.node.explain()
    }
}
