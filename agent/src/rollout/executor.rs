//! Asks the core for the next move, and makes it.

use super::job::{Job, Stop};
use super::{Rollouts, backfill, cleanup, concurrent, fingerprint, ledger, transaction};
use agent_core::cluster::{RolloutAct, StepClass, StepReport};
use agent_core::rollout::{Move, next_move};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often to look again where nothing tells of a change: the lease and the gate are no part of the state.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The pause after a move that came to nothing.
const AFTER_TROUBLE: Duration = Duration::from_millis(300);

impl Rollouts {
    /// Carries rollouts out, while this node is the one to do it, until `stop` says so, or no state can come any more.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(server) = self.server.clone() else {
            // Nobody is left to stop it if the sender is gone.
            let _ = stop.wait_for(|stop| *stop).await;
            return;
        };
        let mut states = self.consensus.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let writable = (self.writable)();
            let next = next_move(&state, self.consensus.node_id(), writable);
            let work = async {
                let Some(rollout) = state.rollouts.current.clone().filter(|_| next != Move::Rest) else {
                    // A rollout that waits for this node's gate is looked at again; without one there is nothing to look for.
                    let waits = state
                        .rollouts
                        .current
                        .as_ref()
                        .is_some_and(|it| it.verified != state.epoch || !it.phase.ended());
                    return if waits { Some(LOOK_AGAIN) } else { None };
                };
                let job = Job {
                    room: Arc::clone(&self),
                    server: Arc::clone(&server),
                    rollout,
                    epoch: state.epoch,
                };
                match make(&job, next).await {
                    Ok(()) => Some(Duration::ZERO),
                    Err(stop) => {
                        settle(&job, next, stop).await;
                        Some(AFTER_TROUBLE)
                    }
                }
            };
            let pause = tokio::select! {
                pause = work => pause,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let wait = async {
                match pause {
                    Some(pause) => {
                        // A change of the state is no reason to try again sooner after trouble.
                        tokio::time::sleep(pause).await;
                        true
                    }
                    None => states.changed().await.is_ok(),
                }
            };
            tokio::select! {
                more = wait => if !more { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

async fn make(job: &Job, next: Move) -> Result<(), Stop> {
    let id = job.rollout.id.clone();
    let epoch = job.epoch;
    match next {
        Move::Rest => Ok(()),
        Move::Verify => {
            job.tell(|live| live.doing = "verifying");
            let kept = ledger::kept(&job.agent().await?, job).await?;
            let kept = kept.min(job.rollout.next());
            job.propose(RolloutAct::Verified { id, epoch, kept }).await
        }
        Move::Intend(step) => {
            let node = job.room.consensus.node_id();
            job.propose(RolloutAct::Intend {
                id,
                step,
                epoch,
                node,
            })
            .await
        }
        Move::Carry(step) => {
            job.tell(|live| {
                *live = super::live::Live {
                    step,
                    doing: "running",
                    ..Default::default()
                };
            });
            let report = carry(job, step).await?;
            job.tell(|live| live.doing = "committing");
            ledger::confirm(&mut job.agent().await?, job, step).await?;
            tracing::info!(rollout = %id, step, took_ms = report.took_ms, "a step of a rollout is done");
            job.done(step, report).await
        }
        Move::Finish => {
            let agent = job.agent().await?;
            let fingerprint = fingerprint::of(&agent).await?;
            job.propose(RolloutAct::Finished {
                id,
                epoch,
                fingerprint,
            })
            .await
        }
        Move::CleanUp(step) => cleanup::clean_up(job, step).await,
        Move::Undo(step) => cleanup::undo(job, step).await,
        Move::EndAbort => {
            let done = job.rollout.next();
            let message = format!("aborted by an operator; {done} steps stay done");
            job.propose(RolloutAct::Aborted { id, epoch, message }).await
        }
    }
}

/// Finds out how far a step came, and carries it out.
async fn carry(job: &Job, number: u32) -> Result<StepReport, Stop> {
    let agent = job.agent().await?;
    job.alone(&agent).await?;
    let role = job.server.rollout_role().unwrap_or_default().to_owned();
    ledger::prepare(&agent, &role).await?;
    let known = ledger::entry(&agent, job, number).await?;
    if let Some(entry) = known.as_ref().filter(|entry| entry.complete) {
        return Ok(StepReport {
            epoch: job.epoch,
            rows: entry.rows,
            note: "found to be done".to_owned(),
            ..StepReport::default()
        });
    }
    let step = job.step(number)?;
    match &step.class {
        StepClass::Transaction => transaction::carry(job, number, step, &agent).await,
        StepClass::Backfill { table, set, filter } => {
            let work = backfill::Work { table, set, filter };
            backfill::carry(job, number, step, work, &agent, known).await
        }
        _ => concurrent::carry(job, number, step, &agent, known.is_some()).await,
    }
}

/// Says what came of a move that was broken off.
async fn settle(job: &Job, next: Move, stop: Stop) {
    match (next, stop) {
        (Move::Carry(step), Stop::Refused(why)) => {
            tracing::warn!(rollout = %job.rollout.id, step, why, "a step of a rollout was refused");
            job.tell(|live| *live = Default::default());
            let failed = RolloutAct::Failed {
                id: job.rollout.id.clone(),
                step,
                epoch: job.epoch,
                why,
            };
            if let Err(error) = job.propose(failed).await {
                tracing::info!(?error, "the cluster was not told of it yet");
            }
        }
        (Move::Carry(_), Stop::Ordered) => job.tell(|live| *live = Default::default()),
        (next, stop) => {
            tracing::info!(rollout = %job.rollout.id, ?next, ?stop, "a move of a rollout is made again");
            let why = match stop {
                Stop::Refused(why) | Stop::Unclear(why) => why,
                Stop::Ordered => String::new(),
            };
            job.tell(|live| live.detail = why);
        }
    }
}
