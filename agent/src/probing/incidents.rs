//! What happened lately, and how often.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// More than so many are not told apart.
const MOST: usize = 100;

/// The times of one kind of incident.
#[derive(Default)]
pub(super) struct Incidents {
    window: Duration,
    at: VecDeque<Instant>,
    counted: u64,
}

impl Incidents {
    /// Those of the last `window`.
    pub(super) fn within(window: Duration) -> Incidents {
        Incidents {
            window,
            ..Incidents::default()
        }
    }

    /// One more.
    pub(super) fn happened(&mut self, now: Instant) {
        if self.at.len() >= MOST {
            self.at.pop_front();
        }
        self.at.push_back(now);
    }

    /// There have been `total` of them by now, since the beginning.
    pub(super) fn count_up_to(&mut self, total: u64, now: Instant) {
        while self.counted < total {
            self.counted += 1;
            self.happened(now);
        }
    }

    /// How many there were within the window, and how long ago the last of them was.
    pub(super) fn lately(&mut self, now: Instant) -> (u32, Option<Duration>) {
        while let Some(oldest) = self.at.front()
            && now.saturating_duration_since(*oldest) > self.window
        {
            self.at.pop_front();
        }
        let last = self.at.back().map(|last| now.saturating_duration_since(*last));
        (u32::try_from(self.at.len()).unwrap_or(u32::MAX), last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_the_window_is_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut incidents = Incidents::within(Duration::from_secs(60));
        incidents.count_up_to(2, at(0));
        incidents.count_up_to(3, at(50));
        incidents.count_up_to(3, at(51));
        assert_eq!(incidents.lately(at(60)), (3, Some(Duration::from_secs(10))));
        assert_eq!(incidents.lately(at(61)), (1, Some(Duration::from_secs(11))));
        assert_eq!(incidents.lately(at(200)), (0, None));
    }
}
