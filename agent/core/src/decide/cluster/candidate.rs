//! Who should hold the next epoch, and whose word its commits will wait for.

use super::{CoordinatorView, Round};
use crate::cluster::{Cause, EpochChange, Release, SyncMode, SyncRule, gate};
use crate::ids::NodeId;
use crate::pg::Position;
use crate::view::{FenceReceipt, Server, WatchdogState};
use std::collections::{BTreeMap, BTreeSet};

/// The rule for the commits of the next epoch, held by `to`: the other nodes that have pledged will follow it.
pub(super) fn rule_for(
    view: &CoordinatorView<'_>,
    to: NodeId,
    released: &BTreeMap<NodeId, Release>,
) -> SyncRule {
    let settings = &view.state.settings;
    let followers: BTreeSet<NodeId> = released
        .iter()
        .filter(|(node, _)| **node != to)
        // Whoever shall not be promoted can still be waited for; a holder that has just failed cannot.
        .filter(|(node, release)| match view.state.holder == Some(**node) {
            true => release.counted().is_some(),
            false => release.position.is_some(),
        })
        .filter(|(node, release)| is_on_the_line(view, **node, release))
        .map(|(node, _)| *node)
        .filter(|node| !view.state.maintenance.contains(node) && !view.state.fenced.contains_key(node))
        .collect();
    let others = || {
        view.state
            .data_members()
            .map(|(id, _)| id)
            .filter(|id| *id != to)
            .collect::<BTreeSet<_>>()
    };
    let wanted = settings.sync_standbys;
    let count = |set: &BTreeSet<NodeId>| u32::try_from(set.len()).unwrap_or(u32::MAX);
    let (k, members) = match settings.sync_mode {
        SyncMode::Async => (0, BTreeSet::new()),
        SyncMode::Quorum => (wanted.min(count(&followers)), followers),
        SyncMode::Strict if count(&followers) >= wanted => (wanted, followers),
        SyncMode::Strict => (wanted, others()),
    };
    SyncRule {
        epoch: view.state.epoch.next(),
        primary: to,
        k,
        members,
    }
}

/// The grant that the answers of `round` allow best; its gates may still be shut.
///
/// Every set of pledged nodes that keeps the acknowledged commits is as good as any other, so where one is left without
/// the holder that has just failed, and without nodes that shall not be promoted, the new holder comes from it: a tail
/// of commits that nobody acknowledged must not bring back a node that cannot serve.
pub(super) fn best_grant(view: &CoordinatorView<'_>, round: &Round, why: &str) -> Option<EpochChange> {
    let mut counting = round.released.clone();
    for (node, release) in &mut counting {
        release.left_out = !is_on_the_line(view, *node, release);
    }
    let mut all = grant_among(view, round, &counting, why);
    if all.as_ref().is_some_and(|change| change.cause != Cause::Failover) || view.state.switchover.is_some() {
        return all;
    }
    // Nobody but an asynchronous holder may have its last commits.
    let leave_holder = view.state.settings.sync_mode != SyncMode::Async || view.state.promotion.is_none();
    // A primary that has only run out of disk is as good a choice as others that have none.
    let stays = view.state.holder.is_some_and(|holder| is_full(view, holder))
        && !round
            .released
            .keys()
            .any(|node| view.state.holder != Some(*node) && fit(view, *node));
    let failed = |node: NodeId| leave_holder && !stays && view.state.holder == Some(node);
    let unwilling = |node: NodeId| !willing(view, node);
    let unfit = |node: NodeId| !fit(view, node);
    let choices: [&dyn Fn(NodeId) -> bool; 4] = [
        &|node| failed(node) || unwilling(node) || unfit(node),
        &|node| failed(node) || unwilling(node),
        &failed,
        &unwilling,
    ];
    for left_out in choices {
        let mut released = round.released.clone();
        for (node, release) in &mut released {
            release.left_out = left_out(*node) || !is_on_the_line(view, *node, release);
        }
        let change = grant_among(view, round, &released, why);
        if change
            .as_ref()
            .is_some_and(|change| gate::is_open(&gate::check(&view.state, change)))
        {
            all = change;
            break;
        }
    }
    all
}

/// Whether what a node has counts: after a restore of the cluster the data from before it do not, unless an operator
/// gives the restored ones up.
fn is_on_the_line(view: &CoordinatorView<'_>, node: NodeId, release: &Release) -> bool {
    let given_up = view
        .state
        .failover_order
        .as_ref()
        .is_some_and(|order| order.epoch == view.state.epoch && order.accept_data_loss);
    given_up
        || release
            .position
            .is_none_or(|position| view.state.restores.counts(node, position))
}

/// The receipt, unless a later start of its agent is known: it says nothing of what that one does.
pub(super) fn newest_word(view: &CoordinatorView<'_>) -> Option<FenceReceipt> {
    view.memory.receipt.filter(|receipt| {
        let known = view.reports.reports.get(&receipt.node);
        known.is_none_or(|(_, report)| report.incarnation <= receipt.incarnation)
    })
}

