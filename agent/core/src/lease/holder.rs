use crate::cluster::LeaseVoters;
use crate::ids::{Epoch, NodeId};
use crate::sabotage::Rule;
use crate::time::ClockReading;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The holder's side of one epoch's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    epoch: Epoch,
    lease: Duration,
    next_round: u64,
    /// Renewals under way: when each was about to be sent, and who has acknowledged it.
    rounds: BTreeMap<u64, Round>,
    deadline: Option<ClockReading>,
    /// When the newest renewal that a majority acknowledged was about to be sent.
    renewed: Option<ClockReading>,
    /// When it stops trying if no majority has answered at all.
    give_up: Option<ClockReading>,
    over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Round {
    sent: ClockReading,
    /// How long this renewal is good for: the voters were asked for a promise that covers this, and no more.
    lease: Duration,
    acks: BTreeSet<NodeId>,
}

/// What the holder asks of every voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    pub epoch: Epoch,
    /// Tells the renewals of an epoch apart.
    pub round: u64,
}

/// A holder that got no majority within so many lengths of its lease gives the epoch up. Its renewals may arrive although
/// no answer comes back, and would bind the voters to it for ever.
const TRY_FOR: u32 = 2;

/// No more renewals than this are waited for at once.
const ROUNDS_KEPT: usize = 16;

impl Holder {
    /// A holder that has been granted `epoch` and has no lease yet; each renewal is good for `lease`.
    #[must_use]
    pub fn new(epoch: Epoch, lease: Duration) -> Holder {
        Holder {
            epoch,
            lease,
            next_round: 1,
            rounds: BTreeMap::new(),
            deadline: None,
            renewed: None,
            give_up: None,
            over: false,
        }
    }

    /// The epoch that is held.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes over new terms; they count for renewals from now on.
    pub fn set_lease(&mut self, lease: Duration) {
        self.lease = lease;
    }

    /// Begins a renewal. `now` must have been read before anything of it is sent. `None` once the lease is over: a
    /// fenced holder must not keep the voters' promises alive. The same holds for one that was never answered by a
    /// majority and has tried for long enough.
    pub fn renew(&mut self, now: ClockReading) -> Option<Renewal> {
        self.check(now);
        if self.over {
            return None;
        }
        self.give_up.get_or_insert(now.plus(self.lease * TRY_FOR));
        let round = self.next_round;
        self.next_round += 1;
        self.rounds.insert(
            round,
            Round {
                sent: now,
                lease: self.lease,
                acks: BTreeSet::new(),
            },
        );
        while self.rounds.len() > ROUNDS_KEPT {
            self.rounds.pop_first();
        }
        Some(Renewal {
            epoch: self.epoch,
            round,
        })
    }

    /// Takes a voter's acknowledgement. Says whether the lease now lasts longer than before.
    pub fn acknowledged(&mut self, round: u64, by: NodeId, voters: &LeaseVoters, now: ClockReading) -> bool {
        self.check(now);
        if self.over {
            return false;
        }
        let Some(found) = self.rounds.get_mut(&round) else {
            return false;
        };
        found.acks.insert(by);
        if !voters.majority(&found.acks) {
            return false;
        }
        let sent = match Rule::DeadlineFromTheSending.is_off() {
            true => now,
            false => found.sent,
        };
        let deadline = sent.plus(found.lease);
        // Older renewals can only give earlier deadlines.
        self.rounds = self.rounds.split_off(&(round + 1));
        if now.any_reached(deadline) {
            return false;
        }
        self.deadline = Some(deadline);
        self.renewed = Some(sent);
        true
    }

    /// Ends the lease by the holder's own will: it was fenced, or gives up.
    pub fn end(&mut self) {
        self.over = true;
    }

    /// Whether the node may write at `now`.
    #[must_use]
    pub fn valid(&self, now: ClockReading) -> bool {
        !self.over && self.deadline.is_some_and(|deadline| !now.any_reached(deadline))
    }

    /// Whether the lease was held and has ended, or was asked for in vain. It does not come back: the node's server is
    /// to be ended, and the receipt to be given.
    pub fn is_over(&mut self, now: ClockReading) -> bool {
        self.check(now);
        self.over
    }

