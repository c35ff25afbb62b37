//! One clock for everything that the lab measures.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment of `CLOCK_MONOTONIC`, in nanoseconds. Comparable between all processes of one machine, whatever
/// namespace they live in (the lab never makes time namespaces), unlike `std::time::Instant`, which hides its value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct Mono(u64);

impl Mono {
    /// The present moment.
    pub fn now() -> Mono {
        let t = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has CLOCK_MONOTONIC");
        Mono(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
    }

    /// Nanoseconds since the clock's own beginning: for arithmetic outside of the lab.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// The moment at which the wall clock showed so many microseconds since 1970, if nobody has set it since.
    pub fn of_wall_clock(micros: u64) -> Mono {
        let wall = clock_gettime(ClockId::CLOCK_REALTIME).expect("Linux always has CLOCK_REALTIME");
        let now = wall.tv_sec() as u64 * 1_000_000_000 + wall.tv_nsec() as u64;
        Mono(Mono::now().0.saturating_sub(now.saturating_sub(micros * 1_000)))
    }

    #[cfg(test)]
    pub(crate) fn at_ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `later` after this one.
    pub fn plus(self, later: Duration) -> Mono {
        Mono(self.0 + later.as_nanos() as u64)
    }
}
