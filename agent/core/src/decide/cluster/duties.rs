//! What is due by a schedule, and who does it: one node at a time, another one if that is lost, and nobody twice.

use super::{ClusterAction, CoordinatorView};
use crate::cluster::{
    BackupSourceRule, Command, Duty, DutyChange, DutyKind, DutyOutcome, DutyRecord, Settings,
};
use crate::decide::Decision;
use crate::ids::NodeId;
use crate::pg::Lsn;
use crate::reason::Reason;
use crate::schedule::Schedule;
use crate::time::WallTime;
use crate::view::{NodeReport, Server};
use std::collections::BTreeSet;
use std::time::Duration;

const ID: &str = "scheduled-work-has-a-node";
/// For how long a node that has claimed something may not be heard of, or not speak of it.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// The same once it has sealed its claim: it may be writing its last object.
const SEALED_LOST_AFTER: Duration = Duration::from_secs(180);
/// How long after an attempt that failed the next one follows, times their number; milliseconds.
const RETRY_MS: u64 = 15_000;
/// And no longer than this after it: what was ordered is tried until it comes off.
const RETRY_LONGEST_MS: u64 = 1_800_000;
/// After so many attempts a due time is given up.
const ATTEMPTS: u32 = 5;
/// A primary is taken instead of a standby only so long after the due time; milliseconds.
const PRIMARY_AFTER_MS: u64 = 600_000;

/// What to do about scheduled work, if anything.
pub(super) fn decide(view: &CoordinatorView<'_>) -> Option<Decision<ClusterAction>> {
    if view.state.pause.is_some() {
        return None;
    }
    let decided = DutyKind::ALL
        .into_iter()
        .filter_map(|kind| match view.state.duties.running.get(&kind) {
            Some(running) => watch(view, running),
            None => begin(view, kind),
        });
    // What waits for a node holds nothing else up.
    let mut waits = None;
    for decision in decided {
        if !decision.actions.is_empty() {
            return Some(decision);
        }
        waits = waits.or(Some(decision));
    }
    waits
}

/// Takes a claim away from a node that is lost, or that forgot it.
fn watch(view: &CoordinatorView<'_>, running: &Duty) -> Option<Decision<ClusterAction>> {
    let since = view.memory.duty_silent_since.get(&running.kind)?;
    let patience = if running.sealed {
        SEALED_LOST_AFTER
    } else {
        LOST_AFTER
    };
    if view.now.since(*since) < patience {
        return None;
    }
    let record = DutyRecord {
        kind: running.kind,
        id: running.id.clone(),
        node: view.name(running.node),
        due: Some(running.due),
        attempt: running.attempt,
        began: running.claimed_at,
        ended: view.wall,
        outcome: DutyOutcome::Lost,
        text: format!(
            "nothing was heard of it for {} s",
            view.now.since(*since).as_secs()
        ),
    };
    Some(change("duty-lost", DutyChange::End { record }))
}

/// Whether the node that has claimed `duty` speaks of it.
#[must_use]
pub fn is_heard_of(duty: &Duty, report: Option<&NodeReport>) -> bool {
    report.is_some_and(|report| {
        report.incarnation == duty.incarnation
            && report
                .archive
                .as_ref()
                .is_some_and(|archive| archive.duties.contains(&duty.id))
    })
}

