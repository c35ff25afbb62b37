//! The nemesis and the operator: what goes wrong, what is ordered, and how all of it ends.

use crate::clock::{MS, Time};
use crate::event::Event;
use crate::exam::Exam;
use crate::network::Datagrams;
use crate::plan::{Fault, timing};
use crate::postgres::Who;
use crate::raft::{id, index};
use crate::world::World;
use agent_core::cluster::{Command, Settings, SyncMode};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::time::WallTime;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub enum Trouble {
    Next,
    /// A fault at a bad moment, in addition to those that come by themselves.
    Extra,
    HealAll,
    StartAgent {
        node: usize,
    },
    /// The agent dies, and is back at once.
    Restart {
        node: usize,
    },
    Thaw {
        node: usize,
    },
    HealNet,
    Resume,
    MaintenanceOff {
        node: usize,
    },
    /// A fence device has come to an end with `target`.
    TurnedOff {
        by: usize,
        target: usize,
        epoch: Epoch,
    },
    /// A machine that was turned off is switched on again.
    PoweredOn {
        node: usize,
    },
    ExamEnds,
}

impl World {
    pub fn on_client(&mut self) {
        self.after(self.plan.commit_every, Event::Client);
        self.check_leases();
        for node in 0..self.nodes.len() {
            if self.nodes[node].server.writable() {
                let size = if self.rng.chance(20) {
                    self.rng.between(1_000, 200_000)
                } else {
                    50
                };
                self.commit(node, size, Who::Client);
            }
        }
    }

    pub fn on_trouble(&mut self, trouble: Trouble) {
        // What earlier faults left behind must not mend the last one.
        let goes_on = matches!(
            trouble,
            Trouble::ExamEnds | Trouble::TurnedOff { .. } | Trouble::PoweredOn { .. }
        );
        if matches!(self.exam, Exam::Running { .. }) && !goes_on {
            return;
        }
        match trouble {
            Trouble::HealAll => {
                self.heal_all();
                self.after(0, Event::Converged);
            }
            Trouble::ExamEnds => self.end_exam(),
            Trouble::TurnedOff { by, target, epoch } => self.turned_off(by, target, epoch),
            Trouble::PoweredOn { node } if self.is_examined(node) => {}
            Trouble::StartAgent { node } | Trouble::PoweredOn { node } => {
                if self.nodes[node].agent.is_none() {
                    self.start_agent(node);
                }
            }
            Trouble::Restart { node } => {
                if !self.healed {
                    let delay = self.rng.mostly_short(10, 100) * MS;
                    self.crash_agent(node, delay);
                }
            }
            Trouble::Thaw { node } => self.thaw(node),
            Trouble::HealNet => self.net.heal(),
            Trouble::Resume => {
                let request = self.request();
                self.operator(Command::Resume {
                    request,
                    at: WallTime(0),
                });
            }
            Trouble::MaintenanceOff { node } => {
                let request = self.request();
                self.operator(Command::Maintenance {
                    request,
                    node: id(node),
                    on: false,
                    at: WallTime(0),
                });
            }
            Trouble::Next | Trouble::Extra if self.healed => {}
            Trouble::Extra => {
                let fault = *self.rng.pick(&self.plan.faults.clone());
                self.strike(fault);
            }
            Trouble::Next => {
                let pause = self.rng.between(self.plan.pause / 4, self.plan.pause * 2);
                self.after(pause, Event::Trouble(Trouble::Next));
                let fault = *self.rng.pick(&self.plan.faults.clone());
                self.strike(fault);
            }
        }
    }

    /// A node: the primary in half of the cases.
    fn victim(&mut self) -> usize {
        let holder = self.raft.newest().holder;
        match holder {
            Some(holder) if self.rng.chance(500) => index(holder),
            _ => self.rng.index(self.nodes.len()),
        }
    }

