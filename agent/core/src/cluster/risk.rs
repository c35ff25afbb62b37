use super::{ClusterState, SyncMode};
use crate::ids::NodeId;
use crate::pg::Position;
use crate::view::{ClusterView, Server};
use std::collections::BTreeSet;
use std::time::Duration;

/// A report older than this says nothing about who could pledge now.
const FRESH: Duration = Duration::from_secs(5);

/// What promoting one node by order would lose, as far as can be told before it is done.
///
/// The figures are estimates for a person to decide by. What is done in the end is up to the promotion gate, which
/// counts pledges and not reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRisk {
    /// The node that would be promoted.
    pub target: NodeId,
    /// How far its durable WAL reached by its last report; `None` if it sent none, or its server does not answer.
    pub target_position: Option<Position>,
    /// How long ago the target last reported.
    pub target_age: Option<Duration>,
    /// The furthest end of the primary's WAL that is known: by its own last report, or by what a standby received.
    pub primary_position: Option<Position>,
    /// How long ago the primary last reported.
    pub primary_age: Option<Duration>,
    /// WAL that is known to exist and that the target does not have, bytes. `None`: it cannot be told, for want of one
    /// of the two positions.
    pub bytes: Option<u64>,
    /// The longest span before now whose commits may be missing on the target. `None`: it cannot be told.
    pub span: Option<Duration>,
    /// The nodes that answer are bound to have every acknowledged commit, and the target is as far as any of them:
    /// nothing acknowledged would be lost.
    pub acknowledged_is_safe: bool,
    /// The target runs, answers and could be promoted.
    pub target_ready: bool,
}

/// Works out what a failover to `target` would lose. `age` tells how old a node's report is.
#[must_use]
pub fn failover_risk(
    state: &ClusterState,
    view: &ClusterView,
    age: impl Fn(NodeId) -> Option<Duration>,
    target: NodeId,
) -> FailoverRisk {
    let report = |node: NodeId| view.reports.get(&node).map(|(_, report)| report);
    let position = |node: NodeId| report(node)?.pg.as_ref()?.position();
    let fresh = |node: NodeId| age(node).is_some_and(|age| age <= FRESH);
    let target_position = position(target);
    let primary_age = state.holder.and_then(&age);
    // A standby may know more of the primary than the primary's last report, which died with it.
    let primary_position = state.data_members().filter_map(|(node, _)| position(node)).max();
    let bytes = target_position
        .zip(primary_position)
        .map(|(here, end)| bytes_behind(here, end));
    let standing: BTreeSet<NodeId> = state
        .data_members()
        .map(|(node, _)| node)
        .filter(|node| fresh(*node) && position(*node).is_some())
        .collect();
    let furthest = standing.iter().filter_map(|node| position(*node)).max();
    let acknowledged_is_safe = standing.contains(&target)
        && target_position >= furthest
        && state.settings.sync_mode != SyncMode::Async
        && !state.sync.is_empty()
        && state.sync.iter().all(|rule| rule.covered_by(&standing));
    let replay_age = report(target).and_then(|report| match &report.pg.as_ref()?.server {
        Server::Standby(standby) => standby.replay_age_ms.map(Duration::from_millis),
        _ => None,
    });
    let span = match bytes {
        // The target has all that was heard of: only what the primary did since its last report can be missing.
        Some(0) => primary_age,
        _ => replay_age
            .zip(age(target))
            .map(|(replayed, reported)| replayed + reported)
            .max(primary_age),
    };
    let target_ready = fresh(target)
        && report(target)
            .and_then(|report| report.pg.as_ref())
            .is_some_and(|pg| matches!(pg.server, Server::Standby(_)));
    FailoverRisk {
        target,
        target_position,
        target_age: age(target),
        primary_position,
        primary_age,
        bytes,
        span: if acknowledged_is_safe {
            Some(Duration::ZERO)
        } else {
            span
        },
        acknowledged_is_safe,
        target_ready,
    }
}

/// Across timelines the LSNs still tell how much WAL there is beyond the target's end.
fn bytes_behind(here: Position, end: Position) -> u64 {
    if here >= end {
        0
    } else {
        end.lsn.bytes_since(here.lsn)
    }
}
