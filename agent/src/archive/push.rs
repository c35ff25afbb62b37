//! One file into every repository, while those that come next are under way already.

use super::ArchiveConfig;
use super::doors::Doors;
use super::given_up::Ledger;
use super::placement::{Placement, placement};
use super::ready::ready;
use super::sight::Sight;
use super::tally::{PushError, Tally};
use crate::ports::BackupSource;
use crate::wall_time::{now, stamp};
use agent_core::pg::{Lsn, TimelineHistory, TimelineId};
use futures::future::{BoxFuture, FutureExt, Shared, join_all};
use repository::{Error, Line, Repository, Source, Stored, WalFileContent, WalName, show_time};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::watch;

/// How many files beside the one that was asked for are under way at once.
const AHEAD: usize = 3;
/// How long a standby lets the primary archive a segment first.
const GRACE: Duration = Duration::from_secs(3);
const GRACE_POLL: Duration = Duration::from_millis(250);
/// What a push may take while so much waits that the oldest may be given up.
const OVER_THE_LIMIT: Duration = Duration::from_secs(20);
/// What a push may take while the server shuts down, which waits for it.
const IN_A_HURRY: Duration = Duration::from_secs(1);

/// Archives what it is asked for.
pub(super) struct Pusher {
    config: ArchiveConfig,
    source: Arc<dyn BackupSource>,
    doors: Arc<Doors>,
    sight: Arc<dyn Fn() -> Sight + Send + Sync>,
    ahead: Mutex<BTreeMap<String, Ahead>>,
    tally: Mutex<Tally>,
    /// The primary has archived lately, so that it pays to let it go first.
    patient: AtomicBool,
    ledger: Ledger,
    /// What was brought to all repositories but those that do not take anything now.
    carried: Mutex<BTreeSet<String>>,
    carrying: AtomicBool,
    /// Counts what was archived.
    archived: watch::Sender<u64>,
}

type Outcome = Result<Stored, Arc<PushError>>;
type Pushing = Shared<BoxFuture<'static, Outcome>>;

/// A file that nobody has asked for yet.
struct Ahead {
    /// Length, inode and time of change of what is being archived.
    stamp: Option<(u64, u64, i64)>,
    pushing: Pushing,
}

