//! One simulated group, what befalls it, and what must hold all the same.

use super::disk::SimDisk;
use super::network::{SimLink, SimNetwork};
use super::random::Random;
use super::runtime::{SimRaft, SimRuntime, SimTypes, Tasks, seeded};
use agent::consensus::store::LogStore;
use agent::consensus::types::{LeaderId, Proposal, RaftNode};
use agent::consensus::{RaftTiming, StateMachine, StateView};
use agent_core::cluster::{ClusterState, Command};
use agent_core::ids::NodeId;
use agent_core::time::WallTime;
use openraft::async_runtime::WatchReceiver;
use openraft::rt::AsyncRuntime;
use openraft::{ServerState, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub nodes: u64,
    /// How long things go wrong.
    pub trouble: Duration,
    /// Crashed disks lose their last acknowledged record: a fault that must be noticed.
    pub forgetful_disks: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            nodes: 3,
            trouble: Duration::from_secs(15),
            forgetful_disks: false,
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    pub acknowledged: usize,
    pub crashes: usize,
    /// Leaders of different terms that were seen.
    pub leaders: usize,
    pub snapshots: usize,
    /// A hash of all messages and their times.
    pub trace: u64,
}

/// Longer than any group needs to come back once nothing is wrong any more.
const HEALING: Duration = Duration::from_secs(30);

/// Runs one seed on this thread.
pub fn run(seed: u64, plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(seeded(seed, async move {
        let mut world = World::new(seed, plan);
        world.begin().await;
        world.trouble().await;
        world.heal().await;
        world.outcome()
    }))
}

struct World {
    plan: Plan,
    random: Random,
    network: SimNetwork,
    disks: BTreeMap<u64, SimDisk>,
    slow: BTreeMap<u64, Arc<Mutex<u64>>>,
    running: BTreeMap<u64, Running>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    proposals: u64,
    leaders: BTreeMap<LeaderIdKey, u64>,
    /// The state after each index, as whichever node showed it first.
    states: BTreeMap<u64, (u64, Arc<ClusterState>)>,
    outcome: Outcome,
}

type LeaderIdKey = (u64, u64);

struct Running {
    raft: SimRaft,
    view: StateView,
    tasks: Tasks,
}

impl World {
    fn new(seed: u64, plan: Plan) -> World {
        let mut random = Random::new(seed);
        let network = SimNetwork::new(Random::new(random.next()));
        let nodes = 1..=plan.nodes;
        World {
            plan,
            network,
            disks: nodes.clone().map(|node| (node, SimDisk::default())).collect(),
            slow: nodes.map(|node| (node, Arc::new(Mutex::new(2)))).collect(),
            random,
            running: BTreeMap::new(),
            acknowledged: Arc::default(),
            proposals: 0,
            leaders: BTreeMap::new(),
            states: BTreeMap::new(),
            outcome: Outcome {
                seed,
                ..Outcome::default()
            },
        }
    }

    async fn begin(&mut self) {
        for node in 1..=self.plan.nodes {
            self.start(node).await;
        }
        let members: BTreeMap<u64, RaftNode> = (1..=self.plan.nodes)
            .map(|node| (node, RaftNode::default()))
            .collect();
        let first = &self.running[&1];
        first
            .tasks
            .own(first.raft.initialize(members))
            .await
            .expect("a fresh group");
    }

