//! The lease's state, shared between its thread and the rest of the agent.

use super::clock;
use super::guarded::Guarded;
use super::pledge::{Pledge, PledgeError, PledgeFile};
use super::sides::Sides;
use super::wire::Key;
use crate::fencing::Fencer;
use crate::fencing::guard::Guard;
use crate::fencing::kernel_lease::{KernelLease, KernelLeaseError, Wanted};
use agent_core::cluster::{ClusterState, LeaseVoters};
use agent_core::ids::{Epoch, NodeId};
use agent_core::lease::{Holder, Voter};
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

/// Why the kernel does not let clients through yet.
#[derive(Debug, thiserror::Error)]
pub enum KernelRefusal {
    #[error("the lease ended before the kernel let clients through")]
    LeaseOver,
    #[error(
        "the kernel did not set up its part of the lease within {KERNEL_ANSWERS:?}; see `nft list tables`"
    )]
    Silent,
    #[error("the kernel does not take its part of the lease: {0}")]
    Failed(KernelLeaseError),
}

/// How long the kernel may take to let clients through.
const KERNEL_ANSWERS: Duration = Duration::from_millis(500);

/// What a node answers when it is asked to release an epoch.
#[derive(Debug)]
pub enum ReleaseAnswer {
    /// The pledge is on disk.
    Pledged,
    /// It is still bound for so long; nothing was changed.
    Bound(Duration),
}

/// What ends the server, or keeps it from its clients, when the lease is over. A witness has none of it.
#[derive(Clone, Default)]
pub struct Fences {
    /// Ends its processes.
    pub fencer: Option<Fencer>,
    /// Does so from outside of the agent.
    pub guard: Option<Guard>,
    /// Lets no client through.
    pub kernel: Option<KernelLease>,
}

/// The lease of this node: its voter, and its holder side when it has one. Cheap to clone.
#[derive(Clone)]
pub struct Lease {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) sides: Mutex<Sides>,
    pub(super) socket: UdpSocket,
    pub(super) status: watch::Sender<LeaseStatus>,
    pub(super) fencer: Option<Fencer>,
    kernel: Option<KernelLease>,
    file: PledgeFile,
    /// One writer of the pledge file at a time, so that an older pledge never replaces a newer one.
    writing: Mutex<()>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Sides> {
        // The agent aborts on a panic, so a poisoned lock is never seen in production; in tests its content is whole.
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, sides: &Sides) {
        let status = sides.status();
        let mut before = status;
        self.status.send_if_modified(|old| {
            before = std::mem::replace(old, status);
            before != status
        });
        if let Some(kernel) = &self.kernel
            && before.deadline != status.deadline
        {
            let wanted = status.deadline.map_or(Wanted::Closed, Wanted::OpenUntil);
            kernel.want(status.epoch, wanted);
        }
    }
}

impl Lease {
    /// The lease as it is now.
    #[must_use]
    pub fn status(&self) -> LeaseStatus {
        self.shared.lock().status()
    }

    /// Nothing of this node writes under `epoch`, or an earlier one, now or later: the kernel lets everybody through.
    pub fn needs_no_lease(&self, epoch: Epoch) {
        if let Some(kernel) = &self.shared.kernel {
            kernel.want(epoch, Wanted::Unarmed);
        }
    }

    /// Waits until the kernel lets clients through for this lease and no longer, before the server is promoted. Returns at
    /// once where there is no kernel lease.
    ///
    /// # Errors
    /// If the kernel refuses, or the lease has ended.
    pub async fn admits_clients(&self) -> Result<(), KernelRefusal> {
        let Some(kernel) = &self.shared.kernel else {
            return Ok(());
        };
        let LeaseStatus { epoch, deadline, .. } = self.status();
        let deadline = deadline.ok_or(KernelRefusal::LeaseOver)?;
        let order = kernel.want(epoch, Wanted::OpenUntil(deadline));
        let standing = tokio::time::timeout(KERNEL_ANSWERS, kernel.carried_out(order))
            .await
            .map_err(|_| KernelRefusal::Silent)?;
        match (standing.trouble, standing.state) {
            (Some(error), _) => Err(KernelRefusal::Failed(error)),
            (None, Wanted::OpenUntil(_)) => Ok(()),
            (None, _) => Err(KernelRefusal::LeaseOver),
        }
    }

