//! The replicated log, as its users see it: one order of entries, a coordinator that may be out of date, proposals and
//! answers that get lost, nodes that apply late.

use crate::clock::{MS, Time};
use crate::event::{Event, Msg};
use crate::faults::Trouble;
use crate::mutants::Mutant;
use crate::world::World;
use agent_core::cluster::{Applied, ClusterState, Command, Rejected};
use agent_core::ids::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long a coordinator that lost its majority goes on believing in itself, at most.
const BELIEVES: Time = 500 * MS;

#[derive(Debug)]
pub struct Raft {
    /// The state after each entry; the first is the empty one.
    pub states: Vec<Arc<ClusterState>>,
    /// The current voters: one set, or two in between.
    pub membership: Vec<BTreeSet<NodeId>>,
    pub leader: Option<usize>,
    pub term: u64,
    /// Since when the leader has not reached a majority.
    lost_since: Option<Time>,
    /// How long this absence must last before another is elected.
    patience: Time,
    /// Former leaders that have not noticed yet: until when.
    pub stale: Vec<(usize, Time)>,
}

impl Raft {
    pub fn new(voters: BTreeSet<NodeId>) -> Raft {
        Raft {
            states: vec![Arc::new(ClusterState::default())],
            membership: vec![voters],
            leader: None,
            term: 0,
            lost_since: Some(0),
            patience: 0,
            stale: Vec::new(),
        }
    }

    pub fn newest(&self) -> &Arc<ClusterState> {
        self.states.last().expect("the empty state is always there")
    }

    pub fn last_index(&self) -> usize {
        self.states.len() - 1
    }
}

/// What becomes of the log.
#[derive(Debug, Clone)]
pub enum RaftEvent {
    Tick,
    /// A proposal that the leader of `term` took is committed, if it still can be.
    Commit {
        term: u64,
        from: usize,
        ticket: u64,
        command: Box<Command>,
    },
    Membership {
        term: u64,
        sets: Vec<BTreeSet<NodeId>>,
    },
    Apply {
        node: usize,
        index: usize,
    },
}

impl World {
    fn reaches_majority(&self, leader: usize) -> bool {
        let well = |node: usize| self.nodes[node].agent.is_some() && !self.nodes[node].frozen;
        well(leader)
            && self.raft.membership.iter().all(|set| {
                let reached = set.iter().filter(|id| {
                    let node = index(**id);
                    node == leader || (well(node) && self.net.both(leader, node))
                });
                reached.count() * 2 > set.len()
            })
    }

    /// Whether `node` takes itself for the coordinator.
    pub fn believes_to_lead(&self, node: usize) -> bool {
        self.raft.leader == Some(node)
            || self
                .raft
                .stale
                .iter()
                .any(|(stale, until)| *stale == node && *until > self.now)
    }

    pub fn on_raft(&mut self, event: RaftEvent) {
        match event {
            RaftEvent::Tick => self.raft_tick(),
            RaftEvent::Commit {
                term,
                from,
                ticket,
                command,
            } => self.raft_commit(term, from, ticket, &command),
            RaftEvent::Membership { term, sets } => {
                if self
                    .raft
                    .leader
                    .is_some_and(|leader| self.reaches_majority(leader))
                    && self.raft.term == term
                {
                    self.append_membership(&sets);
                }
            }
            RaftEvent::Apply { node, index } => self.apply_up_to(node, index),
        }
    }

    fn raft_tick(&mut self) {
        self.after(50 * MS, Event::Raft(RaftEvent::Tick));
        let now = self.now;
        self.raft.stale.retain(|(_, until)| *until > now);
        match self.raft.leader {
            Some(leader) if self.reaches_majority(leader) && self.is_voter(leader) => {
                self.raft.lost_since = None;
                // Whoever missed an entry gets it now.
                let last = self.raft.last_index();
                for node in 0..self.nodes.len() {
                    let behind = self.nodes[node]
                        .agent
                        .as_ref()
                        .is_some_and(|agent| agent.applied < last);
                    if behind && self.net.both(leader, node) && self.nodes[node].lag_until <= now {
                        let delay = self.net.delay(&mut self.rng);
                        self.after(delay, Event::Raft(RaftEvent::Apply { node, index: last }));
                    }
                }
                return;
            }
            _ => {}
        }
        let since = *self.raft.lost_since.get_or_insert(now);
        if self.raft.patience == 0 {
            self.raft.patience = self.rng.between(150, 600) * MS;
        }
        if now - since < self.raft.patience {
            return;
        }
        self.elect();
    }

    fn is_voter(&self, node: usize) -> bool {
        self.raft.membership.iter().any(|set| set.contains(&id(node)))
    }

