//! What a restore of the whole cluster does to this node's data directory.
//!
//! A file in the agent's state directory says so, from before the old data are renamed until they are put back, or until
//! the restored ones were promoted. While it is there the data directory is only started with its target.

use super::node::{Desk, Node};
use super::perform::{PerformError, note, server_of};
use crate::durable;
use crate::ports::{OpenOrder, Restores};
use crate::postgres::{PgError, Recovery, StopMode};
use crate::sealed::{self, Sealed};
use agent_core::cluster::{Command, RestoreAct, RestorePhase, RestoreTarget};
use agent_core::decide::node::RestoredData;
use agent_core::ids::RequestId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take to stop before it is restored over; nothing that it has is needed.
const STOP: Duration = Duration::from_secs(30);

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RestoredMark {
    data: RestoredData,
    /// Where the data from before are; `None` if there were none.
    aside: Option<PathBuf>,
    /// What the server may fetch, once the data are ready.
    order: String,
    /// The settings that hold it at its target.
    settings: Vec<(String, String)>,
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct RestoredFile {
    path: PathBuf,
}

impl RestoredFile {
    pub(super) fn new(state_dir: &Path) -> RestoredFile {
        RestoredFile {
            path: state_dir.join("restored-in-place.json"),
        }
    }

    /// What it says, if it is there. An error: whose data the directory holds is not known.
    pub(super) fn load(&self) -> Result<Option<RestoredMark>, String> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", self.path.display())),
        };
        let Sealed::Whole(text) = sealed::open(&bytes) else {
            return Err(format!("{} is damaged", self.path.display()));
        };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|error| error.to_string())
    }

    fn store(&self, mark: &RestoredMark) -> io::Result<()> {
        durable::replace(&self.path, sealed::seal(&serde_json::to_string(mark)?).as_bytes())
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::File::open(folder)?.sync_all()
    }
}

impl RestoredMark {
    pub(super) fn data(&self) -> &RestoredData {
        &self.data
    }

    fn open_order(&self) -> OpenOrder {
        OpenOrder {
            order: self.order.clone(),
            aside_wal: self.aside.as_ref().map(|aside| aside.join("pg_wal")),
        }
    }
}

impl Desk {
    fn set_restored(&mut self, mark: Option<RestoredMark>) -> io::Result<()> {
        match &mark {
            Some(mark) => self.restored_file.store(mark)?,
            None => self.restored_file.remove()?,
        }
        self.memory.restored = mark.as_ref().map(|mark| mark.data.clone());
        self.restored = mark;
        Ok(())
    }
}

/// The target that the server must be started with, if its data are restored ones that nobody was promoted with.
pub(super) fn recovery(node: &Node) -> Option<Recovery> {
    let desk = node.desk();
    let mark = desk.restored.as_ref().filter(|mark| mark.data.ready)?;
    Some(Recovery {
        settings: mark.settings.clone(),
    })
}

/// Whether the position of this node's server may be told with a pledge: restored data count once their restore is to be
/// committed, and not before.
pub(super) fn may_tell_position(node: &Node) -> bool {
    let state = node.consensus.state();
    let running = state.restores.running.as_ref();
    match &node.desk().memory.restored {
        None => true,
        Some(restored) => {
            restored.ready
                && running.is_some_and(|running| {
                    running.id == restored.id
                        && running.round == restored.round
                        && running.phase == RestorePhase::Committing
                })
        }
    }
}

/// After a start of the agent: goes on giving the restored server its WAL.
pub(crate) fn take_up(node: &Node, restores: &dyn Restores) {
    let order = {
        let desk = node.desk();
        desk.restored
            .as_ref()
            .filter(|mark| mark.data.ready)
            .map(RestoredMark::open_order)
    };
    if order.is_some()
        && let Err(error) = restores.recover_by(order)
    {
        tracing::error!(
            error,
            "the restored server gets no WAL: pgctl restore --abort, or --step"
        );
    }
}

fn recover_by(node: &Node, order: Option<OpenOrder>) -> Result<(), PerformError> {
    match node.restores.get() {
        Some(restores) => restores.recover_by(order).map_err(PerformError::Restore),
        None => Ok(()),
    }
}

pub(super) async fn restore(
    node: Arc<Node>,
    id: RequestId,
    round: u32,
    target: RestoreTarget,
    goes_on: bool,
) -> Result<(), PerformError> {
    let outcome = try_restore(&node, &id, round, target, goes_on).await;
    if let Err(error) = &outcome {
        let act = RestoreAct::Trouble {
            id,
            round,
            why: format!("{}: {error}", node.consensus.state().name_of(node.id())),
        };
        let command = Command::Restore {
            request: None,
            act: Box::new(act),
            at: crate::wall_time::stamp(),
        };
        // It is for people; the next attempt tells again.
        if let Err(error) = node.consensus.propose(command, Duration::from_secs(5)).await {
            tracing::warn!(%error, "the cluster could not be told why the restore does not come off");
        }
    }
    outcome
}

