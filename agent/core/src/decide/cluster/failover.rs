//! The holder is gone, or was ended: release round, gate, grant.

use super::{ClusterAction, CoordinatorView, Round, candidate, restoring, stonith};
use crate::cluster::{Cause, Command, EpochChange, gate};
use crate::decide::Decision;
use crate::ids::NodeId;
use crate::reason::Reason;
use crate::view::FenceReceipt;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the coordinator waits for the answers of nodes that were well a moment ago, once it could do without them.
const WAIT_FOR_ANSWERS: Duration = Duration::from_millis(300);
/// How long the target of a switchover may take to pledge once the old primary has stopped.
const WAIT_FOR_TARGET: Duration = Duration::from_secs(5);
/// A node that has reported within this time is counted on for an answer.
const WELL: Duration = Duration::from_millis(750);
/// How long after a question without enough answers it asks again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(300);
/// How old a voter's word about its promise may be.
const BOUND_FRESH: Duration = Duration::from_millis(1_000);

/// What is wrong with the holder.
enum Trouble {
    /// It proved that its server has ended.
    Receipt(FenceReceipt),
    /// A majority of the voters is bound to it no longer.
    LeaseOver,
}

pub(super) fn decide(view: &CoordinatorView<'_>, holder: NodeId) -> Option<Decision<ClusterAction>> {
    let next = view.state.epoch.next();
    // The receipt of an agent's former life says nothing once its next one holds the lease.
    let receipt = view
        .memory
        .receipt
        .filter(|receipt| receipt.epoch == view.state.epoch)
        .filter(|receipt| !(holder_is_well(view, holder) && is_older(view, receipt, holder)));
    let round = view.memory.round.as_ref().filter(|round| round.epoch == next);
    // A round that found no majority is void once the holder is seen well again.
    let round = round.filter(|round| {
        let released: BTreeSet<NodeId> = round.released.keys().copied().collect();
        receipt.is_some() || view.state.voters.majority(&released) || !holder_is_well(view, holder)
    });
    let trouble = match (receipt, round) {
        (Some(receipt), _) => Trouble::Receipt(receipt),
        (None, Some(_)) => Trouble::LeaseOver,
        // A new holder needs a moment for its first renewal; until then nobody is bound to it.
        (None, None) if epoch_is_young(view) => return None,
        (None, None) if lease_over(view) => Trouble::LeaseOver,
        (None, None) => return ask_if_silent(view),
    };
    if view.state.restores.running.is_none()
        && let Some(decision) = hold_back(view, &trouble)
    {
        return Some(decision);
    }
    let name = view.name(holder);
    let why = match trouble {
        Trouble::Receipt(FenceReceipt {
            clean_end: Some(end), ..
        }) => {
            format!("{name} was shut down cleanly at {end}")
        }
        Trouble::Receipt(_) => format!("the server of {name} was ended"),
        Trouble::LeaseOver => format!("the lease of {name} ran out"),
    };
    let ask = |rule: &str| {
        let wait_for = receipt.and_then(|receipt| receipt.clean_end).map(|end| end.lsn);
        Decision::act(
            rule,
            ClusterAction::AskRelease {
                epoch: next,
                receipt,
                wait_for,
            },
        )
    };
    if let Some(running) = &view.state.restores.running {
        return Some(restoring::decide(view, holder, running, round, ask));
    }
    let decision = match round {
        None => ask("begin-release"),
        Some(round) => grant_or_wait(view, round, &why, ask),
    };
    Some(stonith::beside(view, holder, round, decision))
}

