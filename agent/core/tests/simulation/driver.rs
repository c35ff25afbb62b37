//! The shell around a node's decisions: it observes, decides, performs. It mirrors the agent's own driver.

use crate::clock::MS;
use crate::event::Timer;
use crate::mutants::Mutant;
use crate::node::Agent;
use crate::postgres::{Run, Who};
use crate::raft::id;
use crate::wal::Place;
use crate::world::{REPORT, World};
use agent_core::cluster::{ClusterState, Command, SyncRule};
use agent_core::decide::cluster::CoordinatorMemory;
use agent_core::decide::node::{self, Conf, LeaseView, NodeAction, NodeMemory, NodeView};
use agent_core::ids::Epoch;
use agent_core::lease::{Holder, Voter};
use agent_core::pg::Lsn;
use agent_core::time::WallTime;
use agent_core::view::{ClusterView, PgObservation, Server};
use std::borrow::Cow;
use std::time::Duration;

const TICK: u64 = 150 * MS;
const REPORT_FRESH: Duration = Duration::from_secs(3);

impl World {
    pub fn start_agent(&mut self, node: usize) {
        let reading = self.reading(node);
        let now = self.nodes[node].clock.mono(self.now);
        let last = self.raft.last_index();
        // The log keeps what was committed before it is applied. A host that lost its memory may have lost that note.
        let floor = self.nodes[node].applied_floor.min(last);
        let lost = if self.nodes[node].server.run == Run::Down {
            self.rng.index(6)
        } else {
            0
        };
        let back = floor.saturating_sub(lost);
        let mutant = self.mutant;
        let it = &mut self.nodes[node];
        it.life += 1;
        it.agent_since = self.now;
        let mut voter = if mutant == Some(Mutant::NoQuarantine) {
            Voter::started(it.disk.pledge, Duration::ZERO, reading)
        } else {
            Voter::started(it.disk.pledge, it.disk.promise_limit, reading)
        };
        voter.allow_promises(it.disk.promise_limit);
        let coordinator = CoordinatorMemory {
            epoch_since: Some(now),
            ..CoordinatorMemory::default()
        };
        it.agent = Some(Agent {
            applied: back,
            voter,
            holder: None,
            old_deadline: None,
            fenced: Epoch(0),
            fencing: None,
            receipt: None,
            memory: NodeMemory {
                lineage: it.disk.lineage,
                broken: it.disk.broken,
                ..NodeMemory::default()
            },
            conf: None,
            reports: ClusterView::default(),
            coordinator,
            switchover_seen: None,
            job: None,
            opening: None,
            marking: None,
            checkpointing: false,
            proposals: Vec::new(),
            releasing: false,
            look_pending: false,
            coordinate_pending: false,
            explain: Vec::new(),
            answers: Vec::new(),
        });
        self.note(|| format!("n{} agent starts at entry {back}", node + 1));
        self.follow_epoch(node);
        self.tick(node);
        let delay = self.rng.below(REPORT);
        self.agent_after(node, delay, Timer::Report);
    }

    pub fn stop_agent(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let Some(agent) = it.agent.take() else { return };
        it.applied_floor = agent.applied;
        // A guard that was stopped with its machine acts only now. What the agent had not ended yet goes on until then.
        let over = it.unguarded || it.guard.is_none() || it.suspended;
        it.unguarded = it.server.writable() && over;
        it.resumed = it.suspended.then_some(self.now).or(it.resumed);
        it.frozen = false;
        it.suspended = false;
        let kept = std::mem::take(&mut it.kept);
        self.guard_looks(node);
        for event in kept {
            self.after(0, event);
        }
        self.note(|| format!("n{} agent dead", node + 1));
    }

    pub fn tick(&mut self, node: usize) {
        let delay = TICK + self.rng.below(20 * MS);
        self.agent_after(node, delay, Timer::Tick);
        self.look_soon(node);
    }

