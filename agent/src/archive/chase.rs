//! When a standby that asks for WAL is helped, and when it is sent back to stream. Pure: time is an argument.
//!
//! A server that runs its `restore_command` does nothing else: it neither connects to its primary nor takes up a promotion.
//! After a failover every standby asks for its next segment several times before its stream is back, so an answer must not
//! depend on a store. Only one that goes on asking, because its primary has that WAL no more, is served from the archive.

use repository::Segment;
use std::time::{Duration, Instant};

/// For how long a standby that has lost its stream is only told to stream.
const STREAM_FIRST: Duration = Duration::from_secs(1);
/// A pause in its questions after which it must have been streaming.
const STREAMED: Duration = Duration::from_secs(2);
/// For how long after a segment that was served the next one counts as part of the same chase.
const CHASES: Duration = Duration::from_secs(30);
/// How long a standby that is being served may wait for its next segment: to go back to streaming costs it more.
pub(super) const WAIT: Duration = Duration::from_millis(500);

/// What to do about a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// Say at once that it must stream; look for nothing.
    Stream,
    /// Say at once that it must stream, and look for the segment meanwhile.
    Look,
    /// Look for it, and wait for a moment.
    Serve,
}

/// What is remembered of a standby's questions.
#[derive(Debug, Default)]
pub(super) struct Chase {
    epoch: u64,
    /// Since when it has been asking.
    since: Option<Instant>,
    last: Option<Instant>,
    served: Option<(Segment, Instant)>,
}

impl Chase {
    /// It asks for `segment`, in `epoch`.
    pub(super) fn asked(&mut self, segment: Segment, epoch: u64, now: Instant) -> Course {
        let interrupted = self.last.is_none_or(|last| now.duration_since(last) > STREAMED);
        if self.epoch != epoch || (interrupted && !self.is_chasing(segment, now)) {
            *self = Chase {
                epoch,
                since: Some(now),
                ..Chase::default()
            };
        }
        self.last = Some(now);
        if self.is_chasing(segment, now) {
            return Course::Serve;
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < STREAM_FIRST {
            Course::Stream
        } else {
            Course::Look
        }
    }

    /// It was given `segment`.
    pub(super) fn served(&mut self, segment: Segment, now: Instant) {
        self.served = Some((segment, now));
    }

    /// Nobody has `segment`: it has caught up with the archive.
    pub(super) fn ended(&mut self) {
        self.served = None;
    }

    /// Whether `segment` is the one that was served last, or a later one.
    fn is_chasing(&self, segment: Segment, now: Instant) -> bool {
        self.served
            .is_some_and(|(served, at)| segment >= served && now.duration_since(at) < CHASES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::pg::TimelineId;

    fn segment(number: u64) -> Segment {
        Segment::numbered(TimelineId(1), number, 16 << 20)
    }

    #[test]
    fn a_standby_that_lost_its_stream_is_told_to_stream_and_helped_only_if_it_goes_on_asking() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut chase = Chase::default();
        assert_eq!(chase.asked(segment(7), 3, at(0)), Course::Stream);
        assert_eq!(chase.asked(segment(7), 3, at(900)), Course::Stream);
        assert_eq!(chase.asked(segment(7), 3, at(1_100)), Course::Look);
        // It streamed for a while, and loses its stream again.
        assert_eq!(chase.asked(segment(9), 3, at(60_000)), Course::Stream);
        assert_eq!(chase.asked(segment(9), 3, at(61_100)), Course::Look);
        // A failover: everything begins anew.
        assert_eq!(chase.asked(segment(9), 4, at(61_200)), Course::Stream);
    }

    #[test]
    fn once_it_is_served_the_next_segments_are_waited_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut chase = Chase::default();
        chase.asked(segment(7), 3, at(0));
        assert_eq!(chase.asked(segment(7), 3, at(1_100)), Course::Look);
        chase.served(segment(7), at(1_200));
        // Replaying a segment may take longer than a pause that means streaming.
        assert_eq!(chase.asked(segment(8), 3, at(9_000)), Course::Serve);
        chase.served(segment(8), at(9_000));
        assert_eq!(chase.asked(segment(9), 3, at(9_100)), Course::Serve);
        chase.ended();
        assert_eq!(
            chase.asked(segment(9), 3, at(9_200)),
            Course::Look,
            "it goes on asking"
        );
        assert_eq!(
            chase.asked(segment(9), 4, at(9_300)),
            Course::Stream,
            "a failover"
        );
    }

    #[test]
    fn an_older_segment_than_the_one_served_is_no_chase() {
        let start = Instant::now();
        let mut chase = Chase::default();
        chase.asked(segment(7), 3, start);
        chase.served(segment(7), start);
        let later = start + Duration::from_secs(3);
        assert_eq!(chase.asked(segment(5), 3, later), Course::Stream);
    }
}