fn grant_or_wait(
    view: &CoordinatorView<'_>,
    round: &Round,
    why: &str,
    ask: impl Fn(&str) -> Decision<ClusterAction>,
) -> Decision<ClusterAction> {
    let waited = view.now.since(round.asked);
    // A holder whose lease ran out without a receipt is the one node that is not waited for: it is why we are here.
    let well: BTreeSet<NodeId> = round
        .pending
        .iter()
        .copied()
        .filter(|node| view.reports.fresh(*node, view.now, WELL).is_some())
        .filter(|node| view.memory.receipt.is_some() || view.state.holder != Some(*node))
        .collect();
    let again = round.asked.plus(ASK_AGAIN);
    let Some(change) = candidate::best_grant(view, round, why) else {
        let reason = Reason::shut(
            "target-is-furthest",
            "no node with a running server has pledged",
            "start the server of a data node: its agent does so by itself",
        );
        if waited >= ASK_AGAIN {
            return ask("ask-release-again").because(reason);
        }
        return Decision::wait("wait-for-pledges", reason).again(again, "ask for pledges again");
    };
    let gates = gate::check(&view.state, &change);
    if !gate::is_open(&gates) {
        if let Some(decision) = drop_hopeless_order(view, round, &gates) {
            return decision;
        }
        let decision = if waited >= ASK_AGAIN {
            ask("ask-release-again")
        } else {
            Decision::rest("wait-for-the-gate")
        };
        return Decision {
            reasons: gates,
            ..decision
        }
        .again(again, "ask for pledges again");
    }
    if let Some(why) = candidate::lacks_watchdog(view, change.to) {
        let name = view.name(change.to);
        let reason = Reason::shut(
            "watchdog-armed",
            format!("{name} requires a watchdog and has none that could be armed: {why}"),
            format!(
                "mend the device of {name}, or set fencing.watchdog = \"automatic\" there and restart its agent"
            ),
        );
        return Decision::wait("wait-for-a-watchdog", reason).again(again, "ask for pledges again");
    }
    if let Some(decision) = wait_for_target(view, round, &change, waited, &ask) {
        return decision;
    }
    if !well.is_empty() && view.now.since(round.started) < WAIT_FOR_ANSWERS {
        // They may be ahead, and with them the next synchronous set is larger.
        let until = round.started.plus(WAIT_FOR_ANSWERS);
        return Decision {
            reasons: gates,
            ..Decision::rest("wait-for-answers")
        }
        .again(until, "go on without them");
    }
    let decision = Decision::act(
        "grant-epoch",
        ClusterAction::Propose(Command::ChangeEpoch(Box::new(change))),
    );
    Decision {
        reasons: gates,
        ..decision
    }
}

/// In a switchover the operator's choice is worth a moment: another node is taken only if the target has pledged and is
/// behind, or does not pledge in time.
fn wait_for_target(
    view: &CoordinatorView<'_>,
    round: &Round,
    change: &EpochChange,
    waited: Duration,
    ask: impl Fn(&str) -> Decision<ClusterAction>,
) -> Option<Decision<ClusterAction>> {
    let target = view
        .state
        .switchover
        .as_ref()
        .filter(|running| running.epoch == view.state.epoch)?
        .to;
    let answered = round
        .released
        .get(&target)
        .is_some_and(|release| release.position.is_some());
    if change.to == target || answered || view.now.since(round.started) >= WAIT_FOR_TARGET {
        return None;
    }
    let reason = Reason::shut(
        "target-is-furthest",
        format!("{} has not pledged yet", view.name(target)),
        format!(
            "it does, or after {} s another node takes over",
            WAIT_FOR_TARGET.as_secs()
        ),
    );
    if waited >= ASK_AGAIN {
        return Some(ask("ask-the-target-again").because(reason));
    }
    let again = round.asked.plus(ASK_AGAIN);
    Some(Decision::wait("wait-for-the-target", reason).again(again, "ask the target again"))
}

/// An order that its gate does not let through must not keep the cluster without a primary for ever: after the deadline
/// of a switchover it is dropped, and whoever can be promoted is.
fn drop_hopeless_order(
    view: &CoordinatorView<'_>,
    round: &Round,
    gates: &[Reason],
) -> Option<Decision<ClusterAction>> {
    let order = view.state.failover_order.as_ref()?;
    let deadline = Duration::from_millis(view.state.settings.switchover_deadline_ms);
    if view.now.since(round.started) < deadline {
        return None;
    }
    let shut: Vec<&str> = gates
        .iter()
        .filter(|gate| !gate.open)
        .map(|gate| gate.found.as_str())
        .collect();
    let why = format!(
        "{} could not be promoted within {} s: {}",
        view.name(order.to),
        deadline.as_secs(),
        shut.join("; ")
    );
    let command = Command::DropFailoverOrder {
        request: order.request.clone(),
        why,
        at: view.wall,
    };
    let decision = Decision::act("failover-order-dropped", ClusterAction::Propose(command));
    Some(Decision {
        reasons: gates.to_vec(),
        ..decision
    })
}

fn epoch_is_young(view: &CoordinatorView<'_>) -> bool {
    view.memory
        .epoch_since
        .is_none_or(|since| view.now.since(since) < view.state.settings.timing.promise())
}

fn is_older(view: &CoordinatorView<'_>, receipt: &FenceReceipt, holder: NodeId) -> bool {
    view.fresh(holder)
        .is_some_and(|report| receipt.incarnation < report.incarnation)
}

fn holder_is_well(view: &CoordinatorView<'_>, holder: NodeId) -> bool {
    view.reports
        .fresh(holder, view.now, BOUND_FRESH)
        .and_then(|report| report.holder.as_ref())
        .is_some_and(|held| held.epoch == view.state.epoch && !held.left.is_zero() && held.fenced.is_none())
}