    pub fn apply_up_to(&mut self, node: usize, to: usize) {
        let now = self.nodes[node].clock.mono(self.now);
        if self.nodes[node].frozen {
            return;
        }
        let Some(agent) = &mut self.nodes[node].agent else {
            return;
        };
        if agent.applied >= to {
            return;
        }
        let before = self.raft.states[agent.applied].epoch;
        let rule_before = self.raft.states[agent.applied].sync_rule().cloned();
        agent.applied = to;
        let state = self.raft.states[to].clone();
        let agent = self.agent(node);
        if state.epoch != before {
            agent.coordinator.epoch_since = Some(now);
            agent.coordinator.round = None;
            agent.coordinator.bound.clear();
            agent.coordinator.receipt = None;
        }
        if state.sync_rule() != rule_before.as_ref() && agent.memory.sync_mark.is_some() {
            agent.memory.sync_mark = None;
        }
        let seen = state.switchover.as_ref().map(|running| {
            (
                running.request.clone(),
                running.phase == agent_core::cluster::SwitchoverPhase::Stopping,
            )
        });
        if agent.switchover_seen != seen {
            agent.coordinator.switchover_since = seen.is_some().then_some(now);
            agent.switchover_seen = seen;
        }
        self.follow_epoch(node);
        self.look_soon(node);
    }

    /// Observes, decides, performs.
    pub fn look(&mut self, node: usize) {
        self.agent(node).look_pending = false;
        if self.nodes[node].kind == agent_core::cluster::MemberKind::Witness {
            return;
        }
        let state = self.state(node);
        let pg = self.observe(node);
        self.keep_memory(node, &state, &pg);
        let reading = self.reading(node);
        let now = self.nodes[node].clock.mono(self.now);
        let without_lease = self.mutant == Some(Mutant::PromoteWithoutLease);
        let agent = self.agent(node);
        let lease = LeaseView {
            epoch: if without_lease {
                state.epoch
            } else {
                agent.holder.as_ref().map_or(Epoch(0), Holder::epoch)
            },
            valid: without_lease || agent.holder.as_ref().is_some_and(|holder| holder.valid(reading)),
            fenced: agent.fenced,
            unguarded: None,
        };
        let holder = state.holder.filter(|holder| *holder != id(node));
        let view = NodeView {
            me: id(node),
            state: Cow::Borrowed(&state),
            now,
            pledge: agent.voter.pledge(),
            lease,
            pg,
            conf: agent.conf.take(),
            holder: holder
                .and_then(|holder| agent.reports.fresh(holder, now, REPORT_FRESH))
                .cloned(),
            peers: agent
                .reports
                .reports
                .values()
                .filter(|(at, report)| report.node != id(node) && now.since(*at) <= REPORT_FRESH)
                .map(|(_, report)| report.clone())
                .collect(),
            memory: std::mem::take(&mut agent.memory),
            watchdog: None,
            backup: Some(None),
        };
        let decision = node::decide(&view);
        let NodeView { conf, memory, .. } = view;
        agent.conf = conf;
        agent.memory = memory;
        self.check_explained(
            node,
            &decision.rule,
            decision.actions.len(),
            &decision.reasons,
            decision.wake_at.is_some(),
        );
        let agent = self.agent(node);
        if agent.explain != decision.reasons || !decision.actions.is_empty() {
            agent.explain = decision.reasons;
            self.note(|| format!("n{} {} {:?}", node + 1, decision.rule, decision.actions));
        }
        for action in decision.actions {
            self.perform(node, action);
        }
    }

