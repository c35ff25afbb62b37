//! A server that runs and does not work: it hangs, its disk stalls or is full, its connections are used up, or it dies
//! again and again.
//!
//! * **It hangs**: it is ended, whether or not another node could take over. Where one could, it does; where none can,
//!   the same server starts again, which is what a person would do. Each such restart in vain doubles the patience.
//! * **Its disk stalls**: the lease is given up only if another node could take over. A restart mends no disk, and once
//!   the disk goes on, so does the server.
//! * **Its WAL volume is full**: it is switched over to a node that has room. Where none has, it stays.
//! * **Its connections are used up**: that is load, not failure. It is named, and nothing is done.
//! * **It dies again and again**: the lease is given up, and starts are spread out.
//!
//! Nothing is done to a server while automation is paused or its node is in maintenance: whoever stopped it may be at
//! work on it.

use super::successor::successor;
use super::{Decision, NodeAction, NodeView};
use crate::cluster::{Command, SwitchoverPhase};
use crate::ids::RequestId;
use crate::reason::Reason;
use crate::time::WallTime;
use crate::view::Server;
use crate::vitals::{CRASH_LOOP, CRASH_WINDOW_MS, Vitals};
use std::time::Duration;

/// The ids of the reasons that say what ails a server that runs, or its disks.
pub const AILMENTS: [&str; 5] = [
    "server-works",
    "disk-takes-writes",
    "disk-has-room",
    "connections-are-free",
    "server-stays-up",
];
/// The rule by which a hung server is ended: whoever carries it out counts how often that was needed.
pub const SERVER_HANGS: &str = "server-hangs";
/// The patience with a hung server that nobody can replace is doubled at most so often.
const PATIENCE_DOUBLED: u32 = 4;
/// The pause before the next start of a server that does not stay up; it doubles with each further end.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a switchover that did not come off is not repeated, milliseconds.
const HAND_OVER_EVERY_MS: u64 = 60_000;

/// Whether the holder has to give its lease up although agent and server live. Looks at nothing that a hung disk or a
/// busy loop could keep from being current but the probes, so it can be asked beside the loop.
#[must_use]
pub fn give_way(view: &NodeView<'_>) -> Option<Decision<NodeAction>> {
    if !serves_under_lease(view) || hands_off(view).is_some() {
        return None;
    }
    let epoch = view.state.epoch;
    if let Some((path, why)) = stalled(view)
        && successor(view).is_ok()
    {
        return Some(Decision::act(
            "disk-stalls",
            NodeAction::Fence {
                epoch,
                why: format!("the disk of {path} {why}"),
            },
        ));
    }
    if !waits_for_its_disk(&view.pg.vitals) && hangs(view) {
        let (what, pulse) = view.pg.vitals.slowest();
        return Some(Decision::act(
            SERVER_HANGS,
            NodeAction::Fence {
                epoch,
                why: format!(
                    "{what} has had no answer for {}: {}",
                    seconds(pulse.silent_ms),
                    pulse.why
                ),
            },
        ));
    }
    None
}

/// A switchover away from a WAL volume that is full, before the server dies of it.
pub(super) fn hand_over_for_room(view: &NodeView<'_>) -> Option<NodeAction> {
    let reserve = view.state.settings.disk_reserve_bytes;
    let full = view.pg.vitals.wal_disk()?.is_full(reserve);
    let ordered = view.state.switchover.is_some() || view.state.failover_order.is_some();
    if !full || ordered || hands_off(view).is_some() {
        return None;
    }
    // One name for the attempts of a minute: what did not come off is not repeated at once.
    let attempt = view.now.0 / HAND_OVER_EVERY_MS;
    let request = RequestId(format!("disk-full-{}-e{}-{attempt}", view.me, view.state.epoch));
    if view.state.requests.iter().any(|(known, _)| *known == request) {
        return None;
    }
    Some(NodeAction::Propose(Command::StartSwitchover {
        request,
        to: successor(view).ok()?,
        at: WallTime(0),
    }))
}

/// How much longer a server that dies again and again is left alone; `None` if it may be started.
pub(super) fn pause_between_starts(vitals: &Vitals) -> Option<Duration> {
    let ago = Duration::from_millis(vitals.crashed_ms_ago?);
    let beyond = vitals.crashes.checked_sub(CRASH_LOOP)?;
    let pause = FIRST_PAUSE.saturating_mul(1 << beyond.min(8)).min(LONGEST_PAUSE);
    pause.checked_sub(ago).filter(|left| !left.is_zero())
}

/// Whether the server has been without an answer for long enough.
pub(super) fn hangs(view: &NodeView<'_>) -> bool {
    let (_, pulse) = view.pg.vitals.slowest();
    pulse.silent_ms >= patience_ms(view)
}

/// A server that waits for its disk is not helped by a restart.
fn waits_for_its_disk(vitals: &Vitals) -> bool {
    vitals.slowest_disk().is_some_and(|disk| disk.pulse.is_late())
}

/// `hang_after_ms`; longer where the last restarts of a server that nobody can replace have not helped.
fn patience_ms(view: &NodeView<'_>) -> u64 {
    let once = view.state.settings.hang_after_ms;
    match view.pg.vitals.hangs {
        0 => once,
        _ if successor(view).is_ok() => once,
        hangs => once << hangs.min(PATIENCE_DOUBLED),
    }
}

