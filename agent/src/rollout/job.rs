//! What every move needs: sessions, and whether to go on.

use super::Rollouts;
use super::live::Live;
use super::sql::Db;
use crate::ports::{ProposeError, SchemaServer, SqlError, SqlRole};
use crate::wall_time::stamp;
use agent_core::cluster::{Command, Rollout, RolloutAct, RolloutPhase, RolloutStep, StepReport};
use agent_core::ids::Epoch;
use agent_core::rollout::{Trouble, trouble};
use std::sync::Arc;
use std::time::Duration;

const PROPOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a session that an earlier attempt has left may take to end.
const LEFT_OVER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a move did not come to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The server refuses the step: an operator has to look.
    Refused(String),
    /// It is not known what became of it, or this node is no longer the one to do it: look again.
    Unclear(String),
    /// An operator pauses or aborts.
    Ordered,
}

impl From<SqlError> for Stop {
    fn from(error: SqlError) -> Stop {
        match trouble(error.code.as_deref()) {
            Trouble::Refused => Stop::Refused(error.message),
            Trouble::Locked | Trouble::Lost => Stop::Unclear(error.message),
        }
    }
}

impl From<ProposeError> for Stop {
    fn from(error: ProposeError) -> Stop {
        Stop::Unclear(error.to_string())
    }
}

/// One move of one rollout under one epoch.
pub(super) struct Job {
    pub room: Arc<Rollouts>,
    pub server: Arc<dyn SchemaServer>,
    pub rollout: Rollout,
    pub epoch: Epoch,
}

impl Job {
    /// The step with that number.
    pub fn step(&self, number: u32) -> Result<&RolloutStep, Stop> {
        let step = self.rollout.plan.steps.get(number as usize);
        step.ok_or_else(|| Stop::Unclear(format!("there is no step {number}")))
    }

    /// Whether to go on.
    pub fn go_on(&self) -> Result<(), Stop> {
        self.still_ours()?;
        let state = self.room.consensus.state();
        match state.rollouts.current.as_ref().map(|rollout| rollout.phase) {
            Some(RolloutPhase::Running) => Ok(()),
            Some(_) => Err(Stop::Ordered),
            None => Err(Stop::Unclear("the rollout is gone".to_owned())),
        }
    }

    /// Whether what is under way must be broken off: a pause lets it end.
    pub fn break_off(&self) -> Result<(), Stop> {
        match self.go_on() {
            Err(Stop::Ordered) => {
                let state = self.room.consensus.state();
                let paused = state
                    .rollouts
                    .current
                    .as_ref()
                    .is_some_and(|rollout| rollout.phase == RolloutPhase::Paused);
                if paused { Ok(()) } else { Err(Stop::Ordered) }
            }
            other => other,
        }
    }

    /// Whether this node still holds the epoch, and takes writes, for this rollout.
    pub fn still_ours(&self) -> Result<(), Stop> {
        let state = self.room.consensus.state();
        let same = state
            .rollouts
            .current
            .as_ref()
            .is_some_and(|rollout| rollout.id == self.rollout.id);
        if !same || state.epoch != self.epoch || (self.room.writable)() != Some(self.epoch) {
            return Err(Stop::Unclear(
                "this node does not hold the epoch any more".to_owned(),
            ));
        }
        Ok(())
    }

    pub fn tell(&self, change: impl FnOnce(&mut Live)) {
        self.room.live.send_modify(change);
    }

    pub async fn propose(&self, act: RolloutAct) -> Result<(), Stop> {
        let command = Command::Rollout {
            request: None,
            act: Box::new(act),
            at: stamp(),
        };
        self.room.consensus.propose(command, PROPOSE_WITHIN).await?;
        Ok(())
    }

    pub async fn done(&self, step: u32, report: StepReport) -> Result<(), Stop> {
        self.propose(RolloutAct::Done {
            id: self.rollout.id.clone(),
            step,
            epoch: self.epoch,
            report,
        })
        .await
    }

    /// A session that sees everything.
    pub async fn agent(&self) -> Result<Db, Stop> {
        let database = &self.rollout.plan.database;
        Ok(Db::open(
            self.server.as_ref(),
            database,
            SqlRole::Agent,
            &["synchronous_commit=on"],
        )
        .await?)
    }

    /// A session in the rollout's name, with the settings of the step, and nobody else at work for it.
    pub async fn worker(&self, step: &RolloutStep) -> Result<Db, Stop> {
        // A commit keeps its locks while it waits for standbys: it does not wait, and `ledger::confirm` does.
        let settings = ["synchronous_commit=local", "client_min_messages=warning"];
        let database = &self.rollout.plan.database;
        let worker = Db::open(self.server.as_ref(), database, SqlRole::Rollout, &settings).await?;
        for setting in &step.settings {
            worker.rows(setting).await?;
        }
        Ok(worker)
    }

    /// Ends what earlier attempts have left running: an agent that dies does not end its sessions, and what runs in them
    /// might have its effect later.
    pub async fn alone(&self, agent: &Db) -> Result<(), Stop> {
        let left_over = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = 'pgctl-rollout' AND pid <> pg_backend_pid()";
        let begun = std::time::Instant::now();
        while !agent.rows(left_over).await?.is_empty() {
            if begun.elapsed() > LEFT_OVER_WITHIN {
                return Err(Stop::Unclear(
                    "a session of an earlier attempt does not end: see pg_stat_activity, application_name \
                     pgctl-rollout"
                        .to_owned(),
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}
