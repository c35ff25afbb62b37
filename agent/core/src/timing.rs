//! How long a lease lasts, and the inequality that makes it safe.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The terms of a lease. `docs/safety.md` derives the inequality that [`Timing::check`] tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How often the holder renews, milliseconds (`r`).
    pub renew_ms: u64,
    /// How long the holder may write after the *sending* of a renewal that a majority acknowledged, milliseconds
    /// (`L_h`).
    pub lease_ms: u64,
    /// The longest time from the end of the lease to the last reply that can leave the node, milliseconds (`F`).
    pub fence_ms: u64,
    /// How long a voter is bound after it acknowledged a renewal, milliseconds (`L_w`).
    pub promise_ms: u64,
    /// The largest rate error of a host's `CLOCK_MONOTONIC_RAW`, parts per million (`rho`).
    pub clock_error_ppm: u64,
}

/// The longest time from the expiry of a watchdog to the moment at which its machine sends nothing more (`eps`), the
/// lateness of the thread that pets it included, milliseconds.
pub const WATCHDOG_LATENESS_MS: u64 = 100;
/// The shortest time for which petting is worth while (`P`), milliseconds: below it, one late answer resets the machine.
const WATCHDOG_PATIENCE_MS: u64 = 200;

/// A set of terms by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimingProfile {
    /// One rack, quiet hosts: a dead node is replaced in well under two seconds.
    LanFast,
    /// One region.
    Default,
    /// Between regions, or on hosts that stall for seconds.
    Wan,
}

impl TimingProfile {
    /// Every profile, fastest first.
    pub const ALL: [TimingProfile; 3] = [TimingProfile::LanFast, TimingProfile::Default, TimingProfile::Wan];

    /// The profile's name in settings and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TimingProfile::LanFast => "lan-fast",
            TimingProfile::Default => "default",
            TimingProfile::Wan => "wan",
        }
    }

    /// The terms that the name stands for.
    #[must_use]
    pub fn timing(self) -> Timing {
        let (renew_ms, lease_ms, fence_ms, promise_ms) = match self {
            TimingProfile::LanFast => (200, 800, 150, 1_000),
            TimingProfile::Default => (500, 2_000, 250, 2_300),
            TimingProfile::Wan => (2_000, 8_000, 500, 9_000),
        };
        Timing {
            renew_ms,
            lease_ms,
            fence_ms,
            promise_ms,
            clock_error_ppm: 1_000,
        }
    }
}

/// One comparison of the inequality, with both sides worked out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimingCheck {
    /// What must hold, in symbols.
    pub rule: String,
    /// The same with the numbers filled in.
    pub arithmetic: String,
    /// Whether it holds.
    pub holds: bool,
}

impl Timing {
    /// `r` as a duration.
    #[must_use]
    pub fn renew(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }

    /// `L_h` as a duration.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// `F` as a duration.
    #[must_use]
    pub fn fence(&self) -> Duration {
        Duration::from_millis(self.fence_ms)
    }

    /// `L_w` as a duration.
    #[must_use]
    pub fn promise(&self) -> Duration {
        Duration::from_millis(self.promise_ms)
    }

    /// Works out every condition on the terms. They are safe and live if all hold.
    #[must_use]
    pub fn check(&self) -> Vec<TimingCheck> {
        let million = 1_000_000_u128;
        let rho = u128::from(self.clock_error_ppm);
        let (r, lease) = (u128::from(self.renew_ms), u128::from(self.lease_ms));
        let (fence, promise) = (u128::from(self.fence_ms), u128::from(self.promise_ms));
        // The promise as its voter's fastest clock makes it, the lease as its holder's slowest clock makes it; in
        // microseconds, each rounded to the unsafe side's disadvantage.
        let shortest_promise = promise * 1_000 * million / (million + rho);
        let longest_lease = if rho >= million {
            u128::MAX / 2
        } else {
            (lease * 1_000 * million).div_ceil(million - rho)
        };
        let needed = longest_lease.saturating_add(fence * 1_000);
        let safe = shortest_promise >= needed;
        let lively = r * 4 <= lease;
        let positive = r > 0 && lease > 0 && fence > 0 && promise > 0 && rho < million;
        let shown = |us: u128| format!("{}.{:03} ms", us / 1_000, us % 1_000);
        vec![
            TimingCheck {
                rule: "r, L_h, F, L_w > 0 and rho < 1".to_owned(),
                arithmetic: format!(
                    "r = {r} ms, L_h = {lease} ms, F = {fence} ms, L_w = {promise} ms, rho = {rho} ppm"
                ),
                holds: positive,
            },
            TimingCheck {
                rule: "L_w / (1 + rho) >= L_h / (1 - rho) + F".to_owned(),
                arithmetic: format!(
                    "{} >= {} + {} = {}",
                    shown(shortest_promise),
                    shown(longest_lease.min(u128::from(u64::MAX))),
                    shown(fence * 1_000),
                    shown(needed.min(u128::from(u64::MAX)))
                ),
                holds: safe,
            },
            TimingCheck {
                rule: "r <= L_h / 4".to_owned(),
                arithmetic: format!("{r} ms <= {lease} ms / 4 = {} ms", lease / 4),
                holds: lively,
            },
        ]
    }

    /// For how long after the sending of the newest renewal that a majority acknowledged a watchdog with a timeout of
    /// `timeout_s` seconds (`W`) may be petted (`P`); `None` if the terms leave no room for it.
    ///
    /// It is the longest time for which
    /// `L_w / (1 + rho) >= (P + W) / (1 - rho) + eps` holds: the machine is reset before a majority of the voters is free.
    #[must_use]
    pub fn watchdog_patience(&self, timeout_s: u64) -> Option<Duration> {
        let checks = self.watchdog_check(timeout_s);
        let room = self
            .watchdog_room_ms()
            .checked_sub(timeout_s.checked_mul(1_000)?)?;
        checks
            .iter()
            .all(|check| check.holds)
            .then(|| Duration::from_millis(room))
    }

