//! Steps that are no transaction: they wait without limit, for they stop nobody, are watched, and leave something behind when
//! they are broken off.

use super::job::{Job, Stop};
use super::ledger;
use super::look;
use super::probe::{self, IndexState, Wanted};
use super::sql::{Db, field};
use crate::ports::SqlError;
use agent_core::cluster::{RolloutStep, StepClass, StepReport};
use agent_core::rollout::{Trouble, trouble};
use std::time::{Duration, Instant};

/// How often it is looked how far the statement is, and whether it shall go on.
const TICK: Duration = Duration::from_millis(500);
/// How often a statement that met a deadlock is begun again.
const TRIES: u32 = 5;
/// How long a cancelled statement may take to end.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);

/// Carries the step out; `begun`: an earlier attempt has said that it would be.
pub(super) async fn carry(
    job: &Job,
    number: u32,
    step: &RolloutStep,
    agent: &Db,
    begun: bool,
) -> Result<StepReport, Stop> {
    let worker = job.worker(step).await?;
    worker
        .rows("SET lock_timeout = 0; SET statement_timeout = 0")
        .await?;
    let started = Instant::now();
    let mut report = StepReport {
        epoch: job.epoch,
        ..StepReport::default()
    };
    if !begun && let Some(why) = out_of_place(&worker, step).await? {
        return Err(Stop::Refused(why));
    }
    worker.rows(&ledger::begin(job, number)).await?;
    loop {
        job.break_off()?;
        match left(&worker, step).await? {
            Left::Nothing(note) => {
                report.note = if report.tries == 0 { note } else { String::new() };
                break;
            }
            Left::Remove(broken) => {
                for index in broken {
                    job.tell(|live| {
                        live.doing = "cleaning-up";
                        live.detail.clone_from(&index);
                    });
                    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                    watched(job, &worker, agent, &drop).await.1.map_err(Stop::from)?;
                }
                continue;
            }
            Left::Run(sql) => {
                report.tries += 1;
                let tries = report.tries;
                job.tell(|live| {
                    live.doing = "running";
                    live.tries = tries;
                });
                let (stall, ran) = watched(job, &worker, agent, &sql).await;
                report.stall_ms = report.stall_ms.max(stall);
                match ran {
                    // A class without a probe is done when it has run.
                    Ok(()) if matches!(step.class, StepClass::Outside | StepClass::Reindex { .. }) => break,
                    Ok(()) => {}
                    Err(Broken::Ordered) => return Err(Stop::Ordered),
                    Err(Broken::By(error)) => match trouble(error.code.as_deref()) {
                        Trouble::Locked if report.tries < TRIES => {}
                        Trouble::Lost => return Err(error.into()),
                        _ => {
                            // What it has left is not to stay while somebody thinks about it.
                            tidy(job, &worker, agent, step).await?;
                            return Err(Stop::Refused(error.message));
                        }
                    },
                }
            }
        }
    }
    worker.rows(&ledger::mark(job, number)).await?;
    report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// What is left to be done.
enum Left {
    /// Nothing; the note says why where nothing was done at all.
    Nothing(String),
    /// What an attempt that was broken off has left; then look again.
    Remove(Vec<String>),
    Run(String),
}

async fn left(worker: &Db, step: &RolloutStep) -> Result<Left, Stop> {
    let sql = step.sql.join("; ");
    Ok(match &step.class {
        StepClass::CreateIndex {
            table,
            index,
            unique,
            definition,
        } => {
            let wanted = Wanted {
                table,
                index,
                unique: *unique,
                definition,
            };
            match probe::index(worker, wanted).await? {
                IndexState::Absent => Left::Run(sql),
                IndexState::Done => Left::Nothing("the index was there, with the same definition".to_owned()),
                IndexState::Broken(name) => Left::Remove(vec![name]),
                IndexState::Other(definition) => {
                    return Err(Stop::Refused(format!(
                        "there is another index of that name: {definition}; choose another name, or drop it first"
                    )));
                }
            }
        }
        StepClass::DropIndex { index, .. } if probe::exists(worker, index).await? => Left::Run(sql),
        StepClass::DropIndex { .. } => Left::Nothing("it was not there".to_owned()),
        StepClass::Reindex { relation } => match probe::leftovers(worker, relation).await? {
            broken if broken.is_empty() => Left::Run(sql),
            broken => Left::Remove(broken),
        },
        StepClass::Detach { parent, child } => match probe::attached(worker, parent, child).await? {
            None => Left::Nothing("it was detached".to_owned()),
            Some(false) => Left::Run(sql),
            Some(true) => Left::Run(format!("ALTER TABLE {parent} DETACH PARTITION {child} FINALIZE")),
        },
        StepClass::Outside | StepClass::Transaction | StepClass::Backfill { .. } => Left::Run(sql),
    })
}

/// Why a step that nobody has begun makes no sense: what it takes away is not there.
async fn out_of_place(worker: &Db, step: &RolloutStep) -> Result<Option<String>, Stop> {
    Ok(match &step.class {
        StepClass::DropIndex {
            index,
            if_exists: false,
        } if !probe::exists(worker, index).await? => Some(format!("there is no index {index}")),
        StepClass::Detach { parent, child } if probe::attached(worker, parent, child).await?.is_none() => {
            Some(format!("{child} is no partition of {parent}"))
        }
        _ => None,
    })
}

/// Removes what an attempt has left that is of no use.
pub(super) async fn tidy(job: &Job, worker: &Db, agent: &Db, step: &RolloutStep) -> Result<(), Stop> {
    let broken = match &step.class {
        StepClass::CreateIndex {
            table,
            index,
            unique,
            definition,
        } => {
            let wanted = Wanted {
                table,
                index,
                unique: *unique,
                definition,
            };
            match probe::index(worker, wanted).await {
                Ok(IndexState::Broken(name)) => vec![name],
                _ => Vec::new(),
            }
        }
        StepClass::Reindex { relation } => probe::leftovers(worker, relation).await?,
        _ => Vec::new(),
    };
    for index in broken {
        job.tell(|live| {
            live.doing = "cleaning-up";
            live.detail.clone_from(&index);
        });
        let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        let (ran, _) = look::watched(agent, worker.pid, worker.run(&sql)).await;
        ran?;
    }
    Ok(())
}

/// How a statement was broken off.
enum Broken {
    By(SqlError),
    Ordered,
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        match broken {
            Broken::By(error) => error.into(),
            Broken::Ordered => Stop::Ordered,
        }
    }
}

