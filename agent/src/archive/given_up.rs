//! WAL that was let go of because too much waited (`wal_queue_max_bytes`): known for good before the server is told that it
//! is archived, told to the cluster, noted in the repositories as soon as they can be reached, and followed by a full backup.

use super::Archive;
use crate::durable;
use crate::ports::Consensus;
use crate::wall_time::stamp;
use agent_core::cluster::{Command, DutyChange, DutyKind};
use agent_core::time::WallTime;
use repository::{GivenUp, Line, note_given_up, still_missing};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Where it is kept until the repositories have it.
const FILE: &str = "given-up.json";
/// How often it is tried to note it in the repositories.
const EVERY: Duration = Duration::from_secs(5);
/// How often the cluster is told at most: each segment would fill its history.
const TELL: Duration = Duration::from_secs(60);
const PROPOSAL: Duration = Duration::from_secs(5);

/// What this node has let go of and not every repository knows of.
pub(super) struct Ledger {
    path: PathBuf,
    names: Mutex<Vec<String>>,
}

impl Ledger {
    pub(super) fn open(state_dir: &std::path::Path) -> Ledger {
        let path = state_dir.join(FILE);
        let text = std::fs::read(&path).unwrap_or_default();
        Ledger {
            path,
            names: Mutex::new(serde_json::from_slice(&text).unwrap_or_default()),
        }
    }

    /// Writes down that `name` is let go of. Until that is durable it is not.
    pub(super) fn add(&self, name: &str) -> std::io::Result<()> {
        self.change(|names| {
            if names.iter().all(|known| known != name) {
                names.push(name.to_owned());
            }
        })
    }

    fn names(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remove(&self, noted: &[String]) -> std::io::Result<()> {
        self.change(|names| names.retain(|name| !noted.contains(name)))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<String>)) -> std::io::Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = names.clone();
        change(&mut changed);
        durable::replace(&self.path, &serde_json::to_vec(&changed)?)?;
        *names = changed;
        Ok(())
    }
}

/// Tells of it, for as long as the archive is there.
pub(super) async fn run(archive: Weak<Archive>, consensus: Arc<dyn Consensus>) {
    let mut told = 0;
    let mut told_at: Option<Instant> = None;
    loop {
        let Some(archive) = archive.upgrade() else { return };
        let names = archive.pusher.ledger().names();
        let given_up = archive.pusher.tally().given_up;
        if given_up > told && told_at.is_none_or(|at| at.elapsed() >= TELL) {
            let text = format!(
                "{}: {} segments were given up unarchived, as wal_queue_max_bytes orders, {} the last",
                archive.config.node,
                given_up - told,
                names.last().map_or("", String::as_str)
            );
            if propose(&consensus, |at| Command::Note {
                kind: "wal-given-up".to_owned(),
                text,
                at,
            })
            .await
            {
                (told, told_at) = (given_up, Some(Instant::now()));
            }
        }
        if !names.is_empty()
            && let Err(error) = settle(&archive, &consensus, names).await
        {
            tracing::warn!(
                error,
                "the WAL that was given up cannot be noted in every repository yet"
            );
        }
        drop(archive);
        tokio::time::sleep(EVERY).await;
    }
}

/// Notes it in every repository; then a backup is ordered, and it is done with.
async fn settle(archive: &Archive, consensus: &Arc<dyn Consensus>, names: Vec<String>) -> Result<(), String> {
    let (system_id, _) = archive
        .source
        .identity()
        .ok_or("the data directory cannot be read")?;
    let line = Line::new(&archive.config.cluster, system_id);
    let repositories = archive
        .doors
        .plain(&line)
        .await
        .map_err(|error| error.to_string())?;
    let mut missing = 0;
    for repository in &repositories {
        let segments = still_missing(repository, &line, &names)
            .await
            .map_err(|error| error.to_string())?;
        if segments.is_empty() {
            continue;
        }
        missing = segments.len().max(missing);
        let what = GivenUp {
            node: archive.config.node.clone(),
            segments,
            at_ms: i64::try_from(stamp().0).unwrap_or(i64::MAX),
            why: "more than wal_queue_max_bytes waited to be archived".to_owned(),
        };
        note_given_up(repository, &line, &what)
            .await
            .map_err(|error| error.to_string())?;
    }
    if missing > 0 {
        let why = format!(
            "{missing} segments are missing in the archive: {} has given them up",
            archive.config.node
        );
        let ordered = propose(consensus, |at| {
            Command::Duty(Box::new(DutyChange::Order {
                kind: DutyKind::Backup,
                why,
                at,
            }))
        });
        if !ordered.await {
            return Err("the cluster cannot be told".to_owned());
        }
    }
    let removed = archive.pusher.ledger().remove(&names);
    removed.map_err(|error| error.to_string())
}

async fn propose(consensus: &Arc<dyn Consensus>, command: impl FnOnce(WallTime) -> Command) -> bool {
    match consensus.propose(command(stamp()), PROPOSAL).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "the cluster could not be told yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_known_after_a_restart_until_it_was_noted() {
        let dir = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(dir.path());
        for name in ["a", "b", "a"] {
            ledger.add(name).expect("writable");
        }
        let again = Ledger::open(dir.path());
        assert_eq!(again.names(), ["a", "b"]);
        again.remove(&["a".to_owned()]).expect("writable");
        assert_eq!(Ledger::open(dir.path()).names(), ["b"]);
        assert!(
            Ledger::open(&dir.path().join("nowhere")).add("c").is_err(),
            "it is not durable"
        );
    }
}