async fn try_restore(
    node: &Arc<Node>,
    id: &RequestId,
    round: u32,
    target: RestoreTarget,
    goes_on: bool,
) -> Result<(), PerformError> {
    let server = server_of(node)?;
    let missing = |what: &str| PerformError::Restore(format!("{what} is not there"));
    let restores = node.restores.get().ok_or_else(|| missing("a repository"))?;
    let system_id = node
        .consensus
        .state()
        .system_id
        .ok_or_else(|| missing("the database"))?;
    let major = server.instance.version_num() / 10_000;
    let mut hands = server.hands.lock().await;
    hands.conf = None;
    server.instance.stop(StopMode::Immediate, STOP).await?;
    server.instance.wait_exit(STOP).await?;
    let planned = restores
        .plan(system_id, major, target)
        .await
        .map_err(PerformError::Restore)?;
    let before = node.desk().restored.clone().filter(|mark| mark.data.id == *id);
    let aside = match &before {
        Some(mark) => mark.aside.clone(),
        None => server
            .instance
            .has_data()
            .then(|| server.instance.place_before_restore()),
    };
    let mut mark = RestoredMark {
        data: RestoredData {
            id: id.clone(),
            round,
            ready: false,
            backup: planned.backup.clone(),
        },
        aside,
        order: planned.order,
        settings: planned.settings,
    };
    if !goes_on {
        {
            let mut desk = node.desk();
            desk.set_restored(Some(mark.clone()))?;
            desk.mark(None, false)?;
        }
        recover_by(node, None)?;
        let (instance, place) = (server.instance.clone(), mark.aside.clone());
        blocking(move || match place {
            Some(place) => instance.make_way_for_restore(&place),
            None => instance.remove_restored(),
        })
        .await?;
        let backup = planned.backup.clone();
        server
            .instance
            .take_restored(|into| async move { restores.restore(system_id, backup, into).await })
            .await?;
    }
    mark.data.ready = true;
    recover_by(node, Some(mark.open_order()))?;
    node.desk().set_restored(Some(mark))?;
    Ok(())
}

async fn blocking(work: impl FnOnce() -> Result<(), PgError> + Send + 'static) -> Result<(), PerformError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| PerformError::Restore(error.to_string()))??;
    Ok(())
}

/// The old data come back in place of the restored ones.
pub(super) async fn put_back(node: Arc<Node>, id: RequestId) -> Result<(), PerformError> {
    let server = server_of(&node)?;
    let mut hands = server.hands.lock().await;
    hands.conf = None;
    let Some(mark) = node.desk().restored.clone().filter(|mark| mark.data.id == id) else {
        return Ok(());
    };
    recover_by(&node, None)?;
    let (instance, place) = (server.instance.clone(), mark.aside.clone());
    blocking(move || match place {
        Some(place) => instance.put_back(&place),
        None => instance.remove_restored(),
    })
    .await?;
    node.desk().set_restored(None)?;
    note(
        &node,
        "old-data-back",
        "the data from before the restore are in place".to_owned(),
    );
    Ok(())
}

/// The restored data are the cluster's from now on.
pub(super) fn keep(node: &Arc<Node>) -> Result<(), PerformError> {
    let Some(mark) = node.desk().restored.clone() else {
        return Ok(());
    };
    recover_by(node, None)?;
    node.desk().set_restored(None)?;
    if let Some(aside) = &mark.aside {
        note(
            node,
            "restored-data-kept",
            format!(
                "the data from before the restore are in {}; delete them when they are of no use any more",
                aside.display()
            ),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_as_it_was_written_and_damage_is_no_absence() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = RestoredFile::new(dir.path());
        assert_eq!(file.load(), Ok(None));
        let mark = RestoredMark {
            data: RestoredData {
                id: RequestId("r".to_owned()),
                round: 2,
                ready: true,
                backup: "b".to_owned(),
            },
            aside: Some(PathBuf::from("/data.before")),
            order: "{}".to_owned(),
            settings: vec![("recovery_target_lsn".to_owned(), "0/10".to_owned())],
        };
        file.store(&mark).expect("written");
        assert_eq!(file.load(), Ok(Some(mark)));
        let mut bytes = fs::read(&file.path).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file.path, bytes).expect("damaged");
        assert!(file.load().is_err());
        file.remove().expect("removed");
        file.remove().expect("and again");
        assert_eq!(file.load(), Ok(None));
    }
}
