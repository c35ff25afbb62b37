//! What systemd is told.

use crate::driver::node::Node;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How old the loop's last turn may be for the agent to count as alive.
const LOOP_MAX_AGE: Duration = Duration::from_secs(10);
/// How often the watchdog is told; its period in the unit is several times this.
const EVERY: Duration = Duration::from_secs(1);

fn send(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell, and that is no error.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// The agent's ports answer.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The agent is ending.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Tells the service manager's watchdog that the loop turns, as long as it does.
pub async fn keep_alive(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    loop {
        let turned = *node.heartbeat.borrow();
        if node.server.is_none() || node.clock.now().since(turned) < LOOP_MAX_AGE {
            send(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
