//! The watchman over this node's server and disks: a thread that touches neither, so that no hung disk and no busy loop
//! keeps a lease from being given up in time.
//!
//! It asks the one pure rule for that ([`give_way`]) several times a second, with the probes' words and what is known
//! in memory. The loop asks the same rule; whichever comes first does it, and the other finds it done.

use super::node::{Node, ServerSide};
use super::node_loop::REPORT_FRESH;
use crate::probing::Probing;
use agent_core::decide::node::{LeaseView, NodeAction, NodeMemory, NodeView, SERVER_HANGS, give_way};
use agent_core::vitals::Vitals;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const EVERY: Duration = Duration::from_millis(100);

/// Starts the probes and the watchman; both end with `stop`.
///
/// # Errors
/// If the operating system gives no thread.
pub fn start(node: &Arc<Node>, stop: watch::Receiver<bool>) -> std::io::Result<()> {
    let Some(server) = &node.server else { return Ok(()) };
    let probing = Probing::start(&server.instance)?;
    let node = node.clone();
    std::thread::Builder::new()
        .name("watchman".to_owned())
        .spawn(move || {
            crate::hardening::run_this_thread_first();
            while !*stop.borrow() {
                if let Some(server) = &node.server {
                    watch_once(&node, server, &probing);
                }
                std::thread::sleep(EVERY);
            }
        })?;
    Ok(())
}

fn watch_once(node: &Node, server: &ServerSide, probing: &Probing) {
    let vitals = probing.vitals();
    let state = node.consensus.state();
    probing.set_ballast(state.settings.disk_ballast_bytes);
    probing.note_hang(*server.hung.borrow());
    server.vitals.send_replace(vitals.clone());
    // The usual case, and cheap: the rule asks for more than being late.
    if vitals.are_in_time() {
        return;
    }
    let Some(decision) = view(node, &state, vitals).as_ref().and_then(give_way) else {
        return;
    };
    for action in &decision.actions {
        if let NodeAction::Fence { epoch, why } = action {
            tracing::warn!(%epoch, why, rule = decision.rule, "the watchman gives the lease up");
            node.lease.stop_renewing(*epoch);
            server.fencer.lease_over(*epoch);
            if decision.rule == SERVER_HANGS {
                server.hung.send_replace(*epoch);
            }
            node.look_now.notify_one();
        }
    }
}

/// What can be known without a lock that somebody may hold while he waits for a disk.
fn view<'a>(
    node: &Node,
    state: &'a agent_core::cluster::ClusterState,
    vitals: Vitals,
) -> Option<NodeView<'a>> {
    let mut pg = node.observed.borrow().as_ref()?.1.as_ref().clone();
    pg.vitals = vitals;
    let now = node.clock.now();
    let lease = node.lease.status();
    Some(NodeView {
        me: node.id(),
        state: Cow::Borrowed(state),
        now,
        pledge: lease.pledge,
        lease: LeaseView {
            epoch: lease.epoch,
            valid: lease.valid(),
            fenced: lease.fenced,
            unguarded: None,
        },
        // This and the guard bear only on what is promoted next, which is not for this thread to decide.
        watchdog: None,
        backup: None,
        pg,
        conf: None,
        holder: None,
        peers: node.peers(now, REPORT_FRESH),
        memory: NodeMemory::default(),
    })
}
