//! What the cluster should commit next. Runs on the Raft leader, the *coordinator*; safety never depends on there being
//! only one: every grant is a compare-and-set, and its gate is checked again when it is applied.

mod candidate;
mod creation;
mod duties;
mod failover;
mod restoring;
mod stonith;
mod switchover;

pub use duties::is_heard_of;

use super::Decision;
use crate::cluster::{ClusterState, Command, DutyKind, Release};
use crate::ids::{Epoch, NodeId};
use crate::pg::Lsn;
use crate::time::{MonoTime, WallTime};
use crate::view::{ClusterView, FenceReceipt, NodeReport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// All that the coordinator's decision may look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorView<'a> {
    /// The coordinator's own node.
    pub me: NodeId,
    #[serde(borrow)]
    pub state: std::borrow::Cow<'a, ClusterState>,
    pub reports: ClusterView,
    pub now: MonoTime,
    pub wall: WallTime,
    pub memory: CoordinatorMemory,
}

/// What the coordinator remembers between two looks; a new coordinator starts with none of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorMemory {
    /// The newest proof that the holder of the newest epoch has ended its server.
    pub receipt: Option<FenceReceipt>,
    /// How much longer each voter is bound, by its last answer, and when it gave it.
    pub bound: BTreeMap<NodeId, (MonoTime, Duration)>,
    /// The release round under way.
    pub round: Option<Round>,
    /// Since when this coordinator has seen the newest epoch.
    pub epoch_since: Option<MonoTime>,
    /// How many epochs in a row, up to the one before this, have lasted less than `failover_pause_ms`.
    pub short_epochs: u32,
    /// Since when this coordinator has seen the switchover under way in its phase.
    pub switchover_since: Option<MonoTime>,
    /// Since when a pledge beyond the newest epoch has been seen while the holder was well.
    pub stray_pledge_since: Option<MonoTime>,
    /// What this coordinator has tried to turn the holder of the newest epoch off.
    pub stonith: Option<StonithProgress>,
    /// Since when nothing was heard of a claimed duty.
    pub duty_silent_since: BTreeMap<DutyKind, MonoTime>,
}

/// Attempts to turn a holder's machine off. A new coordinator begins anew: to turn off what is off changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StonithProgress {
    /// The epoch whose holder is meant.
    pub epoch: Epoch,
    /// Attempts that have ended.
    pub tries: u32,
    /// When the last one ended; `None` while one is under way.
    pub ended: Option<MonoTime>,
    /// Why the last one failed.
    pub failure: Option<String>,
}

/// The answers to `Release`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The epoch that was pledged to.
    pub epoch: Epoch,
    pub started: MonoTime,
    /// When it was last asked.
    pub asked: MonoTime,
    /// Who has pledged, with the newest position that it told.
    pub released: BTreeMap<NodeId, Release>,
    /// Who has not answered the last question yet.
    pub pending: BTreeSet<NodeId>,
}

/// One thing that the coordinator wants done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum ClusterAction {
    /// Has a command committed.
    Propose(Command),
    /// Asks every member how much longer it is bound; changes nothing there.
    AskBound {
        next: Epoch,
        receipt: Option<FenceReceipt>,
    },
    /// Asks every member to pledge to `epoch`, and its standby to stop receiving. `wait_for`: a standby first waits a
    /// moment until it has the WAL up to there.
    AskRelease {
        epoch: Epoch,
        receipt: Option<FenceReceipt>,
        wait_for: Option<Lsn>,
    },
    /// Has the machine of `node`, which held `epoch`, turned off, beside everything else; the proof comes as
    /// [`Command::RecordStonith`].
    TurnOff { node: NodeId, epoch: Epoch },
}

/// A report older than this says nothing about the present.
pub const FRESH: Duration = Duration::from_millis(3_000);

/// Decides.
#[must_use]
pub fn decide(view: &CoordinatorView<'_>) -> Decision<ClusterAction> {
    if view.state.cluster_id.is_empty() {
        return Decision::rest("not-founded");
    }
    match view.state.holder {
        None => creation::decide(view),
        Some(holder) => {
            if let Some(decision) = failover::decide(view, holder) {
                return decision;
            }
            if view.state.restores.running.is_some() {
                return restoring::until_stopped(view, holder);
            }
            if let Some(decision) = switchover::decide(view, holder) {
                return decision;
            }
            failover::mend_stray_pledge(view, holder)
                .or_else(|| duties::decide(view))
                .unwrap_or_else(|| Decision::rest("holder-is-well"))
        }
    }
}

impl CoordinatorView<'_> {
    fn fresh(&self, node: NodeId) -> Option<&NodeReport> {
        self.reports.fresh(node, self.now, FRESH)
    }

    fn name(&self, node: NodeId) -> String {
        self.state.name_of(node)
    }
}
