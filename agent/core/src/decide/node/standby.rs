//! A node that does not hold the epoch: it follows the holder, or is brought back to where it can.
//!
//! The ladder, cheapest first: follow on; start and follow; `pg_rewind`; a new copy with the old data directory set
//! aside (`copying` says from where). Whether a server left the holder's line is judged by timeline history and LSN, with the server
//! running and its upstream cut: only then is the end of its WAL known.

use super::{Decision, NodeAction, NodeView, ailing, copying};
use crate::ids::NodeId;
use crate::pg::{ControlState, Position};
use crate::reason::Reason;
use crate::sabotage::Rule;
use crate::view::{Server, StandbyView};
use std::time::Duration;

/// How long a standby may fail to stream from a healthy holder before it is copied anew. Its WAL is then gone on the
/// holder, or its data is not what it seems to be.
const COPY_AFTER: Duration = Duration::from_secs(60);

pub(super) fn decide(view: &NodeView<'_>, holder: NodeId) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    let pledged = view.pledge > epoch;
    match &view.pg.server {
        Server::Primary(_) => Decision::act(
            "writable-without-the-epoch",
            NodeAction::Fence {
                epoch: crate::ids::Epoch(epoch.0.saturating_sub(1)),
                why: format!("{} holds epoch {epoch}", view.state.name_of(holder)),
            },
        ),
        Server::NoData => copying::decide(view, holder),
        Server::Down => bring_back(view, holder, pledged),
        Server::Standby(_) if pledged => stay_cut(view),
        Server::Standby(standby) => follow(view, holder, standby),
        Server::Starting => Decision::rest("server-starting"),
        // It was left hung by an agent that could not end it any more.
        Server::Unresponsive { .. } if was_writable(view) && ailing::hangs(view) => Decision::act(
            "hung-without-the-epoch",
            NodeAction::Fence {
                epoch: crate::ids::Epoch(epoch.0.saturating_sub(1)),
                why: format!("it hangs, and {} holds epoch {epoch}", view.state.name_of(holder)),
            },
        ),
        Server::Unresponsive { why } => Decision::wait(
            "server-unresponsive",
            Reason::shut("server-answers", why.clone(), "it answers"),
        ),
        Server::Unusable { .. } | Server::Busy { .. } => Decision::rest("server-not-free"),
    }
}

/// Whether the control file says that the server was out of recovery when it was last heard of.
fn was_writable(view: &NodeView<'_>) -> bool {
    view.pg
        .control
        .is_some_and(|control| control.state == ControlState::InProduction)
}

fn stay_cut(view: &NodeView<'_>) -> Decision<NodeAction> {
    let conf = view.alone();
    if !Rule::PledgedStandbyIsCutOff.is_off() && view.conf.as_ref() != Some(&conf) {
        return Decision::act(
            "cut-off-as-pledged",
            NodeAction::Configure { conf, lineage: None },
        );
    }
    Decision::wait(
        "pledged",
        Reason::shut(
            "next-epoch-granted",
            format!("this node has pledged to epoch {}", view.pledge),
            "the coordinator grants that epoch: see the other reasons",
        ),
    )
}

fn bring_back(view: &NodeView<'_>, holder: NodeId, pledged: bool) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    if let Err(at) = view.may_retry() {
        return Decision::rest("job-failed").again(at, "try again");
    }
    if view.memory.broken || view.memory.rewind_failed == Some(epoch) {
        return copy_anew(view, holder, "its rewind failed");
    }
    // A node that has pledged stands by the position that it told: its data stays as it is.
    if view.memory.diverged == Some(epoch) && !pledged {
        return rewind(view, holder);
    }
    match view.following(holder) {
        Some(conf) if !pledged && view.memory.lineage == Some(epoch) => {
            Decision::act("start-and-follow", NodeAction::Start { conf })
        }
        _ => Decision::act("start-to-compare", NodeAction::Start { conf: view.alone() }),
    }
}

/// Where this server's data stands towards the holder's.
enum Line {
    /// Nothing here is missing there.
    Same,
    /// It has WAL that the holder has not.
    Left,
    /// The holder has not told its history yet.
    Unknown,
}

fn line(view: &NodeView<'_>, position: Position) -> Line {
    let epoch = view.state.epoch;
    if view.memory.diverged == Some(epoch) {
        return Line::Left;
    }
    // Timeline numbers are reserved: what is on this epoch's timeline can only come from this epoch's holder.
    if view.memory.lineage == Some(epoch) || position.timeline == view.state.timeline {
        return Line::Same;
    }
    if view
        .state
        .granted_at
        .is_some_and(|at| at.timeline == position.timeline && position.lsn <= at.lsn)
    {
        return Line::Same;
    }
    let history = view
        .holder
        .as_ref()
        .and_then(|report| report.pg.as_ref())
        .and_then(|pg| match &pg.server {
            Server::Primary(primary) if primary.position.timeline >= view.state.timeline => {
                Some(&primary.history)
            }
            _ => None,
        });
    match history.map(|history| history.end_of(position.timeline)) {
        None => Line::Unknown,
        Some(Some(end)) if position.lsn <= end => Line::Same,
        Some(_) => Line::Left,
    }
}

