//! What takes an agent a while: copies, rewinds, reloads, promotions, shutdowns. One at a time on each node.

use crate::clock::MS;
use crate::event::Timer;
use crate::mutants::Mutant;
use crate::postgres::{Data, Run, Step, Who};
use crate::raft::index;
use crate::wal::Place;
use crate::world::World;
use agent_core::decide::node::{NodeAction, Rung};
use agent_core::ids::Epoch;
use agent_core::pg::ControlState;
use agent_core::view::Upstream;

/// Something that takes a while and excludes everything else.
#[derive(Debug)]
pub struct Job {
    pub token: u64,
    pub action: NodeAction,
    /// The life of the server when it began, and that of the server it copies from.
    life: u64,
    source: Option<(usize, u64)>,
}

const START_LSN: u64 = 1 << 24;

impl World {
    /// The job at work on the data directory, if there is one.
    pub fn busy_with_data(&self, node: usize) -> Option<&'static str> {
        let job = self.nodes[node].agent.as_ref()?.job.as_ref()?;
        match job.action {
            NodeAction::CreateDatabase => Some("initdb"),
            NodeAction::Copy { .. } => Some("base backup"),
            NodeAction::Rewind { .. } => Some("rewind"),
            _ => None,
        }
    }

    pub fn begin_job(&mut self, node: usize, action: NodeAction) {
        let mut source = None;
        let delay = match &action {
            NodeAction::CreateDatabase => self.rng.between(100, 400) * MS,
            NodeAction::Copy { from, .. } | NodeAction::Rewind { from, .. } => {
                let from = from_of(from);
                source = Some((from, self.nodes[from].server.life));
                if matches!(action, NodeAction::Rewind { .. }) {
                    self.agent(node).memory.broken = true;
                    self.nodes[node].disk.broken = true;
                }
                self.takes(100 * MS, 1_500 * MS)
            }
            NodeAction::Configure { conf, .. } => self.reload_server(node, conf) + 1,
            NodeAction::Promote { grant } => {
                let (epoch, timeline) = (grant.epoch(), grant.timeline());
                let reading = self.reading(node);
                let holds = self.mutant == Some(Mutant::PromoteWithoutLease)
                    || self
                        .agent(node)
                        .holder
                        .as_ref()
                        .is_some_and(|h| h.valid(reading) && h.epoch() == epoch);
                if !holds {
                    return;
                }
                let delay = self.takes(15 * MS, 160 * MS);
                self.server_after(node, delay, Step::Promoted { epoch, timeline });
                delay + 1
            }
            NodeAction::Shutdown { epoch } => {
                let epoch = *epoch;
                let server = &mut self.nodes[node].server;
                server.run = Run::Stopping;
                server.waiting.clear();
                let delay = self.takes(15 * MS, 300 * MS);
                self.server_after(node, delay, Step::Stopped { epoch });
                delay + 1
            }
            NodeAction::StopDiverged { .. } | NodeAction::Stop => self.rng.between(10, 60) * MS,
            _ => self.rng.between(1, 10) * MS,
        };
        self.tickets += 1;
        let token = self.tickets;
        let life = self.nodes[node].server.life;
        self.agent(node).job = Some(Job {
            token,
            action,
            life,
            source,
        });
        self.agent_after(node, delay, Timer::JobDone { token });
    }

    pub fn job_done(&mut self, node: usize, token: u64) {
        if self.agent(node).job.as_ref().is_none_or(|job| job.token != token) {
            return;
        }
        let Some(job) = self.agent(node).job.take() else {
            return;
        };
        let now = self.nodes[node].clock.mono(self.now);
        let same_server = self.nodes[node].server.life == job.life;
        match job.action {
            NodeAction::CreateDatabase => {
                let branch = self.wal.begin(1, None);
                self.nodes[node].server.data = Some(Data {
                    place: Place {
                        branch,
                        lsn: START_LSN,
                    },
                    control_timeline: 1,
                    state: ControlState::ShutDown,
                });
            }
            NodeAction::Copy { epoch, .. } => match self.source_of(node, job.source) {
                Some(data) if self.nodes[node].server.data.is_none() => {
                    self.nodes[node].server.data = Some(data);
                    self.on_the_line(node, epoch);
                }
                _ => {
                    let memory = &mut self.agent(node).memory;
                    memory.job_failed_at = Some(now);
                    // If it was the primary, that is asked again all the same.
                    memory.failed_rungs.insert(Rung::Standby);
                }
            },
            NodeAction::Rewind { epoch, .. } => match self.source_of(node, job.source) {
                Some(data) if same_server => {
                    self.nodes[node].server.data = Some(data);
                    self.on_the_line(node, epoch);
                }
                _ => {
                    let agent = self.agent(node);
                    agent.memory.rewind_failed = Some(epoch);
                    agent.memory.job_failed_at = Some(now);
                }
            },
            NodeAction::SetDataAside { .. } if self.nodes[node].server.run == Run::Down => {
                self.nodes[node].server.data = None;
                self.whole_again(node);
            }
            NodeAction::Configure { conf, .. } if same_server => self.agent(node).conf = Some(conf),
            NodeAction::Stop if same_server => self.kill_server(node),
            NodeAction::StopDiverged { epoch, .. } => {
                if same_server {
                    self.kill_server(node);
                }
                self.agent(node).memory.diverged = Some(epoch);
            }
            _ => {}
        }
        self.report(node);
        self.look_soon(node);
    }

    pub fn shut_down(&mut self, node: usize, epoch: Epoch) {
        // The walsenders send all that is left before they end.
        self.nodes[node].server.run = Run::Primary;
        let waits = self.nodes[node].server.commits_wait;
        self.nodes[node].server.commits_wait = true;
        let end = self.commit(node, 100, Who::Row(Epoch(0)));
        self.nodes[node].server.commits_wait = waits;
        self.kill_server(node);
        if let Some(data) = &mut self.nodes[node].server.data {
            data.state = ControlState::ShutDown;
        }
        let clean_end = end.map(|place| self.wal.position(place));
        let asked = |job: &Job| matches!(job.action, NodeAction::Shutdown { .. });
        let agent = self.nodes[node]
            .agent
            .as_ref()
            .filter(|_| !self.nodes[node].frozen);
        if agent.is_some_and(|agent| agent.job.as_ref().is_some_and(asked)) {
            self.give_receipt(node, epoch, clean_end);
        }
    }

    fn source_of(&self, node: usize, source: Option<(usize, u64)>) -> Option<Data> {
        let (from, life) = source?;
        let server = &self.nodes[from].server;
        let runs = matches!(server.run, Run::Primary | Run::Standby);
        let serves = runs && server.life == life && self.net.both(node, from);
        let data = server.data.filter(|_| serves)?;
        Some(Data {
            state: ControlState::InArchiveRecovery,
            ..data
        })
    }

    fn on_the_line(&mut self, node: usize, epoch: Epoch) {
        self.whole_again(node);
        self.agent(node).memory.lineage = Some(epoch);
        self.nodes[node].disk.lineage = Some(epoch);
    }

    fn whole_again(&mut self, node: usize) {
        self.nodes[node].disk.broken = false;
        let memory = &mut self.agent(node).memory;
        memory.broken = false;
        memory.diverged = None;
        memory.rewind_failed = None;
        memory.job_failed_at = None;
    }
}

fn from_of(upstream: &Upstream) -> usize {
    let number: u64 = upstream
        .host
        .trim_start_matches('n')
        .parse()
        .expect("a node's host name");
    index(agent_core::ids::NodeId(number))
}
