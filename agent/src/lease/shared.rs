//! The lease's state, shared between its thread and the rest of the agent.

use super::clock;
use super::pledge::{Pledge, PledgeError, PledgeFile};
use super::wire::{Datagram, Key, Kind};
use crate::fencing::Fencer;
use agent_core::cluster::{ClusterState, LeaseVoters};
use agent_core::ids::{Epoch, NodeId};
use agent_core::lease::{Holder, RenewAnswer, Voter};
use agent_core::time::ClockReading;
use agent_core::timing::Timing;
use agent_core::view::{FenceReceipt, VoterReport};
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What the rest of the agent sees of the lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The epoch that this node renews, or renewed last.
    pub epoch: Epoch,
    /// When the lease is over; `None` before a majority has confirmed it, and once it is over.
    pub deadline: Option<ClockReading>,
    /// The newest epoch whose server this agent has ended.
    pub fenced: Epoch,
    /// The epoch that this node's voter has pledged to.
    pub pledge: Epoch,
    /// When the newest renewal that a majority acknowledged was about to be sent; `None` where no lease is valid.
    pub renewed: Option<ClockReading>,
    /// The terms by which the next renewal is sent.
    pub timing: Timing,
}

impl LeaseStatus {
    /// Whether the lease of [`LeaseStatus::epoch`] is valid at this moment.
    #[must_use]
    pub fn valid(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| !clock::read().any_reached(deadline))
    }

    /// How much of the lease is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline
            .map_or(Duration::ZERO, |deadline| clock::read().until_any(deadline))
    }
}

/// What a node answers when it is asked to release an epoch.
#[derive(Debug)]
pub enum ReleaseAnswer {
    /// The pledge is on disk.
    Pledged,
    /// It is still bound for so long; nothing was changed.
    Bound(Duration),
}

/// The lease of this node: its voter, and its holder side when it has one. Cheap to clone.
#[derive(Clone)]
pub struct Lease {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    pub(super) socket: UdpSocket,
    pub(super) status: watch::Sender<LeaseStatus>,
    pub(super) fencer: Option<Fencer>,
    file: PledgeFile,
    /// One writer of the pledge file at a time, so that an older pledge never replaces a newer one.
    writing: Mutex<()>,
}

pub(super) struct Inner {
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
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // The agent aborts on a panic, so a poisoned lock is never seen in production; in tests its content is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, inner: &Inner) {
        let status = inner.status();
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

impl Inner {
    fn status(&self) -> LeaseStatus {
        let now = clock::read();
        let current = self.holder.as_ref();
        // While one epoch passes into the next without a stop, the lease that is held is the longer of the two.
        let valid = || {
            [self.holder.as_ref(), self.before.as_ref()]
                .into_iter()
                .flatten()
                .filter(|holder| holder.valid(now))
        };
        let deadline = valid()
            .filter_map(Holder::deadline)
            .max_by_key(|deadline| deadline.boot_ns.min(deadline.raw_ns));
        LeaseStatus {
            epoch: current.map_or(Epoch(0), Holder::epoch),
            deadline,
            fenced: self.fenced,
            pledge: self.voter.pledge(),
            renewed: valid()
                .filter_map(Holder::renewed)
                .max_by_key(|sent| sent.boot_ns.min(sent.raw_ns)),
            timing: self.timing,
        }
    }

    /// Whether a lease was held and none is now: the server must end. What was fenced has had its end already: it says
    /// nothing about a later epoch, whose first renewal may still be under way.
    pub(super) fn ran_out(&mut self, now: ClockReading) -> Option<Epoch> {
        let fenced = self.fenced;
        let mut sides: Vec<&mut Holder> = [self.holder.as_mut(), self.before.as_mut()]
            .into_iter()
            .flatten()
            .filter(|holder| holder.epoch() > fenced)
            .collect();
        if sides.iter().any(|holder| holder.valid(now)) {
            return None;
        }
        let over = sides.iter_mut().any(|holder| holder.is_over(now));
        let newest = sides.iter().map(|holder| holder.epoch()).max()?;
        over.then_some(newest)
    }

