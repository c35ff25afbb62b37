//! The whole cluster goes back to a point in time, in place.
//!
//! What an operator asked for, and how far it has come. While it is under way nobody is promoted; its one grant
//! ([`super::Cause::Restore`]) ends it.

use super::apply::{Outcome, conflict};
use super::{Applied, ClusterState, EpochChange, MemberKind};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::pg::{Position, TimelineId};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How many ended ones are remembered: a node that was away for longer is copied anew.
const PAST_KEPT: usize = 50;
/// The longest text that a node may tell, characters.
const TEXT_MAX: usize = 2_000;

/// How far to recover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
pub enum RestorePoint {
    /// To the end of the backup.
    Immediate,
    /// ms since 1970.
    Time(i64),
    Lsn(crate::pg::Lsn),
    Xid(u64),
    /// A restore point of `pg_create_restore_point`.
    Name(String),
}

/// Where an operator wants to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTarget {
    pub point: RestorePoint,
    /// Stop just before it instead of just after it.
    pub exclusive: bool,
    /// Begin with this backup, instead of the newest before the point.
    pub backup: Option<String>,
    /// Recover along this timeline, instead of the newest.
    pub timeline: Option<TimelineId>,
}

impl RestoreTarget {
    /// Whether a server that stands at `from`, `reached`, can get here by replaying on. Where that cannot be told, the
    /// backup is restored again.
    #[must_use]
    pub fn is_ahead_of(&self, from: &RestoreTarget, reached: Position) -> bool {
        if self.timeline != from.timeline || self.backup != from.backup {
            return false;
        }
        match (&self.point, &from.point) {
            (RestorePoint::Lsn(to), _) => *to > reached.lsn,
            (RestorePoint::Time(to), RestorePoint::Time(from)) => to > from,
            _ => false,
        }
    }
}

/// A restore of the cluster that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlaceRestore {
    /// Of the request that began it; names what belongs to it on the node's disk.
    pub id: RequestId,
    /// The node that restores, and is the primary afterwards.
    pub node: NodeId,
    pub target: RestoreTarget,
    /// One higher with each other target.
    pub round: u32,
    pub phase: RestorePhase,
    pub since: WallTime,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// Where the restored server stands, once it has reached the target of this round.
    pub reached: Option<RestoreReached>,
    /// What had been reached when this target was chosen: where the restored server may go on from.
    pub stepped_from: Option<(RestoreTarget, Position)>,
    /// Why the last attempt of this round did not come off.
    pub trouble: Option<String>,
}

/// Where a restored server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReached {
    pub position: Position,
    /// The backup that it began with.
    pub backup: String,
    /// How long before `at` the last transaction that it replayed was committed, ms.
    pub replay_age_ms: Option<u64>,
    pub at: WallTime,
}

impl RestoreReached {
    /// When the last transaction that it replayed was committed, by the clock of the node.
    #[must_use]
    pub fn last_commit(&self) -> Option<WallTime> {
        Some(WallTime(self.at.0.saturating_sub(self.replay_age_ms?)))
    }
}

/// How far it has come. Until the grant there is a way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestorePhase {
    /// The primary shuts down, and a majority of the voters pledges to the next epoch.
    Stopping,
    /// The old data of the node are set aside, the backup is restored and recovered to the target.
    Restoring,
    /// The restored server can be read.
    Inspecting,
    /// The operator has said yes: the node is granted the next epoch.
    Committing,
}

impl RestorePhase {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RestorePhase::Stopping => "stopping",
            RestorePhase::Restoring => "restoring",
            RestorePhase::Inspecting => "inspecting",
            RestorePhase::Committing => "committing",
        }
    }
}

/// One that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRestore {
    pub id: RequestId,
    pub node: NodeId,
    /// False: the old data count.
    pub committed: bool,
    pub at: WallTime,
    pub message: String,
}

/// After a restore only data of its line count: older positions are further, and written off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredLine {
    /// The epoch with which it began.
    pub epoch: Epoch,
    /// Who was granted it.
    pub node: NodeId,
    /// Its timeline. What is on an earlier one is not on this line, but for the node's own data before its promotion.
    pub timeline: TimelineId,
    /// Where the node's data ended at the grant.
    pub position: Position,
}

/// Restores of the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restores {
    pub running: Option<InPlaceRestore>,
    /// The last ones, oldest first.
    pub past: Vec<PastRestore>,
    /// The last one that was committed.
    pub line: Option<RestoredLine>,
}

/// What happens to a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum RestoreAct {
    /// An operator's: stops the cluster.
    Begin { node: NodeId, target: RestoreTarget },
    /// The coordinator's: these have pledged to the next epoch, so no server of the old one can be writable.
    Stopped {
        id: RequestId,
        released: BTreeSet<NodeId>,
    },
    /// The node's: the server stands at the target of that round.
    Reached {
        id: RequestId,
        round: u32,
        reached: RestoreReached,
    },
    /// The node's: an attempt did not come off. It is tried again.
    Trouble { id: RequestId, round: u32, why: String },
    /// An operator's: another target.
    Step { target: RestoreTarget },
    /// An operator's: what is there at `round` becomes the cluster's.
    Commit { round: u32 },
    /// An operator's: everything as it was before.
    Abort { why: String },
}

