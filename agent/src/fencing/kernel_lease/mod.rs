//! The kernel lease.
mod countdown;
mod error;
mod expression;
mod gate;
mod message;
mod netfilter;
mod place;
mod ruleset;
mod socket;

pub use error::KernelLeaseError;
pub use gate::{Clock, Gate, GateState};
pub use place::Place;
