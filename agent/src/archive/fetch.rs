//! WAL for this node's server: from the other nodes, or out of the repositories.
//!
//! What is fetched is kept in memory for a moment, with the segments that come next; a file that was not found is looked
//! for again each time. Nothing of a timeline beyond the point where the cluster left it is ever given out.

use super::ArchiveConfig;
use super::chase::{Chase, Course, WAIT};
use super::doors::Doors;
use super::local;
use super::peers::Peers;
use super::placement::{Placement, placement};
use super::sight::Sight;
use crate::ports::BackupSource;
use crate::wall_time::stamp;
use agent_core::pg::{Lsn, SystemId, TimelineHistory};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::FuturesUnordered;
use repository::{Error, Line, Repository, Segment, WalFileContent, WalName, mend_segment};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes of the segments that come next are fetched ahead, and how many of them at most.
const AHEAD_BYTES: u64 = 64 << 20;
const AHEAD_MOST: u64 = 4;
/// How long a file that nobody has asked for is kept.
const KEPT: Duration = Duration::from_secs(30);
/// A file that nobody had is not looked for again sooner.
const MISSED: Duration = Duration::from_secs(1);
/// How often whoever waits looks whether the node still follows.
const LOOK: Duration = Duration::from_millis(25);
/// How long one repository is asked before the next one is asked as well.
const ALONE: Duration = Duration::from_secs(3);
/// What a rewind may wait for a file.
const EXACT: Duration = Duration::from_secs(60);
/// A segment that lies here whole and is asked for so often all the same cannot be used.
const USELESS_AFTER: u32 = 3;

/// Why a file was not given.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Repository(#[from] Error),
    #[error("this node's data directory cannot be read yet")]
    NoIdentity,
    #[error("this node follows no primary now: its WAL stays as it is")]
    FollowsNobody,
    #[error("it is to be streamed; the archive is asked if that does not come off")]
    StreamFirst,
    #[error("it is being looked for")]
    BeingFetched,
    #[error("it did not come within {0:?}")]
    Late(Duration),
    #[error("where it belongs is not known yet: a later timeline was reserved, and has not begun")]
    NotKnownYet,
    #[error("it was given up half way")]
    GivenUp,
}

/// A file, or that nobody has it.
type Outcome = Result<Option<Arc<Vec<u8>>>, Arc<FetchError>>;
type Fetching = Shared<BoxFuture<'static, Outcome>>;

/// What was fetched since the agent started.
#[derive(Debug, Default, Clone)]
pub(super) struct FetchTally {
    pub from_peers: u64,
    pub from_repositories: u64,
    /// The name, and when, ms since 1970.
    pub last: Option<(String, u64)>,
    /// The last trouble since then.
    pub error: String,
}

pub(super) struct Fetcher {
    config: ArchiveConfig,
    source: Arc<dyn BackupSource>,
    doors: Arc<Doors>,
    sight: Arc<dyn Fn() -> Sight + Send + Sync>,
    peers: Peers,
    shelf: Mutex<Shelf>,
    tally: Mutex<FetchTally>,
}

/// What lies ready, and what is known of whoever asks.
#[derive(Default)]
struct Shelf {
    /// Everything here was fetched under this epoch.
    epoch: u64,
    files: BTreeMap<String, Fetching>,
    missed: BTreeMap<String, Instant>,
    chase: Chase,
    /// The segment that was asked for last, and how often in a row.
    repeated: Option<(Segment, u32)>,
}

