//! The synchronous set: who must have a commit before it is acknowledged, and the two-record walk that changes it.
//!
//! * The replicated state always lists every rule that may be in force: a new one is committed (`SyncBegin`) before the
//!   server is told of it, and an old one is dropped (`SyncDone`) only when every commit it may have acknowledged is on
//!   `k` members of the new one.
//! * That is shown by a mark in the WAL, written after a *fresh* connection has seen the new setting: by then the
//!   postmaster has signalled every walsender, and a walsender re-reads its configuration before it looks at the reply
//!   that confirms the mark. Once all connected walsenders have confirmed it, none releases by the old rule any more.

use super::{Decision, NodeAction, NodeView};
use crate::cluster::{Command, SyncMode, SyncRule};
use crate::ids::NodeId;
use crate::reason::Reason;
use crate::time::{MonoTime, WallTime};
use crate::view::{PrimaryView, StandbyConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A standby joins the synchronous set when it is no further behind than this, bytes.
const JOIN_LAG: u64 = 16 << 20;

pub(super) fn decide(view: &NodeView<'_>, primary: &PrimaryView) -> Decision<NodeAction> {
    let Some(current) = view.state.sync_rule() else {
        return Decision::rest("no-rule");
    };
    let connected = connections(view, primary);
    let (wanted, wake_at) = wanted(view, primary, &connected, current);
    let cannot_complete = connected
        .keys()
        .filter(|node| current.members.contains(node))
        .count()
        < current.k as usize;
    if wanted != *current && (!view.state.sync_unsettled() || cannot_complete) {
        let decision = Decision::act(
            "change-the-synchronous-set",
            NodeAction::Propose(Command::SyncBegin {
                rule: wanted,
                after: current.clone(),
                at: WallTime(0),
            }),
        );
        return with_wake(decision, wake_at);
    }
    if !view.state.sync_unsettled() {
        return with_wake(Decision::rest("primary-serves"), wake_at);
    }
    let Some((marked, mark)) = view.memory.sync_mark.as_ref().filter(|(rule, _)| rule == current) else {
        // From "nobody waits" the checkpointer, too, must have seen the change before commits wait.
        let from_zero = view.state.sync.iter().any(|rule| rule.k == 0);
        return Decision::act(
            "mark-the-wal",
            NodeAction::MarkSync {
                rule: current.clone(),
                from_zero,
            },
        );
    };
    let confirmed: BTreeSet<NodeId> = connected
        .iter()
        .filter(|(_, standby)| standby.flush >= *mark)
        .map(|(node, _)| *node)
        .collect();
    let everyone = connected.keys().all(|node| confirmed.contains(node));
    if everyone && marked.members.intersection(&confirmed).count() >= marked.k as usize {
        return Decision::act(
            "synchronous-set-changed",
            NodeAction::Propose(Command::SyncDone {
                rule: marked.clone(),
                at: WallTime(0),
            }),
        );
    }
    let decision = Decision::wait(
        "wait-for-the-mark",
        Reason::shut(
            "synchronous-set-settled",
            format!(
                "{} of {} connected standbys have confirmed {mark}",
                confirmed.len(),
                connected.len()
            ),
            "they receive it, or are taken out of the set",
        ),
    );
    with_wake(decision, wake_at)
}

fn with_wake(decision: Decision<NodeAction>, at: Option<MonoTime>) -> Decision<NodeAction> {
    match at {
        Some(at) => decision.again(at, "a standby has been gone for long enough"),
        None => decision,
    }
}

/// The standbys that stream under a name of this epoch.
fn connections<'a>(view: &NodeView<'_>, primary: &'a PrimaryView) -> BTreeMap<NodeId, &'a StandbyConnection> {
    let name = |id| view.state.application_name(id, view.state.epoch);
    let data_members = view.state.data_members().filter(|(id, _)| *id != view.me);
    data_members
        .filter_map(|(id, _)| {
            let name = name(id);
            primary
                .standbys
                .iter()
                .find(|s| s.streaming && s.application_name == name)
                .map(|s| (id, s))
        })
        .collect()
}

/// The rule that the cluster should have now, and when to look again because an absence turns into a loss.
fn wanted(
    view: &NodeView<'_>,
    primary: &PrimaryView,
    connected: &BTreeMap<NodeId, &StandbyConnection>,
    current: &SyncRule,
) -> (SyncRule, Option<MonoTime>) {
    let settings = &view.state.settings;
    let base = SyncRule {
        epoch: view.state.epoch,
        primary: view.me,
        k: 0,
        members: BTreeSet::new(),
    };
    if settings.sync_mode == SyncMode::Async {
        return (base, None);
    }
    let close = |node: &NodeId, standby: &StandbyConnection| {
        current.members.contains(node) || primary.position.lsn.bytes_since(standby.flush) <= JOIN_LAG
    };
    let mut members: BTreeSet<NodeId> = connected
        .iter()
        .filter(|(node, standby)| close(node, standby) && !left_out(view, **node))
        .map(|(node, _)| *node)
        .collect();
    let k = settings.sync_standbys;
    let enough = members.len() >= k as usize;
    let patience = Duration::from_millis(if enough {
        settings.sync_remove_after_ms
    } else {
        settings.sync_degrade_after_ms
    });
    let mut wake_at: Option<MonoTime> = None;
    for node in current.members.difference(&members.clone()) {
        let leaves = left_out(view, *node) || !view.state.members.contains_key(node);
        let gone_since = view.memory.absent_since.get(node).copied().unwrap_or(view.now);
        let lost = leaves || view.now.since(gone_since) >= patience;
        if !lost || (settings.sync_mode == SyncMode::Strict && !enough) {
            members.insert(*node);
        }
        if !lost {
            let at = gone_since.plus(patience);
            wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
        }
    }
    let k = match settings.sync_mode {
        SyncMode::Strict => k,
        _ => k.min(u32::try_from(members.len()).unwrap_or(u32::MAX)),
    };
    (SyncRule { k, members, ..base }, wake_at)
}

/// Whether a node is kept out of the synchronous set by an operator.
fn left_out(view: &NodeView<'_>, node: NodeId) -> bool {
    view.state.maintenance.contains(&node) || view.state.fenced.contains_key(&node)
}
