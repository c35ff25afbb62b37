//! The promotion gate: the one place that says whether an epoch may be granted.
//!
//! The coordinator asks it before it proposes, `pgctl explain` prints it, and every node asks it again when it applies
//! the grant. It looks at nothing but the replicated state and the grant itself.

use super::{
    Cause, ClusterState, EpochChange, MemberKind, Release, RestorePhase, StonithMode, SyncMode, SyncRule,
    own_word,
};
use crate::ids::NodeId;
use crate::pg::Position;
use crate::reason::Reason;
use crate::sabotage::Rule;
use std::collections::BTreeSet;

/// Every gate of the grant, open or shut. The grant is accepted if all are open.
#[must_use]
pub fn check(state: &ClusterState, change: &EpochChange) -> Vec<Reason> {
    vec![
        epoch_is_newest(state, change),
        automation_is_on(state, change),
        no_restore_in_the_way(state, change),
        data_is_on_the_line(state, change),
        target_can_hold(state, change),
        old_holder_is_fenced(state, change),
        old_holder_is_off(state, change),
        acknowledged_commits_are_kept(state, change),
        target_is_furthest(state, change),
        new_rule_fits(state, change),
    ]
}

/// Whether every gate stands open.
#[must_use]
pub fn is_open(reasons: &[Reason]) -> bool {
    reasons.iter().all(|reason| reason.open)
}

/// The holder of the ending epoch goes on as the holder of the next: no other node could have written in between, so
/// neither a fence nor a comparison of positions is needed.
fn stays(state: &ClusterState, change: &EpochChange) -> bool {
    state.holder == Some(change.to) && matches!(change.cause, Cause::PledgeRepair | Cause::Renewal)
}

fn first(state: &ClusterState) -> bool {
    state.holder.is_none()
}

