//! What the guard has been told of this node's lease, and what it has confirmed.

use crate::fencing::guard::{self, Frame, Guard};
use agent_core::ids::Epoch;
use agent_core::time::ClockReading;
use socket2::Socket;
use std::sync::Arc;
use std::time::Duration;

/// How often a guard that has nothing to do is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The guard as the lease sees it. A lease lasts no longer than the guard has confirmed: if the guard is lost, what is
/// left of the last confirmation is the time in which another has to be there.
pub(super) struct Guarded {
    guard: Guard,
    line: Option<Arc<Socket>>,
    book: Book,
}

/// The same without its connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Book {
    /// What this guard was told last.
    told: Option<(Epoch, ClockReading)>,
    /// When it was told, or asked, what it has not answered yet.
    unanswered: Option<ClockReading>,
    /// When it last said anything.
    heard: Option<ClockReading>,
    confirmed: Option<ClockReading>,
}

impl Guarded {
    pub fn new(guard: Guard) -> Guarded {
        Guarded {
            guard,
            line: None,
            book: Book::default(),
        }
    }

    /// The connection, to wait on.
    pub fn line(&self) -> Option<Arc<Socket>> {
        self.line.clone()
    }

    /// Why there is no guard; `None` while there is one.
    pub fn trouble(&self) -> Option<String> {
        self.guard.trouble()
    }

    /// How much of a lease until `deadline` counts: as much as the guard has confirmed.
    pub fn limit(&self, deadline: ClockReading) -> Option<ClockReading> {
        self.book.confirmed.map(|confirmed| confirmed.earlier(deadline))
    }

    /// Whether a deadline that the guard has confirmed has passed: it ends the server, or has done so.
    pub fn ran_out(&self, now: ClockReading) -> bool {
        self.book.confirmed.is_some_and(|until| now.any_reached(until))
    }

    /// Reads what the guard has said, tells it how long the lease lasts by now, and has it replaced if it has not
    /// answered within `patience`. Gives the newest epoch whose server the guard has ended, if it says so.
    pub fn tend(
        &mut self,
        held: Option<(Epoch, ClockReading)>,
        patience: Duration,
        now: ClockReading,
    ) -> Option<Epoch> {
        let current = self.guard.line();
        if !same(self.line.as_ref(), current.as_ref()) {
            self.line = current;
            self.book.new_guard();
        }
        let line = self.line.clone()?;
        let mut ended = None;
        let lost = loop {
            match guard::receive(&line) {
                Ok(Some(frame)) => ended = self.book.hear(frame, now).max(ended),
                Ok(None) => break self.book.silent(patience, now).then_some("it does not answer"),
                Err(_) => break Some("it has ended"),
            }
        };
        let lost = lost.or_else(|| {
            let frame = self.book.tell(held, now)?;
            guard::send(&line, frame).err().map(|_| "it takes nothing")
        });
        if let Some(why) = lost {
            self.guard.lost(&line, why);
            self.line = None;
        }
        ended
    }

    /// The server of `epoch` has ended: nothing is to be guarded any more.
    pub fn disarm(&mut self, epoch: Epoch) {
        self.book.disarm();
        if let Some(line) = &self.line {
            // A guard that cannot be told will find that there is nothing to end.
            let _ = guard::send(line, Frame::Disarm { epoch });
        }
    }
}

