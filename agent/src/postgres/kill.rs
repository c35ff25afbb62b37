//! Ending every process of a server, and only of that server.
//!
//! Ending the postmaster alone is no fence: a backend that runs a procedure with COMMIT in it goes on committing
//! after its postmaster is gone, for as long as the procedure lasts.

use super::cgroup::Cgroup;
use super::pidfd;
use super::proc_table::{FolderId, Process};
use agent_core::sabotage::Rule;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long to let the kernel work between two looks at the process table.
const PAUSE: Duration = Duration::from_millis(1);

/// What identifies the processes of an instance; shared with the parts that start and adopt servers.
#[derive(Debug)]
pub(super) struct KillTarget {
    data_dir: PathBuf,
    cgroup: Option<Cgroup>,
    folder: Mutex<Option<FolderId>>,
    postmaster: AtomicI32,
    /// The postmaster that we have ended ourselves.
    struck: AtomicI32,
}

impl KillTarget {
    pub(super) fn new(data_dir: PathBuf, cgroup: Option<Cgroup>) -> KillTarget {
        let folder = Mutex::new(FolderId::of(&data_dir));
        KillTarget {
            data_dir,
            cgroup,
            folder,
            postmaster: AtomicI32::new(0),
            struck: AtomicI32::new(0),
        }
    }

    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Looks up the data directory anew: another one may have taken its place.
    pub(super) fn refresh_folder(&self) -> Option<FolderId> {
        let folder = FolderId::of(&self.data_dir);
        if folder.is_some() {
            *self.folder.lock().unwrap_or_else(PoisonError::into_inner) = folder;
        }
        folder
    }

    /// The data directory as it was last looked up, so that a kill needs no disk.
    fn folder(&self) -> Option<FolderId> {
        let known = *self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        known.or_else(|| self.refresh_folder())
    }

    pub(super) fn set_postmaster(&self, pid: Option<i32>) {
        self.postmaster.store(pid.unwrap_or(0), Ordering::SeqCst);
    }

    /// Whether this postmaster was ended by a kill of ours, or is about to be.
    pub(super) fn has_struck(&self, pid: i32) -> bool {
        self.struck.load(Ordering::SeqCst) == pid
    }

    /// The living server processes with all their descendants, the postmaster first.
    pub(super) fn processes(&self) -> Vec<Process> {
        let table = Process::all();
        let Some(folder) = self.folder() else {
            return Vec::new();
        };
        let postmaster = self.postmaster.load(Ordering::SeqCst);
        let in_group = self.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        let mut found: Vec<Process> = Vec::new();
        for process in table.iter().filter(|process| process.is_alive()) {
            if in_group.contains(&process.pid) || process.serves(folder) {
                found.push(*process);
            }
        }
        let mut next = 0;
        while next < found.len() {
            let parent = found[next].pid;
            for process in table
                .iter()
                .filter(|process| process.parent == parent && process.is_alive())
            {
                if !found.iter().any(|known| known.pid == process.pid) {
                    found.push(*process);
                }
            }
            next += 1;
        }
        found.sort_by_key(|process| process.pid != postmaster);
        found
    }
}

/// Ends every process of an instance. Synchronous, without tokio and without the disk, for the lease thread.
#[derive(Clone, Debug)]
pub struct TreeKiller {
    target: Arc<KillTarget>,
}

/// What [`TreeKiller::kill`] has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillReport {
    /// The processes that were there, by id.
    pub killed: Vec<i32>,
    /// How long it took until the last one was gone.
    pub took: Duration,
}

/// Some processes outlived the deadline, as one in uninterruptible sleep does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "processes {survivors:?} did not die in time; take the server for able to write until they are gone, and see \
     with `ps -o pid,stat,wchan -p` what they wait for"
)]
pub struct KillFailed {
    pub survivors: Vec<i32>,
}

impl TreeKiller {
    pub(super) fn new(target: Arc<KillTarget>) -> TreeKiller {
        TreeKiller { target }
    }

    /// For the server of `data_dir`, of which nothing else need be known.
    #[must_use]
    pub fn of(cluster: &str, node: &str, data_dir: &Path) -> TreeKiller {
        let cgroup = Cgroup::prepare(cluster, node, data_dir);
        TreeKiller::new(Arc::new(KillTarget::new(data_dir.to_owned(), cgroup)))
    }

    /// [`TreeKiller::kill`], told as those want it who fence: how many processes were ended, or which ones were not.
    ///
    /// # Errors
    /// The processes that outlived the deadline.
    pub fn fence(&self, deadline: Duration) -> Result<usize, Vec<i32>> {
        if Rule::WholeTreeIsEnded.is_off() {
            let first = self.target.processes().into_iter().take(1);
            return Ok(first.inspect(strike).count());
        }
        self.kill(deadline)
            .map(|report| report.killed.len())
            .map_err(|failed| failed.survivors)
    }

    /// Looks up the data directory anew, and says how many processes a kill would end.
    #[must_use]
    pub fn look_up(&self) -> usize {
        self.target.refresh_folder();
        self.target.processes().len()
    }

    /// Sends SIGKILL to every process of the instance, orphans without a postmaster included, until none is left.
    ///
    /// # Errors
    /// [`KillFailed`] names what was still alive after `deadline`.
    pub fn kill(&self, deadline: Duration) -> Result<KillReport, KillFailed> {
        let begun = Instant::now();
        let mut seen: Vec<Process> = Vec::new();
        let postmaster = self.target.postmaster.load(Ordering::SeqCst);
        self.target.struck.store(postmaster, Ordering::SeqCst);
        loop {
            let found = self.target.processes();
            // The postmaster comes first, so that nothing new is forked from it; what its children forked meanwhile
            // is found by the next look.
            for process in &found {
                strike(process);
            }
            if let Some(group) = self.target.cgroup().filter(|group| !group.members().is_empty()) {
                // Whatever this cannot reach, the walk does.
                let _ = group.kill();
            }
            for process in found {
                if !seen
                    .iter()
                    .any(|known| known.pid == process.pid && known.started == process.started)
                {
                    seen.push(process);
                }
            }
            let survivors: Vec<i32> = seen
                .iter()
                .filter(|process| process.still_alive())
                .map(|process| process.pid)
                .collect();
            if survivors.is_empty() && self.target.processes().is_empty() {
                if let Some(group) = self.target.cgroup() {
                    group.dissolve();
                }
                let killed = seen.iter().map(|process| process.pid).collect();
                return Ok(KillReport {
                    killed,
                    took: begun.elapsed(),
                });
            }
            if begun.elapsed() >= deadline {
                return Err(KillFailed { survivors });
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// SIGKILL to exactly this process: the descriptor is opened first and the identity checked after, so that a
/// successor under the same id is never hit.
fn strike(process: &Process) {
    let Ok(fd) = pidfd::open(process.pid) else { return };
    if process.still_alive() {
        // A process that has just ended, or may not be signalled, shows in the next look at the table.
        let _ = pidfd::signal(&fd, Signal::SIGKILL);
    }
}
