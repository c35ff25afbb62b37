//! Both sides of the lease on one node: the voter, and the holder's, with what they say is to be done now.

use super::clock;
use super::guarded::Guarded;
use super::shared::LeaseStatus;
use super::wire::{Datagram, Key, Kind};
use agent_core::cluster::LeaseVoters;
use agent_core::ids::{Epoch, NodeId};
use agent_core::lease::{Holder, RenewAnswer, Voter};
use agent_core::time::ClockReading;
use agent_core::timing::Timing;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How often a holder asks until a first majority has answered.
const FIRST_RENEWALS: Duration = Duration::from_millis(50);

/// What the lease's thread and the rest of the agent share under one lock; nothing here waits for anything.
pub(super) struct Sides {
    pub(super) me: NodeId,
    pub(super) incarnation: u64,
    pub(super) key: Option<Key>,
    pub(super) voter: Voter,
    pub(super) holder: Option<Holder>,
    /// The holder side of the epoch before, while this node goes on in the next without a stop.
    pub(super) before: Option<Holder>,
    pub(super) fenced: Epoch,
    pub(super) voters: LeaseVoters,
    pub(super) peers: BTreeMap<NodeId, (String, Option<SocketAddr>)>,
    pub(super) timing: Timing,
    pub(super) next_renewal: ClockReading,
    /// The process that ends the server if this one does not; `None` on a witness.
    pub(super) guarded: Option<Guarded>,
}

impl Sides {
    pub(super) fn status(&self) -> LeaseStatus {
        let now = clock::read();
        let current = self.holder.as_ref();
        let deadline = self
            .confirmed_by_voters(now)
            .and_then(|deadline| match &self.guarded {
                Some(guarded) => guarded.limit(deadline),
                None => Some(deadline),
            })
            .filter(|deadline| !now.any_reached(*deadline));
        LeaseStatus {
            epoch: current.map_or(Epoch(0), Holder::epoch),
            deadline,
            fenced: self.fenced,
            pledge: self.voter.pledge(),
            renewed: deadline.and_then(|_| {
                self.supported(now)
                    .filter_map(Holder::renewed)
                    .max_by_key(|sent| sent.boot_ns.min(sent.raw_ns))
            }),
            timing: self.timing,
        }
    }

    /// The holder sides that a majority of the voters supports now: two, while one epoch passes into the next without a
    /// stop. The lease that is held is then the longer one.
    fn supported(&self, now: ClockReading) -> impl Iterator<Item = &Holder> {
        let sides = [self.holder.as_ref(), self.before.as_ref()].into_iter().flatten();
        sides.filter(move |holder| holder.valid(now))
    }

    /// Until when a majority of the voters supports this node.
    pub(super) fn confirmed_by_voters(&self, now: ClockReading) -> Option<ClockReading> {
        self.supported(now)
            .filter_map(Holder::deadline)
            .max_by_key(|deadline| deadline.boot_ns.min(deadline.raw_ns))
    }

    /// Has the guard know until when the server may write. If it has ended the server already, the lease is over.
    pub(super) fn tend_guard(&mut self, now: ClockReading) -> Option<Epoch> {
        let until = self.confirmed_by_voters(now);
        let epoch = self.holder.as_ref().map(Holder::epoch);
        let held = epoch.filter(|epoch| *epoch > self.fenced).zip(until);
        let ended = self.guarded.as_mut()?.tend(held, self.timing.renew(), now)?;
        self.end_up_to(ended);
        Some(ended)
    }

    pub(super) fn end_up_to(&mut self, epoch: Epoch) {
        for holder in [self.holder.as_mut(), self.before.as_mut()]
            .into_iter()
            .flatten()
            .filter(|holder| holder.epoch() <= epoch)
        {
            holder.end();
        }
    }

    /// Whether a lease was held and none is now: the server must end. What was fenced has had its end already: it says
    /// nothing about a later epoch, whose first renewal may still be under way.
    pub(super) fn ran_out(&mut self, now: ClockReading) -> Option<Epoch> {
        let fenced = self.fenced;
        let guard_is_due = self.guarded.as_ref().is_some_and(|guarded| guarded.ran_out(now));
        let mut sides: Vec<&mut Holder> = [self.holder.as_mut(), self.before.as_mut()]
            .into_iter()
            .flatten()
            .filter(|holder| holder.epoch() > fenced)
            .collect();
        if guard_is_due {
            sides.iter_mut().for_each(|holder| holder.end());
        }
        if sides.iter().any(|holder| holder.valid(now)) {
            return None;
        }
        let over = sides.iter_mut().any(|holder| holder.is_over(now));
        let newest = sides.iter().map(|holder| holder.epoch()).max()?;
        over.then_some(newest)
    }

