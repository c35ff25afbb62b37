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