fn begin(view: &CoordinatorView<'_>, kind: DutyKind) -> Option<Decision<ClusterAction>> {
    let due = match view.state.duties.ordered.get(&kind) {
        Some(order) => order.at,
        None => match scheduled(view, kind)? {
            Scheduled::Due(due) => due,
            Scheduled::Over(decision) => return Some(*decision),
        },
    };
    let late = view.wall.0.saturating_sub(due.0);
    let attempts = view.state.duties.attempts(kind, due);
    let last = view.state.duties.attempts_for(kind, due).last();
    let pause = RETRY_MS.saturating_mul(u64::from(attempts)).min(RETRY_LONGEST_MS);
    if last.is_some_and(|last| view.wall.0 < last.ended.0.saturating_add(pause)) {
        return None;
    }
    match candidate(view, kind, due, late) {
        Ok(report) => Some(change(
            "duty-claimed",
            DutyChange::Claim {
                duty: Duty {
                    kind,
                    id: label(kind, due, attempts + 1),
                    node: report.node,
                    incarnation: report.incarnation,
                    due,
                    attempt: attempts + 1,
                    claimed_at: view.wall,
                    sealed: false,
                },
            },
        )),
        Err(why) => Some(Decision::wait(
            "duty-waits",
            Reason::shut(
                ID,
                format!("a {} was due {} min ago, and {why}", kind.name(), late / 60_000),
                "a standby streams, close behind, with a repository and room on its disk; see pgctl list and pgctl wal status",
            ),
        )),
    }
}

/// What the schedule says.
enum Scheduled {
    Due(WallTime),
    /// It was due, and is not done.
    Over(Box<Decision<ClusterAction>>),
}

fn scheduled(view: &CoordinatorView<'_>, kind: DutyKind) -> Option<Scheduled> {
    let settings = &view.state.settings;
    // Settings are checked before they are taken.
    let schedule = Schedule::parse(kind.schedule(settings)).ok().flatten()?;
    let since = view.state.duties.since.get(&kind).copied().unwrap_or_default();
    let due = WallTime(schedule.last_due(view.wall.0, since.0)?);
    if view.state.duties.is_handled(kind, due, view.wall) {
        return None;
    }
    let late = view.wall.0 - due.0;
    if late < jitter_ms(&view.state.cluster_id, due, settings) {
        return None;
    }
    let skip = |why: String| {
        let at = view.wall;
        let decision = change("duty-skipped", DutyChange::Skip { kind, due, why, at });
        Some(Scheduled::Over(Box::new(decision)))
    };
    let window_ms = settings.backup_window_minutes.saturating_mul(60_000);
    if late >= window_ms {
        return skip(format!(
            "it was due {} min ago, and backup_window_minutes is {}",
            late / 60_000,
            settings.backup_window_minutes
        ));
    }
    let attempts = view.state.duties.attempts(kind, due);
    if attempts >= ATTEMPTS {
        return skip(format!("{attempts} attempts did not come off"));
    }
    Some(Scheduled::Due(due))
}

fn change(rule: &str, change: DutyChange) -> Decision<ClusterAction> {
    Decision::act(rule, ClusterAction::Propose(Command::Duty(Box::new(change))))
}

/// The same on every node: clusters that share a store do not all begin at the same minute.
fn jitter_ms(cluster_id: &str, due: WallTime, settings: &Settings) -> u64 {
    let most = settings.backup_jitter_minutes.saturating_mul(60_000);
    if most == 0 {
        return 0;
    }
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in cluster_id.bytes().chain(due.0.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash % most
}

/// Sorts by time, and tells attempts apart.
fn label(kind: DutyKind, due: WallTime, attempt: u32) -> String {
    format!("{}-{:013}-{attempt}", kind.name(), due.0)
}

/// The node that does it: the standby that is least in the way and least behind.
fn candidate<'a>(
    view: &'a CoordinatorView<'_>,
    kind: DutyKind,
    due: WallTime,
    late: u64,
) -> Result<&'a NodeReport, String> {
    if kind.needs_no_server() {
        return any_node(view, kind, due);
    }
    let settings = &view.state.settings;
    let holder = view.state.holder;
    let end = holder
        .and_then(|holder| view.fresh(holder)?.pg.as_ref()?.position())
        .map(|position| position.lsn);
    let tried: BTreeSet<&str> = view
        .state
        .duties
        .attempts_for(kind, due)
        .map(|record| record.node.as_str())
        .collect();
    let in_set = |node| {
        let rule = view.state.sync_rule();
        rule.is_some_and(|rule| rule.members.contains(&node) && rule.members.len() <= rule.k as usize)
    };
    let last = view.state.duties.last_done.get(&kind);
    let mut no = Vec::new();
    let mut fit = Vec::new();
    for (id, member) in view.state.data_members() {
        match unfit(view, id, end) {
            Some(why) => no.push(format!("{}: {why}", member.name)),
            None => fit.extend(view.fresh(id)),
        }
    }
    let lag = |report: &NodeReport| {
        let position = report.pg.as_ref().and_then(|pg| pg.position());
        end.zip(position)
            .map_or(u64::MAX, |(end, position)| end.bytes_since(position.lsn))
    };
    let best = fit.into_iter().min_by_key(|report| {
        let name = view.name(report.node);
        (
            // One that did not manage it is asked again last.
            tried.contains(name.as_str()),
            // The only one whose word commits wait for.
            in_set(report.node),
            last.is_none_or(|last| last.node != name),
            lag(report),
            report.node,
        )
    });
    if let Some(report) = best {
        return Ok(report);
    }
    let others = view
        .state
        .data_members()
        .filter(|(id, _)| Some(*id) != holder)
        .count();
    let primary_may = match settings.backup_from {
        BackupSourceRule::StandbyOnly => false,
        BackupSourceRule::PreferStandby => others == 0 || late >= PRIMARY_AFTER_MS,
        BackupSourceRule::Any => true,
    };
    let primary = holder
        .filter(|_| primary_may && kind != DutyKind::Drill)
        .and_then(|holder| view.fresh(holder))
        .filter(|report| archives(report) && well(report, settings));
    primary.ok_or_else(|| {
        if no.is_empty() {
            "there is no standby".to_owned()
        } else {
            no.join("; ")
        }
    })
}