    /// Another node becomes the leader, if one can.
    pub fn elect(&mut self) {
        let able: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.is_voter(*node) && self.reaches_majority(*node))
            .collect();
        if able.is_empty() {
            return;
        }
        let leader = *self.rng.pick(&able);
        if let Some(old) = self.raft.leader
            && old != leader
            && self.nodes[old].agent.is_some()
        {
            let until = self.now + self.rng.below(BELIEVES);
            self.raft.stale.push((old, until));
        }
        self.raft.leader = Some(leader);
        self.raft.term += 1;
        self.raft.lost_since = None;
        self.raft.patience = 0;
        // A coordinator acts only once it has applied all that was committed before it.
        let last = self.raft.last_index();
        self.note(|| format!("n{} leads term {}", leader + 1, 0));
        self.apply_up_to(leader, last);
        self.look_soon(leader);
    }

    /// Sends a command on its way to the leader.
    pub fn send_proposal(&mut self, from: usize, ticket: u64, command: Command) {
        let to = if self.believes_to_lead(from) {
            Some(from)
        } else {
            self.raft.leader
        };
        if let Some(to) = to {
            self.send(
                from,
                to,
                Msg::Propose {
                    ticket,
                    command: Box::new(command),
                },
            );
        }
    }

    /// The node that got a proposal takes it, if it is the leader.
    pub fn take_proposal(&mut self, at: usize, from: usize, ticket: u64, command: Box<Command>) {
        if self.raft.leader != Some(at) || !self.reaches_majority(at) {
            return;
        }
        let slow = self.rng.chance(30);
        let delay = if slow {
            self.rng.between(20, 600) * MS
        } else {
            self.rng.between(500, 8_000)
        };
        let term = self.raft.term;
        self.after(
            delay,
            Event::Raft(RaftEvent::Commit {
                term,
                from,
                ticket,
                command,
            }),
        );
    }

    fn raft_commit(&mut self, term: u64, from: usize, ticket: u64, command: &Command) {
        let Some(leader) = self.raft.leader else { return };
        if !self.reaches_majority(leader) {
            return;
        }
        // The next leader may or may not have got the entry.
        let overtaken = self.raft.term != term;
        if overtaken && self.rng.chance(600) {
            return;
        }
        let outcome = self.append(command);
        if !overtaken {
            self.send(
                leader,
                from,
                Msg::Proposed {
                    ticket,
                    accepted: outcome.is_ok(),
                },
            );
        }
    }

    fn append(&mut self, command: &Command) -> Result<Applied, Rejected> {
        let before = self.raft.newest().clone();
        let mut state = (*before).clone();
        let command = self.mutated(command, &mut state);
        let outcome = state.apply(&command);
        if self.mutant.is_some() {
            Mutant::after_apply(self.mutant, &before, &command, &mut state, outcome.is_ok());
        }
        self.note(|| format!("entry {}: {command:?} -> {outcome:?}", self.raft.states.len()));
        if self.rng.chance(20) {
            self.check_replay(&command, &state);
        }
        state.events.clear();
        self.check_entry(&before, &command, &state, outcome.is_ok());
        if state.epoch != before.epoch && self.rng.chance(self.plan.at_grants) {
            let delay = self.rng.mostly_short(0, 500 * MS);
            self.after(delay, Event::Trouble(Trouble::Extra));
        }
        self.push(state);
        outcome
    }

    fn append_membership(&mut self, sets: &[BTreeSet<NodeId>]) {
        let version = self.raft.states.len() as u64;
        let mut state = (**self.raft.newest()).clone();
        state.apply_voters(version, sets);
        if self.mutant == Some(Mutant::OldVotersDroppedAtOnce) {
            state.voters.settle(version);
        }
        self.note(|| format!("entry {version}: voters {sets:?}"));
        self.raft.membership = sets.to_vec();
        self.push(state);
    }

    fn push(&mut self, state: ClusterState) {
        self.raft.states.push(Arc::new(state));
        let last = self.raft.last_index();
        let Some(leader) = self.raft.leader else { return };
        for node in 0..self.nodes.len() {
            if node == leader {
                self.after(0, Event::Raft(RaftEvent::Apply { node, index: last }));
            } else if self.net.both(leader, node) && self.nodes[node].lag_until <= self.now {
                let delay = self.net.delay(&mut self.rng);
                self.after(delay, Event::Raft(RaftEvent::Apply { node, index: last }));
            }
        }
    }

    /// Begins the walk to another set of voters, in Raft's two steps.
    pub fn change_voters(&mut self, to: BTreeSet<NodeId>) {
        let Some(leader) = self.raft.leader else { return };
        if self.raft.membership.len() > 1 || !self.reaches_majority(leader) {
            return;
        }
        let old = self.raft.membership[0].clone();
        if old == to {
            return;
        }
        let term = self.raft.term;
        self.append_membership(&[old, to.clone()]);
        let delay = self.rng.between(5, 300) * MS;
        self.after(delay, Event::Raft(RaftEvent::Membership { term, sets: vec![to] }));
    }

    /// Ends a walk that its leader did not live to end.
    pub fn finish_voters(&mut self) {
        if self.raft.membership.len() > 1
            && self
                .raft
                .leader
                .is_some_and(|leader| self.reaches_majority(leader))
        {
            let last = self.raft.membership.last().expect("two sets").clone();
            self.append_membership(&[last]);
        }
    }

    /// The founding entries: the cluster, and its voters.
    pub fn found(&mut self, command: &Command) {
        let voters = self.raft.membership.clone();
        self.append_membership(&voters);
        let outcome = self.append(command);
        assert!(outcome.is_ok(), "the founding entry is accepted");
    }
}

pub fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

pub fn index(id: NodeId) -> usize {
    usize::try_from(id.0).expect("a small number") - 1
}
