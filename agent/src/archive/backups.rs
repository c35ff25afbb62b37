//! Base backups: one at a time, told of to whoever asks.

use super::Archive;
use super::increments::{self, Base};
use crate::ports::ArchiveStream;
use crate::ports::SourceFacts;
use crate::wall_time::stamp;
use futures::future::BoxFuture;
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{BackupOutcome, BackupProgress, SwitchWalRequest};
use repository::{BackupFacts, BackupWriter, Catalogue, Line, Repository, inventory, take_up};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tonic::transport::Endpoint;

/// Bytes that are read from the server at once.
const PIECE: usize = 256 << 10;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);
/// How long a finished backup waits for the WAL that it needs, before it is told to be incomplete.
const WAL_WITHIN: Duration = Duration::from_secs(300);
/// The segment with the backup's end is closed after this long, if it did not fill by itself.
const SWITCH_AFTER: Duration = Duration::from_secs(1);
const LOOK_SOONEST: Duration = Duration::from_millis(200);
/// A look lists the repository: each one is as long after the last as there were, up to the longest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_LONGEST: Duration = Duration::from_secs(10);

/// The backup that is under way or was last.
#[derive(Default)]
pub(super) struct Desk {
    current: Mutex<Option<(String, watch::Receiver<BackupProgress>)>>,
}

/// Why a backup cannot begin.
pub(super) struct Busy {
    pub id: String,
}

impl Desk {
    /// The progress of backup `id`, which `begin` begins if it is not known.
    pub(super) fn join_or_begin(
        &self,
        id: &str,
        begin: impl FnOnce() -> watch::Receiver<BackupProgress>,
    ) -> Result<watch::Receiver<BackupProgress>, Busy> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, progress)) = current.as_ref() {
            if known == id {
                return Ok(progress.clone());
            }
            if progress.borrow().outcome.is_none() && progress.has_changed().is_ok() {
                return Err(Busy { id: known.clone() });
            }
        }
        let progress = begin();
        *current = Some((id.to_owned(), progress.clone()));
        Ok(progress)
    }
}

/// Asks the cluster whether a claim still stands.
pub(super) type Seal = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What is different about a backup that the cluster has ordered.
pub(super) struct Claimed {
    /// Earlier attempts for the same due time: if one of them was finished after all, that is the backup.
    pub earlier: Vec<String>,
    pub seal: Seal,
}

/// Takes a backup that the cluster has ordered; says what came of it. Dropping it breaks it off.
pub(super) async fn claimed(
    archive: Arc<Archive>,
    id: String,
    max_rate_kb: Option<u32>,
    claimed: Claimed,
) -> Result<String, String> {
    let (tell, told) = watch::channel(BackupProgress {
        phase: "copying".to_owned(),
        ..BackupProgress::default()
    });
    archive
        .backups
        .join_or_begin(&id, || told)
        .map_err(|Busy { id }| format!("backup {id} is under way on this node"))?;
    let job = Job {
        archive,
        id,
        tell,
        begun: Instant::now(),
        incremental: false,
        claimed: Some(claimed),
    };
    let outcome = job.run(max_rate_kb).await;
    let said = match &outcome {
        Ok(entry) => Ok(format!(
            "{} bytes in {} stored, {} to {} on timeline {}",
            entry.bytes, entry.stored_bytes, entry.start, entry.stop, entry.timeline
        )),
        Err(error) => Err(error.clone()),
    };
    job.end(outcome);
    said
}

/// Takes a backup and tells of it.
pub(super) fn begin(
    archive: &Arc<Archive>,
    id: &str,
    max_rate_kb: Option<u32>,
    incremental: bool,
) -> watch::Receiver<BackupProgress> {
    let (tell, told) = watch::channel(BackupProgress {
        phase: "copying".to_owned(),
        ..BackupProgress::default()
    });
    let (archive, id) = (Arc::clone(archive), id.to_owned());
    let Some(runtime) = archive.runtime.handle().cloned() else {
        return told;
    };
    runtime.spawn(async move {
        let job = Job {
            archive,
            id,
            tell,
            begun: Instant::now(),
            incremental,
            claimed: None,
        };
        let outcome = job.run(max_rate_kb).await;
        job.end(outcome);
    });
    told
}

struct Job {
    archive: Arc<Archive>,
    id: String,
    tell: watch::Sender<BackupProgress>,
    begun: Instant,
    /// Only what has changed, where that can be told.
    incremental: bool,
    /// `None` for one that an operator asked for.
    claimed: Option<Claimed>,
}

impl Job {
    fn tell(&self, change: impl FnOnce(&mut BackupProgress)) {
        self.tell.send_modify(|progress| {
            progress.elapsed_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            change(progress);
        });
    }

