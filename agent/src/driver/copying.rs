//! A node without data gets its copy.

use super::node::{Errand, Node};
use super::perform::{PerformError, errand, note, server_of};
use crate::postgres::PgError;
use agent_core::cluster::ClusterState;
use agent_core::decide::node::{BackupSight, Rung};
use agent_core::ids::Epoch;
use agent_core::time::MonoTime;
use agent_core::view::Upstream;
use std::sync::Arc;
use std::time::Duration;

/// For how long it is believed which backup is the newest.
const BELIEVED: Duration = Duration::from_secs(60);
/// A store that does not answer in time has no backup.
const LOOK: Duration = Duration::from_secs(15);

/// The newest backup, as far as it is known.
pub(super) fn known_backup(node: &Node, now: MonoTime) -> Option<Option<BackupSight>> {
    if node.restores.get().is_none() {
        return Some(None);
    }
    let desk = node.desk();
    let (at, found) = desk.backup.as_ref()?;
    (now.since(*at) < BELIEVED).then(|| found.clone())
}

pub(super) fn look_for_backup(node: &Arc<Node>, state: &ClusterState) {
    let (Some(system_id), Some(restores), Some(server)) =
        (state.system_id, node.restores.get().cloned(), &node.server)
    else {
        return;
    };
    let major = server.instance.version_num() / 10_000;
    let looking = node.clone();
    errand(node, Errand::LookForBackup, async move {
        let looked = tokio::time::timeout(LOOK, restores.newest(system_id, major)).await;
        let found = match looked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(error, "no backup to restore from can be found");
                None
            }
            Err(_) => {
                tracing::warn!("the repositories do not answer in time; they are done without");
                None
            }
        };
        let now = looking.clock.now();
        looking.desk().backup = Some((now, found));
        Ok(())
    });
}

/// A base backup of a running server.
pub(super) async fn copy(node: Arc<Node>, from: Upstream, epoch: Epoch) -> Result<(), PerformError> {
    let server = server_of(&node)?;
    let mut hands = server.hands.lock().await;
    hands.conf = None;
    let rung = (!is_holder(&node.consensus.state(), &from)).then_some(Rung::Standby);
    let progress = |bytes: u64, total: Option<u64>| tracing::debug!(bytes, total, "base backup");
    tracing::info!(host = from.host, port = from.port, "copying a running server");
    if let Err(error) = server.instance.base_backup(&from, progress).await {
        node.desk().memory.failed_rungs.extend(rung);
        return Err(error.into());
    }
    came(&node, epoch, rung)
}

/// A backup out of a repository; what was written since then comes from the archive, and by streaming.
pub(super) async fn restore(node: Arc<Node>, backup: String, epoch: Epoch) -> Result<(), PerformError> {
    let server = server_of(&node)?;
    let mut hands = server.hands.lock().await;
    hands.conf = None;
    let source = node.restores.get().cloned().zip(node.consensus.state().system_id);
    let (restores, system_id) = source.ok_or(PgError::NotRunning {
        doing: "restore without a repository",
    })?;
    let id = backup.clone();
    let restored = server
        .instance
        .take_restored(|into| async move { restores.restore(system_id, id, into).await })
        .await;
    if let Err(error) = restored {
        let mut desk = node.desk();
        desk.memory.failed_rungs.insert(Rung::Repository);
        return Err(error.into());
    }
    note(
        &node,
        "restored-from-backup",
        format!("its data is that of backup {backup}"),
    );
    came(&node, epoch, Some(Rung::Repository))
}

fn came(node: &Node, epoch: Epoch, by: Option<Rung>) -> Result<(), PerformError> {
    let mut desk = node.desk();
    desk.mark(Some(epoch), false)?;
    desk.came_by = by;
    desk.memory.diverged = None;
    desk.memory.rewind_failed = None;
    Ok(())
}

fn is_holder(state: &ClusterState, from: &Upstream) -> bool {
    let address = state
        .holder
        .and_then(|holder| state.members.get(&holder))
        .and_then(|member| member.postgres.rsplit_once(':'));
    address.is_some_and(|(host, port)| {
        host.trim_matches(['[', ']']) == from.host && port.parse() == Ok(from.port)
    })
}
