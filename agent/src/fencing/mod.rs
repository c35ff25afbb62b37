//! Making this node's server unable to write, and the proof that it is.
//!
//! Layers in place: the health endpoints close by the mere passing of time (`api`), the whole tree of server processes
//! is ended ([`Fencer`]), and its end is told as a receipt, so that the voters release at once; the machine's watchdog
//! resets it if this agent stops ([`watchdog`]); and other nodes turn it off ([`stonith`]).
//!
//! *Invariant:* no receipt without every process of the instance gone.

mod fencer;
pub mod guard;
pub mod kernel_lease;
pub mod stonith;
pub mod watchdog;

pub use fencer::{Fenced, Fencer, Kill};
