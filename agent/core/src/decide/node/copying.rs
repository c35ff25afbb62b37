//! Where a node without data gets its copy from, cheapest for the primary first: a backup of a repository, with the WAL
//! since then from the archive; another standby; the primary.

use super::standby::{holder_serves, wait_for_source};
use super::{BackupSight, Decision, NodeAction, NodeView};
use crate::ids::NodeId;
use crate::pg::Lsn;
use crate::reason::Reason;
use crate::view::{NodeReport, Server};
use serde::{Deserialize, Serialize};

const ID: &str = "copy-spares-the-primary";
/// The rule that waits until somebody has looked for a backup.
pub const LOOK_FOR_A_BACKUP: &str = "look-for-a-backup";
/// So much WAL may always be replayed after a restore, bytes: it costs less than what is around it.
const REPLAY_ALWAYS: u64 = 256 << 20;

/// A rung of the ladder above the last one, which is the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    Repository,
    Standby,
}

/// What to do about a node that has no data.
pub(super) fn decide(view: &NodeView<'_>, holder: NodeId) -> Decision<NodeAction> {
    if let Err(at) = view.may_retry() {
        return Decision::rest("copy-failed").again(at, "try to copy again");
    }
    let epoch = view.state.epoch;
    let Some(primary) = view.upstream(holder).filter(|_| holder_serves(view)) else {
        return wait_for_source(view, holder);
    };
    let backup = match from_repository(view) {
        Ok(Some(backup)) => {
            let found = format!(
                "it is restored from backup {}, {} bytes; the WAL since {} comes from the archive",
                backup.id, backup.bytes, backup.start
            );
            let backup = backup.id.clone();
            return Decision::act("restore-a-backup", NodeAction::Restore { backup, epoch })
                .because(Reason::open(ID, found));
        }
        Ok(None) => return Decision::rest(LOOK_FOR_A_BACKUP),
        Err(why) => why,
    };
    match from_standby(view, holder) {
        Ok(standby) => {
            let name = view.state.name_of(standby);
            match view.upstream(standby) {
                Some(from) => Decision::act("copy-from-standby", NodeAction::Copy { from, epoch }).because(
                    Reason::open(
                        ID,
                        format!("it is copied from the standby {name}; no backup: {backup}"),
                    ),
                ),
                None => from_primary(view, holder, primary, &backup, "its address is not known"),
            }
        }
        Err(why) => from_primary(view, holder, primary, &backup, &why),
    }
}

fn from_primary(
    view: &NodeView<'_>,
    holder: NodeId,
    from: crate::view::Upstream,
    backup: &str,
    standby: &str,
) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    Decision::act("copy-from-primary", NodeAction::Copy { from, epoch }).because(Reason::shut(
        ID,
        format!(
            "it is copied from the primary {}; no backup: {backup}; no standby: {standby}",
            view.state.name_of(holder)
        ),
        "nothing need be done; a backup in a repository would spare the primary (pgctl backup create)",
    ))
}

/// The backup to restore; `Ok(None)` while it is not known whether there is one.
fn from_repository<'a>(view: &'a NodeView<'_>) -> Result<Option<&'a BackupSight>, String> {
    if view.memory.failed_rungs.contains(&Rung::Repository) {
        return Err("the last one could not be used".to_owned());
    }
    let Some(looked) = &view.backup else {
        return Ok(None);
    };
    let backup = looked.as_ref().ok_or("there is none")?;
    let primary = view
        .holder
        .as_ref()
        .and_then(|report| report.pg.as_ref())
        .and_then(|pg| match &pg.server {
            Server::Primary(primary) => Some(primary),
            _ => None,
        })
        .ok_or("the primary does not tell where it is")?;
    let on_line = backup.timeline == primary.position.timeline
        || primary
            .history
            .end_of(backup.timeline)
            .is_some_and(|end| backup.stop <= end);
    if !on_line {
        return Err(format!("{} is not on the primary's line", backup.id));
    }
    let replay = primary.position.lsn.bytes_since(backup.start);
    if replay > backup.bytes.max(REPLAY_ALWAYS) {
        return Err(format!(
            "{} would have to replay {replay} bytes of WAL, more than a copy has",
            backup.id
        ));
    }
    Ok(Some(backup))
}

/// The standby that is least behind, of those that stream in this epoch.
fn from_standby(view: &NodeView<'_>, holder: NodeId) -> Result<NodeId, String> {
    if view.memory.failed_rungs.contains(&Rung::Standby) {
        return Err("the last copy of one failed".to_owned());
    }
    let state = &view.state;
    let fit = view.peers.iter().filter_map(|report| {
        let left_out = report.node == holder
            || report.node == view.me
            || state.maintenance.contains(&report.node)
            || state.fenced.contains_key(&report.node);
        let position = streams(view, report).filter(|_| !left_out)?;
        Some((position, report.node))
    });
    fit.max_by_key(|(position, node)| (*position, std::cmp::Reverse(*node)))
        .map(|(_, node)| node)
        .ok_or_else(|| "none streams".to_owned())
}

/// How far the standby's WAL reaches, if it follows the holder of this epoch and is well.
fn streams(view: &NodeView<'_>, report: &NodeReport) -> Option<Lsn> {
    let pg = report.pg.as_ref()?;
    let Server::Standby(standby) = &pg.server else {
        return None;
    };
    let name = view.state.application_name(report.node, view.state.epoch);
    let follows = standby
        .upstream
        .as_ref()
        .is_some_and(|upstream| upstream.application_name == name);
    let streaming = standby
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.streaming);
    let well = pg.vitals.fit_to_serve(view.state.settings.disk_reserve_bytes);
    let on_timeline = standby.position.timeline == view.state.timeline;
    (follows && streaming && well && on_timeline).then_some(standby.position.lsn)
}
