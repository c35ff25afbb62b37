//! Whole clusters under faults, with clients whose histories are checked: in the manner of Jepsen.

pub mod checker;
pub mod rng;
pub mod workload;