impl Fetcher {
    pub(super) fn new(
        config: ArchiveConfig,
        source: Arc<dyn BackupSource>,
        doors: Arc<Doors>,
        sight: Arc<dyn Fn() -> Sight + Send + Sync>,
    ) -> Fetcher {
        Fetcher {
            config,
            source,
            doors,
            sight,
            peers: Peers::default(),
            shelf: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    pub(super) fn tally(&self) -> FetchTally {
        self.lock_tally().clone()
    }

    fn lock_tally(&self) -> MutexGuard<'_, FetchTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sight_of_follower(&self) -> Result<Sight, Arc<FetchError>> {
        let sight = (self.sight)();
        if sight.follows {
            Ok(sight)
        } else {
            Err(Arc::new(FetchError::FollowsNobody))
        }
    }

    /// For a standby, from memory: an error means that it shall go on by streaming.
    pub(super) async fn follow(self: &Arc<Self>, name: WalName) -> Outcome {
        let sight = self.sight_of_follower()?;
        self.shelf().enter(sight.epoch);
        let outcome = match name {
            WalName::Segment(segment) => self.segment_for_standby(segment, &sight).await,
            WalName::History(timeline) if timeline.0 <= 1 || timeline > sight.timeline => Ok(None),
            WalName::History(timeline) => match local::history(&self.config.data_dir, timeline) {
                Some((_, content)) => Ok(Some(Arc::new(content))),
                None => self.at_hand(name).unwrap_or_else(|| {
                    self.begin(name);
                    Err(Arc::new(FetchError::BeingFetched))
                }),
            },
            WalName::Partial(_) | WalName::Label(..) => Ok(None),
        };
        // It may have pledged to another epoch meanwhile.
        self.sight_of_follower()?;
        outcome
    }

    async fn segment_for_standby(self: &Arc<Self>, segment: Segment, sight: &Sight) -> Outcome {
        let name = WalName::Segment(segment);
        let (course, repeated) = {
            let mut shelf = self.shelf();
            let course = shelf.chase.asked(segment, sight.epoch, Instant::now());
            (course, shelf.repeat(segment))
        };
        // At a start the server asks for all WAL since its last checkpoint, which lies beside it.
        if repeated < USELESS_AFTER && local::is_whole(&self.config.data_dir, name) {
            return Err(Arc::new(FetchError::StreamFirst));
        }
        if let Some(Ok(Some(content))) = self.at_hand(name) {
            self.served(segment, content.len() as u64);
            return Ok(Some(content));
        }
        match course {
            Course::Stream => Err(Arc::new(FetchError::StreamFirst)),
            Course::Look => {
                self.begin(name);
                Err(Arc::new(FetchError::BeingFetched))
            }
            Course::Serve => {
                let Some(fetching) = self.begin(name) else {
                    return Err(Arc::new(FetchError::BeingFetched));
                };
                let outcome = self.wait(fetching, WAIT).await;
                match &outcome {
                    Ok(Some(content)) => self.served(segment, content.len() as u64),
                    Ok(None) => self.shelf().chase.ended(),
                    Err(_) => {}
                }
                outcome
            }
        }
    }

    /// For a rewind, which fails without the file.
    pub(super) async fn exactly(self: &Arc<Self>, name: WalName) -> Outcome {
        let sight = self.sight_of_follower()?;
        self.shelf().enter(sight.epoch);
        if let Some(Ok(Some(content))) = self.at_hand(name) {
            return Ok(Some(content));
        }
        self.shelf().missed.remove(&name.to_string());
        match self.begin(name) {
            Some(fetching) => self.wait(fetching, EXACT).await,
            None => Err(Arc::new(FetchError::GivenUp)),
        }
    }

    /// What lies ready, if it does.
    fn at_hand(&self, name: WalName) -> Option<Outcome> {
        self.shelf().files.get(&name.to_string())?.peek().cloned()
    }

    async fn wait(&self, fetching: Fetching, at_most: Duration) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Ok(outcome) = tokio::time::timeout(LOOK, fetching.clone()).await {
                return outcome;
            }
            self.sight_of_follower()?;
            if begun.elapsed() >= at_most {
                return Err(Arc::new(FetchError::Late(at_most)));
            }
        }
    }

    /// The server has `segment` of that many bytes now: the next ones are fetched ahead, older ones let go.
    fn served(self: &Arc<Self>, segment: Segment, bytes: u64) {
        let number = segment.number(bytes);
        let ahead = (AHEAD_BYTES / bytes).clamp(1, AHEAD_MOST);
        let next: Vec<WalName> = (number + 1..=number + ahead)
            .map(|number| WalName::Segment(Segment::numbered(segment.timeline, number, bytes)))
            .collect();
        {
            let mut shelf = self.shelf();
            shelf.chase.served(segment, Instant::now());
            // The server asks for the last one again when its recovery comes to an end there.
            let wanted: Vec<String> = std::iter::once(WalName::Segment(segment))
                .chain(next.iter().copied())
                .map(|name| name.to_string())
                .collect();
            shelf.files.retain(|name, _| wanted.contains(name));
        }
        for name in next {
            self.begin(name);
        }
    }

    /// Looks for a file beside whoever asks, unless that is under way; `None` if it was looked for just now, in vain.
    fn begin(self: &Arc<Self>, name: WalName) -> Option<Fetching> {
        let key = name.to_string();
        let mut shelf = self.shelf();
        if let Some(fetching) = shelf.files.get(&key) {
            return Some(fetching.clone());
        }
        if shelf.missed.get(&key).is_some_and(|at| at.elapsed() < MISSED) {
            return None;
        }
        let fetcher = Arc::clone(self);
        let epoch = shelf.epoch;
        let task = tokio::spawn(async move { fetcher.fetch(name).await });
        let fetching = async move {
            match task.await {
                Ok(outcome) => outcome.map_err(Arc::new),
                Err(_) => Err(Arc::new(FetchError::GivenUp)),
            }
        };
        let fetching = fetching.boxed().shared();
        shelf.files.insert(key.clone(), fetching.clone());
        drop(shelf);
        let (fetcher, kept) = (Arc::clone(self), fetching.clone());
        tokio::spawn(async move {
            let outcome = kept.await;
            fetcher.note(name, &outcome);
            let found = matches!(outcome, Ok(Some(_)));
            if found {
                drop(outcome);
                tokio::time::sleep(KEPT).await;
            }
            let mut shelf = fetcher.shelf();
            if shelf.epoch == epoch {
                shelf.files.remove(&key);
                if !found {
                    shelf.missed.retain(|_, at| at.elapsed() < MISSED);
                    shelf.missed.insert(key, Instant::now());
                }
            }
        });
        Some(fetching)
    }

    fn note(&self, name: WalName, outcome: &Outcome) {
        let mut tally = self.lock_tally();
        match outcome {
            Ok(Some(_)) => {
                tally.last = Some((name.to_string(), stamp().0));
                tally.error.clear();
            }
            Ok(None) => {}
            Err(error) => {
                let text = format!("{name}: {error}");
                if tally.error != text {
                    tracing::warn!(file = %name, %error, "WAL for the server could not be fetched");
                    tally.error = text;
                }
            }
        }
    }

    /// From a peer, or else from a repository. `None` only if every repository is known not to have it.
    async fn fetch(self: Arc<Self>, name: WalName) -> Result<Option<Arc<Vec<u8>>>, FetchError> {
        let (system_id, _) = self.source.identity().ok_or(FetchError::NoIdentity)?;
        let line = Line::new(&self.config.cluster, system_id);
        let sight = (self.sight)();
        if let WalName::Segment(segment) = name {
            let bytes = self.source.segment_bytes().ok_or(FetchError::NoIdentity)?;
            let end = Lsn(segment.start(bytes).0 + bytes);
            let histories = self.later_histories(segment, &sight, &line).await;
            match placement(segment.timeline, end, &sight, |of| histories.get(&of).cloned()) {
                Placement::OnTheLine => {}
                Placement::Diverged => return Ok(None),
                Placement::NotKnownYet => return Err(FetchError::NotKnownYet),
            }
        }
        if let Some(content) = self.peers.fetch(&sight, name, system_id).await {
            self.lock_tally().from_peers += 1;
            return Ok(Some(Arc::new(content)));
        }
        let (usable, trouble) = self.doors.usable(&line).await;
        let repositories: Vec<Repository> = usable.into_iter().map(|opened| opened.plain).collect();
        let (found, trouble) = self
            .ask_repositories(&repositories, &line, name, system_id, trouble)
            .await;
        match (found, trouble) {
            (Some(content), _) => {
                self.lock_tally().from_repositories += 1;
                Ok(Some(Arc::new(content)))
            }
            (None, Some(error)) => Err(error.into()),
            (None, None) => Ok(None),
        }
    }

    /// From the first repository that has it whole. One that does not answer for a while is not waited for alone.
    async fn ask_repositories(
        &self,
        repositories: &[Repository],
        line: &Line,
        name: WalName,
        system_id: SystemId,
        mut trouble: Option<Error>,
    ) -> (Option<Vec<u8>>, Option<Error>) {
        let mut next = repositories.iter();
        let mut asked = FuturesUnordered::new();
        let mut without: Vec<Repository> = Vec::new();
        loop {
            if asked.is_empty() {
                match next.next() {
                    Some(repository) => asked.push(get(repository, line, name, system_id)),
                    None => return (None, trouble),
                }
            }
            let answer = tokio::select! {
                answer = asked.next() => answer,
                () = tokio::time::sleep(ALONE), if next.len() > 0 => None,
            };
            match answer {
                Some((repository, Ok(content))) => {
                    self.mend(&without, repository, line, name);
                    return (Some(content), None);
                }
                Some((repository, Err(error))) if error.is_missing() => without.push(repository.clone()),
                Some((repository, Err(error))) => {
                    tracing::warn!(file = %name, %error, "looking in the next repository");
                    if matches!(error, Error::Damaged { .. }) {
                        without.push(repository.clone());
                    }
                    trouble = Some(error);
                }
                None => asked.extend(
                    next.next()
                        .map(|repository| get(repository, line, name, system_id)),
                ),
            }
        }
    }

    /// Mends what others lack, or have damaged, beside whoever asked.
    fn mend(&self, without: &[Repository], source: &Repository, line: &Line, name: WalName) {
        let WalName::Segment(segment) = name else { return };
        for repository in without {
            let (repository, source, line) = (repository.clone(), source.clone(), line.clone());
            tokio::spawn(async move {
                match mend_segment(&repository, &line, std::slice::from_ref(&source), segment).await {
                    Ok(true) => tracing::warn!(
                        %segment,
                        repository = repository.name(),
                        from = source.name(),
                        "mended: it was damaged or missing there; see quarantine/verify"
                    ),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%segment, %error, "could not be mended"),
                }
            });
        }
    }

    /// What is known of the timelines that were reserved after `segment`'s: of this node, of another, of a repository.
    async fn later_histories(
        &self,
        segment: Segment,
        sight: &Sight,
        line: &Line,
    ) -> BTreeMap<agent_core::pg::TimelineId, TimelineHistory> {
        let mut known = BTreeMap::new();
        let Some((system_id, _)) = self.source.identity() else {
            return known;
        };
        let later = sight
            .grants
            .iter()
            .filter(|(granted, _)| *granted > segment.timeline);
        for (granted, _) in later {
            let name = WalName::History(*granted);
            let mut content = local::history(&self.config.data_dir, *granted).map(|(_, content)| content);
            if content.is_none() {
                content = self.peers.fetch(sight, name, system_id).await;
            }
            if content.is_none() {
                for opened in self.doors.usable(line).await.0 {
                    if let Ok(fetched) = opened.plain.get_wal(line, name).await {
                        content = Some(fetched.content);
                        break;
                    }
                }
            }
            let history = content
                .and_then(|content| TimelineHistory::parse(*granted, &String::from_utf8_lossy(&content)));
            known.extend(history.map(|history| (*granted, history)));
        }
        known
    }
}

/// A file out of one repository; that it is what its name says, and not only what was written under it.
async fn get<'a>(
    repository: &'a Repository,
    line: &Line,
    name: WalName,
    system_id: SystemId,
) -> (&'a Repository, Result<Vec<u8>, Error>) {
    let got = async {
        let fetched = repository.get_wal(line, name).await?;
        WalFileContent::check(name, system_id, fetched.content.clone())?;
        Ok(fetched.content)
    };
    (repository, got.await)
}

impl Shelf {
    /// What was fetched under an earlier epoch may lie beyond the fork of this one.
    fn enter(&mut self, epoch: u64) {
        if self.epoch != epoch {
            *self = Shelf {
                epoch,
                ..Shelf::default()
            };
        }
    }

    fn repeat(&mut self, segment: Segment) -> u32 {
        let times = match self.repeated {
            Some((last, times)) if last == segment => times.saturating_add(1),
            _ => 0,
        };
        self.repeated = Some((segment, times));
        times
    }
}
