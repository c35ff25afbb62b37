//! The kernel lease: clients of PostgreSQL are let through only while a timer in the kernel runs, and the agent sets that
//! timer to end before its lease does. A server whose agent is frozen, starved or dead stops answering by itself.
//!
//! nf_tables does it: packets to and from the server's port pass only while a set holds the port, and the kernel drops
//! such an element when its time is over. The agent talks to the kernel by netlink, in its own process ([`Gate`]); no
//! `nft` program, no disk and no memory allocation is involved in a renewal. [`KernelLease`] is the same for threads
//! that must not wait. The table is described in `ruleset.rs`, the proof and its limits are in `docs/safety.md`.
//!
//! *Invariant:* a timer is in force only if the clocks, read after it was set, showed that it ends before a deadline of
//! the lease; a timer is set only while it is not in force; the message that puts it in force holds no time.
//!
//! Of the crates that speak nf_tables, rustables is under the GPL, nftnl needs two C libraries, and nftnl-rs cannot make
//! elements with a time limit; all of them allocate for each message. What is needed is small, so it is here.

mod countdown;
mod error;
mod expression;
mod gate;
mod keeper;
mod message;
mod netfilter;
mod place;
mod ruleset;
mod socket;
mod start;

pub use error::KernelLeaseError;
pub use gate::{Clock, Gate, GateState};
pub use keeper::{KernelLease, Standing, Wanted};
pub use place::Place;
pub use start::{KernelLeaseStartError, KernelLeasing, probe};