    fn strike(&mut self, fault: Fault) {
        let node = self.victim();
        self.note(|| format!("--- {fault:?} n{}", node + 1));
        let soon = self.rng.mostly_short(30, 4_000) * MS;
        match fault {
            Fault::AgentCrash => self.crash_agent(node, soon),
            Fault::AgentFreeze => self.freeze(node, false, soon),
            Fault::NodeFreeze => self.freeze(node, true, soon),
            Fault::ServerCrash => {
                self.kill_server(node);
                self.look_soon(node);
            }
            Fault::NodeCrash => {
                self.kill_server(node);
                self.guard_starts_anew(node);
                self.crash_agent(node, soon);
            }
            Fault::CrashAll => {
                for node in 0..self.nodes.len() {
                    self.kill_server(node);
                    self.guard_starts_anew(node);
                    let delay = self.rng.between(30, 3_000) * MS;
                    self.crash_agent(node, delay);
                }
            }
            Fault::Isolate | Fault::OneWay | Fault::CutLink | Fault::Split => self.cut(fault, node, soon),
            Fault::Lossy => {
                self.net.loss = self.rng.between(50, 500);
                self.net.longest = self.rng.between(100, 3_000) * MS;
                self.after(soon, Event::Trouble(Trouble::HealNet));
            }
            Fault::Slew => {
                let ppm = *self.rng.pick(&[-83_000, -20_000, 0, 20_000, 83_000]);
                let now = self.now;
                self.nodes[node].clock.slew(now, ppm);
                if self.nodes[node].agent.is_some() {
                    self.arm_deadline(node);
                }
            }
            Fault::LeaderChange => self.elect(),
            Fault::SlowDisk => self.nodes[node].slow_until = self.now + soon,
            Fault::ApplyLag => self.nodes[node].lag_until = self.now + soon,
            Fault::ServerHang => {
                // The shorter ones are forgiven, the longer ones outlast every patience.
                let soon = if soon > 400 * MS { 4 * soon } else { soon };
                let server = &mut self.nodes[node].server;
                if server.hung_until < self.now {
                    server.hung_since = self.now;
                }
                server.hung_until = self.now + soon;
            }
            Fault::RestartOthers => {
                let holder = self.raft.newest().holder.map(index);
                for other in (0..self.nodes.len()).filter(|other| Some(*other) != holder) {
                    if Some(other) != self.raft.leader || self.rng.chance(300) {
                        let delay = self.rng.mostly_short(20, 300) * MS;
                        self.crash_agent(other, delay);
                    }
                }
                if let Some(holder) = holder.filter(|_| self.rng.chance(500)) {
                    self.treat_datagrams(holder, soon);
                }
            }
            Fault::Misroute => self.misrouted_until = self.now + soon,
            Fault::Datagrams => self.treat_datagrams(node, soon),
            Fault::Voters => {
                if self.rng.chance(500) {
                    self.nodes[node].lag_until = self.now + soon;
                }
                let all: Vec<usize> = (0..self.nodes.len()).collect();
                let mut voters: BTreeSet<NodeId> = BTreeSet::new();
                while voters.len() < 3 {
                    voters.insert(id(*self.rng.pick(&all)));
                }
                self.change_voters(voters);
            }
            Fault::Switchover
            | Fault::FailoverOrder
            | Fault::Pause
            | Fault::Maintenance
            | Fault::Settings => {
                self.order(fault, soon);
            }
        }
    }

    fn order(&mut self, fault: Fault, soon: Time) {
        let request = self.request();
        let at = WallTime(0);
        let to = self.rng.index(self.nodes.len());
        let command = match fault {
            Fault::Switchover => Command::StartSwitchover {
                request,
                to: id(to),
                at,
            },
            Fault::FailoverOrder => {
                let accept_data_loss = self.rng.chance(200);
                Command::OrderFailover {
                    request,
                    to: id(to),
                    accept_data_loss,
                    at,
                }
            }
            Fault::Pause => {
                self.after(soon, Event::Trouble(Trouble::Resume));
                Command::Pause {
                    request,
                    reason: "a test".to_owned(),
                    at,
                }
            }
            Fault::Maintenance => {
                self.after(soon, Event::Trouble(Trouble::MaintenanceOff { node: to }));
                Command::Maintenance {
                    request,
                    node: id(to),
                    on: true,
                    at,
                }
            }
            _ => {
                let old = self.raft.newest().settings.clone();
                let sync_mode = match old.sync_mode {
                    SyncMode::Async => *self.rng.pick(&[SyncMode::Async, SyncMode::Quorum]),
                    _ => *self.rng.pick(&[SyncMode::Quorum, SyncMode::Strict]),
                };
                let mut settings = Settings { sync_mode, ..old };
                // A mutant's terms are wrong already and would be refused.
                if settings.timing.is_sound() {
                    let fence_ms = settings.timing.fence_ms;
                    settings.timing = timing(&mut self.rng);
                    settings.timing.fence_ms = fence_ms;
                    settings.timing.promise_ms = settings.timing.lease_ms + fence_ms;
                    while !settings.timing.is_sound() {
                        settings.timing.promise_ms += 1;
                    }
                }
                Command::ChangeSettings {
                    request,
                    settings: Box::new(settings),
                    at,
                }
            }
        };
        self.operator(command);
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(format!("r{}", self.requests))
    }

