//! What happens to a rollout: orders of operators, and the words of whoever carries it out.

use super::apply::{Outcome, conflict};
use super::rollout::{MESSAGE_MAX, PAST_KEPT};
use super::{
    Applied, ClusterState, Rejected, Rollout, RolloutAct, RolloutPhase, RolloutPlan, StepIntent, StepReport,
};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::time::WallTime;

fn bounded(text: &str) -> String {
    text.chars().take(MESSAGE_MAX).collect()
}

impl ClusterState {
    pub(super) fn rollout(&mut self, request: Option<&RequestId>, act: &RolloutAct, at: WallTime) -> Outcome {
        match act {
            RolloutAct::Start { plan } => self.start_rollout(request, plan, at),
            RolloutAct::Pause { id } => self.direct_rollout(id, at, |rollout| match rollout.phase {
                RolloutPhase::Running => Ok(Some((RolloutPhase::Paused, "paused by an operator"))),
                RolloutPhase::Paused => Ok(None),
                phase => Err(conflict(
                    "not-running",
                    format!("the rollout is {}", phase.name()),
                )),
            }),
            RolloutAct::Resume { id } => self.direct_rollout(id, at, |rollout| match rollout.phase {
                RolloutPhase::Paused | RolloutPhase::Failed => {
                    Ok(Some((RolloutPhase::Running, "resumed by an operator")))
                }
                RolloutPhase::Running => Ok(None),
                phase => Err(conflict("not-paused", format!("the rollout is {}", phase.name()))),
            }),
            RolloutAct::Abort { id, undo } => {
                let undo = *undo;
                self.direct_rollout(id, at, move |rollout| abort(rollout, undo))
            }
            RolloutAct::Intend {
                id,
                step,
                epoch,
                node,
            } => self.of_the_holder(id, *epoch, |rollout| intend(rollout, *step, *epoch, *node)),
            RolloutAct::Done {
                id,
                step,
                epoch,
                report,
            } => self.step_done(id, *step, *epoch, report),
            RolloutAct::Failed { id, step, epoch, why } => self.step_failed(id, *step, *epoch, why, at),
            RolloutAct::Verified { id, epoch, kept } => self.verified(id, *epoch, *kept, at),
            RolloutAct::Cleaned { id, step, epoch } => self.of_the_holder(id, *epoch, |rollout| {
                if !matches!(rollout.phase, RolloutPhase::Aborting { .. }) || rollout.next() != *step {
                    return Err(overtaken());
                }
                rollout.intent = None;
                Ok(Applied::Done)
            }),
            RolloutAct::Undone { id, step, epoch } => self.of_the_holder(id, *epoch, |rollout| {
                if !matches!(rollout.phase, RolloutPhase::Aborting { undo: true })
                    || rollout.next() != step.saturating_add(1)
                {
                    return Err(overtaken());
                }
                rollout.done.pop();
                Ok(Applied::Done)
            }),
            RolloutAct::Finished {
                id,
                epoch,
                fingerprint,
            } => self.end_rollout(
                id,
                *epoch,
                RolloutPhase::Done,
                "every step is done",
                fingerprint,
                at,
            ),
            RolloutAct::Aborted { id, epoch, message } => {
                self.end_rollout(id, *epoch, RolloutPhase::Aborted, message, "", at)
            }
        }
    }

    fn start_rollout(&mut self, request: Option<&RequestId>, plan: &RolloutPlan, at: WallTime) -> Outcome {
        let Some(request) = request else {
            return Err(conflict("no-request-id", "a rollout needs the id of its request"));
        };
        if let Some(why) = plan.too_large() {
            return Err(conflict("bad-rollout", why));
        }
        if let Some(current) = &self.rollouts.current {
            if !current.phase.ended() {
                let message = format!(
                    "the rollout of {} is {}: wait for it, or `pgctl ddl abort`",
                    current.plan.name,
                    current.phase.name()
                );
                return Err(conflict("rollout-under-way", message));
            }
            let past = current.past();
            self.rollouts.past.push_back(past);
            while self.rollouts.past.len() > PAST_KEPT {
                self.rollouts.past.pop_front();
            }
        }
        self.rollouts.current = Some(Rollout {
            id: request.clone(),
            plan: plan.clone(),
            verified: self.epoch,
            since: at,
            ..Rollout::default()
        });
        let text = format!("{}: {} steps in {}", plan.name, plan.steps.len(), plan.database);
        self.record(at, "rollout-started", text);
        Ok(Applied::Done)
    }

    fn current_rollout(&mut self, id: &RequestId) -> Result<&mut Rollout, Rejected> {
        self.rollouts
            .current
            .as_mut()
            .filter(|rollout| rollout.id == *id)
            .ok_or_else(|| {
                conflict(
                    "no-such-rollout",
                    "that rollout is not the current one: see `pgctl ddl status`",
                )
            })
    }