    /// How long this node is bound to epochs below `next`: as a voter, and as a holder whose own lease still runs.
    pub(super) fn bound_for(&self, next: Epoch, now: ClockReading) -> Duration {
        let own = [self.holder.as_ref(), self.before.as_ref()].into_iter().flatten();
        let held = own
            .filter(|holder| holder.epoch() < next && holder.valid(now))
            .filter_map(Holder::deadline);
        let left = held
            .map(|deadline| now.until_any(deadline))
            .max()
            .unwrap_or_default();
        self.voter.bound_for(next, now).max(left)
    }

    /// The renewals to send now.
    pub(super) fn renewals(&mut self, now: ClockReading) -> Vec<(SocketAddr, Datagram)> {
        let Some(holder) = self.holder.as_mut().filter(|holder| holder.epoch() > self.fenced) else {
            return Vec::new();
        };
        let Some(renewal) = holder.renew(now) else {
            return Vec::new();
        };
        // Before the first majority every moment counts; afterwards the profile says how often.
        let pause = if holder.deadline().is_some() {
            self.timing.renew()
        } else {
            FIRST_RENEWALS
        };
        self.next_renewal = now.plus(pause);
        let promise = self.timing.promise();
        let mut out = Vec::new();
        for node in self.voters.all() {
            if node == self.me {
                let answer = self
                    .voter
                    .renew(renewal.epoch, self.incarnation, promise, clock::read());
                if answer == RenewAnswer::Granted
                    && let Some(holder) = self.holder.as_mut()
                {
                    holder.acknowledged(renewal.round, node, &self.voters, clock::read());
                }
            } else if let Some((_, Some(address))) = self.peers.get(&node) {
                let datagram = Datagram {
                    from: self.me,
                    to: node,
                    epoch: renewal.epoch,
                    round: renewal.round,
                    incarnation: self.incarnation,
                    kind: Kind::Renew { promise },
                };
                out.push((*address, datagram));
            }
        }
        out
    }

    /// Takes a datagram; gives the answer that goes back to its sender, if there is one.
    pub(super) fn receive(&mut self, datagram: Datagram, now: ClockReading) -> Option<Datagram> {
        if datagram.to != self.me {
            return None;
        }
        match datagram.kind {
            Kind::Renew { promise } => {
                let answer = self
                    .voter
                    .renew(datagram.epoch, datagram.incarnation, promise, now);
                let kind = match answer {
                    RenewAnswer::Granted => Kind::Granted,
                    RenewAnswer::Pledged { to } => Kind::Pledged { to },
                    RenewAnswer::TooLong => Kind::TooLong,
                };
                Some(Datagram {
                    from: self.me,
                    to: datagram.from,
                    kind,
                    ..datagram
                })
            }
            Kind::Granted if datagram.incarnation == self.incarnation => {
                for holder in [self.holder.as_mut(), self.before.as_mut()].into_iter().flatten() {
                    if holder.epoch() != datagram.epoch {
                        continue;
                    }
                    holder.acknowledged(datagram.round, datagram.from, &self.voters, now);
                }
                None
            }
            // A refusal is no reason to stop: a majority of the others may still grant it.
            Kind::Granted | Kind::Pledged { .. } | Kind::TooLong => None,
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

    /// A node whose lease of epoch 5 has run out at 100 ms, and which has just been granted epoch 6.
    fn granted_again(fenced: u64) -> Sides {
        let lease = Duration::from_millis(100);
        let mut voters = LeaseVoters::default();
        voters.install(1, &[[NodeId(1)].into()], true);
        let mut before = Holder::new(Epoch(5), lease);
        let renewal = before.renew(at(0)).expect("a fresh holder renews");
        assert!(before.acknowledged(renewal.round, NodeId(1), &voters, at(1)));
        Sides {
            me: NodeId(1),
            incarnation: 1,
            key: None,
            voter: Voter::started(Epoch(6), lease, at(0)),
            holder: Some(Holder::new(Epoch(6), lease)),
            before: Some(before),
            fenced: Epoch(fenced),
            voters,
            peers: BTreeMap::new(),
            timing: Timing::default(),
            next_renewal: at(150),
            guarded: None,
        }
    }

    #[test]
    fn an_epoch_that_was_fenced_does_not_end_the_next_one_before_its_first_renewal() {
        assert_eq!(granted_again(5).ran_out(at(150)), None);
    }

    #[test]
    fn a_lease_that_ran_out_before_the_next_was_confirmed_ends_the_server() {
        let mut sides = granted_again(4);
        assert_eq!(sides.ran_out(at(99)), None, "the lease of epoch 5 still holds");
        assert_eq!(sides.ran_out(at(150)), Some(Epoch(6)));
    }
}
