//! What operators ask for once: switchovers and failover orders.

use super::apply::{Outcome, conflict};
use super::{
    Applied, ClusterState, FailoverOrder, MemberKind, Switchover, SwitchoverOutcome, SwitchoverPhase,
};
use crate::ids::{NodeId, RequestId};
use crate::time::WallTime;

impl ClusterState {
    pub(super) fn start_switchover(&mut self, request: &RequestId, to: NodeId, at: WallTime) -> Outcome {
        let Some(from) = self.holder else {
            return Err(conflict(
                "no-primary",
                "there is no primary to switch from: pgctl explain says why",
            ));
        };
        self.no_restore()?;
        if let Some(running) = &self.switchover {
            return Err(conflict(
                "switchover-running",
                format!(
                    "a switchover to {} is under way: wait for it",
                    self.name_of(running.to)
                ),
            ));
        }
        if from == to {
            return Err(conflict(
                "already-primary",
                format!("{} is the primary already", self.name_of(to)),
            ));
        }
        match self.members.get(&to) {
            None => {
                return Err(conflict(
                    "not-a-member",
                    format!("node {to} is not a member: see pgctl list"),
                ));
            }
            Some(member) if member.kind == MemberKind::Witness => {
                return Err(conflict(
                    "witness",
                    format!("{} is a witness and has no data", member.name),
                ));
            }
            Some(_) => {}
        }
        self.switchover = Some(Switchover {
            request: request.clone(),
            from,
            to,
            epoch: self.epoch,
            phase: SwitchoverPhase::Preparing,
            since: at,
        });
        self.record(
            at,
            "switchover-started",
            format!("from {} to {}", self.name_of(from), self.name_of(to)),
        );
        Ok(Applied::Done)
    }

    pub(super) fn abort_switchover(&mut self, request: &RequestId, why: &str, at: WallTime) -> Outcome {
        let Some(running) = self.switchover.take_if(|running| running.request == *request) else {
            return Ok(Applied::Unchanged);
        };
        self.record(at, "switchover-aborted", why.to_owned());
        self.last_switchover = Some(SwitchoverOutcome {
            request: running.request,
            from: running.from,
            to: running.to,
            succeeded: false,
            message: why.to_owned(),
        });
        Ok(Applied::Done)
    }

    pub(super) fn order_failover(
        &mut self,
        request: &RequestId,
        to: NodeId,
        accept: bool,
        at: WallTime,
    ) -> Outcome {
        let Some(holder) = self.holder else {
            return Err(conflict(
                "no-primary",
                "there is no primary to fail over from: pgctl explain says why",
            ));
        };
        self.no_restore()?;
        if holder == to {
            return Err(conflict(
                "already-primary",
                format!(
                    "{} holds epoch {} already: start its agent and its server, or choose another node",
                    self.name_of(to),
                    self.epoch
                ),
            ));
        }
        match self.members.get(&to) {
            None => {
                return Err(conflict(
                    "not-a-member",
                    format!("node {to} is not a member: see pgctl list"),
                ));
            }
            Some(member) if member.kind == MemberKind::Witness => {
                return Err(conflict(
                    "witness",
                    format!("{} is a witness and has no data", member.name),
                ));
            }
            Some(_) => {}
        }
        self.failover_order = Some(FailoverOrder {
            request: request.clone(),
            to,
            epoch: self.epoch,
            accept_data_loss: accept,
            since: at,
        });
        self.record(at, "failover-ordered", format!("to {}", self.name_of(to)));
        Ok(Applied::Done)
    }
}