fn follow(view: &NodeView<'_>, holder: NodeId, standby: &StandbyView) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    match line(view, standby.position) {
        Line::Left => match view.upstream(holder) {
            None => holder_has_no_address(view, holder),
            Some(source) => Decision::act("stop-to-rewind", NodeAction::StopDiverged { epoch, source }),
        },
        Line::Unknown => {
            let conf = view.alone();
            if view.conf.as_ref().is_some_and(|now| now.upstream.is_some()) {
                // The upstream of an older epoch must not feed it any more.
                return Decision::act(
                    "leave-the-old-primary",
                    NodeAction::Configure { conf, lineage: None },
                );
            }
            Decision::wait(
                "compare-with-the-primary",
                Reason::shut(
                    "history-known",
                    format!(
                        "{} has not told its timeline history yet",
                        view.state.name_of(holder)
                    ),
                    "it is promoted and reports",
                ),
            )
        }
        Line::Same => match view.following(holder) {
            None => holder_has_no_address(view, holder),
            Some(conf) if view.conf.as_ref() != Some(&conf) => Decision::act(
                "follow",
                NodeAction::Configure {
                    conf,
                    lineage: Some(epoch),
                },
            ),
            Some(_) => stream(view, holder, standby),
        },
    }
}

fn stream(view: &NodeView<'_>, holder: NodeId, standby: &StandbyView) -> Decision<NodeAction> {
    if standby
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.streaming)
    {
        return Decision::rest("streaming");
    }
    let waited = view
        .memory
        .not_streaming_since
        .map_or(Duration::ZERO, |since| view.now.since(since));
    let reason = Reason::shut(
        "standby-streams",
        format!(
            "not streaming from {} for {} s",
            view.state.name_of(holder),
            waited.as_secs()
        ),
        format!("it connects; after {} s a new copy is made", COPY_AFTER.as_secs()),
    );
    match view.upstream(holder) {
        Some(source) if waited > COPY_AFTER && holder_serves(view) => Decision::act(
            "copy-instead-of-streaming",
            NodeAction::StopDiverged {
                epoch: view.state.epoch,
                source,
            },
        )
        .because(reason),
        _ => Decision::wait("not-streaming", reason),
    }
}

fn holder_has_no_address(view: &NodeView<'_>, holder: NodeId) -> Decision<NodeAction> {
    Decision::wait(
        "holder-has-no-address",
        Reason::shut(
            "holder-address-known",
            format!("no PostgreSQL address of {} is known", view.state.name_of(holder)),
            "its agent announces postgres.advertise",
        ),
    )
}

fn rewind(view: &NodeView<'_>, holder: NodeId) -> Decision<NodeAction> {
    let Some(from) = view.upstream(holder) else {
        return holder_has_no_address(view, holder);
    };
    // Until its first checkpoint the new primary's control file names the old timeline, and pg_rewind would find
    // nothing to do.
    let checkpointed = view
        .holder
        .as_ref()
        .and_then(|report| report.pg.as_ref())
        .is_some_and(|pg| {
            matches!(pg.server, Server::Primary(_))
                && pg
                    .control
                    .is_some_and(|control| control.timeline >= view.state.timeline)
        });
    if !checkpointed {
        return Decision::wait(
            "wait-to-rewind",
            Reason::shut(
                "primary-checkpointed",
                format!(
                    "{} has not made a checkpoint on its new timeline yet",
                    view.state.name_of(holder)
                ),
                "it does so by itself, right after its promotion",
            ),
        );
    }
    Decision::act(
        "rewind",
        NodeAction::Rewind {
            from,
            epoch: view.state.epoch,
        },
    )
}

fn copy_anew(view: &NodeView<'_>, holder: NodeId, why: &str) -> Decision<NodeAction> {
    match view.upstream(holder) {
        Some(source) if holder_serves(view) => {
            let why = why.to_owned();
            Decision::act("set-data-aside", NodeAction::SetDataAside { why, source })
        }
        _ => wait_for_source(view, holder),
    }
}

/// Whether the holder's server is writable on the epoch's own timeline, and so can be copied from. Its gate is waited for
/// unless its first row itself waits for a standby: in `strict` mode there is none before the first copy is made.
pub(super) fn holder_serves(view: &NodeView<'_>) -> bool {
    let row_waits_for_us = view.state.sync_rule().is_some_and(|rule| rule.k > 0);
    let promoted = view
        .holder
        .as_ref()
        .and_then(|report| report.pg.as_ref())
        .is_some_and(|pg| match &pg.server {
            Server::Primary(primary) => primary.position.timeline >= view.state.timeline,
            _ => false,
        });
    promoted && (view.state.promotion.is_some() || row_waits_for_us)
}

pub(super) fn wait_for_source(view: &NodeView<'_>, holder: NodeId) -> Decision<NodeAction> {
    Decision::wait(
        "wait-for-a-source",
        Reason::shut(
            "primary-serves",
            format!(
                "{} does not serve yet, so there is nothing to copy from",
                view.state.name_of(holder)
            ),
            "a primary serves: see pgctl explain",
        ),
    )
}
