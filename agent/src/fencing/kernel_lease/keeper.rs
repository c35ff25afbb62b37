//! The thread that carries out what the lease wants of the gate.

use super::error::KernelLeaseError;
use super::gate::{Gate, GateState};
use agent_core::ids::Epoch;
use agent_core::time::ClockReading;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// What is wanted of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// No lease is needed: no server of this node writes under the epoch, or an earlier one, now or later. It has ended, or
    /// is a standby that will not be promoted under it.
    Unarmed,
    /// The lease is over, or not yet there.
    Closed,
    /// The lease lasts so long.
    OpenUntil(ClockReading),
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The newest order that was carried out, or given up because its deadline was too near.
    pub order: u64,
    /// What is so since then. [`Wanted::OpenUntil`] ends by itself, a little before the time it names.
    pub state: Wanted,
    /// Renewals since the start.
    pub renewals: u64,
    /// The longest that a renewal took.
    pub slowest: Duration,
    /// Why the newest order is not carried out yet, or had to be given up.
    pub trouble: Option<KernelLeaseError>,
    /// Whether the kernel keeps other programs from changing the table.
    pub protected: bool,
}

/// The gate, for threads that must not wait: each order only leaves a note for the thread that talks to the kernel. An
/// order that was not carried out yet when the next one comes is dropped.
///
/// Orders come from several threads, so each names its epoch: one for an older epoch changes nothing, and neither does one
/// for an epoch that was ended by [`Wanted::Unarmed`]. A receipt that comes late cannot disarm a new primary.
///
/// Nothing depends on that thread being in time: it cannot open for longer than the lease, and what it does not close
/// closes itself.
#[derive(Clone)]
pub struct KernelLease {
    shared: Arc<Shared>,
}

struct Shared {
    order: Mutex<Order>,
    wake: Condvar,
    standing: watch::Sender<Standing>,
}

#[derive(Clone, Copy)]
struct Order {
    number: u64,
    epoch: Epoch,
    wanted: Wanted,
}

impl Order {
    /// Takes a newer order over, unless it is out of date.
    fn take(&mut self, epoch: Epoch, wanted: Wanted) {
        let ended = epoch == self.epoch && self.wanted == Wanted::Unarmed;
        if epoch < self.epoch || ended {
            return;
        }
        self.number += 1;
        self.epoch = epoch;
        self.wanted = wanted;
    }
}

impl KernelLease {
    /// Starts the thread. The gate stays as it is until the first order.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(gate: Gate) -> std::io::Result<KernelLease> {
        let state = match gate.state() {
            GateState::Unarmed => Wanted::Unarmed,
            // A timer that an earlier process has put in force is not ours to vouch for.
            GateState::Armed { .. } => Wanted::Closed,
        };
        let shared = Arc::new(Shared {
            order: Mutex::new(Order {
                number: 0,
                epoch: Epoch(0),
                wanted: state,
            }),
            wake: Condvar::new(),
            standing: watch::channel(Standing {
                order: 0,
                state,
                renewals: 0,
                slowest: Duration::ZERO,
                trouble: None,
                protected: gate.is_protected(),
            })
            .0,
        });
        let lease = KernelLease {
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("kernel-lease".to_owned())
            .spawn(move || shared.run(gate))?;
        Ok(lease)
    }

    /// Says what is wanted from now on in an epoch of this node, without waiting. The number, of this order or of the one
    /// that makes it out of date, is for [`KernelLease::carried_out`].
    pub fn want(&self, epoch: Epoch, wanted: Wanted) -> u64 {
        let mut order = self.shared.lock();
        order.take(epoch, wanted);
        let number = order.number;
        drop(order);
        self.shared.wake.notify_one();
        number
    }

    /// Waits until that order, or a later one, was carried out: before a promotion, that the gate is armed and open. Has no
    /// limit of its own.
    pub async fn carried_out(&self, order: u64) -> Standing {
        let mut standing = self.watch();
        // The sender lives as long as `self`.
        let reached = standing
            .wait_for(|s| s.order >= order)
            .await
            .map(|standing| standing.clone());
        reached.unwrap_or_else(|_| self.standing())
    }

    /// How far it has come.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.shared.standing.borrow().clone()
    }

    /// Sees each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut gate: Gate) {
        crate::hardening::run_this_thread_first();
        let mut done = 0;
        loop {
            let order = self.next_order(done);
            let began = Instant::now();
            let outcome = carry_out(&mut gate, order.wanted);
            let took = began.elapsed();
            let failed = !matches!(outcome, Ok(()) | Err(KernelLeaseError::TooLate));
            self.standing.send_modify(|standing| {
                let trouble = outcome.err();
                if trouble != standing.trouble
                    && let Some(error) = &trouble
                {
                    tracing::warn!(%error, "the kernel lease is in trouble");
                }
                standing.protected = gate.is_protected();
                if !failed {
                    standing.order = order.number;
                    standing.state = if trouble.is_some() {
                        Wanted::Closed
                    } else {
                        order.wanted
                    };
                }
                if trouble.is_none() && matches!(order.wanted, Wanted::OpenUntil(_)) {
                    standing.renewals += 1;
                    standing.slowest = standing.slowest.max(took);
                }
                standing.trouble = trouble;
            });
            if failed {
                std::thread::sleep(PAUSE);
            } else {
                done = order.number;
            }
        }
    }

    fn next_order(&self, done: u64) -> Order {
        let mut order = self.lock();
        while order.number == done {
            order = self.wake.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        *order
    }
}

