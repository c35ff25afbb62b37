//! The world of one run: nodes, their agents and servers, and the queue of what happens next.

use crate::checks::Checks;
use crate::clock::{Clock, MS, Time};
use crate::event::{Event, Msg, Releasing, Scheduled, Timer};
use crate::exam::Exam;
use crate::faults::Trouble;
use crate::mutants::Mutant;
use crate::network::{Datagrams, Network};
use crate::node::{Agent, AgentDisk, Node};
use crate::plan::Plan;
use crate::postgres::{Server, Step};
use crate::raft::{Raft, RaftEvent, id};
use crate::rng::Rng;
use crate::wal::Wal;
use agent_core::cluster::{ClusterState, Command, Member, MemberKind, Secrets};
use agent_core::ids::NodeId;
use agent_core::lease::Watch;
use agent_core::time::ClockReading;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

pub struct World {
    pub now: Time,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub rng: Rng,
    pub plan: Plan,
    pub mutant: Option<Mutant>,
    pub net: Network,
    pub raft: Raft,
    pub wal: Wal,
    pub nodes: Vec<Node>,
    pub checks: Checks,
    pub misrouted_until: Time,
    pub connections: u64,
    pub tickets: u64,
    pub requests: u64,
    pub healed: bool,
    pub exam: Exam,
    /// By when the cluster must be whole.
    pub last: Time,
    pub done: bool,
    pub events: u64,
    pub hash: u64,
    pub verbose: bool,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub violation: Option<String>,
    pub hash: u64,
    pub events: u64,
    pub acknowledged: u64,
    pub epochs: u64,
    pub simulated: Time,
}

/// How often a node tells everybody how it is.
pub const REPORT: Time = 250 * MS;

/// After the last fault the cluster must be whole again within this time: a new copy is made only after a minute.
pub const WHOLE_WITHIN: Time = 150_000 * MS;

impl World {
    pub fn new(seed: u64, mutant: Option<Mutant>, verbose: bool) -> World {
        let mut rng = Rng::new(seed);
        let plan = Plan::of(&mut rng, mutant);
        let count = plan.kinds.len();
        let voters: BTreeSet<NodeId> = (0..count).rev().take(plan.voters).map(id).collect();
        let nodes = (0..count)
            .map(|node| Node {
                kind: plan.kinds[node],
                clock: Clock::new(rng.between(1, 1 << 40), plan.raw_ppm[node]),
                life: 0,
                agent: None,
                disk: AgentDisk::default(),
                applied_floor: 0,
                frozen: false,
                suspended: false,
                resumed: None,
                kept: Vec::new(),
                unguarded: false,
                agent_since: 0,
                slow_until: 0,
                lag_until: 0,
                guard: plan.guards.then(Watch::default),
                server: Server::new(),
            })
            .collect();
        World {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            rng,
            mutant,
            net: Network::new(count),
            raft: Raft::new(voters),
            wal: Wal::default(),
            nodes,
            checks: Checks::default(),
            misrouted_until: 0,
            connections: 0,
            tickets: 0,
            requests: 0,
            healed: false,
            exam: Exam::Ahead,
            last: 0,
            done: false,
            events: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            verbose,
            plan,
        }
    }

