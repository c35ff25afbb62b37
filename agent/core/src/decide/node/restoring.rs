//! While the whole cluster is restored in place: every server but the restored one is down, and that one is never
//! promoted here. After the grant the holder's own rules promote it like any standby.

use super::{Decision, NodeAction, NodeView, RestoredData};
use crate::cluster::{Command, InPlaceRestore, RestoreAct, RestorePhase, RestoreReached};
use crate::pg::ControlState;
use crate::reason::Reason;
use crate::time::WallTime;
use crate::view::{Server, StandbyView};

const ID: &str = "no-restore-in-the-way";

/// What a restore asks of this node; `None` where the ordinary rules hold.
pub(super) fn decide(view: &NodeView<'_>) -> Option<Decision<NodeAction>> {
    let running = view.state.restores.running.as_ref();
    if let Some(restored) = &view.memory.restored
        && running.is_none_or(|running| running.id != restored.id)
    {
        return match view.state.restores.ended(&restored.id) {
            Some(true) => take_over(view, restored),
            Some(false) => Some(put_back(view, restored)),
            // An agent that has just started may not know of it yet.
            None => Some(wait(
                view,
                "the state of this agent does not have the restore of its data yet",
            )),
        };
    }
    let running = running?;
    let holds = view.state.holder == Some(view.me);
    // Once the old data are out of the way no server of that epoch can run here.
    let has_old_data = view.memory.restored.is_none();
    if running.phase == RestorePhase::Stopping {
        if !has_old_data {
            return Some(wait(view, "this agent is behind: its node restores already"));
        }
        return holds.then(|| end_the_epoch(view));
    }
    if holds && has_old_data && view.lease.fenced < view.state.epoch {
        return Some(end_the_epoch(view));
    }
    Some(if running.node == view.me {
        restore(view, running)
    } else {
        stay_down(view)
    })
}

fn wait(view: &NodeView<'_>, found: &str) -> Decision<NodeAction> {
    let at = view.state.restores.running.as_ref();
    let found = match at {
        Some(running) => format!("{found} ({})", running.phase.name()),
        None => found.to_owned(),
    };
    let next = "pgctl restore --status, then --commit, --step or --abort";
    Decision::wait("restore-under-way", Reason::shut(ID, found, next))
}

/// The primary shuts down, and says so: its receipt is what lets the others go on at once.
fn end_the_epoch(view: &NodeView<'_>) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    match &view.pg.server {
        _ if view.lease.fenced >= epoch => wait(view, "the cluster is stopped to be restored"),
        Server::Primary(_) => Decision::act("stop-for-restore", NodeAction::Shutdown { epoch }),
        _ => Decision::act(
            "end-for-restore",
            NodeAction::Fence {
                epoch,
                why: "the cluster is stopped to be restored".to_owned(),
            },
        ),
    }
}

fn stay_down(view: &NodeView<'_>) -> Decision<NodeAction> {
    match &view.pg.server {
        Server::Down | Server::NoData | Server::Unusable { .. } | Server::Busy { .. } => {
            wait(view, "the cluster is being restored on another node")
        }
        Server::Starting | Server::Standby(_) | Server::Primary(_) | Server::Unresponsive { .. } => {
            Decision::act("down-for-restore", NodeAction::Stop)
        }
    }
}

