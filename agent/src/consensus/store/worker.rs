//! The one writer: takes jobs in order, makes them durable, and only then says so.

use super::content::{self, LogContent, committed_record};
use super::directory::{AppendFile, Directory};
use super::frame;
use super::{LOG_FILE, SNAPSHOT_FILE, snapshot_file};
use crate::consensus::types::{LogId, Snapshot};
use agent_core::health::LogWrites;
use prost::Message;
use proto::peer;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Is told the outcome of a job.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One thing to be made durable.
pub struct Job(pub(super) Task);

pub(super) enum Task {
    /// Append these records.
    Write { records: Vec<peer::Record>, done: Done },
    /// Write the log anew, as it is in memory, which is shorter than what lies on disk.
    Compact { done: Done },
    /// Keep this snapshot instead of an older one.
    Snapshot { snapshot: Box<Snapshot>, done: Done },
    /// Close the files and free the directory.
    Close { done: Done },
}

impl Task {
    fn done(self) -> Done {
        match self {
            Task::Write { done, .. }
            | Task::Compact { done }
            | Task::Snapshot { done, .. }
            | Task::Close { done } => done,
        }
    }
}

/// Hands jobs to the writer.
#[derive(Clone)]
pub struct DiskJobs(mpsc::UnboundedSender<Job>);

impl DiskJobs {
    /// Queues a job; `done` is called even if the writer is gone.
    pub(super) fn send(&self, task: Task) {
        if let Err(mpsc::error::SendError(Job(task))) = self.0.send(Job(task)) {
            task.done()(Err(io::Error::other("the Raft store is closed")));
        }
    }

    /// Queues a job and waits until it is durable.
    pub(super) async fn perform(&self, task: impl FnOnce(Done) -> Task) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.send(task(Box::new(move |outcome| drop(tx.send(outcome)))));
        rx.await
            .unwrap_or_else(|_| Err(io::Error::other("the Raft store's writer has died")))
    }

    /// Keeps `snapshot` on disk, unless a newer one is there.
    ///
    /// # Errors
    /// It could not be written; the store is dead.
    pub async fn keep_snapshot(&self, snapshot: Snapshot) -> io::Result<()> {
        self.perform(|done| Task::Snapshot {
            snapshot: Box::new(snapshot),
            done,
        })
        .await
    }

    /// Writes out what is queued, closes the files and frees the directory. Later jobs fail.
    pub async fn close(&self) {
        // The only error is that the store is closed already.
        drop(self.perform(|done| Task::Close { done }).await);
    }
}

/// How the disk is doing; read by the supervisor.
#[derive(Debug, Default)]
pub struct DiskHealth(Mutex<DiskState>);

#[derive(Debug, Default)]
struct DiskState {
    busy_since: Option<Instant>,
    slowest: Duration,
    /// How long the newest writes took, at most [`LogWrites::KEPT`], the newest last.
    recent: VecDeque<Duration>,
    failure: Option<String>,
}

impl DiskHealth {
    /// How long the write that is under way has been, and zero where none is.
    #[must_use]
    pub fn pending(&self) -> Duration {
        self.lock()
            .busy_since
            .map(|since| since.elapsed())
            .unwrap_or_default()
    }

    /// The slowest write since the last call.
    #[must_use]
    pub fn take_slowest(&self) -> Duration {
        std::mem::take(&mut self.lock().slowest)
    }

    /// How long the newest writes took; `None` before the first.
    #[must_use]
    pub fn writes(&self) -> Option<LogWrites> {
        LogWrites::of(self.lock().recent.iter().copied())
    }

