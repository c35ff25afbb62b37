//! The agent's faces to the outside: gRPC for `pgctl`, HTTP for load balancers, probes and monitors.
//!
//! This room knows the ports and the core. It never waits for a server, and decides nothing.

mod admit;
pub mod control;
mod describe;
mod fence;
pub mod http;
mod late;
mod listen;
mod progress;
mod refusal;
mod settings;

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod http_noise_tests;
#[cfg(test)]
mod http_tests;

pub use late::Late;
pub use listen::{BindError, listen, take_over};

use std::time::Duration;

/// A span in milliseconds, as messages carry it.
fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
