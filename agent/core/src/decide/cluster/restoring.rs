//! While the whole cluster is restored in place: the old epoch is ended first, and the next one is granted to the restored
//! node alone, once an operator has said so.

use super::failover::ASK_AGAIN;
use super::{ClusterAction, CoordinatorView, Round, candidate, stonith};
use crate::cluster::{Cause, Command, EpochChange, InPlaceRestore, RestoreAct, RestorePhase, gate};
use crate::decide::Decision;
use crate::ids::NodeId;
use crate::reason::Reason;
use std::collections::BTreeSet;

const ID: &str = "no-restore-in-the-way";

/// The primary has not ended yet.
pub(super) fn until_stopped(view: &CoordinatorView<'_>, holder: NodeId) -> Decision<ClusterAction> {
    let reason = Reason::shut(
        ID,
        format!(
            "{} shuts down, so that the cluster can be restored",
            view.name(holder)
        ),
        "its last session ends, or its lease runs out; pgctl restore --abort leaves everything as it is",
    );
    Decision::wait("restore-stopping", reason)
}

/// The primary has ended, or its lease is over.
pub(super) fn decide(
    view: &CoordinatorView<'_>,
    holder: NodeId,
    running: &InPlaceRestore,
    round: Option<&Round>,
    ask: impl Fn(&str) -> Decision<ClusterAction>,
) -> Decision<ClusterAction> {
    match running.phase {
        RestorePhase::Stopping => end_the_epoch(view, running, round, ask),
        RestorePhase::Restoring | RestorePhase::Inspecting => {
            let reason = Reason::shut(
                ID,
                format!(
                    "the cluster is being restored on {}: {}",
                    view.name(running.node),
                    running.phase.name()
                ),
                "pgctl restore --status, then --commit, --step or --abort",
            );
            Decision::wait("restore-under-way", reason)
        }
        RestorePhase::Committing => {
            let decision = commit(view, running, round, ask);
            stonith::beside(view, holder, round, decision)
        }
    }
}

/// Nothing is touched before no server of the old epoch can be writable, whatever its agent does.
fn end_the_epoch(
    view: &CoordinatorView<'_>,
    running: &InPlaceRestore,
    round: Option<&Round>,
    ask: impl Fn(&str) -> Decision<ClusterAction>,
) -> Decision<ClusterAction> {
    let Some(round) = round else {
        return ask("release-for-restore");
    };
    let released: BTreeSet<NodeId> = round.released.keys().copied().collect();
    if view.state.voters.majority(&released) {
        let act = RestoreAct::Stopped {
            id: running.id.clone(),
            released,
        };
        return Decision::act(
            "restore-stopped",
            ClusterAction::Propose(Command::Restore {
                request: None,
                act: Box::new(act),
                at: view.wall,
            }),
        );
    }
    again(view, round, &ask)
}

fn again(
    view: &CoordinatorView<'_>,
    round: &Round,
    ask: impl Fn(&str) -> Decision<ClusterAction>,
) -> Decision<ClusterAction> {
    if view.now.since(round.asked) >= ASK_AGAIN {
        return ask("ask-release-again");
    }
    Decision::rest("wait-for-pledges").again(round.asked.plus(ASK_AGAIN), "ask for pledges again")
}

fn commit(
    view: &CoordinatorView<'_>,
    running: &InPlaceRestore,
    round: Option<&Round>,
    ask: impl Fn(&str) -> Decision<ClusterAction>,
) -> Decision<ClusterAction> {
    let Some(round) = round else {
        return ask("begin-release");
    };
    let mut released = round.released.clone();
    for (node, release) in &mut released {
        // What the others have is from before the restore, however far it reaches.
        release.left_out = *node != running.node;
    }
    let change = EpochChange {
        from: view.state.epoch,
        to: running.node,
        cause: Cause::Restore,
        why: format!(
            "a restore of the cluster on {} was committed",
            view.name(running.node)
        ),
        sync: candidate::rule_for(view, running.node, &released),
        released,
        receipt: candidate::newest_word(view),
        may_lose_bytes: None,
        at: view.wall,
    };
    let gates = gate::check(&view.state, &change);
    let decision = if gate::is_open(&gates) {
        Decision::act(
            "grant-epoch",
            ClusterAction::Propose(Command::ChangeEpoch(Box::new(change))),
        )
    } else {
        again(view, round, &ask)
    };
    Decision {
        reasons: gates,
        ..decision
    }
}