fn restore(view: &NodeView<'_>, running: &InPlaceRestore) -> Decision<NodeAction> {
    let restored = view.memory.restored.as_ref().filter(|restored| restored.ready);
    let current = restored.filter(|restored| restored.round == running.round);
    match (&view.pg.server, current) {
        (Server::Busy { .. } | Server::Unusable { .. }, _) => Decision::rest("server-not-free"),
        (Server::Starting, Some(_)) => wait(view, "the restored server recovers"),
        (Server::Unresponsive { .. }, Some(_)) => wait(view, "the restored server does not answer"),
        (Server::Standby(standby), Some(restored)) => tell(view, running, restored, standby),
        (Server::Starting | Server::Standby(_) | Server::Unresponsive { .. }, None) => {
            Decision::act("stop-to-restore", NodeAction::Stop)
        }
        // Somebody has promoted it by hand: what it wrote counts for nothing.
        (Server::Primary(_), _) => begin(running, false),
        (Server::Down | Server::NoData, _) => match view.may_retry() {
            Err(at) => Decision::rest("restore-failed").again(at, "try to restore again"),
            Ok(()) if current.is_some() && view.pg.server == Server::Down => {
                Decision::act("start-restored", NodeAction::Start { conf: view.alone() })
            }
            Ok(()) => {
                let before =
                    restored.is_some_and(|restored| restored.round.saturating_add(1) == running.round);
                begin(running, before && running.goes_on())
            }
        },
    }
}

fn begin(running: &InPlaceRestore, goes_on: bool) -> Decision<NodeAction> {
    Decision::act(
        "restore-in-place",
        NodeAction::RestoreInPlace {
            id: running.id.clone(),
            round: running.round,
            target: running.target.clone(),
            goes_on,
        },
    )
}

/// At its target it is told of once; from then on people decide.
fn tell(
    view: &NodeView<'_>,
    running: &InPlaceRestore,
    restored: &RestoredData,
    standby: &StandbyView,
) -> Decision<NodeAction> {
    if running.phase != RestorePhase::Restoring {
        return wait(view, "the restored server can be read, and nobody can write");
    }
    if !standby.replay_paused {
        return wait(view, "the restored server has not reached its target yet");
    }
    let reached = RestoreReached {
        position: standby.position,
        backup: restored.backup.clone(),
        replay_age_ms: standby.replay_age_ms,
        at: WallTime(0),
    };
    Decision::act(
        "restore-reached",
        NodeAction::Propose(Command::Restore {
            request: None,
            act: Box::new(RestoreAct::Reached {
                id: running.id.clone(),
                round: running.round,
                reached,
            }),
            at: WallTime(0),
        }),
    )
}

/// The restore was given up: the old data come back before anything else is done.
fn put_back(view: &NodeView<'_>, restored: &RestoredData) -> Decision<NodeAction> {
    match &view.pg.server {
        Server::Busy { .. } | Server::Unusable { .. } => Decision::rest("server-not-free"),
        Server::Down | Server::NoData => match view.may_retry() {
            Ok(()) => Decision::act(
                "put-old-data-back",
                NodeAction::PutBack {
                    id: restored.id.clone(),
                },
            ),
            Err(at) => Decision::rest("put-back-failed").again(at, "try to put the old data back"),
        },
        Server::Starting | Server::Standby(_) | Server::Primary(_) | Server::Unresponsive { .. } => {
            Decision::act("stop-to-put-back", NodeAction::Stop)
        }
    }
}

/// The restore was committed. Until the promotion the server is started with its target; afterwards, and if another node
/// is the holder by now, like any other.
fn take_over(view: &NodeView<'_>, restored: &RestoredData) -> Option<Decision<NodeAction>> {
    let keep = || {
        let id = restored.id.clone();
        Some(Decision::act("keep-restored", NodeAction::KeepRestored { id }))
    };
    let line = view.state.restores.line.map(|line| line.timeline);
    // It was started at its target since it was restored, so only a promotion has taken it out of recovery.
    let promoted = view.pg.control.is_some_and(|control| {
        control.state == ControlState::InProduction || line.is_some_and(|line| control.timeline >= line)
    });
    let holds = view.state.holder == Some(view.me);
    match &view.pg.server {
        Server::Primary(_) if holds => keep(),
        Server::Down if promoted => keep(),
        Server::Down | Server::NoData if !holds => keep(),
        // It was started with a target, which it must not keep as a standby.
        Server::Starting | Server::Standby(_) | Server::Unresponsive { .. } if !holds => {
            Some(Decision::act("restart-without-target", NodeAction::Stop))
        }
        _ => None,
    }
}