/// Whether a node may be promoted without an operator's word.
fn willing(view: &CoordinatorView<'_>, node: NodeId) -> bool {
    let member = view.state.members.get(&node);
    member.is_some_and(|m| !m.nofailover)
        && !view.state.maintenance.contains(&node)
        && !view.state.fenced.contains_key(&node)
        && lacks_watchdog(view, node).is_none()
}

/// Why a node cannot be promoted for want of a watchdog that it requires, by its last word.
pub(super) fn lacks_watchdog(view: &CoordinatorView<'_>, node: NodeId) -> Option<String> {
    let watchdog = view.fresh(node)?.watchdog.as_ref()?;
    (watchdog.required && watchdog.state == WatchdogState::Absent).then(|| watchdog.detail.clone())
}

/// Whether a primary could do its work there: no probe of its server and disks speaks against it.
fn fit(view: &CoordinatorView<'_>, node: NodeId) -> bool {
    let reserve = view.state.settings.disk_reserve_bytes;
    let pg = view.fresh(node).and_then(|report| report.pg.as_ref());
    pg.is_none_or(|pg| pg.vitals.fit_to_serve(reserve))
}

fn is_full(view: &CoordinatorView<'_>, node: NodeId) -> bool {
    let reserve = view.state.settings.disk_reserve_bytes;
    let pg = view.fresh(node).and_then(|report| report.pg.as_ref());
    pg.and_then(|pg| pg.vitals.wal_disk())
        .is_some_and(|disk| disk.is_full(reserve))
}

/// The grant to the best of the nodes whose positions are in `released`.
fn grant_among(
    view: &CoordinatorView<'_>,
    round: &Round,
    released: &BTreeMap<NodeId, Release>,
    why: &str,
) -> Option<EpochChange> {
    let order = view
        .state
        .failover_order
        .as_ref()
        .filter(|order| order.epoch == view.state.epoch);
    let switchover = view
        .state
        .switchover
        .as_ref()
        .filter(|s| s.epoch == view.state.epoch);
    let (to, cause) = match (order, switchover) {
        (Some(order), _) => (order.to, Cause::ManualFailover),
        (None, Some(switchover)) => {
            let to = furthest(view, released, Some(switchover.to))?;
            (
                to,
                if to == switchover.to {
                    Cause::Switchover
                } else {
                    Cause::Failover
                },
            )
        }
        (None, None) => (furthest(view, released, None)?, Cause::Failover),
    };
    let mut change = EpochChange {
        from: view.state.epoch,
        to,
        cause,
        why: why.to_owned(),
        released: released.clone(),
        receipt: newest_word(view),
        sync: rule_for(view, to, released),
        may_lose_bytes: None,
        at: view.wall,
    };
    let accepted = order.is_some_and(|order| order.accept_data_loss);
    let bounded = order.is_none() && view.state.settings.sync_mode == SyncMode::Async;
    // A loss is only written down where there is no way without one.
    if accepted || (bounded && !gate::is_open(&gate::check(&view.state, &change))) {
        change.may_lose_bytes = Some(bytes_behind(view, round, to));
    }
    Some(change)
}

/// The pledged node with the furthest position; of equals the preferred one, then one that may be promoted by itself,
/// then one whose probes are well, then one that is not the holder that has just failed, then the one with the least left to replay, then the lowest number.
fn furthest(
    view: &CoordinatorView<'_>,
    released: &BTreeMap<NodeId, Release>,
    preferred: Option<NodeId>,
) -> Option<NodeId> {
    let position = |node: &NodeId| released.get(node).and_then(Release::counted);
    released
        .keys()
        .copied()
        .filter(|node| position(node).is_some())
        .max_by_key(|node| {
            let backlog =
                view.fresh(*node)
                    .and_then(|report| report.pg.as_ref())
                    .map(|pg| match &pg.server {
                        Server::Standby(standby) => standby.position.lsn.bytes_since(standby.replay),
                        _ => u64::MAX,
                    });
            (
                position(node),
                preferred == Some(*node),
                willing(view, *node),
                fit(view, *node),
                view.state.holder != Some(*node),
                std::cmp::Reverse(backlog.unwrap_or(u64::MAX)),
                std::cmp::Reverse(*node),
            )
        })
}

/// How far `to` is behind the furthest position that is known of anybody, bytes.
pub(super) fn bytes_behind(view: &CoordinatorView<'_>, round: &Round, to: NodeId) -> u64 {
    let target = round
        .released
        .get(&to)
        .and_then(|release| release.position)
        .unwrap_or_default();
    let reported = view
        .reports
        .reports
        .values()
        .filter_map(|(_, report)| report.pg.as_ref()?.position());
    let known: Option<Position> = reported
        .chain(round.released.values().filter_map(|release| release.position))
        .max();
    known.map_or(0, |furthest| furthest.lsn.bytes_since(target.lsn))
}
