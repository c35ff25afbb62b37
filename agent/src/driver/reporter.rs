//! Tells the coordinator what this node sees, several times a second and at once when it matters.

use super::node::Node;
use super::peers::{Peers, envelope, within};
use agent_core::ids::NodeId;
use agent_core::view::{FenceLayer, FenceLayerState, FencingReport, HolderReport, NodeReport};
use proto::supervision::{AgedReport, ReportRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a report goes out although nothing has changed.
const EVERY: Duration = Duration::from_millis(250);
/// The shortest pause between two reports.
const AT_MOST_EVERY: Duration = Duration::from_millis(10);
/// How long the coordinator may take to answer.
const DEADLINE: Duration = Duration::from_millis(500);

/// This node's report as of now.
#[must_use]
pub fn report(node: &Node) -> NodeReport {
    let state = node.consensus.state();
    let lease = node.lease.status();
    let pg = node.observed.borrow().as_ref().map(|(_, pg)| pg.as_ref().clone());
    let desk = node.desk();
    let holder = (state.holder == Some(node.id())).then(|| HolderReport {
        epoch: state.epoch,
        left: if lease.epoch == state.epoch {
            lease.left()
        } else {
            Duration::ZERO
        },
        gate_open: desk.memory.gate == Some(state.epoch),
        fenced: desk.receipt.filter(|receipt| receipt.epoch == state.epoch),
    });
    NodeReport {
        node: node.id(),
        incarnation: node.incarnation,
        pg,
        voter: node.lease.voter_report(state.epoch.next()),
        holder,
        pledge: lease.pledge,
        applied: node.consensus.applied_index(),
        prepared_for: desk.memory.checkpoint_for.clone(),
        explain: desk.explain.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        watchdog: node.watchdog.as_ref().map(|watchdog| watchdog.report()),
        fencing: node.server.as_ref().map(|_| fencing(node)),
        archive: node.archive.get().map(|archive| archive.borrow().clone()),
    }
}

fn fencing(node: &Node) -> FencingReport {
    let trouble = node.lease.guard_trouble();
    FencingReport {
        guard: FenceLayer {
            state: match &trouble {
                Some(_) => FenceLayerState::Missing,
                None => FenceLayerState::On,
            },
            detail: trouble.unwrap_or_default(),
        },
        kernel_lease: node.kernel_lease.report(),
    }
}

/// Runs until `stop` says so.
pub async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let peers = Peers::default();
    let mut state = node.consensus.watch();
    loop {
        if let Err(error) = send(&node, &peers).await {
            tracing::debug!(error, "the report did not arrive");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = node.report_now.notified() => {}
            _ = state.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::time::sleep(AT_MOST_EVERY).await;
    }
}

async fn send(node: &Arc<Node>, peers: &Peers) -> Result<(), String> {
    let own = report(node);
    node.reports.take(own.clone(), Duration::ZERO);
    let state = node.consensus.state();
    node.reports.keep(|id| state.members.contains_key(&id));
    let Some(leader) = node.consensus.raft_leader().filter(|leader| *leader != node.id()) else {
        return Ok(());
    };
    let client = peers.client(&state, leader);
    let mut client = client.ok_or_else(|| format!("the address of node {leader} is not known"))?;
    let request = ReportRequest {
        envelope: Some(envelope(&state, node.id(), leader)),
        report: serde_json::to_vec(&own).map_err(|error| error.to_string())?,
    };
    let reply = within(DEADLINE, client.report(request)).await?;
    for AgedReport { age_ms, report } in reply.reports {
        let report: NodeReport = serde_json::from_slice(&report).map_err(|error| error.to_string())?;
        if report.node != node.id() && report.node != NodeId(0) {
            node.reports.take(report, Duration::from_millis(age_ms));
        }
    }
    Ok(())
}
