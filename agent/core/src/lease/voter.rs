use crate::ids::Epoch;
use crate::sabotage::Rule;
use crate::time::ClockReading;
use crate::view::{FenceReceipt, VoterReport};
use std::time::Duration;

/// A voter's side of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// No epoch below this one is supported any more. Safe on disk before anybody is told.
    pledge: Epoch,
    /// The longest promise that this voter may give: what its quarantine after a restart covers. Safe on disk.
    promise_limit: Duration,
    promise: Option<Promise>,
    /// Promises given before the last start are forgotten: until this point any of them may bind.
    quarantine: ClockReading,
    /// The newest proof that a holder's server has ended: its epoch, and the incarnation of the agent that gave it.
    fenced: (Epoch, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Promise {
    epoch: Epoch,
    incarnation: u64,
    at: ClockReading,
    until: ClockReading,
}

/// What a voter answers to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewAnswer {
    /// It is bound to the epoch for the length of the promise.
    Granted,
    /// It has pledged to a later epoch.
    Pledged {
        /// The epoch that it has pledged to.
        to: Epoch,
    },
    /// The promise asked for is longer than its quarantine after a restart would cover; it will be able to grant it
    /// once it has the newest settings on disk.
    TooLong,
}

impl Voter {
    /// A voter as it is after a start: `pledge` and `promise_limit` come from its disk, `now` is the time of the start.
    #[must_use]
    pub fn started(pledge: Epoch, promise_limit: Duration, now: ClockReading) -> Voter {
        Voter {
            pledge,
            promise_limit,
            promise: None,
            quarantine: now.plus(promise_limit),
            fenced: (Epoch(0), 0),
        }
    }

    /// The epoch that it has pledged to.
    #[must_use]
    pub fn pledge(&self) -> Epoch {
        self.pledge
    }

    /// The longest promise that it may give.
    #[must_use]
    pub fn promise_limit(&self) -> Duration {
        self.promise_limit
    }

    /// Allows longer promises; call it only once `limit` is safe on disk. Never lowers the limit.
    pub fn allow_promises(&mut self, limit: Duration) {
        self.promise_limit = self.promise_limit.max(limit);
    }

    /// Takes a renewal of `epoch` by the given incarnation of its holder's agent, which asks for a promise of the given
    /// length; `now` must be read after it arrived.
    pub fn renew(
        &mut self,
        epoch: Epoch,
        incarnation: u64,
        promise: Duration,
        now: ClockReading,
    ) -> RenewAnswer {
        if epoch < self.pledge {
            return RenewAnswer::Pledged { to: self.pledge };
        }
        if (epoch, incarnation) <= self.fenced {
            return RenewAnswer::Pledged {
                to: self.fenced.0.next(),
            };
        }
        if promise > self.promise_limit {
            return RenewAnswer::TooLong;
        }
        if let Some(bound) = self.promise
            && bound.epoch > epoch
        {
            return RenewAnswer::Pledged { to: bound.epoch };
        }
        // A shorter promise takes nothing back: the holder may never hear of this one, and go by the one before.
        let until = match Rule::Promise.is_off() {
            true => now.plus(promise / 4),
            false => now.plus(promise),
        };
        self.promise = Some(Promise {
            epoch,
            incarnation,
            at: now,
            until: self.promise.map_or(until, |bound| bound.until.later(until)),
        });
        RenewAnswer::Granted
    }

    /// Takes the holder's proof that its server has ended: what was promised to that incarnation of that epoch, or to
    /// an earlier one, binds no longer. A promise to a later incarnation still does: the proof may arrive late, when the
    /// holder's agent has restarted and renewed again. For the same reason it does not end the quarantine.
    pub fn receipt(&mut self, receipt: &FenceReceipt) {
        self.fenced = self.fenced.max((receipt.epoch, receipt.incarnation));
    }

    /// How much longer this voter is bound to epochs below `next`; zero if it may release them now.
    #[must_use]
    pub fn bound_for(&self, next: Epoch, now: ClockReading) -> Duration {
        if self.pledge >= next {
            return Duration::ZERO;
        }
        if Rule::Quarantine.is_off() && self.promise.is_none() {
            return Duration::ZERO;
        }
        let promised = match self.promise {
            Some(promise) if (promise.epoch, promise.incarnation) > self.fenced => {
                now.until_all(promise.until)
            }
            _ => Duration::ZERO,
        };
        promised.max(now.until_all(self.quarantine))
    }

    /// Refuses every epoch below `next` from now on. Call it when [`Voter::bound_for`] is zero, then make it durable,
    /// and only then tell anybody.
    pub fn release(&mut self, next: Epoch) {
        self.pledge = self.pledge.max(next);
    }

