//! Work that recurs by a schedule and is done by one node at a time: who has claimed it, and how it ended.
//!
//! A claim is a compare-and-set in the replicated state. Whoever holds it *seals* it before the result counts for anybody,
//! so that a node whose claim was taken over meanwhile throws its work away.

use super::apply::{Outcome, conflict};
use super::{Applied, ClusterState, MemberKind, Settings};
use crate::ids::NodeId;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// How many ended duties are kept.
const RECORDS_KEPT: usize = 50;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DutyKind {
    /// A base backup into every repository.
    Backup,
    /// A restore into scratch space, to see that it can be done.
    Drill,
    /// Logical dumps into every repository.
    Dump,
    /// What the repositories' retention lets go.
    Expire,
    /// A share of every repository is read.
    Verify,
}

/// One run, claimed by a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    pub kind: DutyKind,
    /// The name of what it makes.
    pub id: String,
    pub node: NodeId,
    /// Of that node's agent: a later start knows nothing of the work.
    pub incarnation: u64,
    /// The time of the schedule that it is for.
    pub due: WallTime,
    /// Counts from 1 for each due time.
    pub attempt: u32,
    pub claimed_at: WallTime,
    /// The node has asked whether the claim is still its own, and was told so: its result counts.
    #[serde(default)]
    pub sealed: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DutyOutcome {
    Done,
    /// The node said so.
    Failed,
    /// The node was not heard of any more.
    Lost,
    /// It was not begun, or not again.
    Skipped,
    /// It was done, and what it found is not right. It is not tried again.
    Alarm,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyRecord {
    pub kind: DutyKind,
    /// Empty where none was begun.
    pub id: String,
    /// Its name; empty where none was begun.
    pub node: String,
    /// `None` for what an operator asked for.
    pub due: Option<WallTime>,
    pub attempt: u32,
    pub began: WallTime,
    pub ended: WallTime,
    pub outcome: DutyOutcome,
    /// For a person.
    pub text: String,
}

/// Something that is to be done beside the schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyOrder {
    /// It is due since then, and until it is done.
    pub at: WallTime,
    /// For a person.
    pub why: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duties {
    pub running: BTreeMap<DutyKind, Duty>,
    /// Since when the schedule is in force: what was due before is not made up for.
    pub since: BTreeMap<DutyKind, WallTime>,
    /// Due times up to here have been seen to.
    pub handled: BTreeMap<DutyKind, WallTime>,
    pub last_done: BTreeMap<DutyKind, DutyRecord>,
    /// What is to be done beside the schedule.
    #[serde(default)]
    pub ordered: BTreeMap<DutyKind, DutyOrder>,
    /// The last ones that ended, oldest first.
    pub records: VecDeque<DutyRecord>,
}

/// A change of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum DutyChange {
    /// The coordinator gives it to a node.
    Claim { duty: Duty },
    /// The node is about to make its result count.
    Seal {
        kind: DutyKind,
        id: String,
        node: NodeId,
    },
    /// It ended; or an operator's own run did.
    End { record: DutyRecord },
    /// It is to be done as soon as can be.
    Order {
        kind: DutyKind,
        why: String,
        at: WallTime,
    },
    /// What was due is not done.
    Skip {
        kind: DutyKind,
        due: WallTime,
        why: String,
        at: WallTime,
    },
}

impl DutyKind {
    pub const ALL: [DutyKind; 5] = [
        DutyKind::Backup,
        DutyKind::Drill,
        DutyKind::Dump,
        DutyKind::Expire,
        DutyKind::Verify,
    ];

    /// As settings and events have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DutyKind::Backup => "backup",
            DutyKind::Drill => "drill",
            DutyKind::Dump => "dump",
            DutyKind::Expire => "expire",
            DutyKind::Verify => "verify",
        }
    }

    /// Its schedule, in the operator's words.
    #[must_use]
    pub fn schedule(self, settings: &Settings) -> &str {
        match self {
            DutyKind::Backup => &settings.backup_schedule,
            DutyKind::Drill => &settings.drill_schedule,
            DutyKind::Dump => &settings.dump_schedule,
            DutyKind::Expire => &settings.expire_schedule,
            DutyKind::Verify => &settings.verify_schedule,
        }
    }

    /// Whether it reads and writes repositories alone: the role of its node's server is no matter then.
    #[must_use]
    pub fn needs_no_server(self) -> bool {
        matches!(self, DutyKind::Expire | DutyKind::Verify)
    }
}

impl DutyChange {
    pub(super) fn stamp(&mut self, now: WallTime) {
        match self {
            DutyChange::Claim { duty } => duty.claimed_at = now,
            DutyChange::Seal { .. } => {}
            DutyChange::End { record } => record.ended = now,
            DutyChange::Order { at, .. } | DutyChange::Skip { at, .. } => *at = now,
        }
    }
}

impl Duties {
    /// How many runs for this due time have ended.
    #[must_use]
    pub fn attempts(&self, kind: DutyKind, due: WallTime) -> u32 {
        self.attempts_for(kind, due)
            .map(|record| record.attempt)
            .max()
            .unwrap_or(0)
    }

    /// The runs for this due time that have ended, oldest first.
    pub fn attempts_for(&self, kind: DutyKind, due: WallTime) -> impl Iterator<Item = &DutyRecord> {
        self.records
            .iter()
            .filter(move |record| record.kind == kind && record.due == Some(due))
    }

