//! A schema change that is carried out step by step: what of it is kept in the replicated state, and how it changes.
//!
//! The database knows which steps have had their effect (a row for each, in the transaction of the effect where there is
//! one); here stands what is wanted, who tries, and what was last found.

use crate::ids::{Epoch, NodeId, RequestId};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// The most steps that a rollout may have.
pub const ROLLOUT_STEPS_MAX: usize = 200;
/// The most text that a rollout's plan may hold, bytes: it is part of every snapshot of the replicated state.
pub const ROLLOUT_BYTES_MAX: usize = 64 << 10;
/// The longest message that is kept, characters.
pub(super) const MESSAGE_MAX: usize = 2_000;
/// How many ended rollouts are remembered, without their steps.
pub(super) const PAST_KEPT: usize = 30;

/// What shall be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPlan {
    /// For people: the names of the scripts.
    pub name: String,
    pub database: String,
    pub steps: Vec<RolloutStep>,
    #[serde(default)]
    pub limits: RolloutLimits,
}

/// How far a rollout may go in what others feel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutLimits {
    /// How long a step may try to get its locks, seconds.
    pub lock_budget_s: u64,
    /// Sessions that have held a lock in the way for at least so long are cancelled, seconds; 0: none ever is.
    pub cancel_blockers_s: u64,
    /// A backfill waits while a standby is further behind, bytes.
    pub lag_bytes: u64,
    /// A backfill waits while a standby's newest commit is older, or a slot or commit waits longer, milliseconds.
    pub lag_ms: u64,
    /// How long one batch of a backfill shall take, milliseconds.
    pub batch_ms: u64,
}

impl Default for RolloutLimits {
    fn default() -> RolloutLimits {
        RolloutLimits {
            lock_budget_s: 1800,
            cancel_blockers_s: 0,
            lag_bytes: 64 << 20,
            lag_ms: 1500,
            batch_ms: 500,
        }
    }
}

/// One part of a rollout, which happens wholly or can be taken up again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStep {
    /// The statements; several are one transaction.
    pub sql: Vec<String>,
    /// SET statements of the script that are in force.
    #[serde(default)]
    pub settings: Vec<String>,
    pub class: StepClass,
    /// The strongest lock on each relation, as far as it is known: the relation as SQL, and the mode as in `pg_locks`.
    #[serde(default)]
    pub locks: Vec<(String, String)>,
    /// It waits for its locks without a limit, because waiting for them stops nobody.
    pub patient: bool,
    /// What takes its effect back; empty where nothing does. Of a CREATE INDEX CONCURRENTLY it is known without.
    #[serde(default)]
    pub undo: Vec<String>,
    /// The line of the script that it comes from.
    #[serde(default)]
    pub line: u32,
}

/// How a step is taken up again when it is not known how far it came. Names are SQL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum StepClass {
    /// One transaction, with the row that proves it.
    #[default]
    Transaction,
    /// CREATE INDEX CONCURRENTLY; `definition` is what follows the table's name.
    CreateIndex {
        table: String,
        index: String,
        unique: bool,
        definition: String,
    },
    /// DROP INDEX CONCURRENTLY.
    DropIndex { index: String, if_exists: bool },
    /// REINDEX CONCURRENTLY of an index or a table.
    Reindex { relation: String },
    /// DETACH PARTITION CONCURRENTLY.
    Detach { parent: String, child: String },
    /// UPDATE in batches along the primary key.
    Backfill {
        table: String,
        /// What stands behind SET.
        set: String,
        /// What stands behind WHERE; empty for all rows.
        filter: String,
    },
    /// Not possible in a transaction, and harmless to repeat: VACUUM.
    Outside,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutPhase {
    #[default]
    Running,
    /// By an operator; what was begun is finished first, where it cannot be interrupted without a trace.
    Paused,
    /// A step was refused by the server. `resume` tries it again.
    Failed,
    /// What was begun is cleaned up; with `undo`, what was done is undone.
    Aborting {
        undo: bool,
    },
    Done,
    Aborted,
}

impl RolloutPhase {
    /// Whether nothing more will be done.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, RolloutPhase::Done | RolloutPhase::Aborted)
    }

    /// The phase's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RolloutPhase::Running => "running",
            RolloutPhase::Paused => "paused",
            RolloutPhase::Failed => "failed",
            RolloutPhase::Aborting { .. } => "aborting",
            RolloutPhase::Done => "done",
            RolloutPhase::Aborted => "aborted",
        }
    }
}

/// A rollout as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The request that began it.
    pub id: RequestId,
    pub plan: RolloutPlan,
    pub phase: RolloutPhase,
    /// What is known of each step that is done, in order; the next step is the first that is not.
    pub done: Vec<StepReport>,
    /// Somebody may have begun the next step.
    pub intent: Option<StepIntent>,
    /// The epoch under which the rows of the steps that are done were last found in the database.
    pub verified: Epoch,
    /// Why it stands where it stands.
    pub message: String,
    pub since: WallTime,
    pub ended: Option<WallTime>,
    /// Of the schema, when it was done.
    pub fingerprint: String,
}

/// A step was begun, and may have had its effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepIntent {
    pub step: u32,
    pub epoch: Epoch,
    pub node: NodeId,
    /// How often it was begun, this time included.
    pub attempt: u32,
}

/// What a step cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Under which epoch its effect was seen.
    pub epoch: Epoch,
    /// Of the last attempt, milliseconds.
    pub took_ms: u64,
    /// The longest that another session was seen to wait for it, milliseconds.
    pub stall_ms: u64,
    /// How long it waited for or held locks that stop others, at most, milliseconds: nobody can have waited longer.
    pub held_ms: u64,
    /// How often it asked for its locks.
    pub tries: u32,
    /// Rows that a backfill has changed.
    pub rows: u64,
    /// What else was found; for people.
    pub note: String,
}