impl Pusher {
    pub(super) fn new(
        config: ArchiveConfig,
        source: Arc<dyn BackupSource>,
        doors: Arc<Doors>,
        sight: Arc<dyn Fn() -> Sight + Send + Sync>,
    ) -> Pusher {
        Pusher {
            ledger: Ledger::open(&config.state_dir),
            config,
            source,
            doors,
            sight,
            ahead: Mutex::default(),
            tally: Mutex::default(),
            patient: AtomicBool::new(true),
            carried: Mutex::default(),
            carrying: AtomicBool::new(false),
            archived: watch::channel(0).0,
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Changes whenever this node has archived something.
    pub(super) fn archived(&self) -> watch::Receiver<u64> {
        self.archived.subscribe()
    }

    pub(super) fn tally(&self) -> Tally {
        self.lock_tally().clone()
    }

    fn lock_tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ahead(&self) -> MutexGuard<'_, BTreeMap<String, Ahead>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Archives the file that the server names `path`. Comes back when it is durable everywhere.
    pub(super) async fn push(self: &Arc<Self>, path: &str) -> Result<(), Arc<PushError>> {
        let name = Path::new(path).file_name().and_then(|name| name.to_str());
        let name = name.and_then(WalName::parse);
        let name = name.ok_or_else(|| Arc::new(PushError::Name(path.to_owned())))?;
        let pushing = self.take_or_begin(name);
        self.look_ahead(name);
        let hurry = self.source.identity().is_some_and(|(_, stopping)| stopping);
        let too_much = self.too_much_waits();
        let outcome = if hurry {
            let bounded = tokio::time::timeout(IN_A_HURRY, pushing).await;
            bounded.unwrap_or_else(|_| {
                Err(Arc::new(PushError::ShuttingDown {
                    name: name.to_string(),
                }))
            })
        } else if too_much {
            let bounded = tokio::time::timeout(OVER_THE_LIMIT, pushing).await;
            bounded.unwrap_or_else(|_| Err(Arc::new(PushError::Late(OVER_THE_LIMIT))))
        } else {
            pushing.await
        };
        let now_ms = stamp().0;
        match outcome {
            Ok(stored) => {
                self.lock_tally().archived(name, stored, now_ms);
                self.archived.send_modify(|count| *count += 1);
                Ok(())
            }
            Err(error) => {
                if too_much && self.give_up(name, &error).await {
                    self.lock_tally().gave_up(&error, now_ms);
                    return Ok(());
                }
                if let Some(broken) = error.broken_repository() {
                    self.carry_on(broken);
                }
                self.lock_tally().failed(&error, now_ms);
                tracing::warn!(file = %name, %error, "not archived; the server keeps it and asks again");
                Err(error)
            }
        }
    }

    /// Whether more waits than the cluster's settings allow.
    fn too_much_waits(&self) -> bool {
        let most = (self.sight)().queue_max;
        if most == 0 {
            return false;
        }
        let waiting = ready(&self.config.data_dir);
        let segments = waiting.iter().filter(|it| matches!(it.name, WalName::Segment(_)));
        let bytes = self.source.segment_bytes().unwrap_or(0);
        (segments.count() as u64).saturating_mul(bytes) > most
    }

    /// Lets go of a segment that cannot be archived; whether it does. Only what a store does not take: what is not right
    /// about the file itself, a person has to look at.
    async fn give_up(self: &Arc<Self>, name: WalName, error: &PushError) -> bool {
        let late = matches!(error, PushError::Late(_)) || error.broken_repository().is_some();
        if !late || !matches!(name, WalName::Segment(_)) {
            return false;
        }
        let pusher = Arc::clone(self);
        let noted = tokio::task::spawn_blocking(move || pusher.ledger.add(&name.to_string())).await;
        match noted {
            Ok(Ok(())) => {
                tracing::error!(
                    file = %name,
                    %error,
                    "given up: more than wal_queue_max_bytes waits. The archive has a hole here, and a full backup is ordered"
                );
                true
            }
            Ok(Err(error)) => {
                tracing::error!(file = %name, %error, "not given up: that cannot be written down");
                false
            }
            Err(_) => false,
        }
    }

    /// Brings what waits to the other repositories while `broken` takes nothing. The server is told nothing of it: it asks
    /// for each file until all have it.
    fn carry_on(self: &Arc<Self>, broken: &str) {
        if self.doors.count() < 2 || self.carrying.swap(true, Ordering::Relaxed) {
            return;
        }
        let (pusher, broken) = (Arc::clone(self), broken.to_owned());
        tokio::spawn(async move {
            let mut without = BTreeSet::from([broken]);
            let waiting = ready(&pusher.config.data_dir);
            let names: BTreeSet<String> = waiting.iter().map(|it| it.name.to_string()).collect();
            pusher.lock_carried().retain(|name| names.contains(name));
            for ready in waiting {
                let name = ready.name.to_string();
                if pusher.lock_carried().contains(&name) {
                    continue;
                }
                match pusher.push_one(ready.name, &without).await {
                    Ok(_) => {
                        pusher.lock_carried().insert(name);
                    }
                    Err(error) => {
                        let another = error.broken_repository().map(str::to_owned);
                        without.extend(another);
                        if without.len() >= pusher.doors.count() {
                            break;
                        }
                    }
                }
            }
            pusher.carrying.store(false, Ordering::Relaxed);
        });
    }

    fn lock_carried(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_or_begin(self: &Arc<Self>, name: WalName) -> Pushing {
        let stamp = self.stamp(name);
        let known = self.lock_ahead().remove(&name.to_string());
        match known {
            // A failure of the past is no answer: it is tried again.
            Some(ahead) if ahead.stamp == stamp && !matches!(ahead.pushing.peek(), Some(Err(_))) => {
                ahead.pushing
            }
            _ => self.begin(name),
        }
    }

    fn begin(self: &Arc<Self>, name: WalName) -> Pushing {
        let pusher = Arc::clone(self);
        let task = tokio::spawn(async move { pusher.push_one(name, &BTreeSet::new()).await });
        let outcome = async move {
            match task.await {
                Ok(outcome) => outcome.map_err(Arc::new),
                Err(_) => Err(Arc::new(PushError::GivenUp)),
            }
        };
        outcome.boxed().shared()
    }

    /// Begins with the files that the server will ask for after `name`.
    fn look_ahead(self: &Arc<Self>, name: WalName) {
        let waiting = ready(&self.config.data_dir);
        let position = waiting.iter().position(|ready| ready.name == name);
        let next: Vec<WalName> = waiting
            .iter()
            .skip(position.map_or(0, |at| at + 1))
            .map(|ready| ready.name)
            .filter(|next| *next != name)
            .take(AHEAD)
            .collect();
        let mut ahead = self.lock_ahead();
        ahead.retain(|known, _| next.iter().any(|next| next.to_string() == *known));
        for name in next {
            ahead.entry(name.to_string()).or_insert_with(|| Ahead {
                stamp: self.stamp(name),
                pushing: self.begin(name),
            });
        }
    }

    fn stamp(&self, name: WalName) -> Option<(u64, u64, i64)> {
        let found = std::fs::metadata(self.path(name)).ok()?;
        Some((
            found.len(),
            found.ino(),
            found.mtime_nsec() ^ (found.mtime() << 30),
        ))
    }

    fn path(&self, name: WalName) -> std::path::PathBuf {
        self.config.data_dir.join("pg_wal").join(name.to_string())
    }

    /// Into every repository but those named in `without`.
    async fn push_one(
        self: &Arc<Self>,
        name: WalName,
        without: &BTreeSet<String>,
    ) -> Result<Stored, PushError> {
        let (system_id, _) = self.source.identity().ok_or(PushError::NoIdentity)?;
        let line = Line::new(&self.config.cluster, system_id);
        let path = self.path(name);
        let reading = tokio::task::spawn_blocking(move || {
            let content = std::fs::read(path).map_err(|error| PushError::Read {
                name: name.to_string(),
                error,
            })?;
            Ok::<_, PushError>(WalFileContent::check(name, system_id, content)?)
        });
        let file = reading.await.map_err(|_| PushError::GivenUp)??;
        if file.is_placeholder() {
            // The agent's own, for a timeline number that was skipped: nobody needs it but servers that run.
            return Ok(Stored::Already);
        }
        // What can be used gets the file, also while another one cannot; it is asked for again until all have it.
        let (usable, mut trouble) = self.doors.usable_without(&line, without).await;
        let repositories: Vec<Repository> = usable.into_iter().map(|opened| opened.wal).collect();
        let sight = (self.sight)();
        let mut source = Source {
            line,
            node: self.config.node.clone(),
            epoch: sight.epoch,
            now: wall_clock(),
            diverged: false,
        };
        if let WalName::Segment(segment) = name {
            let end = Lsn(segment.start(file.segment_bytes).0 + file.segment_bytes);
            source.diverged = self
                .is_diverged(segment.timeline, end, &sight, &source.line, &repositories)
                .await?
                .ok_or_else(|| PushError::NotKnownYet {
                    name: name.to_string(),
                })?;
            if trouble.is_none()
                && !sight.holds
                && !source.diverged
                && self.archived_by_another(&repositories, &file, &source).await
            {
                return Ok(Stored::Already);
            }
        }
        let puts = repositories
            .iter()
            .map(|repository| repository.put_wal(&file, &source));
        let mut outcome = Stored::Already;
        for stored in join_all(puts).await {
            match stored {
                Ok(stored @ Stored::Written(_)) => outcome = stored,
                Ok(Stored::Already) => {}
                Err(error @ Error::Different { .. }) => {
                    tracing::error!(%error, "WAL differs from what is archived");
                    trouble = Some(error);
                }
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        match trouble {
            Some(error) => Err(error.into()),
            None => Ok(outcome),
        }
    }

    /// Whether it lies beyond a fork; `None` if that cannot be told yet.
    async fn is_diverged(
        &self,
        timeline: TimelineId,
        end: Lsn,
        sight: &Sight,
        line: &Line,
        repositories: &[Repository],
    ) -> Result<Option<bool>, Error> {
        let later = sight
            .grants
            .iter()
            .map(|(granted, _)| *granted)
            .filter(|granted| *granted > timeline);
        let mut histories = BTreeMap::new();
        for granted in later {
            let mut history = self.source.history_of(granted);
            for repository in repositories
                .iter()
                .take_while(|_| history.is_none())
                .collect::<Vec<_>>()
            {
                history = history.or(history_in(repository, line, granted).await?);
            }
            histories.extend(history.map(|history| (granted, history)));
        }
        Ok(
            match placement(timeline, end, sight, |of| histories.get(&of).cloned()) {
                Placement::OnTheLine => Some(false),
                Placement::Diverged => Some(true),
                Placement::NotKnownYet => None,
            },
        )
    }

    /// Waits a little for the primary to archive the same segment. Once it was waited for in vain, the next ones are not
    /// waited for until one is there again.
    async fn archived_by_another(
        &self,
        repositories: &[Repository],
        file: &WalFileContent,
        source: &Source,
    ) -> bool {
        let begun = Instant::now();
        loop {
            let looks = join_all(
                repositories
                    .iter()
                    .map(|repository| repository.has_wal(file, source)),
            )
            .await;
            if looks.iter().all(|there| matches!(there, Ok(true))) {
                self.patient.store(true, Ordering::Relaxed);
                return true;
            }
            if begun.elapsed() >= GRACE || !self.patient.load(Ordering::Relaxed) {
                self.patient.store(false, Ordering::Relaxed);
                return false;
            }
            tokio::time::sleep(GRACE_POLL).await;
        }
    }
}

async fn history_in(
    repository: &Repository,
    line: &Line,
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>, Error> {
    match repository.get_wal(line, WalName::History(timeline)).await {
        Ok(fetched) => {
            let text = String::from_utf8_lossy(&fetched.content);
            Ok(TimelineHistory::parse(timeline, &text))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn wall_clock() -> String {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    show_time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