    fn operator(&mut self, command: Command) {
        if let Some(leader) = self.raft.leader {
            self.tickets += 1;
            let ticket = self.tickets;
            self.take_proposal(leader, leader, ticket, Box::new(command));
        }
    }

    fn crash_agent(&mut self, node: usize, back_in: Time) {
        self.stop_agent(node);
        self.after(back_in, Event::Trouble(Trouble::StartAgent { node }));
    }

    fn freeze(&mut self, node: usize, server_too: bool, until: Time) {
        let it = &mut self.nodes[node];
        if it.agent.is_none() || it.frozen {
            return;
        }
        it.frozen = true;
        it.suspended = server_too;
        // A guard is stopped with its machine, but not with its agent.
        it.unguarded = it.server.writable() && (it.guard.is_none() || server_too);
        self.after(until, Event::Trouble(Trouble::Thaw { node }));
    }

    fn thaw(&mut self, node: usize) {
        let reading = self.reading(node);
        let it = &mut self.nodes[node];
        if !it.frozen {
            return;
        }
        it.resumed = it.suspended.then_some(self.now).or(it.resumed);
        it.frozen = false;
        it.suspended = false;
        it.agent_since = self.now;
        if it
            .agent
            .as_ref()
            .is_some_and(|a| a.holder.as_ref().is_some_and(|h| h.valid(reading)))
        {
            it.unguarded = false;
        }
        let kept = std::mem::take(&mut it.kept);
        self.guard_looks(node);
        self.note(|| format!("n{} goes on", node + 1));
        for event in kept {
            self.after(1, event);
        }
    }

    /// Renewals and their answers fare badly; everything else goes through.
    fn treat_datagrams(&mut self, node: usize, soon: Time) {
        let mut how = || match self.rng.below(4) {
            0 => Datagrams::Pass,
            1 | 2 => Datagrams::Drop,
            _ => Datagrams::Delay(self.rng.between(20, 700) * MS),
        };
        let (out, back) = (how(), how());
        for other in 0..self.nodes.len() {
            self.net.treat_datagrams(node, other, out);
            self.net.treat_datagrams(other, node, back);
        }
        if self.rng.chance(500) {
            self.after(soon, Event::Trouble(Trouble::HealNet));
        }
    }

    fn cut(&mut self, fault: Fault, node: usize, soon: Time) {
        let count = self.nodes.len();
        match fault {
            Fault::Isolate => {
                for other in 0..count {
                    self.net.cut(node, other);
                    self.net.cut(other, node);
                }
            }
            Fault::OneWay => {
                let out = self.rng.chance(500);
                for other in 0..count {
                    if out {
                        self.net.cut(node, other);
                    } else {
                        self.net.cut(other, node);
                    }
                }
            }
            Fault::CutLink => {
                let other = self.rng.index(count);
                self.net.cut(node, other);
                if self.rng.chance(700) {
                    self.net.cut(other, node);
                }
            }
            _ => {
                let side: Vec<bool> = (0..count).map(|_| self.rng.chance(500)).collect();
                for a in 0..count {
                    for b in 0..count {
                        if side[a] != side[b] {
                            self.net.cut(a, b);
                        }
                    }
                }
            }
        }
        self.after(soon, Event::Trouble(Trouble::HealNet));
    }

    /// The last fault is over: from here on the cluster must get well by itself.
    pub fn heal_all(&mut self) {
        self.note(|| "--- healed".to_owned());
        self.healed = true;
        self.misrouted_until = 0;
        self.net.heal();
        for node in 0..self.nodes.len() {
            self.thaw(node);
            let it = &mut self.nodes[node];
            it.slow_until = 0;
            it.lag_until = 0;
            it.server.hung_until = 0;
            if it.agent.is_none() {
                self.start_agent(node);
            }
        }
    }

    pub fn look_whether_whole(&mut self) {
        self.after(200 * MS, Event::Converged);
        if matches!(self.exam, Exam::Running { .. }) {
            return;
        }
        self.finish_voters();
        if self.raft.newest().pause.is_some() {
            self.on_trouble(Trouble::Resume);
        }
        for node in self.raft.newest().maintenance.clone() {
            self.on_trouble(Trouble::MaintenanceOff { node: index(node) });
        }
        if !self.why_not_whole().is_empty() {
            self.checks.whole_at = None;
            return;
        }
        // It serves only if new commits are acknowledged, too.
        let acknowledged = self.checks.acknowledged.len();
        let before = *self.checks.whole_at.get_or_insert(acknowledged);
        if acknowledged > before + self.nodes.len() && !self.begin_exam() {
            self.done = true;
        }
    }
}
