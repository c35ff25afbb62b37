//! A restore of the whole cluster in place: the way to its target, and what `pgctl` orders.

use super::Archive;
use super::service::refuse;
use crate::ports::{Consensus, OpenOrder, PlannedRestore, ProposeError};
use crate::wall_time::stamp;
use agent_core::cluster::{ClusterState, Command, RestoreAct, RestorePoint, RestoreTarget};
use agent_core::ids::RequestId;
use agent_core::pg::{SystemId, TimelineId};
use proto::archive::{RestoreClusterReply, RestoreClusterRequest, RestoreClusterTarget};
use repository::{
    Catalogue, Inventory, Line, Plan, RecoveryOrder, Repository, Target, backups, inventory, plan, show_time,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

/// How long an order may take to be committed.
const PROPOSAL: Duration = Duration::from_secs(10);
/// Room beside the files of the backup, bytes: WAL that is replayed.
const SPARE: u64 = 256 << 20;

impl Archive {
    /// By the first repository that has a way.
    pub(super) async fn plan_in_place(
        &self,
        of: SystemId,
        major: Option<u32>,
        target: &RestoreTarget,
    ) -> Result<PlannedRestore, String> {
        let line = Line::new(&self.config.cluster, of);
        let (usable, trouble) = self.doors.usable(&line).await;
        let mut why = trouble.map_or_else(|| "no repository is there".to_owned(), |error| error.to_string());
        for opened in usable {
            match plan_with(&opened.plain, &line, major, target).await {
                Ok(planned) => return Ok(planned),
                Err(error) => why = format!("{}: {error}", opened.plain.name()),
            }
        }
        Err(why)
    }

    pub(super) fn recover_in_place(&self, order: Option<OpenOrder>) -> Result<(), String> {
        self.recovering.set(order)
    }

    /// The old data stay beside what is restored.
    fn check_room(&self, bytes: u64) -> Result<(), String> {
        let place = self.config.data_dir.parent().unwrap_or(Path::new("/"));
        let failed = |error| format!("{}: {error}", place.display());
        let volume = nix::sys::statvfs::statvfs(place).map_err(failed)?;
        #[expect(clippy::useless_conversion, reason = "its width differs between systems")]
        let free = u64::from(volume.blocks_available()).saturating_mul(u64::from(volume.fragment_size()));
        let needed = bytes.saturating_add(bytes / 5).saturating_add(SPARE);
        if free < needed {
            return Err(format!(
                "there is no room for the restored data beside the old ones: {needed} bytes are needed on the volume of \
                 {}, {free} are free",
                place.display()
            ));
        }
        Ok(())
    }
}

fn point(target: &RestoreTarget) -> Target {
    match &target.point {
        RestorePoint::Immediate => Target::Immediate,
        RestorePoint::Time(ms) => Target::Time(*ms),
        RestorePoint::Lsn(lsn) => Target::Lsn(*lsn),
        RestorePoint::Xid(xid) => Target::Xid(*xid),
        RestorePoint::Name(name) => Target::Name(name.clone()),
    }
}

async fn plan_with(
    repository: &Repository,
    line: &Line,
    major: Option<u32>,
    target: &RestoreTarget,
) -> Result<PlannedRestore, String> {
    let entries = backups(repository, line)
        .await
        .map_err(|error| error.to_string())?;
    let there = inventory(repository, line)
        .await
        .map_err(|error| error.to_string())?;
    let planned = plan(
        &entries,
        &there,
        &point(target),
        target.backup.as_deref(),
        target.timeline,
    );
    let planned = planned.map_err(|error| error.to_string())?;
    let entry = entries.iter().find(|entry| entry.id == planned.backup);
    let entry = entry.ok_or_else(|| format!("backup {} is not there any more", planned.backup))?;
    if let Some(major) = major.filter(|major| *major != entry.server_version / 10_000) {
        return Err(format!(
            "backup {} is of PostgreSQL {}, the servers are of {major}",
            entry.id,
            entry.server_version / 10_000
        ));
    }
    let order = RecoveryOrder::of(&planned, repository, line, &there);
    Ok(PlannedRestore {
        backup: entry.id.clone(),
        bytes: entry.bytes,
        order: serde_json::to_string(&order).map_err(|error| error.to_string())?,
        settings: settings(target, &planned),
        lines: describe(&planned, entry, &there),
    })
}

/// It stops at the target and waits there; only the cluster's own promotion takes it further.
fn settings(target: &RestoreTarget, planned: &Plan) -> Vec<(String, String)> {
    let (name, value) = match &target.point {
        RestorePoint::Immediate => ("recovery_target", "immediate".to_owned()),
        RestorePoint::Time(ms) => ("recovery_target_time", show_time(*ms)),
        RestorePoint::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
        RestorePoint::Xid(xid) => ("recovery_target_xid", xid.to_string()),
        RestorePoint::Name(name) => ("recovery_target_name", name.clone()),
    };
    let inclusive = if target.exclusive { "off" } else { "on" };
    let all = [
        (name, value),
        ("recovery_target_inclusive", inclusive.to_owned()),
        ("recovery_target_timeline", planned.timeline.to_string()),
        ("recovery_target_action", "pause".to_owned()),
        ("hot_standby", "on".to_owned()),
    ];
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn describe(planned: &Plan, entry: &Catalogue, there: &Inventory) -> Vec<String> {
    let megabytes = entry.bytes >> 20;
    let mut lines = vec![
        format!(
            "backup    {} of {}, ended {}, {megabytes} MiB",
            entry.id,
            entry.node,
            show_time(entry.ended_ms)
        ),
        format!("timeline  {}", planned.timeline),
        format!(
            "WAL       {} segments of {} MiB at most, up to {}",
            planned.segments,
            there.segment_bytes >> 20,
            planned.reach
        ),
    ];
    if let Some(ms) = planned.reach_ms {
        lines.push(format!(
            "          archived until {}; what was written since is taken from the node's own data",
            show_time(ms)
        ));
    }
    lines.extend(planned.holes.iter().map(|hole| {
        format!(
            "MISSING   {} to {}: what comes after is out of reach",
            hole.first, hole.last
        )
    }));
    lines
}

fn target_of(wire: Option<RestoreClusterTarget>) -> Result<RestoreTarget, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("the target is missing"))?;
    let odd = || Status::invalid_argument(format!("{:?} is no {}", wire.value, wire.kind));
    let point = match wire.kind.as_str() {
        "immediate" => RestorePoint::Immediate,
        "time" => RestorePoint::Time(wire.value.parse().map_err(|_| odd())?),
        "lsn" => RestorePoint::Lsn(wire.value.parse().map_err(|_| odd())?),
        "xid" => RestorePoint::Xid(wire.value.parse().map_err(|_| odd())?),
        // It becomes a setting; the server takes 63 bytes.
        "name" if (1..64).contains(&wire.value.len()) && !wire.value.contains(['\n', '\0']) => {
            RestorePoint::Name(wire.value.clone())
        }
        _ => return Err(odd()),
    };
    Ok(RestoreTarget {
        point,
        exclusive: wire.exclusive,
        backup: (!wire.backup.is_empty()).then(|| wire.backup.clone()),
        timeline: (wire.timeline > 0).then_some(TimelineId(wire.timeline)),
    })
}