    async fn start(&mut self, node: u64) {
        let tasks = Tasks::default();
        let disk = self.disks[&node].clone();
        let opened = LogStore::open(Box::new(disk), true);
        let (store, mut worker, snapshot) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.violation(format!("node {node} cannot open its store: {error}"));
                return;
            }
        };
        let (machine, view) = StateMachine::new(snapshot, store.jobs()).expect("a readable snapshot");
        let config = openraft::Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(25),
            max_in_snapshot_log_to_keep: 5,
            replication_lag_threshold: 40,
            ..RaftTiming::LAN
                .of_node(NodeId(node))
                .raft_config("sim")
                .expect("sound")
        };
        let link = SimLink {
            network: self.network.clone(),
            me: node,
            target: node,
        };
        let slow = Arc::clone(&self.slow[&node]);
        let mut random = Random::new(self.random.next());
        let started = tasks
            .own(async {
                SimRuntime::spawn(async move {
                    while let Some(job) = worker.next().await {
                        let slowest = *slow.lock().expect("no panic");
                        sleep(random.between_ms(0, slowest)).await;
                        if !worker.perform(job) {
                            return;
                        }
                    }
                });
                SimRaft::new(node, Arc::new(config), link, store, machine).await
            })
            .await;
        match started {
            Ok(raft) => {
                self.network.with(|links| links.nodes.insert(node, raft.clone()));
                self.running.insert(node, Running { raft, view, tasks });
            }
            Err(error) => self.violation(format!("node {node} does not start again: {error}")),
        }
    }

    fn crash(&mut self, node: u64) {
        let Some(running) = self.running.remove(&node) else {
            return;
        };
        self.network.with(|links| links.nodes.remove(&node));
        running.tasks.crash();
        if self.plan.forgetful_disks {
            self.disks[&node].forget();
        } else {
            self.disks[&node].crash(&mut self.random);
        }
        self.outcome.crashes += 1;
    }

    async fn trouble(&mut self) {
        let end = Instant::now() + self.plan.trouble;
        let mut next_fault = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end && self.outcome.violations.is_empty() {
            let pause = self.random.between_ms(5, 40);
            sleep(pause).await;
            self.look();
            self.propose();
            if Instant::now() >= next_fault {
                self.fault().await;
                next_fault = Instant::now() + self.random.between_ms(50, 1_500);
            }
        }
    }

    async fn fault(&mut self) {
        let node = 1 + self.random.below(self.plan.nodes);
        let other = 1 + self.random.below(self.plan.nodes);
        match self.random.below(10) {
            0..=2 => match self.running.contains_key(&node) {
                true => self.crash(node),
                false => self.start(node).await,
            },
            // All at once, now and then.
            3 if self.random.chance(30) => {
                for node in 1..=self.plan.nodes {
                    self.crash(node);
                }
            }
            3 | 4 => {
                for node in 1..=self.plan.nodes {
                    if !self.running.contains_key(&node) {
                        self.start(node).await;
                    }
                }
            }
            5 => drop(self.network.with(|links| links.cut.insert((node, other)))),
            6 => {
                let nodes = self.plan.nodes;
                self.network.with(|links| {
                    for peer in (1..=nodes).filter(|peer| *peer != node) {
                        links.cut.extend([(node, peer), (peer, node)]);
                    }
                });
            }
            7 => self.network.with(|links| links.cut.clear()),
            8 => {
                let slowest = [2, 2, 50, 800][usize::try_from(self.random.below(4)).expect("small")];
                *self.slow[&node].lock().expect("no panic") = slowest;
            }
            _ => {
                let percent = [0, 0, 2, 20][usize::try_from(self.random.below(4)).expect("small")];
                self.network.with(|links| links.lost_percent = percent);
            }
        }
    }

    /// A client somewhere proposes something.
    fn propose(&mut self) {
        if self.proposals >= 450 || self.running.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(self.running.len() as u64)).expect("small");
        let running = self.running.values().nth(at).expect("within");
        let raft = running.raft.clone();
        self.proposals += 1;
        let text = format!("proposal {}", self.proposals);
        let acknowledged = Arc::clone(&self.acknowledged);
        SimRuntime::spawn(async move {
            let note = Command::Note {
                kind: "test".into(),
                text: text.clone(),
                at: WallTime(0),
            };
            let write = raft.client_write(Proposal(note));
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(3), write).await {
                acknowledged.lock().expect("no panic").insert(text);
            }
        });
    }

    /// What must hold at every moment.
    fn look(&mut self) {
        let mut found = Vec::new();
        for (node, running) in &self.running {
            let metrics = running.raft.metrics().borrow_watched().clone();
            if let Err(fatal) = &metrics.running_state {
                found.push(format!("Raft has stopped on node {node}: {fatal}"));
            }
            if metrics.state == ServerState::Leader {
                let LeaderId { term, node_id } = metrics.vote.leader_id;
                let leader = *self.leaders.entry((term, node_id)).or_insert(*node);
                if leader != *node {
                    found.push(format!("nodes {leader} and {node} both led as {term}.{node_id}"));
                }
            }
            let (index, state) = (running.view.applied_index(), running.view.state());
            match self.states.get(&index) {
                Some((other, known)) if **known != *state => {
                    found.push(format!(
                        "nodes {other} and {node} have different states after entry {index}"
                    ));
                }
                Some(_) => {}
                None => drop(self.states.insert(index, (*node, state))),
            }
        }
        for violation in found {
            self.violation(violation);
        }
    }

    fn violation(&mut self, text: String) {
        if !self.outcome.violations.contains(&text) {
            self.outcome.violations.push(text);
        }
    }

    /// Nothing is wrong any more: the group must come back, with everything that it had acknowledged.
    async fn heal(&mut self) {
        if !self.outcome.violations.is_empty() {
            return;
        }
        self.network.with(|links| {
            links.cut.clear();
            links.lost_percent = 0;
        });
        for node in 1..=self.plan.nodes {
            *self.slow[&node].lock().expect("no panic") = 2;
            if !self.running.contains_key(&node) {
                self.start(node).await;
            }
        }
        let end = Instant::now() + HEALING;
        let mut missing = String::from("nothing was looked at");
        while Instant::now() < end && self.outcome.violations.is_empty() {
            sleep(Duration::from_millis(50)).await;
            self.look();
            self.propose();
            match self.what_is_missing() {
                None => return,
                Some(what) => missing = what,
            }
        }
        self.violation(format!("the group has not come back: {missing}"));
    }

    /// Whether all nodes have all that was acknowledged, and something was acknowledged lately.
    fn what_is_missing(&self) -> Option<String> {
        let acknowledged = self.acknowledged.lock().expect("no panic");
        if !self.running.values().any(|running| running.raft.is_leader()) {
            return Some("there is no leader".to_owned());
        }
        for (node, running) in &self.running {
            let state = running.view.state();
            let has: BTreeSet<&String> = state.events.iter().map(|event| &event.text).collect();
            if let Some(lost) = acknowledged.iter().find(|text| !has.contains(text)) {
                return Some(format!("node {node} does not have the acknowledged {lost}"));
            }
        }
        None
    }

    fn outcome(mut self) -> Outcome {
        self.outcome.acknowledged = self.acknowledged.lock().expect("no panic").len();
        self.outcome.leaders = self.leaders.len();
        (self.outcome.trace, self.outcome.snapshots) =
            self.network.with(|links| (links.trace, links.snapshots));
        for node in 1..=self.plan.nodes {
            if let Some(running) = self.running.remove(&node) {
                running.tasks.crash();
            }
        }
        self.outcome
    }
}

/// The types of the simulation are those of the agent, but for the runtime.
const _: fn() = || {
    fn of_this_house<C: agent::consensus::types::HouseTypes>() {}
    of_this_house::<SimTypes>();
};
