//! Watches over Raft on this node: says when it has stopped or gone silent, and gives the leadership away when the
//! disk is too slow to lead.
//!
//! A Raft core that has died still looks like a leader in its last metrics, and a hung one looks like nothing at all.
//! So the core is asked for a sign of life, and whoever fences the server acts on what is found here.

use super::membership::best_successor;
use super::node::Node;
use futures::FutureExt;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether Raft works on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaftHealth {
    /// It answers.
    Running,
    /// It has not answered for this long. It may come back: its disk may hang.
    Silent { since: Duration },
    /// It has ended, and only a restart of the agent brings it back. A reason to fence.
    Stopped { detail: String },
}

/// How often the core is looked at.
const ROUND: Duration = Duration::from_millis(250);
/// A core that does not answer for longer is called silent.
const SILENT: Duration = Duration::from_secs(2);
/// A leader whose disk takes longer for one write gives the leadership away.
const SLOW_DISK: Duration = Duration::from_secs(1);
/// The other node gets this long before the leadership is offered again.
const BETWEEN_TRANSFERS: Duration = Duration::from_secs(5);

/// Runs until Raft has stopped, which is the last thing it reports.
pub(super) async fn supervise(node: Arc<Node>, health: watch::Sender<RaftHealth>) {
    let mut offered: Option<Instant> = None;
    let mut answered = Instant::now();
    loop {
        tokio::time::sleep(ROUND).await;
        if let Some(detail) = node.stopped() {
            stopped(&health, detail);
            return;
        }
        if metrics_are_closed(&node) {
            stopped(&health, "its core has ended without a word".to_owned());
            return;
        }
        match tokio::time::timeout(SILENT, node.raft.with_raft_state(|_| ())).await {
            Ok(Ok(())) => {
                answered = Instant::now();
                if health.send_replace(RaftHealth::Running) != RaftHealth::Running {
                    tracing::info!("Raft answers again");
                }
            }
            Ok(Err(fatal)) => {
                stopped(&health, node.stopped().unwrap_or_else(|| fatal.to_string()));
                return;
            }
            Err(_) => {
                let since = answered.elapsed();
                tracing::warn!(?since, disk_busy_for = ?node.disk.pending(), "Raft does not answer");
                health.send_replace(RaftHealth::Silent { since });
            }
        }
        let slow = node.disk.pending().max(node.disk.take_slowest());
        let offered_lately = offered.is_some_and(|at| at.elapsed() < BETWEEN_TRANSFERS);
        if slow > SLOW_DISK && !offered_lately && give_leadership_away(&node, slow).await {
            offered = Some(Instant::now());
        }
    }
}

/// A core that panicked leaves its last metrics behind, which may still say that it leads.
fn metrics_are_closed(node: &Node) -> bool {
    let mut metrics = node.raft.metrics();
    drop(metrics.borrow_and_update());
    matches!(metrics.changed().now_or_never(), Some(Err(_)))
}

fn stopped(health: &watch::Sender<RaftHealth>, detail: String) {
    tracing::error!(detail, "Raft has stopped on this node; restart the agent");
    health.send_replace(RaftHealth::Stopped { detail });
}

/// Offers the leadership to the best other voter. False if there is nothing to give, or nobody to give it to.
async fn give_leadership_away(node: &Node, slow: Duration) -> bool {
    let metrics = node.metrics();
    if metrics.state != ServerState::Leader {
        return false;
    }
    let Some(successor) = best_successor(&metrics, node.id()) else {
        return false;
    };
    tracing::warn!(?slow, to = %successor, "the disk is slow: handing the Raft leadership over");
    // The core may be waiting for that very disk: then there is nothing that it could hand over now.
    matches!(
        tokio::time::timeout(SILENT, node.raft.trigger().transfer_leader(successor.0)).await,
        Ok(Ok(()))
    )
}