/// Runs a statement that may take long, tells how far it is, and breaks it off when it shall not go on. With it the longest that
/// anybody was seen to wait for it.
async fn watched(job: &Job, worker: &Db, agent: &Db, sql: &str) -> (u64, Result<(), Broken>) {
    let work = async {
        let statement = worker.run(sql);
        tokio::pin!(statement);
        loop {
            tokio::select! {
                biased;
                ran = &mut statement => return ran.map(drop).map_err(Broken::By),
                () = tokio::time::sleep(TICK) => {}
            }
            match job.break_off() {
                Ok(()) => progress(job, agent, worker.pid).await,
                Err(Stop::Ordered) => {
                    let cancel = format!("SELECT pg_cancel_backend({})", worker.pid);
                    if let Err(error) = agent.rows(&cancel).await {
                        return Err(Broken::By(error));
                    }
                    // It ends, or its session is ended before the next attempt.
                    let _ = tokio::time::timeout(CANCELLED_WITHIN, &mut statement).await;
                    return Err(Broken::Ordered);
                }
                Err(Stop::Unclear(message) | Stop::Refused(message)) => {
                    return Err(Broken::By(SqlError { code: None, message }));
                }
            }
        }
    };
    let (ran, stall) = look::watched(agent, worker.pid, work).await;
    (stall, ran)
}

async fn progress(job: &Job, agent: &Db, pid: i32) {
    let sql = format!(
        "SELECT p.phase, p.lockers_done || '/' || p.lockers_total, p.blocks_done, p.blocks_total, \
         coalesce((SELECT a.application_name || ' (pid ' || a.pid || ', transaction of ' || \
         round(extract(epoch FROM clock_timestamp() - a.xact_start)) || ' s)' FROM pg_stat_activity a \
         WHERE a.pid = p.current_locker_pid), '') FROM pg_stat_progress_create_index p WHERE p.pid = {pid}"
    );
    // Only for people: without an answer there is nothing to show.
    let Ok(rows) = agent.rows(&sql).await else { return };
    let Some(row) = rows.first() else { return };
    let mut detail = field(row, 0).to_owned();
    if field(row, 3) != "0" {
        detail.push_str(&format!(", {} of {} blocks", field(row, 2), field(row, 3)));
    }
    if !field(row, 4).is_empty() {
        detail.push_str(&format!(
            ", {} transactions, now for {}",
            field(row, 1),
            field(row, 4)
        ));
    }
    job.tell(|live| live.detail = detail);
}