    /// Why the store is dead, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    fn begin(&self) {
        self.lock().busy_since = Some(Instant::now());
    }

    fn end(&self) {
        let mut state = self.lock();
        if let Some(since) = state.busy_since.take() {
            let took = since.elapsed();
            state.slowest = state.slowest.max(took);
            if state.recent.len() == LogWrites::KEPT {
                state.recent.pop_front();
            }
            state.recent.push_back(took);
        }
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer. [`DiskWorker::spawn`] gives it a thread; a simulation calls [`DiskWorker::perform`] itself.
pub struct DiskWorker {
    directory: Box<dyn Directory>,
    file: Box<dyn AppendFile>,
    content: Arc<Mutex<LogContent>>,
    /// What the newest snapshot on disk covers.
    snapshot: Option<LogId>,
    /// The committed index that is on disk.
    committed: Option<LogId>,
    health: Arc<DiskHealth>,
    jobs: mpsc::UnboundedReceiver<Job>,
}

/// No more jobs than this go into one durable write.
const GROUP: usize = 256;

impl DiskWorker {
    pub(super) fn new(
        directory: Box<dyn Directory>,
        file: Box<dyn AppendFile>,
        content: Arc<Mutex<LogContent>>,
        snapshot: Option<LogId>,
        health: Arc<DiskHealth>,
    ) -> (DiskJobs, DiskWorker) {
        let (tx, jobs) = mpsc::unbounded_channel();
        let committed = lock(&content).committed;
        (
            DiskJobs(tx),
            DiskWorker {
                directory,
                file,
                content,
                snapshot,
                committed,
                health,
                jobs,
            },
        )
    }

    /// Runs on a thread of its own until the store is closed or nobody is left to use it.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn spawn(mut self) -> io::Result<()> {
        let run = move || {
            while let Some(first) = self.jobs.blocking_recv() {
                if !self.perform(first) {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("raft-disk".to_owned())
            .spawn(run)
            .map(drop)
    }

    /// Waits for the next job; `None` once nobody can send any more.
    pub async fn next(&mut self) -> Option<Job> {
        self.jobs.recv().await
    }

    /// Performs `first`, and the jobs that are queued behind it. False once the store is closed.
    pub fn perform(&mut self, first: Job) -> bool {
        let mut queue = vec![first.0];
        while queue.len() < GROUP
            && let Ok(job) = self.jobs.try_recv()
        {
            queue.push(job.0);
        }
        let mut records = Vec::new();
        let mut waiting = Vec::new();
        for task in queue {
            match task {
                Task::Write { records: more, done } => {
                    records.extend(more);
                    waiting.push(done);
                }
                Task::Compact { done } => {
                    self.flush(&mut records, &mut waiting);
                    self.attempt(done, DiskWorker::compact);
                }
                Task::Snapshot { snapshot, done } => {
                    self.flush(&mut records, &mut waiting);
                    self.attempt(done, |worker| worker.keep_snapshot(&snapshot));
                }
                Task::Close { done } => {
                    self.flush(&mut records, &mut waiting);
                    if self.health.failure().is_none() && lock(&self.content).committed != self.committed {
                        self.attempt(Box::new(drop), |worker| worker.append(Vec::new()));
                    }
                    self.close();
                    done(Ok(()));
                    return false;
                }
            }
        }
        self.flush(&mut records, &mut waiting);
        true
    }

    /// Nothing can be written any more, and another agent may have the directory.
    fn close(&mut self) {
        self.jobs.close();
        self.directory = Box::new(Closed);
        self.file = Box::new(Closed);
    }

    /// One durable write for everything that was gathered.
    fn flush(&mut self, records: &mut Vec<peer::Record>, waiting: &mut Vec<Done>) {
        if waiting.is_empty() {
            return;
        }
        let (records, waiting) = (std::mem::take(records), std::mem::take(waiting));
        let all: Done = Box::new(move |outcome| {
            for done in waiting {
                done(match &outcome {
                    Ok(()) => Ok(()),
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                });
            }
        });
        self.attempt(all, |worker| worker.append(records));
    }

    /// Does `work` unless something has failed before; the first failure is the last thing the store does.
    fn attempt(&mut self, done: Done, work: impl FnOnce(&mut DiskWorker) -> io::Result<()>) {
        if let Some(failure) = self.health.failure() {
            done(Err(io::Error::other(failure)));
            return;
        }
        self.health.begin();
        let outcome = work(self);
        self.health.end();
        let outcome = outcome.map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on its disk",
                _ => "check its disk",
            };
            let told = format!(
                "cannot write the Raft state in {}: {error}; {advice}, then restart the agent",
                self.directory.show("")
            );
            tracing::error!("{told}");
            self.health.lock().failure = Some(told.clone());
            io::Error::new(error.kind(), told)
        });
        done(outcome);
    }

    fn append(&mut self, mut records: Vec<peer::Record>) -> io::Result<()> {
        // The committed index needs no write of its own: it is only a head start for the next start.
        let committed = lock(&self.content).committed;
        if committed != self.committed {
            records.extend(committed.as_ref().map(committed_record));
        }
        if records.is_empty() {
            return Ok(());
        }
        let contents = peer::Batch { records }.encode_to_vec();
        let frame = frame::frame(&contents).ok_or_else(|| too_long(contents.len()))?;
        self.file.append(&frame)?;
        self.file.sync()?;
        self.committed = committed;
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let content = lock(&self.content).clone();
        let mut bytes = frame::header(content::MAGIC).to_vec();
        let batch = content.as_batch().encode_to_vec();
        if !batch.is_empty() {
            bytes.extend(frame::frame(&batch).ok_or_else(|| too_long(batch.len()))?);
        }
        self.directory.replace(LOG_FILE, &bytes)?;
        self.file = self.directory.open_to_append(LOG_FILE)?;
        self.committed = content.committed;
        Ok(())
    }

    fn keep_snapshot(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        if snapshot.meta.last_log_id < self.snapshot {
            return Ok(());
        }
        self.directory
            .replace(SNAPSHOT_FILE, &snapshot_file::write(snapshot)?)?;
        self.snapshot = snapshot.meta.last_log_id;
        Ok(())
    }
}

fn too_long(bytes: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("a record of {bytes} bytes cannot be written"),
    )
}

/// A poisoned lock means that a thread has panicked between two plain assignments, which cannot be.
pub(super) fn lock(content: &Mutex<LogContent>) -> MutexGuard<'_, LogContent> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stands for the files once they are closed.
struct Closed;

impl Closed {
    fn error() -> io::Error {
        io::Error::other("the Raft store is closed")
    }
}

impl Directory for Closed {
    fn read(&mut self, _name: &str) -> io::Result<Option<Vec<u8>>> {
        Err(Closed::error())
    }
    fn replace(&mut self, _name: &str, _contents: &[u8]) -> io::Result<()> {
        Err(Closed::error())
    }
    fn open_to_append(&mut self, _name: &str) -> io::Result<Box<dyn AppendFile>> {
        Err(Closed::error())
    }
    fn show(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl AppendFile for Closed {
    fn cut(&mut self, _len: u64) -> io::Result<()> {
        Err(Closed::error())
    }
    fn append(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Err(Closed::error())
    }
    fn sync(&mut self) -> io::Result<()> {
        Err(Closed::error())
    }
}