fn same(a: Option<&Arc<Socket>>, b: Option<&Arc<Socket>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Book {
    /// Another guard: it has been told nothing. What the one before has confirmed still limits the lease.
    fn new_guard(&mut self) {
        self.told = None;
        self.unanswered = None;
        self.heard = None;
    }

    fn disarm(&mut self) {
        self.told = None;
        self.confirmed = None;
    }

    fn hear(&mut self, frame: Frame, now: ClockReading) -> Option<Epoch> {
        self.heard = Some(now);
        self.unanswered = None;
        match frame {
            Frame::Armed { epoch, until } if self.told.is_some_and(|(told, _)| told == epoch) => {
                self.confirmed = Some(until);
                None
            }
            Frame::Idle { fenced } => self.told.map(|(told, _)| told).filter(|told| *told <= fenced),
            _ => None,
        }
    }

    fn silent(&self, patience: Duration, now: ClockReading) -> bool {
        self.unanswered
            .is_some_and(|since| now.any_reached(since.plus(patience)))
    }

    /// What there is to be said, if anything.
    fn tell(&mut self, held: Option<(Epoch, ClockReading)>, now: ClockReading) -> Option<Frame> {
        if let Some((epoch, until)) = held.filter(|held| self.told != Some(*held)) {
            self.told = held;
            self.unanswered.get_or_insert(now);
            return Some(Frame::Arm { epoch, until });
        }
        let quiet = self
            .heard
            .is_none_or(|heard| now.any_reached(heard.plus(ASK_EVERY)));
        if quiet && self.unanswered.is_none() {
            self.unanswered = Some(now);
            return Some(Frame::Ask);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(3);

    fn at(ms: u64) -> ClockReading {
        ClockReading {
            boot_ns: ms * 1_000_000,
            raw_ns: ms * 1_000_000,
        }
    }

    fn armed(until: u64) -> Frame {
        Frame::Armed {
            epoch: EPOCH,
            until: at(until),
        }
    }

    fn arm(until: u64) -> Option<Frame> {
        Some(Frame::Arm {
            epoch: EPOCH,
            until: at(until),
        })
    }

    #[test]
    fn each_new_deadline_is_told_once_and_counts_when_it_is_confirmed() {
        let mut book = Book::default();
        assert_eq!(book.tell(Some((EPOCH, at(100))), at(0)), arm(100));
        assert_eq!(book.tell(Some((EPOCH, at(100))), at(1)), None);
        assert_eq!(book.confirmed, None);
        book.hear(armed(100), at(2));
        assert_eq!(book.confirmed, Some(at(100)));
        assert_eq!(book.tell(Some((EPOCH, at(125))), at(25)), arm(125));
        assert_eq!(book.confirmed, Some(at(100)), "the guard has not said so yet");
    }

    #[test]
    fn another_guard_is_told_at_once_and_the_old_confirmation_still_limits() {
        let mut book = Book::default();
        book.tell(Some((EPOCH, at(100))), at(0));
        book.hear(armed(100), at(1));
        book.new_guard();
        assert_eq!(book.confirmed, Some(at(100)));
        assert_eq!(book.tell(Some((EPOCH, at(100))), at(2)), arm(100));
    }

    #[test]
    fn a_guard_that_does_not_answer_is_noticed_although_it_is_told_more_and_more() {
        let mut book = Book::default();
        let patience = Duration::from_millis(30);
        book.tell(Some((EPOCH, at(100))), at(0));
        book.tell(Some((EPOCH, at(120))), at(20));
        assert!(!book.silent(patience, at(29)));
        assert!(book.silent(patience, at(30)));
        book.hear(armed(100), at(31));
        assert!(!book.silent(patience, at(60)));
    }

    #[test]
    fn a_guard_with_nothing_to_do_is_asked_now_and_then() {
        let mut book = Book::default();
        assert_eq!(book.tell(None, at(0)), Some(Frame::Ask));
        book.hear(Frame::Idle { fenced: Epoch(0) }, at(1));
        assert_eq!(book.tell(None, at(900)), None);
        assert_eq!(book.tell(None, at(1_001)), Some(Frame::Ask));
    }

    #[test]
    fn the_guard_says_that_it_has_ended_the_server_and_only_of_what_it_was_armed_for() {
        let mut book = Book::default();
        assert_eq!(book.hear(Frame::Idle { fenced: EPOCH }, at(0)), None);
        book.tell(Some((Epoch(4), at(100))), at(1));
        assert_eq!(book.hear(Frame::Idle { fenced: EPOCH }, at(2)), None);
        assert_eq!(book.hear(Frame::Idle { fenced: Epoch(4) }, at(3)), Some(Epoch(4)));
    }
}
