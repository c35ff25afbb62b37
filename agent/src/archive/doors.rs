//! The repositories: each opened when it can be, and tried again when it could not. One that does not answer holds none of
//! the others up.

use super::ArchiveConfig;
use super::sight::Sight;
use crate::durable;
use crate::wall_time::stamp;
use futures::future::join_all;
use repository::{Error, Line, Owner, Repository, RepositoryConfig, claim};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a repository that could not be opened is left alone: the archiver asks every second.
const REST: Duration = Duration::from_secs(5);
/// How long whoever can do with the others waits for one to open; it goes on opening by itself.
const SOON: Duration = Duration::from_secs(5);
/// The same for whoever needs all of them.
const ALL_WITHIN: Duration = Duration::from_secs(60);
/// Which repositories were used from here, so that an empty mount point is not taken for a new one.
const KNOWN: &str = "repositories.json";

pub(super) struct Doors {
    doors: Vec<Arc<Door>>,
    known: Arc<Known>,
}

struct Door {
    config: RepositoryConfig,
    open: Arc<tokio::sync::Mutex<Option<Opened>>>,
    /// Somebody has waited in vain for it to open, and it is still opening.
    slow: AtomicBool,
    trouble: Mutex<Option<(Instant, String)>>,
}

/// What is known here: the ids of the repositories, by name, and the cluster that archives into them.
struct Known {
    path: PathBuf,
    writing: Mutex<()>,
    sight: Arc<dyn Fn() -> Sight + Send + Sync>,
}

#[derive(Clone)]
pub(super) struct Opened {
    /// With a data key of its own for WAL, where it is encrypted.
    pub wal: Repository,
    pub plain: Repository,
    line: Line,
}

impl Doors {
    pub(super) fn new(config: &ArchiveConfig, sight: Arc<dyn Fn() -> Sight + Send + Sync>) -> Doors {
        let doors = config.repositories.iter().map(|config| {
            Arc::new(Door {
                config: config.clone(),
                open: Arc::default(),
                slow: AtomicBool::new(false),
                trouble: Mutex::default(),
            })
        });
        Doors {
            doors: doors.collect(),
            known: Arc::new(Known {
                path: config.state_dir.join(KNOWN),
                writing: Mutex::default(),
                sight,
            }),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.doors.len()
    }

    /// How one of them is configured.
    pub(super) fn config(&self, name: &str) -> Option<&RepositoryConfig> {
        let mut configs = self.doors.iter().map(|door| &door.config);
        configs.find(|config| config.name == name)
    }

    /// Every repository that can be used, and why another one cannot.
    pub(super) async fn usable(&self, line: &Line) -> (Vec<Opened>, Option<Error>) {
        self.usable_without(line, &BTreeSet::new()).await
    }

    /// The same of all but some.
    pub(super) async fn usable_without(
        &self,
        line: &Line,
        without: &BTreeSet<String>,
    ) -> (Vec<Opened>, Option<Error>) {
        let wanted = self
            .doors
            .iter()
            .filter(|door| !without.contains(&door.config.name));
        let opening = join_all(wanted.map(|door| door.open(line, &self.known, SOON))).await;
        let (mut usable, mut trouble) = (Vec::new(), None);
        for opened in opening {
            match opened {
                Ok(opened) => usable.push(opened),
                Err(error) => trouble = Some(error),
            }
        }
        (usable, trouble)
    }

    /// Every repository; all or none.
    pub(super) async fn plain(&self, line: &Line) -> Result<Vec<Repository>, Error> {
        let opening = self
            .doors
            .iter()
            .map(|door| door.open(line, &self.known, ALL_WITHIN));
        let opened = join_all(opening).await.into_iter();
        opened.map(|opened| Ok(opened?.plain)).collect()
    }

    /// Name, id where it is known, and trouble of each.
    pub(super) fn shown(&self) -> Vec<(String, String, String)> {
        let known = self.known.read();
        let shown = self.doors.iter().map(|door| {
            let name = door.config.name.clone();
            let id = known.get(&name).cloned().unwrap_or_default();
            let trouble = if door.slow.load(Ordering::Relaxed) {
                door.still_opening().to_string()
            } else {
                door.trouble()
                    .as_ref()
                    .map(|(_, why)| why.clone())
                    .unwrap_or_default()
            };
            (name, id, trouble)
        });
        shown.collect()
    }
}

impl Door {
    /// Opens it, unless it is open; waits at most `patience`, and not at all where somebody else did in vain.
    async fn open(
        self: &Arc<Self>,
        line: &Line,
        known: &Arc<Known>,
        patience: Duration,
    ) -> Result<Opened, Error> {
        let begun = Instant::now();
        let patience = if self.slow.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            patience
        };
        let Ok(mut open) = tokio::time::timeout(patience, Arc::clone(&self.open).lock_owned()).await else {
            return Err(self.is_slow());
        };
        if let Some(opened) = open.as_ref().filter(|opened| opened.line == *line) {
            self.slow.store(false, Ordering::Relaxed);
            return Ok(opened.clone());
        }
        if let Some((at, why)) = self.trouble().clone()
            && at.elapsed() < REST
        {
            return Err(Error::NotThisOne {
                repository: self.config.name.clone(),
                why,
            });
        }
        let (door, line, known) = (Arc::clone(self), line.clone(), Arc::clone(known));
        // By itself, so that whoever waits can go on without it; the lock lets nobody else try meanwhile.
        let opening = tokio::spawn(async move {
            let opened = try_open(&door.config, &known, &line).await;
            *door.trouble() = opened
                .as_ref()
                .err()
                .map(|error| (Instant::now(), error.to_string()));
            door.slow.store(false, Ordering::Relaxed);
            if let Err(error) = &opened {
                tracing::error!(repository = door.config.name, %error, "the repository cannot be used; WAL stays where it is");
            }
            let opened = opened?;
            *open = Some(opened.clone());
            Ok(opened)
        });
        match tokio::time::timeout(patience.saturating_sub(begun.elapsed()), opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(self.still_opening()),
            Err(_) => Err(self.is_slow()),
        }
    }