/// Whether a majority of the voters has said lately that nothing binds it.
fn lease_over(view: &CoordinatorView<'_>) -> bool {
    let free: BTreeSet<NodeId> = view
        .memory
        .bound
        .iter()
        .filter(|(_, (at, bound))| bound.is_zero() && view.now.since(*at) <= BOUND_FRESH)
        .map(|(node, _)| *node)
        .collect();
    view.state.voters.majority(&free)
}

/// If the coordinator's own voter is free, the others are asked whether they are. If it is no voter, or is bound,
/// the others' words in their reports count.
fn ask_if_silent(view: &CoordinatorView<'_>) -> Option<Decision<ClusterAction>> {
    let next = view.state.epoch.next();
    let own = view.fresh(view.me).map(|report| report.voter.bound_for);
    let free_by_report: BTreeSet<NodeId> = view
        .state
        .voters
        .all()
        .into_iter()
        .filter(|node| {
            view.fresh(*node)
                .is_some_and(|report| report.voter.bound_for.is_zero())
        })
        .collect();
    let asked_lately = view
        .memory
        .bound
        .values()
        .any(|(at, _)| view.now.since(*at) < Duration::from_millis(100));
    if asked_lately || !(own == Some(Duration::ZERO) || view.state.voters.majority(&free_by_report)) {
        return None;
    }
    let reason = Reason::shut(
        "lease-over",
        "this voter has heard nothing of the holder; the others are asked",
        "a majority of the voters agrees that the lease is over, or the holder renews",
    );
    let receipt = view.memory.receipt;
    Some(Decision::act("ask-the-voters", ClusterAction::AskBound { next, receipt }).because(reason))
}

/// Reasons to leave things as they are although the holder is in trouble.
fn hold_back(view: &CoordinatorView<'_>, trouble: &Trouble) -> Option<Decision<ClusterAction>> {
    let by_hand = view.state.failover_order.is_some() || view.state.switchover.is_some();
    if let Some(pause) = &view.state.pause
        && !by_hand
    {
        let reason = Reason::shut(
            "automation-is-on",
            format!("paused: {}", pause.reason),
            "pgctl resume, or pgctl failover --to NODE",
        );
        return Some(Decision::wait("paused", reason));
    }
    if by_hand || matches!(trouble, Trouble::Receipt(_)) || view.state.promotion.is_none() {
        return None;
    }
    let since = view.memory.epoch_since?;
    let pause = pause_after(view.memory.short_epochs, view.state.settings.failover_pause_ms);
    if view.now.since(since) >= pause {
        return None;
    }
    let until = since.plus(pause);
    let reason = Reason::shut(
        "no-flapping",
        format!(
            "the last change of primary was {} s ago",
            view.now.since(since).as_secs()
        ),
        format!(
            "{} s have passed since then, or pgctl failover --to NODE",
            pause.as_secs()
        ),
    );
    Some(Decision::wait("no-flapping", reason).again(until, "the pause between failovers ends"))
}

/// How long an epoch has to last before a failover ends it by itself: nothing after a stable one, and twice as long for
/// each short one in a row, up to `longest_ms`. A single second failure is answered at once; a network that comes and
/// goes cannot drive the primary around.
fn pause_after(short_epochs: u32, longest_ms: u64) -> Duration {
    let doubled = if short_epochs == 0 {
        0
    } else {
        1_000_u64 << short_epochs.min(16)
    };
    Duration::from_millis(doubled.min(longest_ms))
}

/// A voter has pledged to the next epoch while the holder lives on: it can support the holder no more until that
/// epoch is granted, so it is granted to the holder itself, which goes on without a stop.
pub(super) fn mend_stray_pledge(
    view: &CoordinatorView<'_>,
    holder: NodeId,
) -> Option<Decision<ClusterAction>> {
    let epoch = view.state.epoch;
    let stray = view
        .reports
        .reports
        .values()
        .any(|(_, report)| report.pledge > epoch);
    let well = holder_is_well(view, holder);
    let since = view.memory.stray_pledge_since?;
    if !stray || !well || view.now.since(since) < view.state.settings.timing.renew() {
        return None;
    }
    let old = view.state.sync_rule()?;
    let change = EpochChange {
        from: epoch,
        to: holder,
        cause: Cause::PledgeRepair,
        why: format!(
            "a voter had pledged to epoch {} while {} is well",
            epoch.next(),
            view.name(holder)
        ),
        released: BTreeMap::new(),
        receipt: None,
        sync: crate::cluster::SyncRule {
            epoch: epoch.next(),
            ..old.clone()
        },
        may_lose_bytes: None,
        at: view.wall,
    };
    let gates = gate::check(&view.state, &change);
    let decision = Decision::act(
        "mend-stray-pledge",
        ClusterAction::Propose(Command::ChangeEpoch(Box::new(change))),
    );
    Some(Decision {
        reasons: gates,
        ..decision
    })
}
