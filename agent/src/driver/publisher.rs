//! Keeps the snapshot from which the health endpoints answer.

use super::node::Node;
use agent_core::health::{HealthSnapshot, HeldLease, Probe};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the snapshot is renewed although nothing has happened.
const EVERY: Duration = Duration::from_millis(250);
/// What happens within so short a time goes into one snapshot.
const TOGETHER: Duration = Duration::from_millis(5);

/// The snapshot as of now.
#[must_use]
pub fn snapshot(node: &Node, name: &str) -> HealthSnapshot {
    let state = node.consensus.state();
    let lease = node.lease.status();
    let held = lease.deadline.filter(|_| state.holder == Some(node.id()));
    // A witness has no loop over a server that could hang.
    let heartbeat = if node.server.is_some() {
        *node.heartbeat.borrow()
    } else {
        node.clock.now()
    };
    HealthSnapshot {
        node: node.id(),
        name: name.to_owned(),
        probe: node.observed.borrow().as_ref().map(|(at, pg)| Probe {
            at: *at,
            pg: pg.clone(),
        }),
        lease: held.map(|deadline| HeldLease {
            epoch: lease.epoch,
            deadline,
        }),
        gate_open: node.gate_open(state.epoch),
        fencing: node.server.as_ref().is_some_and(|server| server.fencer.at_work()),
        heartbeat,
        view: node.reports.view(),
        raft_leader: node.consensus.raft_leader(),
        log_writes: node.consensus.log_writes(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        state,
    }
}

/// Runs until `stop` says so.
pub async fn run(
    node: Arc<Node>,
    name: String,
    out: watch::Sender<Arc<HealthSnapshot>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut state = node.consensus.watch();
    let mut lease = node.lease.watch();
    let mut observed = node.observed.subscribe();
    let mut heartbeat = node.heartbeat.subscribe();
    let mut reports = node.reports.watch();
    loop {
        out.send_replace(Arc::new(snapshot(&node, &name)));
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = state.changed() => {}
            _ = lease.changed() => {}
            _ = observed.changed() => {}
            _ = heartbeat.changed() => {}
            _ = reports.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::time::sleep(TOGETHER).await;
        state.mark_unchanged();
        lease.mark_unchanged();
        observed.mark_unchanged();
        heartbeat.mark_unchanged();
        reports.mark_unchanged();
    }
}
