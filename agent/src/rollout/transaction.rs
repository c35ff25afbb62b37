//! A step that is one transaction. It asks for its locks for moments only, and looks first whether it would have to queue:
//! everybody else would queue behind it.

use super::job::{Job, Stop};
use super::ledger;
use super::look::{self, Target};
use super::sql::Db;
use agent_core::cluster::{RolloutStep, StepReport};
use agent_core::rollout::{Trouble, lock_timeout_ms, pause_ms, trouble};
use std::time::{Duration, Instant};

/// How often to look whether the way is free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) async fn carry(
    job: &Job,
    number: u32,
    step: &RolloutStep,
    agent: &Db,
) -> Result<StepReport, Stop> {
    let begun = Instant::now();
    let budget = Duration::from_secs(job.rollout.plan.limits.lock_budget_s);
    let worker = job.worker(step).await?;
    let targets = look::targets(&worker, step).await?;
    let mut report = StepReport {
        epoch: job.epoch,
        ..StepReport::default()
    };
    loop {
        job.go_on()?;
        let timeout = if step.patient {
            0
        } else {
            lock_timeout_ms(report.tries)
        };
        if !step.patient {
            wait_for_the_way(job, agent, &targets, timeout, begun, budget).await?;
        }
        report.tries += 1;
        let tries = report.tries;
        job.tell(|live| {
            live.doing = "running";
            live.tries = tries;
            live.detail.clear();
        });
        let asked = Instant::now();
        let attempt = attempt(job, number, step, &worker, timeout);
        let (outcome, stall) = look::watched(agent, worker.pid, attempt).await;
        report.stall_ms = report.stall_ms.max(stall);
        let held = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !step.patient {
            report.held_ms = report.held_ms.max(held);
        }
        let stall_ms = report.stall_ms;
        job.tell(|live| live.stall_ms = stall_ms);
        match outcome {
            Ok(()) => {
                report.took_ms = held;
                return Ok(report);
            }
            Err(Attempt::Locked(why)) => {
                if begun.elapsed() > budget {
                    return Err(Stop::Refused(format!(
                        "its locks were not to be had within {} s and {} tries ({why}): see who holds them in \
                         pg_stat_activity, then `pgctl ddl resume`",
                        budget.as_secs(),
                        report.tries
                    )));
                }
                let pause = pause_ms(report.tries - 1, rand::random_range(0..1000));
                job.tell(|live| {
                    live.doing = "waiting-for-lock";
                    live.detail = format!("{why}; again in {pause} ms");
                });
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Err(Attempt::Stopped(stop)) => return Err(stop),
        }
    }
}

enum Attempt {
    Locked(String),
    Stopped(Stop),
}

impl From<Stop> for Attempt {
    fn from(stop: Stop) -> Attempt {
        Attempt::Stopped(stop)
    }
}

async fn attempt(
    job: &Job,
    number: u32,
    step: &RolloutStep,
    worker: &Db,
    lock_timeout_ms: u64,
) -> Result<(), Attempt> {
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {lock_timeout_ms}");
    worker.rows(&begin).await.map_err(Stop::from)?;
    for sql in &step.sql {
        if let Err(error) = worker.run(sql).await {
            let verdict = trouble(error.code.as_deref());
            if verdict != Trouble::Lost {
                worker.rows("ROLLBACK").await.map_err(Stop::from)?;
            }
            return Err(match verdict {
                Trouble::Locked => Attempt::Locked(error.message),
                Trouble::Lost | Trouble::Refused => Stop::from(error).into(),
            });
        }
    }
    worker
        .rows(&ledger::mark(job, number))
        .await
        .map_err(Stop::from)?;
    // The last moment at which a step of an epoch that is over can be kept from having its effect here.
    job.still_ours()?;
    worker.run("COMMIT").await.map_err(Stop::from)?;
    Ok(())
}

/// Undoes a step, with short waits for its locks like the step itself.
pub(super) async fn take_back(
    job: &Job,
    number: u32,
    step: &RolloutStep,
    worker: &Db,
    agent: &Db,
) -> Result<(), Stop> {
    let mut tries = 0;
    loop {
        job.still_ours()?;
        let timeout = lock_timeout_ms(tries);
        let mut sql = format!("BEGIN; SET LOCAL lock_timeout = {timeout}; ");
        for undo in &step.undo {
            sql.push_str(undo);
            sql.push_str("; ");
        }
        sql.push_str(&ledger::forget(job, number));
        sql.push_str("; COMMIT");
        let (outcome, _) = look::watched(agent, worker.pid, worker.run(&sql)).await;
        let Err(error) = outcome else { return Ok(()) };
        let verdict = trouble(error.code.as_deref());
        if verdict != Trouble::Lost {
            worker.rows("ROLLBACK").await?;
        }
        if verdict != Trouble::Locked {
            return Err(error.into());
        }
        job.tell(|live| live.detail = error.message);
        tokio::time::sleep(Duration::from_millis(pause_ms(
            tries,
            rand::random_range(0..1000),
        )))
        .await;
        tries += 1;
    }
}

/// Waits until nobody holds, or waits for, a lock in the way who has been at it for longer than the next try may wait.
async fn wait_for_the_way(
    job: &Job,
    agent: &Db,
    targets: &[Target],
    patience_ms: u64,
    begun: Instant,
    budget: Duration,
) -> Result<(), Stop> {
    loop {
        job.go_on()?;
        let in_the_way = look::in_the_way(agent, targets, patience_ms).await?;
        let Some(oldest) = in_the_way.first() else {
            return Ok(());
        };
        if begun.elapsed() > budget {
            return Err(Stop::Refused(format!(
                "{} has been in the way for {} ms, and {} s are over: see pg_stat_activity, then `pgctl ddl resume`",
                oldest.who,
                oldest.age_ms,
                budget.as_secs()
            )));
        }
        let limit = job.rollout.plan.limits.cancel_blockers_s.saturating_mul(1000);
        if limit > 0 {
            for other in in_the_way.iter().filter(|other| other.age_ms >= limit) {
                look::cancel(agent, other).await?;
            }
        }
        job.tell(|live| {
            live.doing = "waiting-for-lock";
            live.detail = format!(
                "{} has held {} for {} ms",
                oldest.who, oldest.relation, oldest.age_ms
            );
        });
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
