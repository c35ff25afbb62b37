//! Probes of a server that runs and of the disks under it: each on a thread of its own, so that one that is stuck holds
//! up neither the others nor the agent.
//!
//! | file | does |
//! |---|---|
//! | `stopwatch` | how long a probe has been without an answer |
//! | `server` | a kept session, a fresh one, a commit |
//! | `disk`, `volume` | a write that goes through to the disk; where it goes, and how much room there is |
//! | `ballast` | what is kept allocated, to be given up when the disk is full |
//! | `incidents` | what happened lately: starts that did not last, hangs |
//!
//! *Invariant:* [`Probing::vitals`] touches neither disk nor server, and waits for nobody who does.
//! *Invariant:* nothing is decided here.

mod ballast;
mod disk;
mod incidents;
mod server;
mod stopwatch;
mod volume;

use crate::postgres::Instance;
use agent_core::ids::Epoch;
use agent_core::vitals::{CRASH_WINDOW_MS, Connections, Disk, Vitals};
use incidents::Incidents;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stopwatch::Stopwatch;

/// How long ago a hang may lie to count.
const HANG_WINDOW: Duration = Duration::from_secs(600);

/// The probes of one server. Dropping the last clone ends their threads, each at the end of what it waits for.
#[derive(Clone)]
pub struct Probing {
    running: Arc<Running>,
}

struct Running {
    shared: Arc<Shared>,
    instance: Instance,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

/// What the threads write and [`Probing::vitals`] reads. No lock is held while anything is waited for.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    kept: Mutex<Stopwatch>,
    fresh: Mutex<Stopwatch>,
    commit: Mutex<Stopwatch>,
    connections: Mutex<Option<Connections>>,
    data: DiskDesk,
    wal: DiskDesk,
    /// What the ballast on each volume shall be, bytes.
    ballast: AtomicU64,
    crashes: Mutex<Incidents>,
    hangs: Mutex<(Epoch, Incidents)>,
}

/// One disk probe's.
#[derive(Default)]
struct DiskDesk {
    stopwatch: Mutex<Stopwatch>,
    /// What was last found; `None` where there is no such volume, or it is the other one.
    found: Mutex<Option<Disk>>,
}

impl Probing {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(instance: &Instance) -> std::io::Result<Probing> {
        let shared = Arc::new(Shared {
            crashes: Mutex::new(Incidents::within(Duration::from_millis(CRASH_WINDOW_MS))),
            hangs: Mutex::new((Epoch(0), Incidents::within(HANG_WINDOW))),
            ..Shared::default()
        });
        let probing = Probing {
            running: Arc::new(Running {
                shared: shared.clone(),
                instance: instance.clone(),
            }),
        };
        server::start(&shared, instance)?;
        disk::start(&shared, instance)?;
        Ok(probing)
    }

    /// What the probes say now. To be asked several times a second: silence is counted from one call to the next, so that
    /// time in which this agent stood still is not taken for the server's.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let shared = &self.running.shared;
        let now = Instant::now();
        let disks = [&shared.data, &shared.wal].into_iter().filter_map(|desk| {
            let pulse = lock(&desk.stopwatch).tick(now);
            let found = lock(&desk.found).clone();
            found.map(|disk| Disk { pulse, ..disk })
        });
        let disks = disks.collect();
        let total = self.running.instance.crashes();
        let mut crashes = lock(&shared.crashes);
        crashes.count_up_to(total, now);
        let (happened, last) = crashes.lately(now);
        drop(crashes);
        Vitals {
            kept: lock(&shared.kept).tick(now),
            fresh: lock(&shared.fresh).tick(now),
            commit: lock(&shared.commit).tick(now),
            connections: *lock(&shared.connections),
            disks,
            crashes: happened,
            crashed_ms_ago: last.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            hangs: lock(&shared.hangs).1.lately(now).0,
        }
    }

    /// What is to be kept allocated on each volume, bytes.
    pub fn set_ballast(&self, bytes: u64) {
        self.running.shared.ballast.store(bytes, Ordering::SeqCst);
    }

    /// Takes note that the server is ended under `epoch` because it hangs.
    pub fn note_hang(&self, epoch: Epoch) {
        let mut hangs = lock(&self.running.shared.hangs);
        if hangs.0 < epoch {
            hangs.0 = epoch;
            hangs.1.happened(Instant::now());
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// A panic elsewhere leaves these values whole: each is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