fn names(state: &ClusterState, nodes: impl IntoIterator<Item = NodeId>) -> String {
    let names: Vec<String> = nodes.into_iter().map(|node| state.name_of(node)).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The pledged nodes that told a position: the set `R` of `docs/safety.md`.
#[must_use]
pub fn pledged(change: &EpochChange) -> BTreeSet<NodeId> {
    change
        .released
        .iter()
        .filter(|(_, release)| release.counted().is_some())
        .map(|(node, _)| *node)
        .collect()
}

fn epoch_is_newest(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "epoch-is-newest";
    if change.from == state.epoch
        && change.sync.epoch == state.epoch.next()
        && change.sync.primary == change.to
    {
        Reason::open(ID, format!("epoch {} is the newest", state.epoch))
    } else {
        Reason::shut(
            ID,
            format!(
                "the grant ends epoch {}, the newest is {}",
                change.from, state.epoch
            ),
            "nothing: another decision came first, and the coordinator looks again",
        )
    }
}

fn automation_is_on(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "automation-is-on";
    let by_hand = matches!(
        change.cause,
        Cause::Switchover | Cause::ManualFailover | Cause::PledgeRepair | Cause::Restore
    );
    match &state.pause {
        Some(pause) if !by_hand => Reason::shut(
            ID,
            format!("paused: {}", pause.reason),
            "pgctl resume, or pgctl failover --to NODE",
        ),
        _ => Reason::open(ID, "not paused, or asked for by hand"),
    }
}

/// While the cluster is being restored nobody is promoted but the restored node, once the operator has said so, with
/// what was inspected.
fn no_restore_in_the_way(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "no-restore-in-the-way";
    let Some(running) = &state.restores.running else {
        return match change.cause {
            Cause::Restore => Reason::shut(ID, "no restore is under way", "nothing: it has ended"),
            _ => Reason::open(ID, "no restore is under way"),
        };
    };
    let name = state.name_of(running.node);
    let told = change.released.get(&change.to).and_then(Release::counted);
    let inspected = running.reached.as_ref().map(|reached| reached.position);
    let is_it = change.cause == Cause::Restore
        && change.to == running.node
        && running.phase == RestorePhase::Committing
        && change.from == running.epoch;
    if is_it && inspected.is_some() && told == inspected {
        return Reason::open(ID, format!("{name} stands where the restore was committed"));
    }
    if is_it {
        let at = told.map_or_else(|| "nowhere that it tells".to_owned(), |told| told.to_string());
        return Reason::shut(
            ID,
            format!("{name} is at {at}, and another position was committed"),
            format!("{name} recovers to the target again, or pgctl restore --abort"),
        );
    }
    Reason::shut(
        ID,
        format!(
            "the cluster is being restored on {name}: {}",
            running.phase.name()
        ),
        "pgctl restore --status, then --commit or --abort",
    )
}

/// After a restore the old line's positions are further, and count for nothing.
fn data_is_on_the_line(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "data-is-on-the-restored-line";
    let Some(line) = state.restores.line else {
        return Reason::open(ID, "nothing was restored");
    };
    if stays(state, change) || change.cause == Cause::Restore {
        return Reason::open(ID, format!("{} itself goes on", state.name_of(change.to)));
    }
    if change.cause == Cause::ManualFailover && accepted_loss(state, change).is_some() {
        return Reason::open(ID, "the operator accepted to lose what was restored");
    }
    let off = change.released.iter().find(|(node, release)| {
        release
            .counted()
            .is_some_and(|position| !state.restores.counts(**node, position))
    });
    match off {
        None => Reason::open(
            ID,
            format!(
                "every position that counts is on timeline {} or later",
                line.timeline
            ),
        ),
        Some((node, _)) => Reason::shut(
            ID,
            format!(
                "{} still has the data from before the restore",
                state.name_of(*node)
            ),
            format!(
                "bring {} back, which has the restored data",
                state.name_of(line.node)
            ),
        ),
    }
}

fn target_can_hold(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "target-can-hold";
    let name = state.name_of(change.to);
    let by_hand = matches!(
        change.cause,
        Cause::Switchover | Cause::ManualFailover | Cause::Restore
    );
    match state.members.get(&change.to) {
        None => Reason::shut(
            ID,
            format!("{name} is not a member"),
            "choose a node of `pgctl list`",
        ),
        Some(member) if member.kind == MemberKind::Witness => Reason::shut(
            ID,
            format!("{name} is a witness and has no data"),
            "choose a data node",
        ),
        Some(_) if state.fenced.contains_key(&change.to) => Reason::shut(
            ID,
            format!("{name} is fenced by hand: {}", state.fenced[&change.to].reason),
            format!("pgctl unfence {name}"),
        ),
        Some(_) if state.maintenance.contains(&change.to) && !by_hand && !stays(state, change) => {
            Reason::shut(
                ID,
                format!("{name} is in maintenance"),
                "pgctl member maintenance NODE off",
            )
        }
        Some(member) if member.nofailover && !by_hand && !stays(state, change) => Reason::shut(
            ID,
            format!("{name} is marked nofailover"),
            "pgctl failover --to NODE, or take the mark away",
        ),
        Some(_) => Reason::open(ID, format!("{name} is a data node")),
    }
}

fn old_holder_is_fenced(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "old-holder-is-fenced";
    if first(state) {
        return Reason::open(ID, "there was no holder yet");
    }
    if stays(state, change) {
        return Reason::open(ID, format!("{} itself goes on", state.name_of(change.to)));
    }
    let released: BTreeSet<NodeId> = change.released.keys().copied().collect();
    if state.voters.majority(&released) {
        let how = match change.receipt {
            Some(receipt) if receipt.clean_end.is_some() => "its server was shut down cleanly",
            Some(_) => "its server processes were ended",
            None => "its lease ran out",
        };
        Reason::open(
            ID,
            format!("{how}, and {} support it no longer", names(state, released)),
        )
    } else {
        Reason::shut(
            ID,
            format!(
                "only {} of the voters {} have released it",
                names(state, released),
                names(state, state.voters.all())
            ),
            "a majority of the voters: start their agents, or restore the network between them",
        )
    }
}

/// In `required` mode the end of a lease is not enough: it cannot cover a machine whose clocks were stopped from outside.
fn old_holder_is_off(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "old-holder-is-off";
    let Some(holder) = state.holder else {
        return Reason::open(ID, "there was no holder yet");
    };
    let name = state.name_of(holder);
    if state.settings.stonith != StonithMode::Required {
        return Reason::open(
            ID,
            format!("stonith = {}: not asked for", state.settings.stonith.name()),
        );
    }
    if change.to == holder && stays(state, change) {
        return Reason::open(ID, format!("{name} itself goes on"));
    }
    if let Some(word) = own_word(state, change.receipt.as_ref(), &change.released) {
        return Reason::open(ID, word);
    }
    match state.holder_off() {
        Some(proof) => Reason::open(
            ID,
            format!("{name} was turned off by {} with {}", proof.by, proof.device),
        ),
        None => Reason::shut(
            ID,
            format!("stonith = required, and nothing proves that {name} is off"),
            format!(
                "its fence device turns it off, or {name} comes back and says that its server has ended; if you have \
                 seen that it is off: pgctl fence confirm {name}"
            ),
        ),
    }
}

fn acknowledged_commits_are_kept(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "acknowledged-commits-are-kept";
    if first(state) {
        return Reason::open(ID, "nothing was acknowledged yet");
    }
    if Rule::AcknowledgedCommitsAreKept.is_off() {
        return Reason::open(ID, "sabotaged");
    }
    if stays(state, change) {
        return Reason::open(ID, "the holder has all that it wrote");
    }
    if change.cause == Cause::Restore {
        return Reason::open(
            ID,
            "the operator has committed the restore, and with it what is lost",
        );
    }
    if let Some(why) = accepted_loss(state, change) {
        return Reason::open(ID, why);
    }
    let released = pledged(change);
    let written = written_under(state, change);
    let rules = SyncRule::possible(written);
    match rules.iter().find(|rule| !kept(written, rule, &released)) {
        None => Reason::open(
            ID,
            format!(
                "{} have pledged, and every quorum that may have acknowledged meets them",
                names(state, released)
            ),
        ),
        Some(rule) => uncovered(state, rule, &released, ID),
    }
}

/// Why acknowledged commits may be lost with this grant; `None` if they may not.
fn accepted_loss(state: &ClusterState, change: &EpochChange) -> Option<String> {
    let bytes = change.may_lose_bytes?;
    if change.cause == Cause::ManualFailover {
        return Some(format!("the operator accepted to lose up to {bytes} bytes"));
    }
    let bound = state.settings.max_lag_bytes;
    (state.settings.sync_mode == SyncMode::Async && bytes <= bound)
        .then(|| format!("async: {bytes} bytes behind, {bound} are allowed"))
}

/// The recorded rules that anything can have been written under.
///
/// An epoch's commits lie on the timeline that is reserved for it. A holder that has pledged to the next epoch while
/// its WAL still ends on an earlier timeline was never promoted in its own and never will be, so the rules of that
/// epoch bind nobody. Without this, a holder that cannot keep a lease would be the only one to be granted the next.
#[must_use]
pub fn written_under<'a>(state: &'a ClusterState, change: &EpochChange) -> &'a [SyncRule] {
    let never_promoted = state.promotion.is_none()
        && state
            .holder
            .and_then(|holder| change.released.get(&holder)?.position)
            .is_some_and(|position| position.timeline < state.timeline);
    let older = || {
        state
            .sync
            .iter()
            .take_while(|rule| rule.epoch < state.epoch)
            .count()
    };
    match never_promoted {
        true => &state.sync[..older()],
        false => &state.sync,
    }
}