    /// An operator's order.
    fn direct_rollout(
        &mut self,
        id: &RequestId,
        at: WallTime,
        order: impl FnOnce(&Rollout) -> Result<Option<(RolloutPhase, &'static str)>, Rejected>,
    ) -> Outcome {
        let rollout = self.current_rollout(id)?;
        let Some((phase, message)) = order(rollout)? else {
            return Ok(Applied::Unchanged);
        };
        rollout.phase = phase;
        message.clone_into(&mut rollout.message);
        let text = format!("{}: {message}", rollout.plan.name);
        self.record(at, &format!("rollout-{}", phase.name()), text);
        Ok(Applied::Done)
    }

    /// What only the holder of the newest epoch may say.
    fn of_the_holder(
        &mut self,
        id: &RequestId,
        epoch: Epoch,
        change: impl FnOnce(&mut Rollout) -> Outcome,
    ) -> Outcome {
        if epoch != self.epoch || self.holder.is_none() {
            return Err(conflict("epoch-is-over", format!("epoch {epoch} is over")));
        }
        change(self.current_rollout(id)?)
    }

    fn step_done(&mut self, id: &RequestId, step: u32, epoch: Epoch, report: &StepReport) -> Outcome {
        self.of_the_holder(id, epoch, |rollout| {
            if rollout.next() > step {
                return Ok(Applied::Unchanged);
            }
            let begun = rollout.intent.is_some_and(|intent| intent.step == step);
            if rollout.next() != step || !begun || rollout.phase.ended() {
                return Err(overtaken());
            }
            let note = bounded(&report.note);
            rollout.done.push(StepReport {
                note,
                ..report.clone()
            });
            rollout.intent = None;
            if rollout.phase == RolloutPhase::Running {
                rollout.message.clear();
            }
            Ok(Applied::Done)
        })
    }

    fn step_failed(&mut self, id: &RequestId, step: u32, epoch: Epoch, why: &str, at: WallTime) -> Outcome {
        let why = bounded(why);
        let failed = self.of_the_holder(id, epoch, |rollout| {
            if rollout.next() != step || rollout.phase != RolloutPhase::Running {
                return Err(overtaken());
            }
            rollout.phase = RolloutPhase::Failed;
            rollout.intent = None;
            rollout.message.clone_from(&why);
            Ok(Applied::Done)
        })?;
        self.record(
            at,
            "rollout-failed",
            format!("step {}: {why}", step.saturating_add(1)),
        );
        Ok(failed)
    }

    fn verified(&mut self, id: &RequestId, epoch: Epoch, kept: u32, at: WallTime) -> Outcome {
        let mut lost = None;
        let outcome = self.of_the_holder(id, epoch, |rollout| {
            if rollout.phase == RolloutPhase::Aborted {
                return Err(overtaken());
            }
            let kept = kept as usize;
            if kept < rollout.done.len() {
                lost = Some(rollout.done.len() - kept);
                rollout.done.truncate(kept);
                rollout.intent = None;
                if rollout.phase == RolloutPhase::Done {
                    rollout.phase = RolloutPhase::Running;
                    rollout.ended = None;
                }
            }
            rollout.verified = epoch;
            Ok(Applied::Done)
        })?;
        if let Some(lost) = lost {
            let text = format!("a failover has lost {lost} steps that were done; they are done again");
            self.record(at, "rollout-steps-lost", text);
        }
        Ok(outcome)
    }

    fn end_rollout(
        &mut self,
        id: &RequestId,
        epoch: Epoch,
        phase: RolloutPhase,
        message: &str,
        fingerprint: &str,
        at: WallTime,
    ) -> Outcome {
        let message = bounded(message);
        self.of_the_holder(id, epoch, |rollout| {
            let fits = match phase {
                RolloutPhase::Done => rollout.phase == RolloutPhase::Running && rollout.next_step().is_none(),
                _ => matches!(rollout.phase, RolloutPhase::Aborting { .. }),
            };
            if !fits {
                return Err(overtaken());
            }
            rollout.phase = phase;
            rollout.intent = None;
            rollout.ended = Some(at);
            rollout.message.clone_from(&message);
            rollout.fingerprint = bounded(fingerprint);
            Ok(Applied::Done)
        })?;
        self.record(at, &format!("rollout-{}", phase.name()), message);
        Ok(Applied::Done)
    }
}

fn overtaken() -> Rejected {
    conflict("rollout-overtaken", "the rollout has moved on meanwhile")
}

fn intend(rollout: &mut Rollout, step: u32, epoch: Epoch, node: NodeId) -> Outcome {
    if rollout.phase != RolloutPhase::Running || rollout.next() != step || rollout.next_step().is_none() {
        return Err(overtaken());
    }
    let before = rollout.intent.map_or(0, |intent| intent.attempt);
    rollout.intent = Some(StepIntent {
        step,
        epoch,
        node,
        attempt: before.saturating_add(1),
    });
    Ok(Applied::Done)
}

fn abort(rollout: &Rollout, undo: bool) -> Result<Option<(RolloutPhase, &'static str)>, Rejected> {
    if rollout.phase.ended() {
        let message = format!("the rollout is {}", rollout.phase.name());
        return Err(conflict("not-running", message));
    }
    if undo {
        let begun = rollout.done.len() + usize::from(rollout.intent.is_some());
        let stuck = rollout
            .plan
            .steps
            .iter()
            .take(begun)
            .position(|step| !step.can_be_undone());
        if let Some(stuck) = stuck {
            let message = format!(
                "step {} cannot be undone: {}; abort without undoing, or go on",
                stuck + 1,
                rollout.plan.steps[stuck].title()
            );
            return Err(conflict("cannot-be-undone", message));
        }
    }
    if rollout.phase == (RolloutPhase::Aborting { undo }) {
        return Ok(None);
    }
    let message = if undo {
        "is being undone"
    } else {
        "is being aborted"
    };
    Ok(Some((RolloutPhase::Aborting { undo }, message)))
}
