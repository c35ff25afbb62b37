//! Aborting: what was begun is removed, or found to be done; and what was done is taken back, last first.

use super::job::{Job, Stop};
use super::ledger;
use super::look;
use super::probe;
use super::{concurrent, transaction};
use agent_core::cluster::{RolloutAct, StepClass, StepReport};

/// Removes what the step that was begun may have left; if it is found to be done, it is.
pub(super) async fn clean_up(job: &Job, number: u32) -> Result<(), Stop> {
    let mut agent = job.agent().await?;
    job.alone(&agent).await?;
    let role = job.server.rollout_role().unwrap_or_default().to_owned();
    ledger::prepare(&agent, &role).await?;
    if ledger::entry(&agent, job, number)
        .await?
        .is_some_and(|entry| entry.complete)
    {
        ledger::confirm(&mut agent, job, number).await?;
        let report = StepReport {
            epoch: job.epoch,
            note: "was done when the rollout was aborted".to_owned(),
            ..StepReport::default()
        };
        return job.done(number, report).await;
    }
    let step = job.step(number)?;
    let worker = job.worker(step).await?;
    worker.rows("SET lock_timeout = 0").await?;
    concurrent::tidy(job, &worker, &agent, step).await?;
    if let StepClass::Detach { parent, child } = &step.class
        && probe::attached(&worker, parent, child).await? == Some(true)
    {
        // There is no way back from here: the partition can only be detached for good.
        let sql = format!("ALTER TABLE {parent} DETACH PARTITION {child} FINALIZE");
        worker.run(&sql).await?;
    }
    worker.rows(&ledger::forget(job, number)).await?;
    job.propose(RolloutAct::Cleaned {
        id: job.rollout.id.clone(),
        step: number,
        epoch: job.epoch,
    })
    .await
}

/// Takes the effect of a step back. Its row goes in the same transaction, or behind it.
pub(super) async fn undo(job: &Job, number: u32) -> Result<(), Stop> {
    let agent = job.agent().await?;
    job.alone(&agent).await?;
    let step = job.step(number)?;
    job.tell(|live| {
        live.step = number;
        live.doing = "undoing";
    });
    if ledger::entry(&agent, job, number).await?.is_some() {
        let worker = job.worker(step).await?;
        match &step.class {
            StepClass::CreateIndex { table, index, .. } => {
                let sql = "SET lock_timeout = 0; SET statement_timeout = 0";
                worker.rows(sql).await?;
                let there = format!(
                    "SELECT i.indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index i \
                     JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {}::oid AND c.relname = \
                     (pg_catalog.parse_ident({}))[1]",
                    super::sql::relation(table),
                    super::sql::literal(index)
                );
                if let Some(name) = worker.text(&there).await? {
                    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
                    look::watched(&agent, worker.pid, worker.run(&drop)).await.0?;
                }
                worker.rows(&ledger::forget(job, number)).await?;
            }
            _ => transaction::take_back(job, number, step, &worker, &agent).await?,
        }
    }
    job.propose(RolloutAct::Undone {
        id: job.rollout.id.clone(),
        step: number,
        epoch: job.epoch,
    })
    .await
}