    async fn run(&self, max_rate_kb: Option<u32>) -> Result<Catalogue, String> {
        let facts = self.archive.source.facts().await?;
        let line = Line::new(&self.archive.config.cluster, facts.system_id);
        let repositories = self
            .archive
            .doors
            .plain(&line)
            .await
            .map_err(|error| error.to_string())?;
        let entry = match self.finished_before(&repositories, &line).await? {
            Some(entry) => entry,
            None => {
                tracing::info!(backup = self.id, standby = facts.standby, "a base backup begins");
                self.copy(&repositories, &line, facts, max_rate_kb).await?
            }
        };
        self.tell(|progress| "waiting-for-wal".clone_into(&mut progress.phase));
        self.wait_for_wal(&repositories, &line, &entry).await?;
        Ok(entry)
    }

    /// The backup of an earlier attempt, whose node was lost after it had written all of it, be it into one repository only.
    async fn finished_before(
        &self,
        repositories: &[Repository],
        line: &Line,
    ) -> Result<Option<Catalogue>, String> {
        let earlier = match &self.claimed {
            Some(claimed) if !claimed.earlier.is_empty() => &claimed.earlier,
            _ => return Ok(None),
        };
        take_up(repositories, line, earlier)
            .await
            .map_err(|error| error.to_string())
    }

    async fn copy(
        &self,
        repositories: &[Repository],
        line: &Line,
        facts: SourceFacts,
        max_rate_kb: Option<u32>,
    ) -> Result<Catalogue, String> {
        let base = self.base(repositories, line, &facts).await?;
        let parent = base.as_ref().map(|base| base.id.clone());
        let standby = facts.standby;
        let facts = BackupFacts {
            id: self.id.clone(),
            line: line.clone(),
            system_id: facts.system_id,
            node: self.archive.config.node.clone(),
            from_standby: facts.standby,
            server_version: facts.server_version,
            segment_bytes: facts.segment_bytes,
            begun_ms: now_ms(),
            parent,
        };
        let mut writer = BackupWriter::begin(repositories, facts)
            .await
            .map_err(|error| error.to_string())?;
        let mut piece = vec![0; PIECE];
        let (mut stream, mut length) = self.first_piece(max_rate_kb, base, standby, &mut piece).await?;
        let mut told = Instant::now();
        while length > 0 {
            if let Err(error) = writer.write(&piece[..length]).await {
                return Err(error.to_string());
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let done = writer.progress();
                self.tell(|progress| {
                    progress.bytes = done.bytes;
                    progress.stored_bytes = done.stored_bytes;
                });
            }
            length = read(stream.as_mut(), &mut piece).await?;
        }
        stream.ended().await?;
        if let Some(claimed) = &self.claimed {
            (claimed.seal)().await?;
        }
        let entry = writer.finish(now_ms()).await.map_err(|error| error.to_string())?;
        self.tell(|progress| {
            progress.bytes = entry.bytes;
            progress.stored_bytes = entry.stored_bytes;
        });
        Ok(entry)
    }

    /// What an increment begins with; nothing where a full backup is to be taken.
    async fn base(
        &self,
        repositories: &[Repository],
        line: &Line,
        facts: &SourceFacts,
    ) -> Result<Option<Base>, String> {
        if !self.incremental {
            return Ok(None);
        }
        let timeline = (self.archive.sight)().timeline;
        let found = increments::base(repositories, line, facts.server_version, timeline).await;
        match found.map_err(|error| error.to_string())? {
            Ok(base) => {
                tracing::info!(
                    backup = self.id,
                    of = base.id,
                    "only what has changed since is copied"
                );
                Ok(Some(base))
            }
            Err(why) => {
                tracing::info!(backup = self.id, why, "a full backup is taken");
                self.tell(|progress| progress.message = format!("a full one: {why}"));
                Ok(None)
            }
        }
    }

    /// Begins the copy. An increment that is taken on a standby needs a restartpoint after the backup before; there may be
    /// none on an idle cluster, and then one is made.
    async fn first_piece(
        &self,
        max_rate_kb: Option<u32>,
        base: Option<Base>,
        standby: bool,
        piece: &mut [u8],
    ) -> Result<(Box<dyn ArchiveStream>, usize), String> {
        let source = &self.archive.source;
        let mut tries = 0;
        loop {
            let since = base.as_ref().map(|base| base.manifest.clone());
            let mut stream = source.stream(max_rate_kb, since).await?;
            let length = read(stream.as_mut(), piece).await?;
            if length > 0 || base.is_none() || tries >= increments::TRIES {
                return Ok((stream, length));
            }
            let why = stream.ended().await.err().unwrap_or_default();
            tries += 1;
            tracing::info!(
                backup = self.id,
                why,
                "the increment cannot begin; a checkpoint is made for it"
            );
            if standby && let Err(error) = self.switch_wal(true).await {
                tracing::info!(error, "the primary makes no checkpoint");
            }
            tokio::time::sleep(increments::REPLAY).await;
            source.checkpoint().await?;
        }
    }