    /// Whether what was due then has been seen to. A time that has not come yet is that of a clock that was wrong.
    #[must_use]
    pub fn is_handled(&self, kind: DutyKind, due: WallTime, now: WallTime) -> bool {
        self.handled
            .get(&kind)
            .is_some_and(|handled| *handled >= due && *handled <= now)
    }
}

impl ClusterState {
    pub(super) fn change_duty(&mut self, change: &DutyChange) -> Outcome {
        match change {
            DutyChange::Claim { duty } => self.claim_duty(duty),
            DutyChange::Seal { kind, id, node } => self.seal_duty(*kind, id, *node),
            DutyChange::End { record } => self.end_duty(record),
            DutyChange::Order { kind, why, at } => Ok(self.order_duty(*kind, why, *at)),
            DutyChange::Skip { kind, due, why, at } => {
                if self.duties.is_handled(*kind, *due, *at) {
                    return Ok(Applied::Unchanged);
                }
                if self
                    .duties
                    .running
                    .get(kind)
                    .is_some_and(|running| running.due == *due)
                {
                    return Err(conflict("duty-claimed", "it is under way"));
                }
                let record = DutyRecord {
                    kind: *kind,
                    id: String::new(),
                    node: String::new(),
                    due: Some(*due),
                    attempt: self.duties.attempts(*kind, *due),
                    began: *at,
                    ended: *at,
                    outcome: DutyOutcome::Skipped,
                    text: why.clone(),
                };
                self.duties.handled.insert(*kind, *due);
                self.keep_record(record);
                Ok(Applied::Done)
            }
        }
    }

    /// Has it done as soon as can be, unless that is ordered already.
    pub(super) fn order_duty(&mut self, kind: DutyKind, why: &str, at: WallTime) -> Applied {
        if self.duties.ordered.contains_key(&kind) {
            return Applied::Unchanged;
        }
        self.record(at, &format!("{}-ordered", kind.name()), why.to_owned());
        let why = why.to_owned();
        self.duties.ordered.insert(kind, DutyOrder { at, why });
        Applied::Done
    }

    fn claim_duty(&mut self, duty: &Duty) -> Outcome {
        if let Some(running) = self.duties.running.get(&duty.kind) {
            return Err(conflict(
                "duty-claimed",
                format!("{} is at it: {}", self.name_of(running.node), running.id),
            ));
        }
        let order = self.duties.ordered.get(&duty.kind);
        let ordered = order.is_some_and(|order| order.at == duty.due);
        if !ordered && self.duties.is_handled(duty.kind, duty.due, duty.claimed_at) {
            return Err(conflict("duty-done", "what was due then has been seen to"));
        }
        let data = |id| {
            self.members
                .get(&id)
                .is_some_and(|member| member.kind == MemberKind::Data)
        };
        if !data(duty.node) {
            return Err(conflict("not-a-data-node", "only a data node can do that"));
        }
        let duty = Duty {
            sealed: false,
            ..duty.clone()
        };
        let text = format!(
            "{} of {}, attempt {}",
            duty.id,
            self.name_of(duty.node),
            duty.attempt
        );
        let kind = format!("{}-begins", duty.kind.name());
        let at = duty.claimed_at;
        self.duties.running.insert(duty.kind, duty);
        self.record(at, &kind, text);
        Ok(Applied::Done)
    }

    fn seal_duty(&mut self, kind: DutyKind, id: &str, node: NodeId) -> Outcome {
        match self.duties.running.get_mut(&kind) {
            Some(running) if running.id == id && running.node == node => {
                running.sealed = true;
                Ok(Applied::Done)
            }
            _ => Err(conflict(
                "duty-taken-over",
                format!("{id} is not this node's any more: what was made of it is not used"),
            )),
        }
    }

    fn end_duty(&mut self, record: &DutyRecord) -> Outcome {
        let running = self.duties.running.get(&record.kind);
        let ends_running = running.is_some_and(|running| running.id == record.id);
        if !ends_running && record.due.is_some() {
            return Ok(Applied::Unchanged);
        }
        if ends_running {
            self.duties.running.remove(&record.kind);
        }
        if record.outcome == DutyOutcome::Done {
            self.duties.last_done.insert(record.kind, record.clone());
        }
        if let Some(due) = record.due
            && matches!(record.outcome, DutyOutcome::Done | DutyOutcome::Alarm)
        {
            self.duties.handled.insert(record.kind, due);
            // One that began before the order is not what was ordered; one by hand may be less.
            let order = self.duties.ordered.get(&record.kind);
            if order.is_some_and(|order| record.began >= order.at) {
                self.duties.ordered.remove(&record.kind);
            }
        }
        self.keep_record(record.clone());
        Ok(Applied::Done)
    }

    fn keep_record(&mut self, record: DutyRecord) {
        let what = match record.outcome {
            DutyOutcome::Done => "complete",
            DutyOutcome::Failed => "failed",
            DutyOutcome::Lost => "lost",
            DutyOutcome::Skipped => "skipped",
            DutyOutcome::Alarm => "alarm",
        };
        let words = [record.id.as_str(), record.node.as_str(), record.text.as_str()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        self.record(
            record.ended,
            &format!("{}-{what}", record.kind.name()),
            words.join(": "),
        );
        self.duties.records.push_back(record);
        while self.duties.records.len() > RECORDS_KEPT {
            self.duties.records.pop_front();
        }
    }

    /// A schedule that was changed counts from now on.
    pub(super) fn reschedule(&mut self, before: &Settings, at: WallTime) {
        for kind in DutyKind::ALL {
            if kind.schedule(before) != kind.schedule(&self.settings) {
                self.duties.since.insert(kind, at);
            }
        }
    }
}
