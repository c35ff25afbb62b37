//! The shell around the coordinator's decisions, on every node that takes itself for the coordinator.

use crate::event::Msg;
use crate::mutants::Mutant;
use crate::raft::id;
use crate::world::World;
use agent_core::cluster::Release;
use agent_core::decide::cluster::{self, ClusterAction, CoordinatorView, Round};
use agent_core::ids::Epoch;
use agent_core::time::WallTime;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

impl World {
    pub fn coordinate(&mut self, node: usize) {
        self.agent(node).coordinate_pending = false;
        if !self.believes_to_lead(node) {
            return;
        }
        let state = self.state(node);
        let now = self.nodes[node].clock.mono(self.now);
        self.notice_stray_pledges(node);
        let mutated = Mutant::coordinators_state(self.mutant, &state);
        let agent = self.agent(node);
        let view = CoordinatorView {
            me: id(node),
            state: mutated.map_or(Cow::Borrowed(&*state), Cow::Owned),
            reports: std::mem::take(&mut agent.reports),
            now,
            wall: WallTime(0),
            memory: std::mem::take(&mut agent.coordinator),
        };
        let decision = cluster::decide(&view);
        let CoordinatorView { reports, memory, .. } = view;
        agent.reports = reports;
        agent.coordinator = memory;
        self.check_explained(
            node,
            &decision.rule,
            decision.actions.len(),
            &decision.reasons,
            decision.wake_at.is_some(),
        );
        if !decision.actions.is_empty() || self.verbose {
            self.note(|| format!("n{} coordinator: {}", node + 1, decision.rule));
        }
        for action in decision.actions {
            match action {
                ClusterAction::Propose(command) => self.propose(node, command),
                ClusterAction::AskBound { next, receipt } => {
                    self.broadcast(node, &Msg::AskBound { next, receipt });
                }
                ClusterAction::AskRelease {
                    epoch,
                    receipt,
                    wait_for,
                } => {
                    let asked: std::collections::BTreeSet<_> = state.members.keys().copied().collect();
                    let round = &mut self.agent(node).coordinator.round;
                    match round.as_mut().filter(|round| round.epoch == epoch) {
                        Some(round) => {
                            round.asked = now;
                            round.pending = asked;
                        }
                        None => {
                            *round = Some(Round {
                                epoch,
                                started: now,
                                asked: now,
                                released: BTreeMap::new(),
                                pending: asked,
                            });
                        }
                    }
                    self.broadcast(
                        node,
                        &Msg::AskRelease {
                            epoch,
                            receipt,
                            wait_for,
                        },
                    );
                }
                ClusterAction::TurnOff { node: target, epoch } => self.turn_off(node, target, epoch),
            }
        }
    }

    fn notice_stray_pledges(&mut self, node: usize) {
        let state = self.state(node);
        let now = self.nodes[node].clock.mono(self.now);
        let mends = self.mutant != Some(Mutant::NoPledgeRepair);
        let agent = self.agent(node);
        let stray = agent
            .reports
            .reports
            .values()
            .any(|(_, report)| report.pledge > state.epoch);
        let well = state
            .holder
            .and_then(|holder| agent.reports.fresh(holder, now, Duration::from_secs(1)))
            .and_then(|report| report.holder)
            .is_some_and(|held| held.epoch == state.epoch && !held.left.is_zero());
        if stray && well && mends {
            agent.coordinator.stray_pledge_since.get_or_insert(now);
        } else {
            agent.coordinator.stray_pledge_since = None;
        }
    }

    pub fn on_bound(&mut self, node: usize, by: usize, next: Epoch, bound: Duration) {
        let state = self.state(node);
        let now = self.nodes[node].clock.mono(self.now);
        if state.epoch.next() == next {
            self.agent(node).coordinator.bound.insert(id(by), (now, bound));
            self.coordinate_soon(node);
        }
    }

    pub fn on_released(&mut self, node: usize, by: usize, epoch: Epoch, release: Option<Release>) {
        let Some(round) = self
            .agent(node)
            .coordinator
            .round
            .as_mut()
            .filter(|round| round.epoch == epoch)
        else {
            return;
        };
        round.pending.remove(&id(by));
        if let Some(release) = release {
            round.released.insert(id(by), release);
        }
        self.coordinate_soon(node);
    }
}