    fn keep_memory(&mut self, node: usize, state: &ClusterState, pg: &PgObservation) {
        let now = self.nodes[node].clock.mono(self.now);
        let reading = self.reading(node);
        let me = id(node);
        let agent = self.agent(node);
        let valid = agent
            .holder
            .as_ref()
            .is_some_and(|holder| holder.valid(reading) && holder.epoch() == state.epoch);
        let memory = &mut agent.memory;
        match &pg.server {
            Server::Primary(primary) => {
                memory.not_streaming_since = None;
                let streams = |member: agent_core::ids::NodeId| {
                    let name = state.application_name(member, state.epoch);
                    primary
                        .standbys
                        .iter()
                        .any(|s| s.streaming && s.application_name == name)
                };
                let members = state
                    .sync_rule()
                    .map(|rule| rule.members.clone())
                    .unwrap_or_default();
                memory
                    .absent_since
                    .retain(|member, _| members.contains(member) && !streams(*member));
                for member in members.into_iter().filter(|member| !streams(*member)) {
                    memory.absent_since.entry(member).or_insert(now);
                }
                if state.holder == Some(me) && !valid {
                    memory.adopting_since.get_or_insert(now);
                } else {
                    memory.adopting_since = None;
                }
            }
            Server::Standby(standby) => {
                memory.adopting_since = None;
                memory.absent_since.clear();
                memory.failed_rungs.clear();
                if standby.receiver.is_some() {
                    memory.not_streaming_since = None;
                } else {
                    memory.not_streaming_since.get_or_insert(now);
                }
            }
            _ => {
                memory.adopting_since = None;
                memory.not_streaming_since = None;
            }
        }
    }

    fn perform(&mut self, node: usize, action: NodeAction) {
        let has_job = self.agent(node).job.is_some();
        match action {
            NodeAction::Fence { epoch, why } => self.fence(node, epoch, &why),
            NodeAction::Propose(command) => {
                if self.mutant == Some(Mutant::RulePublishedAfterApply)
                    && let Command::SyncBegin { rule, .. } = &command
                {
                    let state = self.state(node);
                    let mut conf = self.conf_alone(node);
                    conf.synchronous_standby_names = state.synchronous_standby_names(rule);
                    self.reload_server(node, &conf);
                }
                self.propose(node, command);
            }
            NodeAction::OpenGate { epoch } => self.open_gate(node, epoch),
            NodeAction::MarkSync { rule, from_zero } => {
                if self.agent(node).marking.as_ref() != Some(&rule) {
                    self.agent(node).marking = Some(rule.clone());
                    let life = self.nodes[node].server.life;
                    self.agent_after(
                        node,
                        100,
                        Timer::Mark {
                            rule,
                            from_zero,
                            life,
                        },
                    );
                }
            }
            NodeAction::Checkpoint { request } => {
                if !self.agent(node).checkpointing {
                    self.agent(node).checkpointing = true;
                    let delay = self.takes(10 * MS, 500 * MS);
                    self.agent_after(node, delay, Timer::CheckpointMade { request });
                }
            }
            // The log has the last word on whether there is a database already: this node's state may be an old one.
            NodeAction::CreateDatabase => {
                let (node_id, at) = (id(node), WallTime(0));
                self.propose(node, Command::ChooseCreator { node: node_id, at });
            }
            _ if has_job || self.agent(node).fencing.is_some() || self.agent(node).releasing => {}
            NodeAction::Start { conf } => self.perform_start(node, conf),
            NodeAction::Configure { conf, lineage } => self.perform_configure(node, conf, lineage),
            action => self.begin_job(node, action),
        }
    }

    fn may_attach(&mut self, node: usize, conf: &Conf) -> bool {
        let epoch = self.state(node).epoch;
        conf.upstream.is_none() || self.agent(node).voter.pledge() <= epoch
    }

    fn perform_start(&mut self, node: usize, conf: Conf) {
        if self.may_attach(node, &conf) {
            self.start_server(node, &conf);
            self.agent(node).conf = Some(conf);
        }
    }

    fn perform_configure(&mut self, node: usize, conf: Conf, lineage: Option<Epoch>) {
        if !self.may_attach(node, &conf) {
            return;
        }
        if let Some(epoch) = lineage {
            self.agent(node).memory.lineage = Some(epoch);
            self.nodes[node].disk.lineage = Some(epoch);
        }
        self.begin_job(node, NodeAction::Configure { conf, lineage });
    }

