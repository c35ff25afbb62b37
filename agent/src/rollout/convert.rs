//! Between what `pgctl` says and what the core keeps.

use super::live::Live;
use agent_core::cluster::{
    PastRollout, Rollout, RolloutLimits, RolloutPhase, RolloutPlan, RolloutStep, StepClass,
};
use proto::rollout as wire;

/// A plan as it was sent.
///
/// # Errors
/// A class that this agent does not know, or a database without a name.
pub(super) fn plan(plan: wire::Plan) -> Result<RolloutPlan, String> {
    if plan.database.is_empty() || plan.database.len() > 63 {
        return Err("the database's name must be 1 to 63 bytes".to_owned());
    }
    let steps: Result<Vec<RolloutStep>, String> = plan.steps.into_iter().map(step).collect();
    Ok(RolloutPlan {
        name: plan.name.chars().take(200).collect(),
        database: plan.database,
        steps: steps?,
        limits: plan.limits.map(limits).unwrap_or_default(),
    })
}

fn limits(limits: wire::Limits) -> RolloutLimits {
    let default = RolloutLimits::default();
    let or = |given: u64, default: u64| if given == 0 { default } else { given };
    RolloutLimits {
        lock_budget_s: or(limits.lock_budget_s, default.lock_budget_s),
        cancel_blockers_s: limits.cancel_blockers_s,
        lag_bytes: or(limits.lag_bytes, default.lag_bytes),
        lag_ms: or(limits.lag_ms, default.lag_ms),
        batch_ms: or(limits.batch_ms, default.batch_ms),
    }
}

pub(super) fn step(step: wire::Step) -> Result<RolloutStep, String> {
    let class = step.class.unwrap_or_default();
    let class = match class.kind.as_str() {
        "transaction" => StepClass::Transaction,
        "create-index" => StepClass::CreateIndex {
            table: class.table,
            index: class.object,
            unique: class.unique,
            definition: class.definition,
        },
        "drop-index" => StepClass::DropIndex {
            index: class.object,
            if_exists: class.if_exists,
        },
        "reindex" => StepClass::Reindex {
            relation: class.object,
        },
        "detach" => StepClass::Detach {
            parent: class.table,
            child: class.object,
        },
        "backfill" => StepClass::Backfill {
            table: class.table,
            set: class.definition,
            filter: class.filter,
        },
        "outside" => StepClass::Outside,
        other => return Err(format!("this agent knows no steps of class {other:?}: update it")),
    };
    if step.sql.iter().all(|sql| sql.trim().is_empty()) {
        return Err("a step has no statement".to_owned());
    }
    Ok(RolloutStep {
        sql: step.sql,
        settings: step.settings,
        class,
        locks: step
            .locks
            .into_iter()
            .map(|lock| (lock.relation, lock.mode))
            .collect(),
        patient: step.patient,
        undo: step.undo,
        line: step.line,
    })
}

fn class_name(class: &StepClass) -> &'static str {
    match class {
        StepClass::Transaction => "transaction",
        StepClass::CreateIndex { .. } => "create-index",
        StepClass::DropIndex { .. } => "drop-index",
        StepClass::Reindex { .. } => "reindex",
        StepClass::Detach { .. } => "detach",
        StepClass::Backfill { .. } => "backfill",
        StepClass::Outside => "outside",
    }
}

/// A rollout as it is shown.
pub(super) fn rollout(rollout: &Rollout) -> wire::RolloutState {
    let steps = rollout.plan.steps.iter().enumerate().map(|(number, step)| {
        let done = rollout.done.get(number);
        let intent = rollout.intent.filter(|intent| intent.step as usize == number);
        let report = done.cloned().unwrap_or_default();
        let state = match (done, intent) {
            (Some(_), _) => "done",
            (None, Some(_)) => "begun",
            (None, None) => "waiting",
        };
        wire::StepState {
            title: step.title(),
            class: class_name(&step.class).to_owned(),
            state: state.to_owned(),
            attempts: intent.map_or(0, |intent| intent.attempt),
            took_ms: report.took_ms,
            stall_ms: report.stall_ms,
            held_ms: report.held_ms,
            tries: report.tries,
            rows: report.rows,
            note: report.note,
            undoable: step.can_be_undone(),
        }
    });
    wire::RolloutState {
        id: rollout.id.0.clone(),
        name: rollout.plan.name.clone(),
        database: rollout.plan.database.clone(),
        phase: rollout.phase.name().to_owned(),
        message: rollout.message.clone(),
        steps: steps.collect(),
        since_unix_ms: rollout.since.0,
        ended_unix_ms: rollout.ended.map(|at| at.0),
        fingerprint: rollout.fingerprint.clone(),
        longest_stall_ms: rollout.longest_stall_ms(),
    }
}

/// What is under way, if anything is.
pub(super) fn live(rollout: &Rollout, live: &Live) -> Option<wire::Live> {
    let at_work = !rollout.phase.ended() && !live.doing.is_empty() && rollout.phase != RolloutPhase::Failed;
    at_work.then(|| wire::Live {
        step: live.step,
        doing: live.doing.to_owned(),
        detail: live.detail.clone(),
        tries: live.tries,
        stall_ms: live.stall_ms,
        rows: live.rows,
        rows_total: live.rows_total,
        rows_per_s: live.rows_per_s,
        eta_s: live.eta_s,
    })
}

/// An ended rollout as it is shown.
pub(super) fn past(past: &PastRollout) -> wire::Past {
    wire::Past {
        id: past.id.0.clone(),
        name: past.name.clone(),
        database: past.database.clone(),
        phase: past.phase.name().to_owned(),
        steps: past.steps,
        steps_done: past.steps_done,
        longest_stall_ms: past.stall_ms,
        message: past.message.clone(),
        since_unix_ms: past.since.0,
        ended_unix_ms: past.ended.map(|at| at.0),
        fingerprint: past.fingerprint.clone(),
    }
}
