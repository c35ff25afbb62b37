//! The wall clock, for people: in events, in history, in the names of things set aside. Nothing is decided by it.

use agent_core::time::WallTime;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of day.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock, for people only"
)]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The same as the replicated state keeps it.
#[must_use]
pub fn stamp() -> WallTime {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
