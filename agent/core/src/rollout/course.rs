//! Which move comes next.

use crate::cluster::{ClusterState, RolloutPhase};
use crate::ids::{Epoch, NodeId};

/// What the executor shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Nothing, until the state changes.
    Rest,
    /// Look whether the rows of all steps that are done are in the database of this epoch.
    Verify,
    /// Say that the step will be begun.
    Intend(u32),
    /// Find out how far the step came, and carry it out.
    Carry(u32),
    /// Every step is done: take the fingerprint and say so.
    Finish,
    /// Remove what the step that was begun may have left.
    CleanUp(u32),
    /// Take the effect of the step back.
    Undo(u32),
    /// Nothing is left of what is being aborted.
    EndAbort,
}

/// The next move of `me`. `writable`: the epoch under which this node's server takes writes at this moment.
#[must_use]
pub fn next_move(state: &ClusterState, me: NodeId, writable: Option<Epoch>) -> Move {
    let Some(rollout) = &state.rollouts.current else {
        return Move::Rest;
    };
    let holds = state.holder == Some(me) && writable == Some(state.epoch);
    // A server that is about to be shut down should not be given work.
    if !holds || state.switchover.is_some() {
        return Move::Rest;
    }
    if rollout.phase == RolloutPhase::Aborted {
        return Move::Rest;
    }
    if rollout.verified != state.epoch {
        return Move::Verify;
    }
    let next = rollout.next();
    match rollout.phase {
        RolloutPhase::Paused | RolloutPhase::Failed | RolloutPhase::Done | RolloutPhase::Aborted => {
            Move::Rest
        }
        RolloutPhase::Running if rollout.next_step().is_none() => Move::Finish,
        RolloutPhase::Running => match rollout.intent {
            Some(intent) if intent.step == next && intent.epoch == state.epoch && intent.node == me => {
                Move::Carry(next)
            }
            _ => Move::Intend(next),
        },
        RolloutPhase::Aborting { .. } if rollout.intent.is_some() => Move::CleanUp(next),
        RolloutPhase::Aborting { undo: true } if next > 0 => Move::Undo(next - 1),
        RolloutPhase::Aborting { .. } => Move::EndAbort,
    }
}
