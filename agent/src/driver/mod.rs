//! Observe, decide, perform, sleep until woken: for this node's server ([`node_loop`]) and, on the Raft leader, for the
//! cluster ([`coordinator`]).
//!
//! *Invariant:* nothing is decided here. What is done to a server is an action of `agent_core::decide`.
//! *Invariant:* one thing at a time is done to the server: every action holds [`node::Node`]'s lock, and so does
//! the part of a release that cuts the standby off.

pub mod coordinator;
mod copying;
mod marks;
pub mod node;
pub mod node_loop;
mod overview;
mod peers;
mod perform;
pub mod publisher;
pub mod reporter;
mod restoring;
mod state_follower;
mod stonith;
pub mod supervision;
pub mod watchman;

pub use state_follower::follow_state;

pub use overview::{DriverOverview, Reports};
pub(crate) use restoring::take_up as take_up_restored;
pub use stonith::DriverDevices;

use agent_core::time::MonoTime;
use std::time::{Duration, Instant};

/// The agent's own clock for everything but leases.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Clock {
        // Ahead of zero, so that "a while ago" can be said from the first moment.
        Clock {
            started: Instant::now()
                .checked_sub(Duration::from_secs(3_600))
                .unwrap_or_else(Instant::now),
        }
    }

    /// Milliseconds of this clock.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        MonoTime(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
