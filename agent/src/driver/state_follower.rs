//! Passes each newly applied state on to the lease, and tells the cluster once the lease lives by it.

use super::node::Node;
use crate::lease::clock;
use agent_core::cluster::{ClusterState, Command};
use agent_core::time::ClockReading;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often an address that could not be resolved is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one attempt to have a command committed may take.
const PROPOSAL: Duration = Duration::from_secs(2);

/// Runs until `stop` says so, or no state can come any more.
pub async fn follow_state(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let mut states = node.consensus.watch();
    let mut leases = node.lease.watch();
    let mut seen = VotersSeen::default();
    loop {
        let state = states.borrow_and_update().clone();
        leases.borrow_and_update();
        let before = clock::read();
        pass_on(&node, state.clone()).await;
        if let Some(version) = seen.settled(&node, &state, before)
            && let Err(error) = node
                .consensus
                .propose(Command::VotersSettled { version }, PROPOSAL)
                .await
        {
            tracing::debug!(%error, "the new voters are not settled yet");
        }
        let wait = async {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => true,
                changed = states.changed() => changed.is_ok(),
                () = lease_changed(&mut leases, state.voters.unsettled()) => true,
            }
        };
        tokio::select! {
            more = wait => if !more { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Each renewal is of interest only while the voters are unsettled.
async fn lease_changed(leases: &mut watch::Receiver<crate::lease::LeaseStatus>, unsettled: bool) {
    if unsettled {
        let _ = leases.changed().await;
    } else {
        std::future::pending::<()>().await;
    }
}

async fn pass_on(node: &Arc<Node>, state: Arc<ClusterState>) {
    if state.cluster_id.is_empty() {
        return;
    }
    let node = node.clone();
    // Names are resolved and the pledge file is written here: both may block.
    let done = tokio::task::spawn_blocking(move || {
        if let Err(error) = node.lease.allow_promises(state.settings.timing.promise()) {
            tracing::error!(%error, "this voter cannot grant the newest terms");
        }
        node.lease.follow(node.id(), &state);
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "the lease was not told of the newest state");
    }
}

/// Since when the lease renews by which membership.
#[derive(Default)]
struct VotersSeen {
    version: u64,
    since: ClockReading,
}

impl VotersSeen {
    /// The version to settle: the lease was extended by a renewal that was sent after it had taken over that version.
    fn settled(&mut self, node: &Node, state: &ClusterState, now: ClockReading) -> Option<u64> {
        if state.voters.version != self.version {
            self.version = state.voters.version;
            self.since = clock::read();
            return None;
        }
        if !state.voters.unsettled() || now == self.since {
            return None;
        }
        if state.holder.is_none() {
            return Some(self.version);
        }
        let lease = node.lease.status();
        let renewed_at_or_after = self.since.plus(state.settings.timing.lease());
        let extended = lease
            .deadline
            .is_some_and(|deadline| deadline.all_reached(renewed_at_or_after));
        (state.holder == Some(node.id()) && lease.valid() && extended).then_some(self.version)
    }
}
