//! How long a probe has been without an answer.

use agent_core::vitals::Pulse;
use std::time::{Duration, Instant};

/// The longest span between two readings that counts. More than that was the agent's own standstill.
const LONGEST_STEP: Duration = Duration::from_millis(500);

/// Counts from the first question that is not answered; the next answer sets it back.
#[derive(Default)]
pub(super) struct Stopwatch {
    asking: bool,
    troubled: bool,
    silent: Duration,
    read: Option<Instant>,
    why: String,
}

impl Stopwatch {
    /// A question is asked.
    pub(super) fn asks(&mut self) {
        self.asking = true;
    }

    /// It was answered.
    pub(super) fn answered(&mut self) {
        *self = Stopwatch {
            read: self.read,
            ..Stopwatch::default()
        };
    }

    /// Nobody answered.
    pub(super) fn silent(&mut self, why: String) {
        self.asking = false;
        self.troubled = true;
        self.why = why;
    }

    /// Reads it.
    pub(super) fn tick(&mut self, now: Instant) -> Pulse {
        let step = self
            .read
            .map_or(Duration::ZERO, |read| now.saturating_duration_since(read));
        self.read = Some(now);
        if self.asking || self.troubled {
            self.silent += step.min(LONGEST_STEP);
        }
        Pulse {
            silent_ms: u64::try_from(self.silent.as_millis()).unwrap_or(u64::MAX),
            why: if self.why.is_empty() {
                "the answer is awaited".to_owned()
            } else {
                self.why.clone()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads every 100 ms for as long, and gives the last reading.
    fn run(watch: &mut Stopwatch, now: &mut Instant, ms: u64) -> u64 {
        let mut read = 0;
        for _ in 0..ms / 100 {
            *now += Duration::from_millis(100);
            read = watch.tick(*now).silent_ms;
        }
        read
    }

    #[test]
    fn silence_adds_up_over_questions_and_one_answer_ends_it() {
        let (mut watch, mut now) = (Stopwatch::default(), Instant::now());
        watch.tick(now);
        watch.asks();
        assert_eq!(run(&mut watch, &mut now, 1_000), 1_000);
        watch.silent("no answer".to_owned());
        assert_eq!(run(&mut watch, &mut now, 500), 1_500);
        watch.asks();
        assert_eq!(run(&mut watch, &mut now, 1_000), 2_500);
        watch.answered();
        assert_eq!(run(&mut watch, &mut now, 500), 0);
    }

    #[test]
    fn between_questions_that_are_answered_nothing_counts() {
        let (mut watch, mut now) = (Stopwatch::default(), Instant::now());
        watch.tick(now);
        assert_eq!(run(&mut watch, &mut now, 60_000), 0);
    }

    #[test]
    fn an_agent_that_stood_still_takes_its_own_time_not_for_the_servers() {
        let (mut watch, mut now) = (Stopwatch::default(), Instant::now());
        watch.tick(now);
        watch.asks();
        now += Duration::from_secs(60);
        assert_eq!(watch.tick(now).silent_ms, 500);
    }
}