    /// Why this node has no guard, without which it holds no lease; `None` while it has one, or needs none.
    #[must_use]
    pub fn guard_trouble(&self) -> Option<String> {
        self.shared.lock().guarded.as_ref()?.trouble()
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
        let mut sides = self.shared.lock();
        sides.me = me;
        sides.key = Some(Key::derive(
            &state.cluster_id,
            &state.secrets.replication_password,
        ));
        sides.peers = addresses;
        sides.voters = state.voters.clone();
        sides.timing = state.settings.timing;
        let lease = state.settings.timing.lease();
        let held = sides.holder.as_ref().map(Holder::epoch);
        match (state.holder == Some(me), held) {
            (true, Some(epoch)) if epoch == state.epoch => {
                if let Some(holder) = sides.holder.as_mut() {
                    holder.set_lease(lease);
                }
            }
            (true, _) if state.epoch > sides.fenced && state.epoch >= sides.voter.pledge() => {
                sides.before = sides.holder.take();
                sides.holder = Some(Holder::new(state.epoch, lease));
                sides.next_renewal = clock::read();
            }
            (false, Some(epoch)) => {
                // Another node holds a later epoch, so this node's lease has ended, whatever its clocks say.
                sides.holder = None;
                sides.before = None;
                if sides.fenced < epoch
                    && let Some(fencer) = &self.shared.fencer
                {
                    fencer.lease_over(epoch);
                }
            }
            _ => {}
        }
        self.shared.publish(&sides);
        drop(sides);
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
            let sides = self.shared.lock();
            if sides.voter.promise_limit() >= limit {
                return Ok(());
            }
            Pledge {
                epoch: sides.voter.pledge(),
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
        let mut sides = self.shared.lock();
        if let Some(receipt) = receipt {
            sides.voter.receipt(receipt);
        }
        sides.bound_for(next, clock::read())
    }

    /// Pledges to `next`, if nothing binds the voter; the pledge is on disk on return. Blocks on the disk.
    ///
    /// # Errors
    /// If the pledge cannot be written. The voter supports no earlier epoch all the same, and nobody was told.
    pub fn release(&self, next: Epoch, receipt: Option<&FenceReceipt>) -> Result<ReleaseAnswer, PledgeError> {
        let _one_writer = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let pledge = {
            let mut sides = self.shared.lock();
            if let Some(receipt) = receipt {
                sides.voter.receipt(receipt);
            }
            let bound = sides.bound_for(next, clock::read());
            if !bound.is_zero() {
                return Ok(ReleaseAnswer::Bound(bound));
            }
            sides.voter.release(next);
            self.shared.publish(&sides);
            Pledge {
                epoch: sides.voter.pledge(),
                promise_limit: sides.voter.promise_limit(),
            }
        };
        // Written again even if the voter had pledged before: an earlier write may have failed.
        self.shared.file.store(pledge)?;
        Ok(ReleaseAnswer::Pledged)
    }

    /// The server of `epoch` was ended: this agent never renews that epoch again.
    pub fn fenced(&self, epoch: Epoch) {
        let mut guard = self.shared.lock();
        let sides = &mut *guard;
        sides.fenced = sides.fenced.max(epoch);
        sides.end_up_to(epoch);
        if let Some(guarded) = &mut sides.guarded {
            guarded.disarm(epoch);
        }
        self.shared.publish(sides);
        self.needs_no_lease(epoch);
    }

    /// Stops renewing `epoch` before its server has been ended; what is left of the lease is not used.
    pub fn stop_renewing(&self, epoch: Epoch) {
        let mut sides = self.shared.lock();
        if let Some(holder) = sides.holder.as_mut().filter(|holder| holder.epoch() <= epoch) {
            holder.end();
        }
        self.shared.publish(&sides);
        drop(sides);
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
        fences: Fences,
        file: PledgeFile,
        pledge: Pledge,
        incarnation: u64,
    ) -> Lease {
        let now = clock::read();
        let sides = Sides {
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
            guarded: fences.guard.map(Guarded::new),
        };
        let status = watch::channel(sides.status()).0;
        let shared = Shared {
            sides: Mutex::new(sides),
            socket,
            status,
            fencer: fences.fencer,
            kernel: fences.kernel,
            file,
            writing: Mutex::new(()),
        };
        Lease {
            shared: Arc::new(shared),
        }
    }
}