    /// Until when the lease lasts; `None` before the first majority.
    #[must_use]
    pub fn deadline(&self) -> Option<ClockReading> {
        self.deadline
    }

    /// When the newest renewal that a majority acknowledged was about to be sent; `None` before the first.
    #[must_use]
    pub fn renewed(&self) -> Option<ClockReading> {
        self.renewed
    }

    /// When the lease, or the attempt to get one, ends unless a majority answers; `None` before the first renewal.
    #[must_use]
    pub fn ends_at(&self) -> Option<ClockReading> {
        self.deadline.or(self.give_up)
    }

    fn check(&mut self, now: ClockReading) {
        if self.ends_at().is_some_and(|end| now.any_reached(end)) {
            self.over = true;
        }
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

    fn three() -> LeaseVoters {
        let mut voters = LeaseVoters::default();
        voters.install(1, &[[1, 2, 3].map(NodeId).into()], true);
        voters
    }

    #[test]
    fn the_deadline_counts_from_the_sending_not_from_the_answer() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        let renewal = holder.renew(at(0)).expect("a fresh holder renews");
        assert!(!holder.acknowledged(renewal.round, NodeId(1), &three(), at(1)));
        assert!(!holder.valid(at(1)), "one of three is no majority");
        assert!(holder.acknowledged(renewal.round, NodeId(2), &three(), at(60)));
        assert!(holder.valid(at(99)));
        assert!(!holder.valid(at(100)));
    }

    #[test]
    fn a_lease_that_ran_out_is_never_extended() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        let first = holder.renew(at(0)).expect("a fresh holder renews");
        for node in [1, 2] {
            holder.acknowledged(first.round, NodeId(node), &three(), at(1));
        }
        let second = holder.renew(at(50)).expect("the lease is valid");
        for node in [1, 2] {
            assert!(!holder.acknowledged(second.round, NodeId(node), &three(), at(101)));
        }
        assert!(!holder.valid(at(101)));
        assert_eq!(holder.renew(at(102)), None);
    }

    #[test]
    fn an_answer_that_comes_after_the_lease_it_would_give_counts_for_nothing() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        let renewal = holder.renew(at(0)).expect("a fresh holder renews");
        for node in [1, 2] {
            assert!(!holder.acknowledged(renewal.round, NodeId(node), &three(), at(150)));
        }
        assert!(!holder.valid(at(150)));
        assert!(
            holder.renew(at(151)).is_some(),
            "it never held the lease, so it may still get it"
        );
    }

    #[test]
    fn a_holder_that_nobody_answers_gives_the_epoch_up() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        assert!(holder.renew(at(0)).is_some());
        assert!(holder.renew(at(199)).is_some());
        assert_eq!(holder.ends_at(), Some(at(200)));
        assert!(!holder.is_over(at(199)));
        assert!(holder.is_over(at(200)));
        assert_eq!(holder.renew(at(201)), None);
    }

    #[test]
    fn acknowledgements_of_different_renewals_do_not_add_up() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        let first = holder.renew(at(0)).expect("renews");
        let second = holder.renew(at(10)).expect("renews");
        holder.acknowledged(first.round, NodeId(1), &three(), at(11));
        assert!(!holder.acknowledged(second.round, NodeId(2), &three(), at(12)));
        assert!(!holder.valid(at(12)));
    }

    #[test]
    fn longer_terms_do_not_count_for_a_renewal_that_was_sent_under_the_shorter_ones() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        let renewal = holder.renew(at(0)).expect("renews");
        holder.set_lease(Duration::from_millis(1_000));
        for node in [1, 2] {
            holder.acknowledged(renewal.round, NodeId(node), &three(), at(1));
        }
        assert!(holder.valid(at(99)));
        assert!(!holder.valid(at(100)), "the voters promised the shorter terms");
    }

    #[test]
    fn one_clock_is_enough_to_end_it() {
        let mut holder = Holder::new(Epoch(1), Duration::from_millis(100));
        let renewal = holder.renew(at(0)).expect("renews");
        for node in [1, 2] {
            holder.acknowledged(renewal.round, NodeId(node), &three(), at(1));
        }
        assert!(
            !holder.valid(ClockReading {
                boot_ns: 100_000_000,
                raw_ns: 0
            }),
            "the host was suspended"
        );
    }
}