    /// What the coordinator is told.
    #[must_use]
    pub fn report(&self, next: Epoch, now: ClockReading) -> VoterReport {
        VoterReport {
            epoch: self.promise.map_or(Epoch(0), |promise| promise.epoch),
            bound_for: self.bound_for(next, now),
            quarantine: now.until_all(self.quarantine),
            silent_for: self.promise.map(|promise| now.since_longest(promise.at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    const PROMISE: Duration = Duration::from_millis(100);

    fn at(ms: u64) -> ClockReading {
        ClockReading {
            boot_ns: ms * 1_000_000,
            raw_ns: ms * 1_000_000,
        }
    }

    fn settled() -> Voter {
        Voter::started(Epoch(1), PROMISE, at(0))
    }

    #[test]
    fn a_promise_binds_for_its_whole_length() {
        let mut voter = settled();
        assert_eq!(voter.renew(Epoch(1), 1, PROMISE, at(200)), RenewAnswer::Granted);
        assert_eq!(voter.bound_for(Epoch(2), at(299)), Duration::from_millis(1));
        assert_eq!(voter.bound_for(Epoch(2), at(300)), Duration::ZERO);
    }

    #[test]
    fn a_shorter_promise_takes_nothing_back_of_the_longer_one_before() {
        let mut voter = settled();
        assert_eq!(voter.renew(Epoch(1), 1, PROMISE, at(200)), RenewAnswer::Granted);
        assert_eq!(
            voter.renew(Epoch(1), 1, PROMISE / 4, at(210)),
            RenewAnswer::Granted
        );
        assert_eq!(
            voter.bound_for(Epoch(2), at(240)),
            Duration::from_millis(60),
            "the answer to the shorter one may be lost, and the holder goes by the longer one"
        );
        assert_eq!(
            voter.renew(Epoch(1), 1, PROMISE / 4, at(290)),
            RenewAnswer::Granted
        );
        assert_eq!(voter.bound_for(Epoch(2), at(299)), Duration::from_millis(16));
    }

    #[test]
    fn a_voter_that_restarted_is_bound_by_promises_it_has_forgotten() {
        let voter = settled();
        assert_eq!(voter.bound_for(Epoch(2), at(99)), Duration::from_millis(1));
        assert_eq!(voter.bound_for(Epoch(2), at(100)), Duration::ZERO);
    }

    #[test]
    fn after_the_release_the_old_epoch_gets_no_support() {
        let mut voter = settled();
        voter.release(Epoch(2));
        assert_eq!(
            voter.renew(Epoch(1), 1, PROMISE, at(200)),
            RenewAnswer::Pledged { to: Epoch(2) }
        );
        assert_eq!(voter.renew(Epoch(2), 1, PROMISE, at(200)), RenewAnswer::Granted);
    }

    #[test]
    fn a_receipt_releases_at_once_and_only_the_epoch_it_is_for() {
        let mut voter = settled();
        assert_eq!(voter.renew(Epoch(1), 1, PROMISE, at(200)), RenewAnswer::Granted);
        voter.receipt(&FenceReceipt {
            epoch: Epoch(1),
            node: NodeId(1),
            incarnation: 1,
            clean_end: None,
        });
        assert_eq!(voter.bound_for(Epoch(2), at(201)), Duration::ZERO);
        assert_eq!(voter.renew(Epoch(2), 1, PROMISE, at(202)), RenewAnswer::Granted);
        assert_eq!(voter.bound_for(Epoch(3), at(203)), Duration::from_millis(99));
    }

    #[test]
    fn a_receipt_that_arrives_late_does_not_undo_a_promise_to_the_restarted_agent() {
        let mut voter = settled();
        voter.renew(Epoch(1), 2, PROMISE, at(200));
        voter.receipt(&FenceReceipt {
            epoch: Epoch(1),
            node: NodeId(1),
            incarnation: 1,
            clean_end: None,
        });
        assert_eq!(voter.bound_for(Epoch(2), at(201)), Duration::from_millis(99));
    }

    #[test]
    fn a_receipt_does_not_end_the_quarantine() {
        let mut voter = settled();
        voter.receipt(&FenceReceipt {
            epoch: Epoch(1),
            node: NodeId(1),
            incarnation: 1,
            clean_end: None,
        });
        assert_eq!(
            voter.bound_for(Epoch(2), at(40)),
            Duration::from_millis(60),
            "a later life of the holder's agent may have been promised something before the restart"
        );
    }

    #[test]
    fn both_clocks_must_agree_that_a_promise_is_over() {
        let mut voter = settled();
        voter.renew(Epoch(1), 1, PROMISE, at(200));
        let suspended = ClockReading {
            boot_ns: 900_000_000,
            raw_ns: 250_000_000,
        };
        assert_eq!(voter.bound_for(Epoch(2), suspended), Duration::from_millis(50));
    }

    #[test]
    fn a_promise_longer_than_the_quarantine_covers_is_not_given() {
        let mut voter = settled();
        assert_eq!(
            voter.renew(Epoch(1), 1, PROMISE * 2, at(200)),
            RenewAnswer::TooLong
        );
        voter.allow_promises(PROMISE * 2);
        assert_eq!(
            voter.renew(Epoch(1), 1, PROMISE * 2, at(200)),
            RenewAnswer::Granted
        );
    }
}