/// A rollout that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRollout {
    pub id: RequestId,
    pub name: String,
    pub database: String,
    pub phase: RolloutPhase,
    pub steps: u32,
    pub steps_done: u32,
    pub stall_ms: u64,
    pub message: String,
    pub since: WallTime,
    pub ended: Option<WallTime>,
    pub fingerprint: String,
}

/// The rollouts of a cluster: one at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollouts {
    /// The one under way, or the last one: its steps are kept until the next begins, so that they can be repeated if a
    /// failover has lost them.
    pub current: Option<Rollout>,
    /// Those before it, oldest first.
    pub past: std::collections::VecDeque<PastRollout>,
}

/// What happens to a rollout. Those that carry an epoch come from its holder, and count only while it is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum RolloutAct {
    Start {
        plan: RolloutPlan,
    },
    Pause {
        id: RequestId,
    },
    Resume {
        id: RequestId,
    },
    Abort {
        id: RequestId,
        undo: bool,
    },
    /// The step is about to be begun.
    Intend {
        id: RequestId,
        step: u32,
        epoch: Epoch,
        node: NodeId,
    },
    /// Its effect is committed and safe on the synchronous set.
    Done {
        id: RequestId,
        step: u32,
        epoch: Epoch,
        report: StepReport,
    },
    /// The server refused it.
    Failed {
        id: RequestId,
        step: u32,
        epoch: Epoch,
        why: String,
    },
    /// All steps that are done were looked for after a change of the epoch; `kept` of them are there.
    Verified {
        id: RequestId,
        epoch: Epoch,
        kept: u32,
    },
    /// What an aborted step had begun is removed: it had no effect.
    Cleaned {
        id: RequestId,
        step: u32,
        epoch: Epoch,
    },
    /// The effect of the last step that was done is taken back.
    Undone {
        id: RequestId,
        step: u32,
        epoch: Epoch,
    },
    Finished {
        id: RequestId,
        epoch: Epoch,
        fingerprint: String,
    },
    Aborted {
        id: RequestId,
        epoch: Epoch,
        message: String,
    },
}

impl RolloutPlan {
    /// Why it cannot be kept in the replicated state.
    pub(super) fn too_large(&self) -> Option<String> {
        if self.steps.is_empty() {
            return Some("it has no statement: nothing is to be done".to_owned());
        }
        if self.steps.len() > ROLLOUT_STEPS_MAX {
            let count = self.steps.len();
            return Some(format!(
                "it has {count} steps, {ROLLOUT_STEPS_MAX} are allowed: split the script"
            ));
        }
        let class = |class: &StepClass| match class {
            StepClass::CreateIndex {
                table,
                index,
                definition,
                ..
            } => table.len() + index.len() + definition.len(),
            StepClass::Backfill { table, set, filter } => table.len() + set.len() + filter.len(),
            StepClass::DropIndex { index, .. } => index.len(),
            StepClass::Reindex { relation } => relation.len(),
            StepClass::Detach { parent, child } => parent.len() + child.len(),
            StepClass::Transaction | StepClass::Outside => 0,
        };
        let texts = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
        let steps = self.steps.iter().map(|step| {
            let locks: usize = step
                .locks
                .iter()
                .map(|(name, mode)| name.len() + mode.len())
                .sum();
            texts(&step.sql) + texts(&step.settings) + texts(&step.undo) + locks + class(&step.class)
        });
        let bytes = self.name.len() + self.database.len() + steps.sum::<usize>();
        (bytes > ROLLOUT_BYTES_MAX)
            .then(|| format!("it holds {bytes} bytes, {ROLLOUT_BYTES_MAX} are allowed: split the script"))
    }
}

impl RolloutStep {
    /// Whether its effect can be taken back.
    #[must_use]
    pub fn can_be_undone(&self) -> bool {
        !self.undo.is_empty() || matches!(self.class, StepClass::CreateIndex { .. } | StepClass::Outside)
    }

    /// Its first words, on one line, at most 100 characters.
    #[must_use]
    pub fn title(&self) -> String {
        let text = self.sql.join("; ");
        let mut words = String::new();
        for word in text.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
            if words.chars().count() > 100 {
                words = words.chars().take(97).collect::<String>() + "...";
                break;
            }
        }
        words
    }
}

impl Rollout {
    /// The number of the step that comes next; that of the steps where all are done.
    #[must_use]
    pub fn next(&self) -> u32 {
        u32::try_from(self.done.len()).unwrap_or(u32::MAX)
    }

    /// The step that comes next.
    #[must_use]
    pub fn next_step(&self) -> Option<&RolloutStep> {
        self.plan.steps.get(self.done.len())
    }

    /// The longest that anybody was seen to wait for it, milliseconds.
    #[must_use]
    pub fn longest_stall_ms(&self) -> u64 {
        self.done.iter().map(|step| step.stall_ms).max().unwrap_or(0)
    }

    pub(super) fn past(&self) -> PastRollout {
        PastRollout {
            id: self.id.clone(),
            name: self.plan.name.clone(),
            database: self.plan.database.clone(),
            phase: self.phase,
            steps: u32::try_from(self.plan.steps.len()).unwrap_or(u32::MAX),
            steps_done: self.next(),
            stall_ms: self.longest_stall_ms(),
            message: self.message.clone(),
            since: self.since,
            ended: self.ended,
            fingerprint: self.fingerprint.clone(),
        }
    }
}
