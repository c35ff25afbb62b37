//! Raft's view of the log: everything in memory, and every change on its way to the disk.

use super::content::{self, LogContent};
use super::directory::Directory;
use super::worker::{DiskHealth, DiskJobs, DiskWorker, Task, lock};
use super::{LOG_FILE, OpenError, SNAPSHOT_FILE, frame, snapshot_file};
use crate::consensus::types::{Entry, HouseTypes, LogId, Snapshot, Vote};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

/// The log of one node. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    content: Arc<Mutex<LogContent>>,
    jobs: DiskJobs,
    health: Arc<DiskHealth>,
}

impl LogStore {
    /// Reads what the directory holds, creates the log if it is missing and `may_create` allows it, and cuts off what
    /// a crash has torn. Also gives the writer, which must be set to work, and the snapshot.
    ///
    /// # Errors
    /// Something is damaged or missing, or cannot be read or written; each error says what to do.
    pub fn open(
        mut directory: Box<dyn Directory>,
        may_create: bool,
    ) -> Result<(LogStore, DiskWorker, Option<Snapshot>), OpenError> {
        let (log, snapshots) = (directory.show(LOG_FILE), directory.show(SNAPSHOT_FILE));
        let failed = |what, path: &str| {
            let path = path.to_owned();
            move |source| OpenError::Io { what, path, source }
        };
        let incomplete = |path: &str, why: &str| OpenError::Incomplete {
            path: path.to_owned(),
            why: why.to_owned(),
        };

        let snapshot = match directory
            .read(SNAPSHOT_FILE)
            .map_err(failed("cannot read", &snapshots))?
        {
            Some(bytes) => Some(snapshot_file::read(&bytes, &snapshots)?),
            None => None,
        };
        let bytes = match directory.read(LOG_FILE).map_err(failed("cannot read", &log))? {
            Some(bytes) => bytes,
            None if !may_create || snapshot.is_some() => {
                return Err(incomplete(
                    &log,
                    "the log is gone, and with it the votes that this node has given",
                ));
            }
            None => {
                let header = frame::header(content::MAGIC).to_vec();
                directory
                    .replace(LOG_FILE, &header)
                    .map_err(failed("cannot create", &log))?;
                header
            }
        };
        let (content, sound) = LogContent::read(&bytes, &log)?;
        let covered = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
        if content.purged > covered {
            return Err(incomplete(
                &snapshots,
                "the log begins after an entry that the snapshot does not have: the snapshot is missing or old",
            ));
        }
        let mut file = directory
            .open_to_append(LOG_FILE)
            .map_err(failed("cannot open", &log))?;
        if sound < bytes.len() {
            file.cut(sound as u64)
                .map_err(failed("cannot cut a torn record off", &log))?;
        }

        let content = Arc::new(Mutex::new(content));
        let health = Arc::new(DiskHealth::default());
        let (jobs, worker) = DiskWorker::new(
            directory,
            file,
            Arc::clone(&content),
            covered,
            Arc::clone(&health),
        );
        Ok((
            LogStore {
                content,
                jobs,
                health,
            },
            worker,
            snapshot,
        ))
    }

    /// The way to the writer.
    #[must_use]
    pub fn jobs(&self) -> DiskJobs {
        self.jobs.clone()
    }

    /// How the disk is doing.
    #[must_use]
    pub fn health(&self) -> Arc<DiskHealth> {
        Arc::clone(&self.health)
    }

    /// The log as it is now.
    #[must_use]
    pub fn content(&self) -> LogContent {
        lock(&self.content).clone()
    }

    async fn write(&self, records: Vec<proto::peer::Record>) -> io::Result<()> {
        self.jobs.perform(|done| Task::Write { records, done }).await
    }
}

impl<C: HouseTypes> RaftLogReader<C> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(&bounds) {
            return Ok(Vec::new());
        }
        Ok(lock(&self.content)
            .entries
            .range(bounds)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(lock(&self.content).vote)
    }
}

/// `BTreeMap::range` panics on a range that ends before it begins; here that is only nothing.
fn is_empty(bounds: &(std::ops::Bound<u64>, std::ops::Bound<u64>)) -> bool {
    use std::ops::Bound::{Excluded, Included};
    match bounds {
        (Included(start), Excluded(end)) => start >= end,
        (Included(start), Included(end)) => start > end,
        (Excluded(start), Excluded(end) | Included(end)) => start >= end,
        _ => false,
    }
}

impl<C: HouseTypes> RaftLogStorage<C> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let content = lock(&self.content);
        Ok(LogState {
            last_purged_log_id: content.purged,
            last_log_id: content.last(),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write(vec![content::vote_record(vote)]).await?;
        lock(&self.content).vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        lock(&self.content).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(lock(&self.content).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut records = Vec::new();
        {
            let mut content = lock(&self.content);
            for entry in entries {
                records.push(content::entry_record(&entry));
                content
                    .put(entry)
                    .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
            }
        }
        self.jobs.send(Task::Write {
            records,
            done: Box::new(move |outcome| callback.io_completed(outcome)),
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        lock(&self.content).truncate_after(last);
        self.write(vec![content::truncate_record(last.as_ref())]).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        lock(&self.content).purge(upto);
        self.jobs.perform(|done| Task::Compact { done }).await
    }
}
