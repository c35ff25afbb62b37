//! The holder's own server: promoted under a valid lease, kept, and ended without one.

use super::{Conf, Decision, Grant, NodeAction, NodeView, ailing, sync};
use crate::cluster::SwitchoverPhase;
use crate::ids::NodeId;
use crate::reason::Reason;
use crate::view::{PrimaryView, Server, StandbyView, WatchdogState};
use std::time::Duration;

pub(super) fn decide(view: &NodeView<'_>) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    let fenced = view.lease.fenced >= epoch;
    if !fenced && view.state.holder_off().is_some() {
        // Others may have gone by the proof already: this start of the machine must not take the epoch up again.
        return Decision::act(
            "turned-off-in-this-epoch",
            NodeAction::Fence {
                epoch,
                why: format!("this machine was turned off under epoch {epoch}"),
            },
        );
    }
    match &view.pg.server {
        Server::NoData if !fenced => Decision::act(
            "holder-lost-its-data",
            NodeAction::Fence {
                epoch,
                why: "the data directory is empty".to_owned(),
            },
        ),
        Server::Down if !fenced && was_writable(view) => Decision::act(
            "server-died",
            NodeAction::Fence {
                epoch,
                why: "the server died".to_owned(),
            },
        ),
        // It cannot serve, and while it kept its lease nobody else could.
        Server::Down if !fenced && (view.memory.broken || view.memory.job_failed_at.is_some()) => {
            Decision::act(
                "holder-cannot-start",
                NodeAction::Fence {
                    epoch,
                    why: "its data is not whole, or its server does not start".to_owned(),
                },
            )
        }
        // Each start succeeds and none lasts: the lease must not be kept for it.
        Server::Down if !fenced && view.pg.vitals.crash_loops() => Decision::act(
            "holder-crash-loops",
            NodeAction::Fence {
                epoch,
                why: format!("{} starts of the server did not last", view.pg.vitals.crashes),
            },
        ),
        Server::Down if view.memory.broken => Decision::wait(
            "data-broken",
            Reason::shut(
                "data-is-whole",
                "a rewind was interrupted",
                "another node becomes the primary",
            ),
        ),
        Server::Down => match view.may_retry() {
            // Without an upstream it replays all that it has and tells how far that is.
            Ok(()) => Decision::act("start-to-be-promoted", NodeAction::Start { conf: view.alone() }),
            Err(at) => Decision::rest("start-failed").again(at, "try to start the server again"),
        },
        Server::Standby(_) if fenced => wait_for_new_epoch(view),
        Server::Standby(standby) => promote(view, standby),
        Server::Primary(_) if fenced => Decision::act(
            "writable-after-its-fence",
            NodeAction::Fence {
                epoch,
                why: "the epoch is over".to_owned(),
            },
        ),
        Server::Primary(primary) => keep(view, primary),
        Server::NoData => wait_for_new_epoch(view),
        Server::Starting => Decision::rest("server-starting"),
        Server::Unresponsive { why } => Decision::wait(
            "server-unresponsive",
            Reason::shut("server-answers", why.clone(), "it answers, or it is ended"),
        ),
        Server::Unusable { .. } | Server::Busy { .. } => Decision::rest("server-not-free"),
    }
}

/// Whether this node's server may have written under the newest epoch.
fn was_writable(view: &NodeView<'_>) -> bool {
    view.state.promotion.is_some()
        || view.memory.gate == Some(view.state.epoch)
        || view
            .pg
            .control
            .is_some_and(|control| control.timeline >= view.state.timeline)
}

fn wait_for_new_epoch(view: &NodeView<'_>) -> Decision<NodeAction> {
    Decision::wait(
        "needs-a-new-epoch",
        Reason::shut(
            "epoch-not-over",
            format!("epoch {} is over on this node", view.state.epoch),
            "the coordinator grants a new one, to this node or to another",
        ),
    )
}

/// Whether it is for want of a guard that this node has no lease.
fn unguarded(view: &NodeView<'_>) -> Option<Reason> {
    let why = view.lease.unguarded.as_ref()?;
    Some(Reason::shut(
        "guard-is-up",
        why,
        "the agent starts a guard by itself; its log says what keeps it from that",
    ))
}

fn promote(view: &NodeView<'_>, standby: &StandbyView) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    if standby.position.timeline >= view.state.timeline {
        // It was promoted under this epoch before and fell back to a standby: what it wrote then may be on other
        // nodes, so it needs an epoch, and a timeline, of its own.
        return Decision::act(
            "promoted-once-already",
            NodeAction::Fence {
                epoch,
                why: "the server restarted after its promotion".to_owned(),
            },
        );
    }
    if !(view.lease.valid && view.lease.epoch == epoch) {
        let reason = unguarded(view).unwrap_or_else(|| {
            Reason::shut(
                "lease-valid",
                format!("no majority of the voters has confirmed epoch {epoch} to this node yet"),
                "a majority of the agents answers: start them, or restore the network",
            )
        });
        return Decision::wait("no-lease-yet", reason);
    }
    if view
        .state
        .granted_at
        .is_some_and(|granted| standby.position < granted)
    {
        return Decision::act(
            "behind-its-grant",
            NodeAction::Fence {
                epoch,
                why: "the server has less WAL than when the epoch was granted".to_owned(),
            },
        );
    }
    if let Some(decision) = without_watchdog(view) {
        return decision;
    }
    let conf = writable_conf(view);
    if view.conf.as_ref() != Some(&conf) {
        return Decision::act("prepare-promotion", NodeAction::Configure { conf, lineage: None });
    }
    Decision::act(
        "promote",
        NodeAction::Promote {
            grant: Grant {
                epoch,
                timeline: view.state.timeline,
            },
        },
    )
}