/// For what needs no server: a node with the repositories, the primary's last.
fn any_node<'a>(
    view: &'a CoordinatorView<'_>,
    kind: DutyKind,
    due: WallTime,
) -> Result<&'a NodeReport, String> {
    let state = &view.state;
    let tried = |name: &str| {
        state
            .duties
            .attempts_for(kind, due)
            .any(|record| record.node == name)
    };
    let fit = state
        .data_members()
        .filter(|(id, _)| !state.maintenance.contains(id) && !state.fenced.contains_key(id))
        .filter_map(|(id, member)| Some((view.fresh(id).filter(|report| archives(report))?, &member.name)));
    let best = fit.min_by_key(|(report, name)| {
        (
            tried(name.as_str()),
            state.holder == Some(report.node),
            report.node,
        )
    });
    best.map(|(report, _)| report)
        .ok_or_else(|| "no node with a repository is heard of".to_owned())
}

/// Why a node is not asked; `None` if it may be.
fn unfit(view: &CoordinatorView<'_>, node: NodeId, end: Option<Lsn>) -> Option<String> {
    let state = &view.state;
    if state.holder == Some(node) {
        return Some("it is the primary".to_owned());
    }
    if state.maintenance.contains(&node) {
        return Some("it is in maintenance".to_owned());
    }
    if state.fenced.contains_key(&node) {
        return Some("it is fenced".to_owned());
    }
    let Some(report) = view.fresh(node) else {
        return Some("it is not heard of".to_owned());
    };
    if !archives(report) {
        return Some("it has no repository".to_owned());
    }
    if !well(report, &state.settings) {
        return Some("its server or its disk is not well".to_owned());
    }
    let standby = match report.pg.as_ref().map(|pg| &pg.server) {
        Some(Server::Standby(standby)) => standby,
        _ => return Some("its server is no standby".to_owned()),
    };
    if !standby
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.streaming)
    {
        return Some("it does not stream".to_owned());
    }
    let lag = end.map_or(0, |end| end.bytes_since(standby.replay));
    let most = state.settings.backup_lag_bytes;
    (lag > most).then(|| format!("it is {lag} bytes behind, {most} are allowed"))
}

fn archives(report: &NodeReport) -> bool {
    report.archive.is_some()
}

fn well(report: &NodeReport, settings: &Settings) -> bool {
    report
        .pg
        .as_ref()
        .is_some_and(|pg| pg.vitals.fit_to_serve(settings.disk_reserve_bytes))
}