fn show(target: &RestoreTarget) -> String {
    let before = if target.exclusive { "just before " } else { "" };
    match &target.point {
        RestorePoint::Immediate => "the end of the backup".to_owned(),
        RestorePoint::Time(ms) => format!("{before}{}", show_time(*ms)),
        RestorePoint::Lsn(lsn) => format!("{before}{lsn}"),
        RestorePoint::Xid(xid) => format!("{before}transaction {xid}"),
        RestorePoint::Name(name) => format!("restore point {name}"),
    }
}

/// How the restore stands, and how the last one ended.
fn status(consensus: &dyn Consensus) -> RestoreClusterReply {
    // The index first: a state that is read afterwards can only be newer.
    let applied_index = consensus.applied_index();
    let state = consensus.state();
    let last = state.restores.past.last();
    let last = last.map(|past| format!("{}: {}", show_time(past.at.0.cast_signed()), past.message));
    let mut reply = RestoreClusterReply {
        last: last.unwrap_or_default(),
        applied_index,
        next: "pgctl restore --in-place --preview --to-time ...".to_owned(),
        ..RestoreClusterReply::default()
    };
    let Some(running) = &state.restores.running else {
        return reply;
    };
    running.phase.name().clone_into(&mut reply.phase);
    reply.node = state.name_of(running.node);
    reply.target = show(&running.target);
    reply.round = running.round;
    reply.since_unix_ms = running.since.0;
    reply.trouble = running.trouble.clone().unwrap_or_default();
    if let Some(reached) = &running.reached {
        reply.reached_lsn = reached.position.lsn.to_string();
        reply.timeline = reached.position.timeline.0;
        reply.backup.clone_from(&reached.backup);
        reply.last_commit_unix_ms = reached.last_commit().map(|at| at.0);
    }
    reply.next = match (reply.phase.as_str(), reply.trouble.is_empty()) {
        ("inspecting", _) => {
            "read it on that node; then pgctl restore --commit, --step with another target, or --abort"
        }
        (_, false) => {
            "it is tried again; mend what it says, or pgctl restore --step with another target, or --abort"
        }
        _ => "wait; pgctl restore --abort puts everything back as it was",
    }
    .to_owned();
    reply
}

