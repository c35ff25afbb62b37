use crate::ids::Epoch;
use crate::time::ClockReading;
use std::time::Duration;

/// What a guard knows, and when it must act: one deadline, and the newest epoch whose server it has ended.
///
/// The guard is a process beside the agent. Whoever holds a lease moves the deadline with each renewal, and holds the
/// lease no longer than the guard has confirmed; at the deadline the guard ends the server, whatever has become of the
/// agent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    armed: Option<(Epoch, ClockReading)>,
    fenced: Epoch,
}

impl Watch {
    /// Moves the deadline of `epoch` to `until`; `now` is read after the request has arrived. [`Watch::armed`] says
    /// whether that was done. A deadline that has passed is never moved: the server that it was for must end first.
    pub fn arm(&mut self, epoch: Epoch, until: ClockReading, now: ClockReading) {
        let newer = epoch > self.fenced && self.armed.is_none_or(|(armed, _)| epoch >= armed);
        if newer && self.due(now).is_none() {
            self.armed = Some((epoch, until));
        }
    }

    /// Takes note that every process of the server of `epoch` has ended, by whoever's hand.
    pub fn ended(&mut self, epoch: Epoch) {
        self.fenced = self.fenced.max(epoch);
        self.armed = self.armed.filter(|(armed, _)| *armed > epoch);
    }

    /// The epoch it is armed for, and its deadline.
    #[must_use]
    pub fn armed(&self) -> Option<(Epoch, ClockReading)> {
        self.armed
    }

    /// The newest epoch whose server is known to have ended; 0 if none is.
    #[must_use]
    pub fn fenced(&self) -> Epoch {
        self.fenced
    }

    /// The epoch whose server must end now.
    #[must_use]
    pub fn due(&self, now: ClockReading) -> Option<Epoch> {
        let (epoch, until) = self.armed?;
        now.any_reached(until).then_some(epoch)
    }

    /// How long until it must act; `None` while it is not armed.
    #[must_use]
    pub fn wait(&self, now: ClockReading) -> Option<Duration> {
        self.armed.map(|(_, until)| now.until_any(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> ClockReading {
        ClockReading {
            boot_ns: ms * 1_000_000,
            raw_ns: ms * 1_000_000,
        }
    }

    #[test]
    fn each_renewal_moves_the_deadline() {
        let mut watch = Watch::default();
        watch.arm(Epoch(3), at(100), at(0));
        assert_eq!(watch.wait(at(40)), Some(Duration::from_millis(60)));
        watch.arm(Epoch(3), at(180), at(80));
        assert_eq!(watch.due(at(179)), None);
        assert_eq!(watch.due(at(180)), Some(Epoch(3)));
    }

    #[test]
    fn a_renewal_that_comes_too_late_moves_nothing() {
        let mut watch = Watch::default();
        watch.arm(Epoch(3), at(100), at(0));
        watch.arm(Epoch(3), at(300), at(100));
        assert_eq!(watch.armed(), Some((Epoch(3), at(100))));
        assert_eq!(watch.due(at(100)), Some(Epoch(3)));
    }

    #[test]
    fn an_epoch_that_was_ended_is_not_armed_again() {
        let mut watch = Watch::default();
        watch.arm(Epoch(3), at(100), at(0));
        watch.ended(Epoch(3));
        watch.arm(Epoch(3), at(300), at(101));
        assert_eq!((watch.armed(), watch.fenced()), (None, Epoch(3)));
        watch.arm(Epoch(4), at(300), at(102));
        assert_eq!(watch.armed(), Some((Epoch(4), at(300))));
    }

    #[test]
    fn what_concerns_an_epoch_before_changes_nothing() {
        let mut watch = Watch::default();
        watch.arm(Epoch(4), at(100), at(0));
        watch.arm(Epoch(3), at(900), at(1));
        watch.ended(Epoch(3));
        assert_eq!(watch.due(at(100)), Some(Epoch(4)));
    }

    #[test]
    fn one_clock_is_enough() {
        let mut watch = Watch::default();
        watch.arm(Epoch(3), at(100), at(0));
        let resumed = ClockReading {
            boot_ns: 100_000_000,
            raw_ns: 0,
        };
        assert_eq!(watch.due(resumed), Some(Epoch(3)));
    }

    #[test]
    fn a_server_that_has_ended_needs_no_end() {
        let mut watch = Watch::default();
        watch.arm(Epoch(3), at(100), at(0));
        watch.ended(Epoch(3));
        assert_eq!((watch.due(at(500)), watch.wait(at(500))), (None, None));
    }
}
