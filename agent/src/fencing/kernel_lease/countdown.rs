//! From a deadline on our clocks to a number of milliseconds for the kernel's timer, and back.
//!
//! The kernel takes only "so long from now", counts it by `CLOCK_MONOTONIC`, and "now" is when it comes to read our
//! message. So a countdown is set first where it has no effect, and only counts once a look at the clocks *after* the
//! call shows that it ends before the deadline, however late it began.

use agent_core::time::ClockReading;
use std::time::Duration;

/// How much of what remains is asked for. The rest is what the two looks at the clock may lie apart (a sixteenth of what
/// remains), and [`SLOWEST`].
const ASKED: (u32, u32) = (5, 6);
/// The kernel's timer runs at the rate of `CLOCK_MONOTONIC`, which time daemons slow down: `adjtimex` by at most 10 % and
/// 500 ppm, chronyd by 8.3 %. A countdown of 8 takes less than 9 by `CLOCK_MONOTONIC_RAW`.
const SLOWEST: (u32, u32) = (9, 8);
/// Less is not worth opening for. Also keeps the kernel's rounding, down to its tick of 1 to 10 ms, from mattering.
const SHORTEST: Duration = Duration::from_millis(20);

/// A length for the kernel's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Countdown {
    milliseconds: u32,
}

impl Countdown {
    /// The one to ask for at `now`, so that it ends before `deadline`. `None` if too little remains.
    pub(super) fn until(deadline: ClockReading, now: ClockReading) -> Option<Countdown> {
        let asked = now.until_any(deadline) * ASKED.0 / ASKED.1;
        if asked < SHORTEST {
            return None;
        }
        let milliseconds = u32::try_from(asked.as_millis()).ok()?;
        Some(Countdown { milliseconds })
    }

    /// Whether it ends before `deadline` for certain if it began at `now` or earlier.
    pub(super) fn ends_before(self, deadline: ClockReading, now: ClockReading) -> bool {
        let longest = Duration::from_millis(self.milliseconds.into()) * SLOWEST.0 / SLOWEST.1;
        longest < now.until_any(deadline)
    }

    pub(super) fn milliseconds(self) -> u64 {
        self.milliseconds.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, raw_ms: u64) -> ClockReading {
        ClockReading {
            boot_ns: boot_ms * 1_000_000,
            raw_ns: raw_ms * 1_000_000,
        }
    }

    #[test]
    fn a_renewal_in_time_holds_on_the_slowest_clock_that_a_kernel_allows() {
        let deadline = at(2_000, 2_000);
        let countdown = Countdown::until(deadline, at(0, 0)).expect("two seconds remain");
        assert_eq!(countdown.milliseconds(), 1_666);
        assert!(countdown.ends_before(deadline, at(120, 120)));
        // adjtimex: a tick of 9,000 instead of 10,000 microseconds, and 500 ppm.
        let slowest_rate = 0.9 - 0.0005;
        assert!(120.0 + 1_666.0 / slowest_rate < 2_000.0);
    }

    #[test]
    fn a_renewal_that_was_held_up_between_the_clock_and_the_kernel_does_not_count() {
        let deadline = at(2_000, 2_000);
        let countdown = Countdown::until(deadline, at(0, 0)).expect("two seconds remain");
        for late in [130, 500, 1_999, 2_000, 60_000] {
            assert!(!countdown.ends_before(deadline, at(late, late)), "{late} ms late");
        }
    }

    #[test]
    fn the_clock_that_says_less_remains_is_believed() {
        let deadline = at(2_000, 2_000);
        // 900 ms of suspend, which only one of the clocks has counted.
        let countdown = Countdown::until(deadline, at(1_400, 500)).expect("600 ms remain");
        assert_eq!(countdown.milliseconds(), 500);
        assert!(!countdown.ends_before(deadline, at(500, 1_500)));
        assert!(!countdown.ends_before(deadline, at(1_500, 500)));
    }

    #[test]
    fn nothing_is_asked_for_at_the_very_end() {
        let deadline = at(2_000, 2_000);
        assert!(Countdown::until(deadline, at(1_976, 1_976)).is_some());
        for now in [1_977, 1_999, 2_000, 2_001, 900_000] {
            assert_eq!(Countdown::until(deadline, at(now, now)), None, "at {now}");
        }
    }

    #[test]
    fn a_lease_beyond_all_measure_is_refused() {
        assert_eq!(
            Countdown::until(at(u64::MAX / 1_000_000, u64::MAX / 1_000_000), at(0, 0)),
            None
        );
    }
}