    /// A backup is of use only with the WAL up to its end, in every repository.
    async fn wait_for_wal(
        &self,
        repositories: &[Repository],
        line: &Line,
        entry: &Catalogue,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut switched = false;
        let mut pause = LOOK_AGAIN;
        let mut archived = self.archive.pusher.archived();
        loop {
            archived.borrow_and_update();
            let mut lacks = None;
            for repository in repositories {
                let there = inventory(repository, line)
                    .await
                    .map_err(|error| error.to_string())?;
                if let Some(hole) = entry.lacks(&there).into_iter().next() {
                    lacks = Some((repository.name().to_owned(), hole));
                }
            }
            let Some((repository, hole)) = lacks else {
                return Ok(());
            };
            // One that was ordered stays with its node: another attempt would copy everything again.
            if begun.elapsed() >= WAL_WITHIN && self.claimed.is_none() {
                return Err(format!(
                    "the data is safe in the repository, and the WAL that it needs is not: {} to {} are not archived in \
                     {repository}. See `pgctl wal status`; the backup is complete once they are",
                    hole.first, hole.last
                ));
            }
            if !switched && begun.elapsed() >= SWITCH_AFTER {
                switched = true;
                if let Err(error) = self.switch_wal(false).await {
                    tracing::info!(
                        error,
                        "the primary's segment is not closed early; it is waited for"
                    );
                }
            }
            self.tell(|progress| {
                progress.message = format!("{} to {} in {repository}", hole.first, hole.last)
            });
            // This node archives too, and knows at once what it has archived. Each look lists the repository.
            tokio::time::sleep(LOOK_SOONEST).await;
            let told = tokio::time::timeout(pause, archived.changed()).await;
            if matches!(told, Ok(Err(_))) {
                tokio::time::sleep(pause).await;
            }
            pause = (pause + LOOK_AGAIN).min(LOOK_LONGEST);
        }
    }

    /// Has the primary close its segment.
    async fn switch_wal(&self, checkpoint: bool) -> Result<(), String> {
        let sight = (self.archive.sight)();
        if sight.holds {
            if checkpoint {
                self.archive.source.checkpoint().await?;
            }
            self.archive.source.switch_wal().await?;
            return Ok(());
        }
        let holder = sight.holder.ok_or("there is no primary")?;
        let endpoint =
            Endpoint::from_shared(format!("http://{holder}")).map_err(|error| error.to_string())?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(2))
            .timeout(if checkpoint {
                increments::CHECKPOINT_WITHIN
            } else {
                Duration::from_secs(5)
            })
            .connect()
            .await
            .map_err(|error| format!("{holder}: {error}"))?;
        let asked = ArchiveClient::new(channel)
            .switch_wal(SwitchWalRequest { checkpoint })
            .await;
        asked.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    fn end(&self, outcome: Result<Catalogue, String>) {
        let node = self.archive.config.node.clone();
        self.tell(|progress| match outcome {
            Ok(entry) => {
                tracing::info!(
                    backup = self.id,
                    bytes = entry.bytes,
                    stored = entry.stored_bytes,
                    "the base backup is complete"
                );
                "done".clone_into(&mut progress.phase);
                progress.message = String::new();
                progress.outcome = Some(BackupOutcome {
                    succeeded: true,
                    id: entry.id,
                    node,
                    timeline: entry.timeline.0,
                    start_lsn: entry.start.to_string(),
                    stop_lsn: entry.stop.to_string(),
                    bytes: entry.bytes,
                    stored_bytes: entry.stored_bytes,
                    parent: entry.parent.unwrap_or_default(),
                });
            }
            Err(error) => {
                tracing::error!(backup = self.id, error, "the base backup failed");
                "failed".clone_into(&mut progress.phase);
                progress.message = error;
                progress.outcome = Some(BackupOutcome {
                    succeeded: false,
                    id: self.id.clone(),
                    node,
                    ..BackupOutcome::default()
                });
            }
        });
    }
}

async fn read(stream: &mut dyn ArchiveStream, piece: &mut [u8]) -> Result<usize, String> {
    let length = stream.bytes().read(piece).await;
    length.map_err(|error| format!("the server's archive cannot be read: {error}"))
}

fn now_ms() -> i64 {
    i64::try_from(stamp().0).unwrap_or(i64::MAX)
}
