//! Whole clusters under faults, with clients whose histories are checked: in the manner of Jepsen.
//!
//! | to | see |
//! |---|---|
//! | judge a history | [`checker`]: pure functions, which know nothing of clusters |
//! | make one | [`workload`]: clients, what they ask for and what they remember |
//! | break things | [`nemesis`]: faults, schedules from a seed, and how each fault is made and mended |
//! | do all of it | [`run`] |

pub mod checker;
pub mod nemesis;
pub mod rng;
pub mod run;
pub mod workload;

/// Set in the environment of a process that has a mount namespace of its own.
pub const OWN_MOUNTS: &str = "PGCTL_JEPSEN_OWN_MOUNTS";
