//! Which backups and which WAL a policy keeps. Pure: what is there comes in, a verdict comes out.
//!
//! Everything goes by time and by lineage. The number of a timeline says nothing of its age, and the name of a backup nothing
//! at all.
//!
//! | file | does |
//! |---|---|
//! | `policy` | what the operator wants kept |
//! | `calendar` | the day, week, month and year of a moment |
//! | `verdict` | which backups go, and which WAL nobody needs then |
//! | `window` | from when to when a restore can go |
//!
//! *Invariant:* of the newest complete backup and of the newest proven one of the cluster's line nothing ever goes.
//! *Invariant:* with a backup all those that it is an increment of are kept.

mod calendar;
mod policy;
mod verdict;
mod window;

#[cfg(test)]
mod histories_tests;
#[cfg(test)]
mod situations_tests;

pub use policy::{Age, Policy};
pub use verdict::{Doomed, Expired, Facts, Kept, Reason, Verdict, decide};
pub use window::{Window, windows};