    /// The largest `P + W`, milliseconds of the holder's clock.
    fn watchdog_room_ms(&self) -> u64 {
        let million = 1_000_000_u128;
        let rho = u128::from(self.clock_error_ppm).min(million);
        let shortest_promise = u128::from(self.promise_ms) * million / (million + rho);
        let room =
            shortest_promise.saturating_sub(u128::from(WATCHDOG_LATENESS_MS)) * (million - rho) / million;
        u64::try_from(room).unwrap_or(u64::MAX)
    }

    /// Works out the conditions under which a watchdog with a timeout of `timeout_s` seconds is of use.
    #[must_use]
    pub fn watchdog_check(&self, timeout_s: u64) -> Vec<TimingCheck> {
        let timeout = timeout_s.saturating_mul(1_000);
        let room = self.watchdog_room_ms();
        let patience = room.checked_sub(timeout);
        let shown = patience.map_or_else(
            || "no time at all".to_owned(),
            |patience| format!("{patience} ms"),
        );
        vec![
            TimingCheck {
                rule: "L_w / (1 + rho) >= (P + W) / (1 - rho) + eps".to_owned(),
                arithmetic: format!(
                    "L_w = {} ms, rho = {} ppm, eps = {WATCHDOG_LATENESS_MS} ms leave P + W <= {room} ms; W = {timeout} ms \
                     leaves P = {shown}, at least {WATCHDOG_PATIENCE_MS} ms are needed",
                    self.promise_ms, self.clock_error_ppm
                ),
                holds: patience.is_some_and(|patience| patience >= WATCHDOG_PATIENCE_MS),
            },
            TimingCheck {
                rule: "P + W >= L_h".to_owned(),
                arithmetic: format!(
                    "{room} ms >= {} ms: the machine is not reset while the lease still holds",
                    self.lease_ms
                ),
                holds: room >= self.lease_ms,
            },
        ]
    }

    /// Whether every condition of [`Timing::check`] holds.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.check().iter().all(|check| check.holds)
    }
}

impl Default for Timing {
    fn default() -> Self {
        TimingProfile::Default.timing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_meets_the_inequality() {
        for profile in TimingProfile::ALL {
            assert!(
                profile.timing().is_sound(),
                "{}: {:?}",
                profile.name(),
                profile.timing().check()
            );
        }
    }

    #[test]
    fn a_promise_as_long_as_the_lease_is_refused() {
        let timing = Timing {
            promise_ms: 2_000,
            ..Timing::default()
        };
        assert!(!timing.is_sound());
    }

    #[test]
    fn one_millisecond_below_the_bound_is_refused_and_the_bound_itself_is_not() {
        let timing = Timing {
            clock_error_ppm: 0,
            promise_ms: 2_250,
            ..Timing::default()
        };
        assert!(timing.is_sound());
        assert!(
            !Timing {
                promise_ms: 2_249,
                ..timing
            }
            .is_sound()
        );
    }

    #[test]
    fn too_few_tries_within_a_lease_are_refused() {
        assert!(
            !Timing {
                renew_ms: 501,
                ..Timing::default()
            }
            .is_sound()
        );
    }

    #[test]
    fn a_watchdog_of_a_second_fits_the_default_terms_and_not_those_of_one_rack() {
        let patience = |profile: TimingProfile, timeout_s| profile.timing().watchdog_patience(timeout_s);
        assert_eq!(
            patience(TimingProfile::Default, 1),
            Some(Duration::from_millis(1_194))
        );
        assert_eq!(patience(TimingProfile::Default, 2), None, "195 ms are too few");
        assert_eq!(patience(TimingProfile::LanFast, 1), None);
        assert_eq!(patience(TimingProfile::Wan, 8), Some(Duration::from_millis(882)));
        assert_eq!(patience(TimingProfile::Wan, 9), None);
        assert_eq!(patience(TimingProfile::Wan, u64::MAX), None);
    }

    #[test]
    fn the_patience_is_the_longest_that_keeps_the_inequality() {
        for rho in [0, 1_000, 50_000] {
            let timing = Timing {
                clock_error_ppm: rho,
                promise_ms: 30_000,
                ..Timing::default()
            };
            let patience = timing.watchdog_patience(1).expect("room enough").as_millis();
            // (P + W) / (1 - rho) + eps against L_w / (1 + rho), both times (1 - rho)(1 + rho) and a million squared.
            let (million, rho) = (1_000_000, u128::from(rho));
            let latest = |patience: u128| {
                (patience + 1_000) * (million + rho) * million + 100 * (million - rho) * (million + rho)
            };
            let free = 30_000 * (million - rho) * million;
            assert!(latest(patience) <= free, "{timing:?}");
            assert!(latest(patience + 3) > free, "{timing:?}");
        }
    }

    #[test]
    fn absurd_terms_are_refused_without_a_panic() {
        for timing in [
            Timing {
                renew_ms: 0,
                ..Timing::default()
            },
            Timing {
                clock_error_ppm: 1_000_000,
                ..Timing::default()
            },
            Timing {
                clock_error_ppm: u64::MAX,
                ..Timing::default()
            },
            Timing {
                lease_ms: u64::MAX,
                promise_ms: u64::MAX,
                fence_ms: u64::MAX,
                ..Timing::default()
            },
        ] {
            assert!(!timing.is_sound(), "{timing:?}");
        }
    }
}
