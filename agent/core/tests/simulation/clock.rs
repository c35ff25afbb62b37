//! Each node's two clocks: `RAW` with a constant rate error up to rho, `BOOT` slewed by whoever disciplines it.

use agent_core::time::{ClockReading, MonoTime};

/// Real time of the simulation, microseconds.
pub type Time = u64;

/// A millisecond of real time.
pub const MS: Time = 1_000;

#[derive(Debug, Clone)]
pub struct Clock {
    since: Time,
    raw_ns: u64,
    boot_ns: u64,
    raw_ppm: i64,
    boot_ppm: i64,
}

impl Clock {
    /// A clock that shows `start_ns` and runs `raw_ppm` too fast (or, negative, too slow).
    pub fn new(start_ns: u64, raw_ppm: i64) -> Clock {
        Clock {
            since: 0,
            raw_ns: start_ns,
            boot_ns: start_ns.wrapping_mul(3),
            raw_ppm,
            boot_ppm: raw_ppm,
        }
    }

    pub fn read(&self, now: Time) -> ClockReading {
        let passed = now - self.since;
        ClockReading {
            boot_ns: self.boot_ns + advanced(passed, self.boot_ppm),
            raw_ns: self.raw_ns + advanced(passed, self.raw_ppm),
        }
    }

    /// The clock that timers and ages are measured with.
    pub fn mono(&self, now: Time) -> MonoTime {
        MonoTime(self.read(now).boot_ns / 1_000_000)
    }

    /// From now on `BOOT` runs `ppm` too fast.
    pub fn slew(&mut self, now: Time, ppm: i64) {
        let reading = self.read(now);
        self.since = now;
        self.raw_ns = reading.raw_ns;
        self.boot_ns = reading.boot_ns;
        self.boot_ppm = ppm;
    }

    /// Real time until at least one clock has reached `deadline`, if nobody slews it meanwhile.
    pub fn until_any(&self, now: Time, deadline: ClockReading) -> Time {
        let reading = self.read(now);
        let raw = real(deadline.raw_ns.saturating_sub(reading.raw_ns), self.raw_ppm);
        let boot = real(deadline.boot_ns.saturating_sub(reading.boot_ns), self.boot_ppm);
        raw.min(boot)
    }
}

fn rate(ppm: i64) -> u64 {
    u64::try_from(1_000_000 + ppm).expect("a clock runs forward")
}

fn advanced(passed_us: Time, ppm: i64) -> u64 {
    passed_us * rate(ppm) / 1_000
}

fn real(ns: u64, ppm: i64) -> Time {
    (ns * 1_000).div_ceil(rate(ppm))
}
