//! The lease protocol's runtime: a plain OS thread with a UDP socket.
//!
//! *Invariant:* nothing on the thread touches a disk, a runtime or a lock that is held across either. The pledge is
//! written by whoever asked for it, before the answer goes out.
//! *Invariant:* the thread, and nobody else, ends the server when the lease runs out; it does not ask the driver.

pub mod clock;
mod guarded;
mod pledge;
mod shared;
mod sides;
mod thread;
mod wire;

pub use pledge::{Pledge, PledgeError, PledgeFile};
pub use shared::{Fences, KernelRefusal, Lease, LeaseStatus, ReleaseAnswer};
pub use thread::{StartError, start};