    /// Runs to the end: until the cluster is whole after the last fault, or something is violated.
    pub fn run(mut self) -> Outcome {
        self.note(|| "".to_owned());
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.promise_limit = self.plan.settings.timing.promise();
            self.start_agent(node);
        }
        let command = self.founding();
        self.found(&command);
        self.after(0, Event::Raft(RaftEvent::Tick));
        self.after(self.plan.commit_every, Event::Client);
        let first = self.plan.quiet + self.rng.below(2_000) * MS;
        self.after(first, Event::Trouble(Trouble::Next));
        self.after(self.plan.horizon, Event::Trouble(Trouble::HealAll));
        self.last = self.plan.horizon + WHOLE_WITHIN;
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.at;
            if self.now > self.last && self.checks.violation.is_none() {
                let why = self.why_not_whole();
                self.violation(&format!(
                    "not whole {} s after the last fault: {why}",
                    WHOLE_WITHIN / MS / 1_000
                ));
            }
            if self.done || self.checks.violation.is_some() {
                break;
            }
            self.events += 1;
            self.mix(next.at);
            self.dispatch(next.event);
        }
        Outcome {
            violation: self.checks.violation.clone(),
            hash: self.hash,
            events: self.events,
            acknowledged: self.checks.acknowledged.len() as u64,
            epochs: self.raft.newest().epoch.0,
            simulated: self.now,
        }
    }

    fn founding(&self) -> Command {
        let members = (0..self.nodes.len())
            .map(|node| {
                let data = self.nodes[node].kind == MemberKind::Data;
                let member = Member {
                    name: format!("n{}", node + 1),
                    kind: self.nodes[node].kind,
                    peer: format!("n{}:7000", node + 1),
                    http: format!("n{}:8000", node + 1),
                    postgres: if data {
                        format!("n{}:5432", node + 1)
                    } else {
                        String::new()
                    },
                    tags: std::collections::BTreeMap::new(),
                    nofailover: false,
                };
                (id(node), member)
            })
            .collect();
        Command::Found {
            cluster_id: "simulated".to_owned(),
            name: "simulated".to_owned(),
            members,
            settings: Box::new(self.plan.settings.clone()),
            secrets: Secrets::default(),
        }
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.order += 1;
        let scheduled = Scheduled {
            at: self.now + delay,
            order: self.order,
            event,
        };
        self.queue.push(Reverse(scheduled));
    }

    pub fn agent_after(&mut self, node: usize, delay: Time, timer: Timer) {
        let life = self.nodes[node].life;
        self.after(delay, Event::Agent { node, life, timer });
    }

    pub fn server_after(&mut self, node: usize, delay: Time, step: Step) {
        let life = self.nodes[node].server.life;
        self.after(delay, Event::Server { node, life, step });
    }

    /// A message: over a connection to another node, or within one.
    pub fn send(&mut self, from: usize, to: usize, msg: Msg) {
        if from == to {
            self.after(20, Event::Deliver { from, to, msg });
            return;
        }
        let mut delay = self.net.delay(&mut self.rng);
        // A request needs a connection, a datagram only the way there.
        let (open, loss) = if matches!(msg, Msg::Renew { .. } | Msg::Renewed { .. }) {
            let how = self.net.datagrams(from, to);
            if let Datagrams::Delay(by) = how {
                delay += by;
            }
            (self.net.open(from, to) && how != Datagrams::Drop, self.net.loss)
        } else {
            (self.net.both(from, to), self.net.loss / 4)
        };
        if open && !self.rng.chance(loss) {
            self.after(delay, Event::Deliver { from, to, msg });
        }
    }

    pub fn broadcast(&mut self, from: usize, msg: &Msg) {
        for to in 0..self.nodes.len() {
            self.send(from, to, msg.clone());
        }
    }

    fn dispatch(&mut self, event: Event) {
        match &event {
            Event::Deliver { to, .. } if self.nodes[*to].frozen => return self.nodes[*to].kept.push(event),
            Event::Agent { node, .. } if self.nodes[*node].frozen => {
                return self.nodes[*node].kept.push(event);
            }
            Event::Server { node, .. } if self.nodes[*node].suspended => {
                return self.nodes[*node].kept.push(event);
            }
            Event::Wal { to, .. } | Event::Flushed { to, .. } if self.nodes[*to].suspended => {
                return self.nodes[*to].kept.push(event);
            }
            _ => {}
        }
        match event {
            Event::Deliver { from, to, msg } => {
                self.mix(to as u64 + 1);
                if self.nodes[to].agent.is_some() {
                    self.receive(from, to, msg);
                }
            }
            Event::Agent { node, life, timer } => {
                self.mix(node as u64 + 101);
                if self.nodes[node].agent.is_some() && self.nodes[node].life == life {
                    self.on_timer(node, timer);
                }
            }
            Event::Server { node, life, step } => {
                self.mix(node as u64 + 201);
                if self.nodes[node].server.life == life {
                    self.on_server(node, step);
                }
            }
            Event::Wal { to, conn, place } => {
                self.mix(place.lsn);
                self.on_wal(to, conn, place);
            }
            Event::Flushed { to, conn, lsn, sent } => {
                self.mix(lsn);
                self.on_flushed(to, conn, lsn, sent);
            }
            Event::Raft(event) => {
                self.mix(self.raft.states.len() as u64);
                self.on_raft(event);
            }
            Event::Guard { node } => self.guard_looks(node),
            Event::Guarded { node, epoch } => self.guard_has_ended(node, epoch),
            Event::Client => self.on_client(),
            Event::Trouble(trouble) => self.on_trouble(trouble),
            Event::Converged => self.look_whether_whole(),
        }
    }

    fn receive(&mut self, from: usize, to: usize, msg: Msg) {
        match msg {
            Msg::Renew {
                epoch,
                round,
                incarnation,
                promise,
            } => {
                self.on_renew(to, from, epoch, round, incarnation, promise);
            }
            Msg::Renewed {
                epoch,
                round,
                incarnation,
                answer,
            } => self.on_renewed(to, from, epoch, round, incarnation, answer),
            Msg::Receipt(receipt) => self.on_receipt(to, receipt),
            Msg::Report(report) => self.on_report(to, *report),
            Msg::AskBound { next, receipt } => self.on_ask_bound(to, from, next, receipt),
            Msg::Bound { next, bound } => self.on_bound(to, from, next, bound),
            Msg::AskRelease {
                epoch,
                receipt,
                wait_for,
            } => {
                let since = self.now;
                self.on_ask_release(
                    to,
                    Releasing {
                        asker: from,
                        epoch,
                        receipt,
                        wait_for,
                        since,
                    },
                );
            }
            Msg::Released { epoch, release } => self.on_released(to, from, epoch, release),
            Msg::Propose { ticket, command } => self.take_proposal(to, from, ticket, command),
            Msg::Proposed { ticket, accepted } => self.on_proposed(to, ticket, accepted),
        }
    }

    fn on_timer(&mut self, node: usize, timer: Timer) {
        match timer {
            Timer::Tick => self.tick(node),
            Timer::Look => self.look(node),
            Timer::Coordinate => self.coordinate(node),
            Timer::Report => {
                self.report(node);
                self.agent_after(node, REPORT, Timer::Report);
            }
            Timer::Renew { epoch } => self.renew(node, epoch),
            Timer::Deadline => self.on_deadline(node),
            Timer::Kill { epoch } => self.kill(node, epoch),
            Timer::JobDone { token } => self.job_done(node, token),
            Timer::Release(releasing) => self.on_ask_release(node, releasing),
            Timer::PledgeSafe(releasing) => self.pledge_is_safe(node, releasing),
            Timer::Cut(releasing) => self.answer_release(node, &releasing),
            Timer::ProposalLost { ticket } => self.proposal_lost(node, ticket),
            Timer::Mark {
                rule,
                from_zero,
                life,
            } => self.mark(node, rule, from_zero, life),
            Timer::RowAcknowledged { epoch, place } => self.row_acknowledged(node, epoch, place),
            Timer::CheckpointMade { request } => {
                let agent = self.agent(node);
                agent.checkpointing = false;
                agent.memory.checkpoint_for = Some(request);
                self.report(node);
                self.look_soon(node);
            }
        }
    }

    pub fn agent(&mut self, node: usize) -> &mut Agent {
        self.nodes[node]
            .agent
            .as_mut()
            .expect("asked only where the agent lives")
    }

    /// The replicated state as `node` knows it.
    pub fn state(&self, node: usize) -> Arc<ClusterState> {
        let applied = self.nodes[node].agent.as_ref().map_or(0, |agent| agent.applied);
        self.raft.states[applied].clone()
    }

    pub fn reading(&self, node: usize) -> ClockReading {
        self.nodes[node].clock.read(self.now)
    }

    /// How long something takes that is mostly quick; on quick machines, always.
    pub fn takes(&mut self, low: Time, high: Time) -> Time {
        let high = if self.plan.quick {
            low + (high - low) / 20
        } else {
            high
        };
        self.rng.mostly_short(low, high)
    }

    /// Has a node look at its situation in a moment.
    pub fn look_soon(&mut self, node: usize) {
        let delay = self.rng.between(100, 3_000);
        if let Some(agent) = &mut self.nodes[node].agent
            && !agent.look_pending
        {
            agent.look_pending = true;
            self.agent_after(node, delay, Timer::Look);
        }
        self.coordinate_soon(node);
    }

    pub fn coordinate_soon(&mut self, node: usize) {
        if !self.believes_to_lead(node) {
            return;
        }
        let delay = self.rng.between(100, 2_000);
        if let Some(agent) = &mut self.nodes[node].agent
            && !agent.coordinate_pending
        {
            agent.coordinate_pending = true;
            self.agent_after(node, delay, Timer::Coordinate);
        }
    }

    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(17);
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>10.3} {}", self.now as f64 / 1_000.0, text());
        }
    }
}