/// Whether the pledged nodes hold every commit acknowledged under `rule`. The holder of a later epoch does so alone: its
/// grant passed this gate, and nobody has acknowledged anything under the earlier rule since.
fn kept(written: &[SyncRule], rule: &SyncRule, released: &BTreeSet<NodeId>) -> bool {
    rule.covered_by(released)
        || written
            .iter()
            .any(|later| later.epoch > rule.epoch && released.contains(&later.primary))
}

fn uncovered(state: &ClusterState, rule: &SyncRule, released: &BTreeSet<NodeId>, id: &str) -> Reason {
    let primary = state.name_of(rule.primary);
    let missing = names(state, rule.members.difference(released).copied());
    match rule.shortfall(released) {
        None => Reason::shut(
            id,
            format!(
                "under epoch {} only {primary} had every acknowledged commit: no standby was in sync",
                rule.epoch
            ),
            format!("bring {primary} back, or accept the loss: pgctl failover --to NODE --accept-data-loss"),
        ),
        Some(short) => Reason::shut(
            id,
            format!(
                "epoch {} acknowledged by any {} of {}; pledged: {}; {short} more needed",
                rule.epoch,
                rule.k,
                names(state, rule.members.iter().copied()),
                names(state, released.iter().copied()),
            ),
            format!(
                "bring back {primary} or {missing}, or accept the loss: pgctl failover --to NODE --accept-data-loss"
            ),
        ),
    }
}

/// The furthest position among the pledged nodes, and who is there.
#[must_use]
pub fn furthest(change: &EpochChange) -> Option<(Position, BTreeSet<NodeId>)> {
    let best = change.released.values().filter_map(Release::counted).max()?;
    let there = change
        .released
        .iter()
        .filter(|(_, release)| release.counted() == Some(best));
    Some((best, there.map(|(node, _)| *node).collect()))
}

fn target_is_furthest(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "target-is-furthest";
    if first(state) || stays(state, change) {
        return Reason::open(
            ID,
            format!("{} is the only node with data", state.name_of(change.to)),
        );
    }
    let name = state.name_of(change.to);
    let Some(target) = change.released.get(&change.to).and_then(Release::counted) else {
        return Reason::shut(
            ID,
            format!("{name} has not pledged, or its server does not run"),
            format!("start {name} and its server"),
        );
    };
    match furthest(change) {
        Some((best, there)) if target < best && accepted_loss(state, change).is_none() => Reason::shut(
            ID,
            format!("{name} is at {target}, {} at {best}", names(state, there)),
            "nothing: the coordinator chooses the node that is ahead",
        ),
        _ => Reason::open(ID, format!("{name} is at {target}, and no pledged node is ahead")),
    }
}

fn new_rule_fits(state: &ClusterState, change: &EpochChange) -> Reason {
    const ID: &str = "new-rule-fits";
    let strangers: Vec<NodeId> = change
        .sync
        .members
        .iter()
        .copied()
        .filter(|node| !state.data_members().any(|(id, _)| id == *node))
        .collect();
    if change.sync.members.contains(&change.to) || !strangers.is_empty() {
        return Reason::shut(
            ID,
            format!(
                "the synchronous set {} is not of other data nodes",
                names(state, change.sync.members.clone())
            ),
            "nothing: the coordinator looks again",
        );
    }
    Reason::open(
        ID,
        format!(
            "any {} of {}",
            change.sync.k,
            names(state, change.sync.members.iter().copied())
        ),
    )
}