    /// How long this node is bound to epochs below `next`: as a voter, and as a holder whose own lease still runs.
    fn bound_for(&self, next: Epoch, now: ClockReading) -> Duration {
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
                    if holder.epoch() == datagram.epoch {
                        holder.acknowledged(datagram.round, datagram.from, &self.voters, now);
                    }
                }
                None
            }
            // A refusal is no reason to stop: a majority of the others may still grant it.
            Kind::Granted | Kind::Pledged { .. } | Kind::TooLong => None,
        }
    }
}

/// How often a holder asks until a first majority has answered.
const FIRST_RENEWALS: Duration = Duration::from_millis(50);

impl Lease {
    /// The lease as it is now.
    #[must_use]
    pub fn status(&self) -> LeaseStatus {
        self.shared.lock().status()
    }

    /// Sees each change of the lease.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LeaseStatus> {
        self.shared.status.subscribe()
    }

    /// Takes over what the replicated state says: who holds which epoch, who votes, where they are, and the terms.
    /// Resolves names, so it is not for the lease's own thread.
    pub fn follow(&self, me: NodeId, state: &ClusterState) {
        let addresses = self.resolve(state);
        let mut inner = self.shared.lock();
        inner.me = me;
        inner.key = Some(Key::derive(
            &state.cluster_id,
            &state.secrets.replication_password,
        ));
        inner.peers = addresses;
        inner.voters = state.voters.clone();
        inner.timing = state.settings.timing;
        let lease = state.settings.timing.lease();
        let held = inner.holder.as_ref().map(Holder::epoch);
        match (state.holder == Some(me), held) {
            (true, Some(epoch)) if epoch == state.epoch => {
                if let Some(holder) = inner.holder.as_mut() {
                    holder.set_lease(lease);
                }
            }
            (true, _) if state.epoch > inner.fenced && state.epoch >= inner.voter.pledge() => {
                inner.before = inner.holder.take();
                inner.holder = Some(Holder::new(state.epoch, lease));
                inner.next_renewal = clock::read();
            }
            (false, Some(epoch)) => {
                // Another node holds a later epoch, so this node's lease has ended, whatever its clocks say.
                inner.holder = None;
                inner.before = None;
                if inner.fenced < epoch
                    && let Some(fencer) = &self.shared.fencer
                {
                    fencer.lease_over(epoch);
                }
            }
            _ => {}
        }
        self.shared.publish(&inner);
        drop(inner);
        self.wake();
    }

    fn resolve(&self, state: &ClusterState) -> BTreeMap<NodeId, (String, Option<SocketAddr>)> {
        let known = self.shared.lock().peers.clone();
        state
            .members
            .iter()
            .map(|(node, member)| {
                let same = known
                    .get(node)
                    .filter(|(peer, address)| *peer == member.peer && address.is_some());
                let address = match same {
                    Some((_, address)) => *address,
                    None => member
                        .peer
                        .to_socket_addrs()
                        .ok()
                        .and_then(|mut found| found.next()),
                };
                (*node, (member.peer.clone(), address))
            })
            .collect()
    }

    /// Lets the voter promise as long as the newest terms ask, once its disk covers it.
    ///
    /// # Errors
    /// If the pledge file cannot be written; shorter promises are still given.
    pub fn allow_promises(&self, limit: Duration) -> Result<(), PledgeError> {
        let _one_writer = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let pledge = {
            let inner = self.shared.lock();
            if inner.voter.promise_limit() >= limit {
                return Ok(());
            }
            Pledge {
                epoch: inner.voter.pledge(),
                promise_limit: limit,
            }
        };
        self.shared.file.store(pledge)?;
        self.shared.lock().voter.allow_promises(limit);
        Ok(())
    }

    /// What the coordinator is told of this node's voter.
    #[must_use]
    pub fn voter_report(&self, next: Epoch) -> VoterReport {
        self.shared.lock().voter.report(next, clock::read())
    }

    /// How much longer the voter is bound to epochs below `next`, given a proof that arrived with the question.
    #[must_use]
    pub fn bound_for(&self, next: Epoch, receipt: Option<&FenceReceipt>) -> Duration {
        let mut inner = self.shared.lock();
        if let Some(receipt) = receipt {
            inner.voter.receipt(receipt);
        }
        inner.bound_for(next, clock::read())
    }

    /// Pledges to `next`, if nothing binds the voter; the pledge is on disk on return. Blocks on the disk.
    ///
    /// # Errors
    /// If the pledge cannot be written. The voter supports no earlier epoch all the same, and nobody was told.
    pub fn release(&self, next: Epoch, receipt: Option<&FenceReceipt>) -> Result<ReleaseAnswer, PledgeError> {
        let _one_writer = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let pledge = {
            let mut inner = self.shared.lock();
            if let Some(receipt) = receipt {
                inner.voter.receipt(receipt);
            }
            let bound = inner.bound_for(next, clock::read());
            if !bound.is_zero() {
                return Ok(ReleaseAnswer::Bound(bound));
            }
            inner.voter.release(next);
            self.shared.publish(&inner);
            Pledge {
                epoch: inner.voter.pledge(),
                promise_limit: inner.voter.promise_limit(),
            }
        };
        // Written again even if the voter had pledged before: an earlier write may have failed.
        self.shared.file.store(pledge)?;
        Ok(ReleaseAnswer::Pledged)
    }

    /// The server of `epoch` was ended: this agent never renews that epoch again.
    pub fn fenced(&self, epoch: Epoch) {
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        inner.fenced = inner.fenced.max(epoch);
        for holder in [inner.holder.as_mut(), inner.before.as_mut()]
            .into_iter()
            .flatten()
        {
            if holder.epoch() <= epoch {
                holder.end();
            }
        }
        self.shared.publish(inner);
    }

    /// Stops renewing `epoch` before its server has been ended; what is left of the lease is not used.
    pub fn stop_renewing(&self, epoch: Epoch) {
        let mut inner = self.shared.lock();
        if let Some(holder) = inner.holder.as_mut().filter(|holder| holder.epoch() <= epoch) {
            holder.end();
        }
        self.shared.publish(&inner);
        drop(inner);
        self.wake();
    }

    fn wake(&self) {
        // A datagram to ourselves ends the thread's wait; if it is lost, the wait ends by itself soon after.
        if let Ok(address) = self.shared.socket.local_addr() {
            let _ = self.shared.socket.send_to(&[], address);
        }
    }

    pub(super) fn new(
        socket: UdpSocket,
        fencer: Option<Fencer>,
        file: PledgeFile,
        pledge: Pledge,
        incarnation: u64,
    ) -> Lease {
        let now = clock::read();
        let inner = Inner {
            me: NodeId(0),
            incarnation,
            key: None,
            voter: Voter::started(pledge.epoch, pledge.promise_limit, now),
            holder: None,
            before: None,
            fenced: Epoch(0),
            voters: LeaseVoters::default(),
            peers: BTreeMap::new(),
            timing: Timing::default(),
            next_renewal: now,
        };
        let status = watch::channel(inner.status()).0;
        let shared = Shared {
            inner: Mutex::new(inner),
            socket,
            status,
            fencer,
            file,
            writing: Mutex::new(()),
        };
        Lease {
            shared: Arc::new(shared),
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
    fn granted_again(fenced: u64) -> Inner {
        let lease = Duration::from_millis(100);
        let mut voters = LeaseVoters::default();
        voters.install(1, &[[NodeId(1)].into()], true);
        let mut before = Holder::new(Epoch(5), lease);
        let renewal = before.renew(at(0)).expect("a fresh holder renews");
        assert!(before.acknowledged(renewal.round, NodeId(1), &voters, at(1)));
        Inner {
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
        }
    }

    #[test]
    fn an_epoch_that_was_fenced_does_not_end_the_next_one_before_its_first_renewal() {
        assert_eq!(granted_again(5).ran_out(at(150)), None);
    }

    #[test]
    fn a_lease_that_ran_out_before_the_next_was_confirmed_ends_the_server() {
        let mut inner = granted_again(4);
        assert_eq!(inner.ran_out(at(99)), None, "the lease of epoch 5 still holds");
        assert_eq!(inner.ran_out(at(150)), Some(Epoch(6)));
    }
}
