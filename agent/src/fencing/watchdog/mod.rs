//! The machine's watchdog: it resets the machine, and every server on it, when this agent has not petted it in time.
//!
//! A thread of its own looks at the lease and does what [`agent_core::watchdog`] decides. It needs no runtime and no disk.
//!
//! *Invariant:* an armed device is closed with the magic character only after the server has ended for certain, at a
//! clean stop of the agent, or when the terms of the lease leave no room for it. Whatever else happens to the agent, the
//! device is left to expire.

mod device;
mod keeper;
#[cfg(test)]
mod tests;

pub use device::KernelWatchdog;

use agent_core::ids::Epoch;
use agent_core::time::ClockReading;
use agent_core::timing::Timing;
use agent_core::view::WatchdogReport;
use keeper::Keeper;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the thread looks. Shorter than any timeout by far, so that one look more or less does not matter.
const LOOK: Duration = Duration::from_millis(50);
/// How long a stop waits for the thread.
const STOP: Duration = Duration::from_secs(2);

/// A watchdog device. The kernel's contract: it is armed by being opened, it resets the machine when it has not been
/// petted for as long as its timeout, and to close it in any other way than by [`Device::close`] leaves it armed.
pub trait Device: Send {
    /// Whether it is there, without opening it.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn look(&self) -> io::Result<()>;
    /// Opens it and asks for a timeout, seconds; gives the one that is in force.
    ///
    /// # Errors
    /// It is not there, is in use, or does not take that timeout.
    fn arm(&mut self, timeout_s: u64) -> io::Result<u64>;
    /// Starts the timeout anew.
    ///
    /// # Errors
    /// It is not open, or the driver failed.
    fn pet(&mut self) -> io::Result<()>;
    /// Disarms it.
    ///
    /// # Errors
    /// It could not be told; it is still armed.
    fn close(&mut self) -> io::Result<()>;
    /// The device as people are told of it.
    fn name(&self) -> String;
}

/// What the thread sees of the lease at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSight {
    pub now: ClockReading,
    /// The epoch that this node holds or held last.
    pub epoch: Epoch,
    /// When the newest renewal that a majority acknowledged was about to be sent; `None` where no lease is valid.
    pub renewed: Option<ClockReading>,
    /// The newest epoch whose server has ended for certain.
    pub ended: Epoch,
    /// The terms by which the next renewal is sent.
    pub timing: Timing,
}

/// The thread, as the rest of the agent sees it.
#[derive(Clone)]
pub struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

struct Desk {
    report: WatchdogReport,
    stop: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Starts the thread. `look` tells what can be seen of the lease.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(
        device: Box<dyn Device>,
        timeout_s: u64,
        required: bool,
        look: impl Fn() -> LeaseSight + Send + 'static,
    ) -> io::Result<Watchdog> {
        let mut keeper = Keeper::new(device, timeout_s, required);
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk {
                report: keeper.report(),
                stop: false,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let watchdog = Watchdog {
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                crate::hardening::run_this_thread_first();
                loop {
                    keeper.step(&look());
                    let mut desk = shared.lock();
                    desk.report = keeper.report();
                    if !desk.stop {
                        let waited = shared.changed.wait_timeout(desk, LOOK);
                        desk = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                    if desk.stop {
                        keeper.stop();
                        desk.ended = true;
                        shared.changed.notify_all();
                        return;
                    }
                }
            })?;
        Ok(watchdog)
    }

    /// How it is.
    #[must_use]
    pub fn report(&self) -> WatchdogReport {
        self.shared.lock().report.clone()
    }

    /// Disarms it, because the agent is stopped on purpose, and ends the thread. Returns when that is done, or after two
    /// seconds.
    pub fn stop(&self) {
        let mut desk = self.shared.lock();
        desk.stop = true;
        self.shared.changed.notify_all();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(desk, STOP, |desk| !desk.ended);
        if waited.is_ok_and(|(desk, _)| !desk.ended) {
            tracing::error!("the watchdog could not be closed in time: this machine may be reset");
        }
    }
}