impl InPlaceRestore {
    /// Whether the server that stands where the last target was goes on to this one, instead of being restored again.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        let from = self.stepped_from.as_ref();
        from.is_some_and(|(before, reached)| self.target.is_ahead_of(before, *reached))
    }
}

impl Restores {
    /// Whether data that `node` told at `position` with its pledge count: after a restore was committed, the old line's do
    /// not, however far they reach.
    #[must_use]
    pub fn counts(&self, node: NodeId, position: Position) -> bool {
        self.line.is_none_or(|line| {
            position.timeline >= line.timeline || (node == line.node && position <= line.position)
        })
    }

    /// How the restore `id` ended, if it has.
    #[must_use]
    pub fn ended(&self, id: &RequestId) -> Option<bool> {
        let past = self.past.iter().find(|past| past.id == *id)?;
        Some(past.committed)
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

fn none_running() -> super::Rejected {
    conflict(
        "no-restore",
        "no restore of the cluster is under way: pgctl restore --in-place begins one",
    )
}

impl ClusterState {
    /// Nothing else is ordered while a restore is under way.
    pub(super) fn no_restore(&self) -> Result<(), super::Rejected> {
        match self.restores.running {
            None => Ok(()),
            Some(_) => Err(conflict(
                "restore-under-way",
                "a restore of the whole cluster is under way: pgctl restore --commit or --abort first",
            )),
        }
    }

    pub(super) fn restore(&mut self, request: Option<&RequestId>, act: &RestoreAct, at: WallTime) -> Outcome {
        match act {
            RestoreAct::Begin { node, target } => self.begin_restore(request, *node, target, at),
            RestoreAct::Stopped { id, released } => self.restore_stopped(id, released, at),
            RestoreAct::Reached { id, round, reached } => self.restore_reached(id, *round, reached, at),
            RestoreAct::Trouble { id, round, why } => self.restore_trouble(id, *round, why, at),
            RestoreAct::Step { target } => self.step_restore(target, at),
            RestoreAct::Commit { round } => self.commit_restore(*round, at),
            RestoreAct::Abort { why } => self.abort_restore(why, at),
        }
    }

    fn begin_restore(
        &mut self,
        request: Option<&RequestId>,
        node: NodeId,
        target: &RestoreTarget,
        at: WallTime,
    ) -> Outcome {
        let Some(id) = request else {
            return Err(conflict(
                "no-request",
                "a restore begins with an operator's request",
            ));
        };
        if self.restores.running.is_some() {
            return Err(conflict(
                "restore-under-way",
                "a restore of the cluster is under way: pgctl restore --status",
            ));
        }
        if self.holder.is_none() || self.system_id.is_none() {
            return Err(conflict(
                "no-database",
                "the cluster has no database yet, so there is nothing to restore in place: pgctl restore --into",
            ));
        }
        if self.switchover.is_some() || self.failover_order.is_some() {
            return Err(conflict(
                "order-under-way",
                "a switchover or an ordered failover is under way: wait for it",
            ));
        }
        let name = self.name_of(node);
        match self.members.get(&node) {
            None => {
                return Err(conflict(
                    "not-a-member",
                    format!("{name} is not a member: see pgctl list"),
                ));
            }
            Some(member) if member.kind == MemberKind::Witness => {
                return Err(conflict(
                    "witness",
                    format!("{name} is a witness and has no data"),
                ));
            }
            Some(_) if self.fenced.contains_key(&node) => {
                return Err(conflict(
                    "fenced-by-hand",
                    format!("{name} is fenced by hand: pgctl unfence it first, or choose another node"),
                ));
            }
            Some(_) => {}
        }
        self.restores.running = Some(InPlaceRestore {
            id: id.clone(),
            node,
            target: target.clone(),
            round: 1,
            phase: RestorePhase::Stopping,
            since: at,
            epoch: self.epoch,
            reached: None,
            stepped_from: None,
            trouble: None,
        });
        self.record(
            at,
            "restore-begins",
            format!("of the whole cluster, on {name}; the servers are stopped"),
        );
        Ok(Applied::Done)
    }

    fn restore_stopped(&mut self, id: &RequestId, released: &BTreeSet<NodeId>, at: WallTime) -> Outcome {
        let proven = self.voters.majority(released);
        let epoch = self.epoch;
        let Some(running) = self.restores.running.as_mut().filter(|running| running.id == *id) else {
            return Err(none_running());
        };
        if running.phase != RestorePhase::Stopping {
            return Ok(Applied::Unchanged);
        }
        if !proven || running.epoch != epoch {
            return Err(conflict(
                "not-stopped",
                "no majority of the voters has released the primary's epoch yet",
            ));
        }
        running.phase = RestorePhase::Restoring;
        let node = running.node;
        let name = self.name_of(node);
        self.record(
            at,
            "restore-stopped",
            format!("nobody can write any more; {name} sets its data aside and restores"),
        );
        Ok(Applied::Done)
    }

    fn restore_reached(
        &mut self,
        id: &RequestId,
        round: u32,
        reached: &RestoreReached,
        at: WallTime,
    ) -> Outcome {
        let running = self.restores.running.as_mut();
        let Some(running) = running.filter(|running| running.id == *id && running.round == round) else {
            return Err(conflict(
                "restore-overtaken",
                "another target was chosen meanwhile",
            ));
        };
        if running.phase != RestorePhase::Restoring {
            return Ok(Applied::Unchanged);
        }
        running.phase = RestorePhase::Inspecting;
        running.trouble = None;
        let reached = RestoreReached {
            backup: bounded(&reached.backup),
            at,
            ..reached.clone()
        };
        let text = format!(
            "at {}, from backup {}; read it, then pgctl restore --commit, --step or --abort",
            reached.position, reached.backup
        );
        running.reached = Some(reached);
        self.record(at, "restore-reached", text);
        Ok(Applied::Done)
    }

    fn restore_trouble(&mut self, id: &RequestId, round: u32, why: &str, at: WallTime) -> Outcome {
        let running = self.restores.running.as_mut();
        let Some(running) = running.filter(|running| running.id == *id && running.round == round) else {
            return Err(none_running());
        };
        let why = bounded(why);
        if running.trouble.as_ref() == Some(&why) {
            return Ok(Applied::Unchanged);
        }
        running.trouble = Some(why.clone());
        self.record(at, "restore-trouble", why);
        Ok(Applied::Done)
    }

    fn step_restore(&mut self, target: &RestoreTarget, at: WallTime) -> Outcome {
        let running = self.restores.running.as_mut().ok_or_else(none_running)?;
        if !matches!(running.phase, RestorePhase::Restoring | RestorePhase::Inspecting) {
            return Err(conflict(
                "not-inspecting",
                format!("the restore is {}: pgctl restore --status", running.phase.name()),
            ));
        }
        let before = std::mem::replace(&mut running.target, target.clone());
        let reached = running.reached.take();
        running.stepped_from = reached.map(|reached| (before, reached.position));
        running.round = running.round.saturating_add(1);
        running.phase = RestorePhase::Restoring;
        running.trouble = None;
        self.record(at, "restore-steps", "to another target".to_owned());
        Ok(Applied::Done)
    }

    fn commit_restore(&mut self, round: u32, at: WallTime) -> Outcome {
        let running = self.restores.running.as_mut().ok_or_else(none_running)?;
        if running.phase == RestorePhase::Committing {
            return Ok(Applied::Unchanged);
        }
        if running.phase != RestorePhase::Inspecting || running.round != round {
            return Err(conflict(
                "not-inspecting",
                format!(
                    "the restore is {}, and only what has been reached can be committed: pgctl restore --status",
                    running.phase.name()
                ),
            ));
        }
        running.phase = RestorePhase::Committing;
        self.record(
            at,
            "restore-commits",
            "what was written after its target is given up".to_owned(),
        );
        Ok(Applied::Done)
    }

    fn abort_restore(&mut self, why: &str, at: WallTime) -> Outcome {
        let running = self.restores.running.take().ok_or_else(none_running)?;
        let name = self.name_of(running.node);
        let message = format!("aborted: {}; {name} puts its old data back", bounded(why));
        self.end_restore(&running, false, message, at);
        Ok(Applied::Done)
    }

    fn end_restore(&mut self, running: &InPlaceRestore, committed: bool, message: String, at: WallTime) {
        let kind = if committed {
            "restore-committed"
        } else {
            "restore-aborted"
        };
        self.record(at, kind, message.clone());
        self.restores.past.push(PastRestore {
            id: running.id.clone(),
            node: running.node,
            committed,
            at,
            message,
        });
        let past = &mut self.restores.past;
        past.drain(..past.len().saturating_sub(PAST_KEPT));
    }

    /// What a grant means for restores. To be called once the new epoch is in the state.
    pub(super) fn restore_after_grant(&mut self, change: &EpochChange) {
        if change.cause == super::Cause::Restore
            && let Some(running) = self.restores.running.take()
        {
            let position = running.reached.as_ref().map(|reached| reached.position);
            self.restores.line = Some(RestoredLine {
                epoch: self.epoch,
                node: change.to,
                timeline: self.timeline,
                position: position.unwrap_or_default(),
            });
            let message = format!(
                "{} is the primary of epoch {} on timeline {}, at {}",
                self.name_of(change.to),
                self.epoch,
                self.timeline,
                position.unwrap_or_default()
            );
            self.end_restore(&running, true, message, change.at);
            let why = "the cluster was restored: what is written from now on needs a backup of the line that begins";
            self.order_duty(super::DutyKind::Backup, why, change.at);
            return;
        }
        // The operator has accepted the loss of what was restored.
        let told = change
            .released
            .get(&change.to)
            .and_then(|release| release.position);
        if told.is_some_and(|position| !self.restores.counts(change.to, position)) {
            self.restores.line = None;
        }
    }
}