/// What a node does that is to be promoted and may not be without an armed watchdog.
fn without_watchdog(view: &NodeView<'_>) -> Option<Decision<NodeAction>> {
    let watchdog = view.watchdog.as_ref().filter(|watchdog| watchdog.required)?;
    let epoch = view.state.epoch;
    match watchdog.state {
        WatchdogState::Armed => None,
        WatchdogState::Ready => Some(Decision::wait(
            "watchdog-not-armed-yet",
            Reason::shut(
                "watchdog-armed",
                "the lease is held, and the watchdog is being armed",
                "it is armed within a moment",
            ),
        )),
        // Another node may have one that works.
        WatchdogState::Absent => Some(Decision::act(
            "watchdog-cannot-be-armed",
            NodeAction::Fence {
                epoch,
                why: format!("fencing.watchdog = required: {}", watchdog.detail),
            },
        )),
    }
}

/// The include file of the writable server: the newest synchronous rule of the replicated state.
fn writable_conf(view: &NodeView<'_>) -> Conf {
    let names = view
        .state
        .sync_rule()
        .map(|rule| view.state.synchronous_standby_names(rule));
    let base = view.alone();
    Conf {
        synchronous_standby_names: names.unwrap_or(base.synchronous_standby_names),
        upstream: None,
        slot: None,
        ..base
    }
}

fn keep(view: &NodeView<'_>, primary: &PrimaryView) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    if !(view.lease.valid && view.lease.epoch == epoch) {
        return adopt(view);
    }
    if primary.position.timeline < view.state.timeline {
        return Decision::act(
            "not-promoted-under-this-epoch",
            NodeAction::Fence {
                epoch,
                why: "the server writes on a timeline of an older epoch".to_owned(),
            },
        );
    }
    if let Some(switchover) = view
        .state
        .switchover
        .as_ref()
        .filter(|s| s.from == view.me && s.epoch == epoch)
        && switchover.phase == SwitchoverPhase::Stopping
    {
        return Decision::act("stop-for-switchover", NodeAction::Shutdown { epoch });
    }
    if let Some(order) = view
        .state
        .failover_order
        .as_ref()
        .filter(|o| o.epoch == epoch && o.to != view.me)
        // To yield to a node that has just died would leave nobody.
        .filter(|order| stands(view, order.to))
    {
        let to = view.state.name_of(order.to);
        return Decision::act(
            "ordered-to-yield",
            NodeAction::Fence {
                epoch,
                why: format!("failover to {to} was ordered"),
            },
        );
    }
    let conf = writable_conf(view);
    if view.conf.as_ref() != Some(&conf) {
        return Decision::act("configure-primary", NodeAction::Configure { conf, lineage: None });
    }
    let walk = sync::decide(view, primary);
    if view.memory.gate != Some(epoch) {
        let mut decision = Decision::act("open-the-gate", NodeAction::OpenGate { epoch });
        // The first row may wait for a standby that is gone: the walk to another set must go on meanwhile.
        decision.actions.extend(walk.actions);
        decision.wake_at = walk.wake_at;
        return decision;
    }
    if let Some(switchover) = view
        .state
        .switchover
        .as_ref()
        .filter(|s| s.from == view.me && s.epoch == epoch)
        && view.memory.checkpoint_for.as_ref() != Some(&switchover.request)
    {
        return Decision::act(
            "checkpoint-for-switchover",
            NodeAction::Checkpoint {
                request: switchover.request.clone(),
            },
        );
    }
    match ailing::hand_over_for_room(view) {
        Some(hand_over) => Decision {
            rule: "disk-full-hand-over".to_owned(),
            ..walk
        }
        .then(hand_over),
        None => walk,
    }
}

/// A writable server whose lease this agent does not hold yet: it was left behind by the agent's former life, and may
/// be kept only if a majority still supports its epoch.
fn adopt(view: &NodeView<'_>) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    let patience = view.state.settings.timing.renew();
    match view.memory.adopting_since {
        Some(since) if view.now.since(since) > patience => Decision::act(
            "adoption-failed",
            NodeAction::Fence {
                epoch,
                why: format!("no majority confirmed epoch {epoch} within {patience:?}"),
            },
        ),
        Some(since) => Decision::wait(
            "adopting",
            unguarded(view).unwrap_or_else(|| {
                Reason::shut(
                    "lease-valid",
                    format!("asking the voters to confirm epoch {epoch}"),
                    "a majority answers",
                )
            }),
        )
        .again(
            since.plus(patience + Duration::from_millis(1)),
            "give the adoption up",
        ),
        None => Decision::rest("adopting").again(view.now, "begin the adoption"),
    }
}

/// Whether a node was heard of lately, with a standby that runs.
fn stands(view: &NodeView<'_>, node: NodeId) -> bool {
    let report = view.peers.iter().find(|report| report.node == node);
    report
        .and_then(|report| report.pg.as_ref())
        .is_some_and(|pg| matches!(pg.server, Server::Standby(_)))
}