/// Does what is wanted, if need be on a table that is made anew first.
fn carry_out(gate: &mut Gate, wanted: Wanted) -> Result<(), KernelLeaseError> {
    match apply(gate, wanted) {
        Err(error @ KernelLeaseError::Disturbed { .. }) => {
            tracing::warn!(%error, "making the kernel lease's table anew");
            gate.mend()?;
            apply(gate, wanted)
        }
        outcome => outcome,
    }
}

fn apply(gate: &mut Gate, wanted: Wanted) -> Result<(), KernelLeaseError> {
    match wanted {
        Wanted::Unarmed => gate.disarm(),
        Wanted::Closed => gate.close(),
        Wanted::OpenUntil(deadline) => match gate.open_until(deadline) {
            Err(KernelLeaseError::TooLate) => gate.close().and(Err(KernelLeaseError::TooLate)),
            outcome => outcome,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Place;
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::path::Path;
    use std::process::Command;

    fn until(ms: u64) -> Wanted {
        Wanted::OpenUntil(ClockReading::default().plus(Duration::from_millis(ms)))
    }

    #[test]
    fn an_order_out_of_date_changes_nothing() {
        let situations = [
            ("the next renewal", (5, until(1)), (5, until(2)), true),
            ("the lease is over", (5, until(1)), (5, Wanted::Closed), true),
            ("a receipt", (5, Wanted::Closed), (5, Wanted::Unarmed), true),
            ("a receipt, late", (6, until(1)), (5, Wanted::Unarmed), false),
            ("a renewal, late", (5, Wanted::Unarmed), (5, until(1)), false),
            ("an end, late", (5, Wanted::Unarmed), (5, Wanted::Closed), false),
            (
                "an end of an old epoch, late",
                (6, until(1)),
                (5, Wanted::Closed),
                false,
            ),
            ("the next epoch here", (5, Wanted::Unarmed), (6, until(1)), true),
            ("the first epoch", (0, Wanted::Unarmed), (1, until(1)), true),
        ];
        for (situation, (epoch, wanted), (new_epoch, new_wanted), taken) in situations {
            let mut order = Order {
                number: 7,
                epoch: Epoch(epoch),
                wanted,
            };
            order.take(Epoch(new_epoch), new_wanted);
            assert_eq!(order.number == 8, taken, "{situation}");
            assert_eq!(order.wanted == new_wanted, taken, "{situation}");
        }
    }

    /// As on a kernel older than 6.9, where `nft flush ruleset` takes our table with it.
    #[test]
    fn a_table_that_somebody_removed_is_made_anew_and_armed() {
        let outcome = std::thread::spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped a_table_that_somebody_removed: {error}; run as root");
                return;
            }
            let listen = ([127, 0, 0, 1], 5432).into();
            let place = Place::new(listen, Path::new("/var/lib/pgctl"));
            let clock = Box::new(ClockReading::default);
            let mut gate = Gate::attach_unprotected(place, clock).expect("a table");
            let flush = || {
                let done = Command::new("nft").args(["flush", "ruleset"]).status();
                assert!(
                    done.is_ok_and(|status| status.success()),
                    "nft; see scripts/install-deps"
                );
            };
            for (first, then) in [
                (until(60_000), until(60_000)),
                (until(60_000), Wanted::Closed),
                (Wanted::Closed, Wanted::Closed),
                (Wanted::Closed, until(60_000)),
                (until(60_000), Wanted::Unarmed),
                (Wanted::Unarmed, until(60_000)),
            ] {
                carry_out(&mut gate, first).expect("carried out");
                flush();
                carry_out(&mut gate, then).expect("carried out on a new table");
                let listed = Command::new("nft")
                    .args(["list", "ruleset"])
                    .output()
                    .expect("nft");
                let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
                assert_eq!(
                    listed.contains("elements = { 5432 : jump turn_"),
                    matches!(then, Wanted::OpenUntil(_)),
                    "{first:?}, flushed, {then:?}: {listed}"
                );
                let armed = listed.contains("set armed {\n\t\ttype inet_service\n\t\telements");
                assert_eq!(
                    armed,
                    then != Wanted::Unarmed,
                    "{first:?}, flushed, {then:?}: {listed}"
                );
            }
        })
        .join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }
}
