//! The two clocks of a lease.

use agent_core::time::ClockReading;
use nix::time::{ClockId, clock_gettime};

/// Reads both clocks, now.
///
/// # Panics
/// If the kernel has no such clocks, which every Linux since 2.6.39 has: without them no lease can be held safely.
#[must_use]
pub fn read() -> ClockReading {
    ClockReading {
        boot_ns: nanoseconds(ClockId::CLOCK_BOOTTIME),
        raw_ns: nanoseconds(ClockId::CLOCK_MONOTONIC_RAW),
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    match clock_gettime(clock) {
        Ok(time) => {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
        }
        Err(error) => panic!("clock {clock} cannot be read ({error}): no lease can be held on this kernel"),
    }
}