/// Carries out what `pgctl` asks; `preview` and `begin` are asked of the node that restores.
pub(super) async fn answer(
    archive: Option<&Arc<Archive>>,
    consensus: &Arc<dyn Consensus>,
    request: RestoreClusterRequest,
) -> Result<RestoreClusterReply, Status> {
    let state = consensus.state();
    let act = match request.act.as_str() {
        "status" => return Ok(status(consensus.as_ref())),
        "preview" | "begin" => {
            let target = target_of(request.target)?;
            let planned = check(archive, &state, &target, true).await?;
            if request.act == "preview" {
                let name = state.name_of(consensus.node_id());
                return Ok(RestoreClusterReply {
                    node: name,
                    target: show(&target),
                    lines: planned.lines,
                    ..status(consensus.as_ref())
                });
            }
            RestoreAct::Begin {
                node: consensus.node_id(),
                target,
            }
        }
        "step" => {
            let target = target_of(request.target)?;
            check(archive, &state, &target, false).await?;
            RestoreAct::Step { target }
        }
        "commit" => RestoreAct::Commit { round: request.round },
        "abort" => RestoreAct::Abort {
            why: "by an operator".to_owned(),
        },
        other => return Err(Status::invalid_argument(format!("{other:?} is no order"))),
    };
    if !(1..=100).contains(&request.request.len()) {
        return Err(Status::invalid_argument("a request's id has 1 to 100 characters"));
    }
    let command = Command::Restore {
        request: Some(RequestId(request.request)),
        act: Box::new(act),
        at: stamp(),
    };
    consensus
        .propose(command, PROPOSAL)
        .await
        .map_err(|error| match error {
            ProposeError::Rejected(rejected) => refuse(
                Code::FailedPrecondition,
                "restore-refused",
                rejected.to_string(),
                "pgctl restore --status",
            ),
            ProposeError::Unknown { .. } => refuse(
                Code::Unknown,
                "outcome-unknown",
                error.to_string(),
                "pgctl restore --status",
            ),
            error => refuse(
                Code::Unavailable,
                "no-raft-leader",
                error.to_string(),
                "pgctl status",
            ),
        })?;
    Ok(status(consensus.as_ref()))
}

/// Whether it can be done, before anything is stopped.
async fn check(
    archive: Option<&Arc<Archive>>,
    state: &ClusterState,
    target: &RestoreTarget,
    room: bool,
) -> Result<PlannedRestore, Status> {
    let cannot = |id, why: String, next| refuse(Code::FailedPrecondition, id, why, next);
    let archive = archive.ok_or_else(|| {
        cannot(
            "no-repository",
            "this node has no repository, or is a witness".to_owned(),
            "choose another node with --node, or add [[archive.repositories]] to its node.toml",
        )
    })?;
    let system_id = state.system_id.ok_or_else(|| {
        cannot(
            "no-database",
            "the cluster has no database yet".to_owned(),
            "pgctl restore --into",
        )
    })?;
    let planned = archive
        .plan_in_place(system_id, None, target)
        .await
        .map_err(|why| cannot("no-plan", why, "see `pgctl backup list` and `pgctl wal holes`"))?;
    if room {
        archive
            .check_room(planned.bytes)
            .map_err(|why| cannot("no-room", why, "make room, or choose another node with --node"))?;
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(kind: &str, value: &str) -> Option<RestoreClusterTarget> {
        Some(RestoreClusterTarget {
            kind: kind.to_owned(),
            value: value.to_owned(),
            ..RestoreClusterTarget::default()
        })
    }

    #[test]
    fn targets_are_taken_as_they_are_meant_or_not_at_all() {
        for (kind, value) in [
            ("time", "1"),
            ("lsn", "0/10"),
            ("xid", "7"),
            ("name", "a b"),
            ("immediate", ""),
        ] {
            assert!(target_of(wire(kind, value)).is_ok(), "{kind} {value}");
        }
        for (kind, value) in [
            ("time", "noon"),
            ("lsn", "x"),
            ("xid", "-1"),
            ("name", ""),
            ("name", "a\nb"),
            ("", ""),
        ] {
            assert!(target_of(wire(kind, value)).is_err(), "{kind} {value:?}");
        }
        assert!(target_of(None).is_err());
        let latest = target_of(wire("immediate", "")).expect("a target");
        assert_eq!(
            (latest.backup, latest.timeline),
            (None, None),
            "nothing means nothing"
        );
    }
}