    fn open_gate(&mut self, node: usize, epoch: Epoch) {
        if self.agent(node).opening == Some(epoch) {
            return;
        }
        self.agent(node).opening = Some(epoch);
        let place = self.commit(node, 100, Who::Row(epoch));
        match place {
            None => self.agent(node).opening = None,
            Some(place) if self.mutant == Some(Mutant::GateBeforeFirstRow) => {
                self.row_acknowledged(node, epoch, place);
            }
            Some(_) => {}
        }
    }

    pub fn first_row_acknowledged(&mut self, node: usize, epoch: Epoch, place: Place) {
        self.agent_after(node, 200, Timer::RowAcknowledged { epoch, place });
    }

    pub fn row_acknowledged(&mut self, node: usize, epoch: Epoch, place: Place) {
        if self.agent(node).opening != Some(epoch) {
            return;
        }
        let position = self.wal.position(place);
        let command = Command::OpenGate {
            epoch,
            timeline: position.timeline,
            lsn: position.lsn,
            at: WallTime(0),
        };
        self.propose(node, command);
    }

    /// Writes the mark once a fresh connection sees the rule, and, where commits did not wait before, once they do.
    pub fn mark(&mut self, node: usize, rule: SyncRule, from_zero: bool, life: u64) {
        if self.agent(node).marking.as_ref() != Some(&rule) {
            return;
        }
        let state = self.state(node);
        let server = &self.nodes[node].server;
        if server.life != life || !server.writable() || state.sync_rule() != Some(&rule) {
            self.agent(node).marking = None;
            return;
        }
        let mut wanted = state.synchronous_standby_names(&rule);
        if self.mutant == Some(Mutant::NameWithoutEpoch) {
            wanted.clone_from(&server.names.text);
        }
        let told = server.names.text == wanted && (!from_zero || server.commits_wait == (rule.k > 0));
        let mutant = self.mutant == Some(Mutant::WalkEndsWithoutMark);
        if !told && !mutant {
            self.agent_after(
                node,
                10 * MS,
                Timer::Mark {
                    rule,
                    from_zero,
                    life,
                },
            );
            return;
        }
        let lsn = if mutant {
            Some(0)
        } else {
            self.commit(node, 100, Who::Client).map(|place| place.lsn)
        };
        let agent = self.agent(node);
        agent.marking = None;
        if let Some(lsn) = lsn {
            agent.memory.sync_mark = Some((rule, Lsn(lsn)));
            self.look_soon(node);
        }
    }

    pub fn propose(&mut self, node: usize, command: Command) {
        let agent = self.agent(node);
        if agent.proposals.iter().any(|(_, running)| *running == command) {
            return;
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.agent(node).proposals.push((ticket, command.clone()));
        self.send_proposal(node, ticket, command);
        self.agent_after(node, 1_000 * MS, Timer::ProposalLost { ticket });
    }

    pub fn proposal_lost(&mut self, node: usize, ticket: u64) {
        self.on_proposed(node, ticket, false);
    }

    pub fn on_proposed(&mut self, node: usize, ticket: u64, accepted: bool) {
        let agent = self.agent(node);
        let Some(at) = agent.proposals.iter().position(|(running, _)| *running == ticket) else {
            return;
        };
        let (_, command) = agent.proposals.remove(at);
        if let Command::OpenGate { epoch, .. } = &command {
            agent.opening = None;
            if accepted {
                agent.memory.gate = Some(*epoch);
            }
        }
        if let Command::ChooseCreator { node: creator, .. } = command
            && accepted
            && creator == id(node)
            && self.agent(node).job.is_none()
            && self.nodes[node].server.data.is_none()
        {
            self.begin_job(node, NodeAction::CreateDatabase);
        }
        self.look_soon(node);
    }
}
