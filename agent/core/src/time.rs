//! Time as an argument.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A point on this node's monotonic clock, in milliseconds since the agent started. For deciding when to look again
/// and how old an observation is; never for a lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: MonoTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This point moved ahead by `by`.
    #[must_use]
    pub fn plus(self, by: Duration) -> MonoTime {
        MonoTime(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// Wall-clock time in milliseconds since 1970, for people and history only: no decision may depend on it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

/// One reading of the two clocks that a lease is measured with, in nanoseconds: `CLOCK_BOOTTIME`, which counts
/// suspend but may be slewed by NTP, and `CLOCK_MONOTONIC_RAW`, which is never slewed but stops in suspend.
///
/// Neither is trusted alone. A holder takes its lease for over as soon as *one* clock says so, a voter takes its
/// promise for over only when *both* do; any slew or suspend then only makes the pair safer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub boot_ns: u64,
    /// `CLOCK_MONOTONIC_RAW`, nanoseconds.
    pub raw_ns: u64,
}

impl ClockReading {
    /// Both clocks moved ahead by `by`: the deadline that lies `by` after this reading.
    #[must_use]
    pub fn plus(self, by: Duration) -> ClockReading {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        ClockReading {
            boot_ns: self.boot_ns.saturating_add(ns),
            raw_ns: self.raw_ns.saturating_add(ns),
        }
    }

    /// The later of two deadlines, on each clock by itself.
    #[must_use]
    pub fn later(self, other: ClockReading) -> ClockReading {
        ClockReading {
            boot_ns: self.boot_ns.max(other.boot_ns),
            raw_ns: self.raw_ns.max(other.raw_ns),
        }
    }

    /// The earlier of two deadlines, on each clock by itself.
    #[must_use]
    pub fn earlier(self, other: ClockReading) -> ClockReading {
        ClockReading {
            boot_ns: self.boot_ns.min(other.boot_ns),
            raw_ns: self.raw_ns.min(other.raw_ns),
        }
    }

    /// For a holder: whether at least one clock has reached `deadline`.
    #[must_use]
    pub fn any_reached(self, deadline: ClockReading) -> bool {
        self.boot_ns >= deadline.boot_ns || self.raw_ns >= deadline.raw_ns
    }

    /// For a voter: whether both clocks have reached `deadline`.
    #[must_use]
    pub fn all_reached(self, deadline: ClockReading) -> bool {
        self.boot_ns >= deadline.boot_ns && self.raw_ns >= deadline.raw_ns
    }

    /// Time until a holder must count `deadline` as reached (zero if it has been).
    #[must_use]
    pub fn until_any(self, deadline: ClockReading) -> Duration {
        let boot = deadline.boot_ns.saturating_sub(self.boot_ns);
        let raw = deadline.raw_ns.saturating_sub(self.raw_ns);
        Duration::from_nanos(boot.min(raw))
    }

    /// Time until a voter may count `deadline` as reached (zero if it has been).
    #[must_use]
    pub fn until_all(self, deadline: ClockReading) -> Duration {
        let boot = deadline.boot_ns.saturating_sub(self.boot_ns);
        let raw = deadline.raw_ns.saturating_sub(self.raw_ns);
        Duration::from_nanos(boot.max(raw))
    }

    /// Time that has passed since `earlier`, by whichever clock says more.
    #[must_use]
    pub fn since_longest(self, earlier: ClockReading) -> Duration {
        let boot = self.boot_ns.saturating_sub(earlier.boot_ns);
        let raw = self.raw_ns.saturating_sub(earlier.raw_ns);
        Duration::from_nanos(boot.max(raw))
    }
}
