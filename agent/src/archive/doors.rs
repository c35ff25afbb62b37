//! The repositories: each opened when it can be, and tried again when it could not.

use super::ArchiveConfig;
use super::sight::Sight;
use crate::durable;
use crate::wall_time::stamp;
use repository::{Error, Line, Owner, Repository, RepositoryConfig, claim};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a repository that could not be opened is left alone: the archiver asks every second.
const REST: Duration = Duration::from_secs(5);
/// Which repositories were used from here, so that an empty mount point is not taken for a new one.
const KNOWN: &str = "repositories.json";

pub(super) struct Doors {
    doors: Vec<Door>,
    known: PathBuf,
    sight: Arc<dyn Fn() -> Sight + Send + Sync>,
}

struct Door {
    config: RepositoryConfig,
    open: tokio::sync::Mutex<Option<Opened>>,
    trouble: Mutex<Option<(Instant, String)>>,
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
        let doors = config.repositories.iter().map(|config| Door {
            config: config.clone(),
            open: tokio::sync::Mutex::default(),
            trouble: Mutex::default(),
        });
        Doors {
            doors: doors.collect(),
            known: config.state_dir.join(KNOWN),
            sight,
        }
    }

    /// Every repository that can be used, and why another one cannot.
    pub(super) async fn usable(&self, line: &Line) -> (Vec<Opened>, Option<Error>) {
        let (mut usable, mut trouble) = (Vec::new(), None);
        for door in &self.doors {
            match self.open(door, line).await {
                Ok(opened) => usable.push(opened),
                Err(error) => trouble = Some(error),
            }
        }
        (usable, trouble)
    }

    /// Every repository; all or none.
    pub(super) async fn plain(&self, line: &Line) -> Result<Vec<Repository>, Error> {
        let mut all = Vec::new();
        for door in &self.doors {
            all.push(self.open(door, line).await?.plain);
        }
        Ok(all)
    }

    async fn open(&self, door: &Door, line: &Line) -> Result<Opened, Error> {
        let mut open = door.open.lock().await;
        if let Some(opened) = open.as_ref().filter(|opened| opened.line == *line) {
            return Ok(opened.clone());
        }
        if let Some((at, why)) = door.trouble().clone()
            && at.elapsed() < REST
        {
            return Err(Error::NotThisOne {
                repository: door.config.name.clone(),
                why,
            });
        }
        let opened = self.try_open(door, line).await;
        *door.trouble() = opened
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.to_string()));
        if let Err(error) = &opened {
            tracing::error!(repository = door.config.name, %error, "the repository cannot be used; WAL stays where it is");
        }
        let opened = opened?;
        *open = Some(opened.clone());
        Ok(opened)
    }

    async fn try_open(&self, door: &Door, line: &Line) -> Result<Opened, Error> {
        let name = &door.config.name;
        let mut known = self.known();
        let plain = Repository::open_to_write(&door.config, known.get(name).map(String::as_str)).await?;
        if known.insert(name.clone(), plain.id().to_owned()).is_none() {
            let kept = serde_json::to_vec_pretty(&known)
                .map_err(std::io::Error::other)
                .and_then(|json| durable::replace(&self.known, &json));
            kept.map_err(|source| Error::File {
                action: "write",
                path: self.known.display().to_string(),
                source,
            })?;
        }
        // Before anything is written: a copy of this cluster that was founded under the same name must not be let in.
        let owner = Owner {
            cluster_id: (self.sight)().cluster_id,
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

    fn known(&self) -> BTreeMap<String, String> {
        // Lost with the agent's state directory: then the repository is taken as it is.
        let text = std::fs::read(&self.known).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Name, id where it is known, and trouble of each.
    pub(super) fn shown(&self) -> Vec<(String, String, String)> {
        let known = self.known();
        let shown = self.doors.iter().map(|door| {
            let name = door.config.name.clone();
            let id = known.get(&name).cloned().unwrap_or_default();
            let trouble = door
                .trouble()
                .as_ref()
                .map(|(_, why)| why.clone())
                .unwrap_or_default();
            (name, id, trouble)
        });
        shown.collect()
    }
}

impl Door {
    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