    fn is_slow(&self) -> Error {
        // Whoever is at it takes this back; it may have come to its end this moment.
        self.slow.store(self.open.try_lock().is_err(), Ordering::Relaxed);
        self.still_opening()
    }

    fn still_opening(&self) -> Error {
        Error::NotThisOne {
            repository: self.config.name.clone(),
            why: "it is being opened, and its store does not answer: is it reachable?".to_owned(),
        }
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn try_open(config: &RepositoryConfig, known: &Known, line: &Line) -> Result<Opened, Error> {
    let name = &config.name;
    let id = known.read().remove(name);
    let plain = Repository::open_to_write(config, id.as_deref()).await?;
    if id.is_none() {
        known.add(name, plain.id())?;
    }
    // Before anything is written: a copy of this cluster that was founded under the same name must not be let in.
    let owner = Owner {
        cluster_id: (known.sight)().cluster_id,
        at_ms: i64::try_from(stamp().0).unwrap_or(i64::MAX),
    };
    if owner.cluster_id.is_empty() {
        return Err(Error::NotThisOne {
            repository: name.clone(),
            why: "this agent does not know its cluster yet".to_owned(),
        });
    }
    claim(&plain, line, &owner).await?;
    let wal = plain.for_wal(line).await?;
    tracing::info!(repository = name, id = plain.id(), "the repository is open");
    Ok(Opened {
        wal,
        plain,
        line: line.clone(),
    })
}

impl Known {
    fn read(&self) -> BTreeMap<String, String> {
        // Lost with the agent's state directory: then the repository is taken as it is.
        let text = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn add(&self, name: &str, id: &str) -> Result<(), Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.read();
        known.insert(name.to_owned(), id.to_owned());
        let kept = serde_json::to_vec_pretty(&known)
            .map_err(std::io::Error::other)
            .and_then(|json| durable::replace(&self.path, &json));
        kept.map_err(|source| Error::File {
            action: "write",
            path: self.path.display().to_string(),
            source,
        })
    }
}