/// The folder whose disk has stalled, and for how long.
fn stalled(view: &NodeView<'_>) -> Option<(String, String)> {
    let disk = view.pg.vitals.slowest_disk()?;
    (disk.pulse.silent_ms >= view.state.settings.io_stall_after_ms).then(|| {
        let silent = seconds(disk.pulse.silent_ms);
        (
            disk.path.clone(),
            format!("has taken no write for {silent}: {}", disk.pulse.why),
        )
    })
}

fn serves_under_lease(view: &NodeView<'_>) -> bool {
    let epoch = view.state.epoch;
    let stopping = view
        .state
        .switchover
        .as_ref()
        .is_some_and(|running| running.from == view.me && running.phase == SwitchoverPhase::Stopping);
    view.state.holder == Some(view.me)
        && view.lease.valid
        && view.lease.epoch == epoch
        && view.lease.fenced < epoch
        && !stopping
        && matches!(view.pg.server, Server::Primary(_) | Server::Unresponsive { .. })
}

/// Why nothing is done about what ails the server.
fn hands_off(view: &NodeView<'_>) -> Option<&'static str> {
    if view.state.pause.is_some() {
        Some("nothing while automation is paused: pgctl resume")
    } else if view.state.maintenance.contains(&view.me) {
        Some("nothing while the node is in maintenance: pgctl member maintenance NODE off")
    } else {
        None
    }
}

/// What ails this node's server or its disks, and what follows from it.
pub(super) fn reasons(view: &NodeView<'_>) -> Vec<Reason> {
    let vitals = &view.pg.vitals;
    let holds = view.state.holder == Some(view.me);
    let mut reasons = Vec::new();
    let (what, pulse) = vitals.slowest();
    if pulse.is_late() {
        let found = format!(
            "{what} has had no answer for {}: {}",
            seconds(pulse.silent_ms),
            pulse.why
        );
        let next = match (hands_off(view), holds) {
            (Some(why), _) => why.to_owned(),
            (None, true) if waits_for_its_disk(vitals) => {
                "its disk goes on: see disk-takes-writes".to_owned()
            }
            (None, true) => format!(
                "it answers, or is ended after {}; {}",
                seconds(patience_ms(view)),
                match successor(view) {
                    Ok(to) => format!("{} could take over", view.state.name_of(to)),
                    Err(why) => format!("it then starts again here, for {why}"),
                }
            ),
            (None, false) => {
                "look for a stopped process, exhausted memory or a stalled disk; restart the server"
                    .to_owned()
            }
        };
        reasons.push(Reason::shut("server-works", found, next));
    }
    for disk in vitals.disks.iter().filter(|disk| disk.pulse.is_late()) {
        let found = format!(
            "the disk of {} ({}) has taken no write for {}: {}",
            disk.path,
            disk.purpose(),
            seconds(disk.pulse.silent_ms),
            disk.pulse.why
        );
        let next = match (hands_off(view), holds) {
            (Some(why), _) => why.to_owned(),
            (None, true) => match successor(view) {
                Ok(to) => format!(
                    "it goes on, or after {} {} takes over",
                    seconds(view.state.settings.io_stall_after_ms),
                    view.state.name_of(to)
                ),
                Err(why) => format!("it goes on; nobody takes over, for {why}"),
            },
            (None, false) => "mend the disk: the kernel's log says what it waits for".to_owned(),
        };
        reasons.push(Reason::shut("disk-takes-writes", found, next));
    }
    reasons.extend(room(view, holds));
    if let Some(connections) = vitals
        .connections
        .filter(|connections| connections.are_exhausted())
    {
        reasons.push(Reason::shut(
            "connections-are-free",
            format!("{} of {} connections are in use", connections.used, connections.limit),
            "the server works on, and nothing is done: end idle sessions, put a pooler before it, or raise max_connections",
        ));
    }
    if vitals.crash_loops() {
        reasons.push(Reason::shut(
            "server-stays-up",
            format!(
                "the server ended soon after its start, {} times within {}",
                vitals.crashes,
                seconds(CRASH_WINDOW_MS)
            ),
            "read its log, and mend what it says; it is started again after a pause",
        ));
    }
    reasons
}

fn room(view: &NodeView<'_>, holds: bool) -> Vec<Reason> {
    let reserve = view.state.settings.disk_reserve_bytes;
    let full = view.pg.vitals.disks.iter().filter(|disk| disk.is_full(reserve));
    full.map(|disk| {
        let found = format!(
            "the volume of {} ({}) has {} bytes free of {}, fewer than {}{}",
            disk.path,
            disk.purpose(),
            disk.free_bytes.unwrap_or_default(),
            disk.total_bytes,
            disk.full_below(reserve),
            if disk.ballast_bytes == 0 {
                "; its ballast is used up"
            } else {
                ""
            }
        );
        let free = "make room: drop or move data, look for slots that keep WAL and for archiving that fails";
        let next = match (disk.wal && holds, hands_off(view)) {
            (true, None) => match successor(view) {
                Ok(to) => format!("{} takes over; {free}", view.state.name_of(to)),
                Err(why) => format!("the primary stays, for {why}; {free}"),
            },
            _ => free.to_owned(),
        };
        Reason::shut("disk-has-room", found, next)
    })
    .collect()
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
