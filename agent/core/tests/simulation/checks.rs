//! What must be true after every event.

use crate::clock::{MS, Time};
use crate::postgres::{Commit, Run, Who};
use crate::raft::{id, index};
use crate::wal::Place;
use crate::world::World;
use agent_core::cluster::{Cause, ClusterState, Command, MemberKind, SyncMode, SyncRule};
use agent_core::ids::Epoch;
use agent_core::pg::Position;
use agent_core::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Checks {
    pub violation: Option<String>,
    /// Every acknowledged commit, in order.
    pub acknowledged: Vec<Place>,
    /// Acknowledged commits may be lost in this run: `async`, or an operator accepted it.
    pub lossy: bool,
    /// The newest epoch of which a commit was acknowledged.
    newest_acknowledged: Epoch,
    /// The newest promotion: its epoch, its branch.
    newest: Option<(Epoch, usize)>,
    rows: Vec<Position>,
    timelines: BTreeSet<u32>,
    /// Since when a node has had a writable server and no lease.
    lapsed: BTreeMap<usize, Time>,
    /// Acknowledged commits when the cluster was found whole, for the last proof that it serves.
    pub whole_at: Option<usize>,
}

/// Rules under which there is nothing to do and nothing to explain.
const AT_REST: [&str; 12] = [
    "streaming",
    "primary-serves",
    "holder-is-well",
    "server-starting",
    "server-not-free",
    "wait-for-the-first-epoch",
    "not-founded",
    "adopting",
    "no-rule",
    "holder-has-no-address",
    "start-failed",
    "no-data-node",
];

impl World {
    pub fn violation(&mut self, text: &str) {
        if self.checks.violation.is_none() {
            self.note(|| format!("VIOLATION: {text}"));
            self.checks.violation = Some(format!("at {} ms: {text}", self.now / MS));
        }
    }

    /// A commit's session hears that it is done.
    pub fn check_acknowledged(&mut self, node: usize, commit: Commit) {
        let epoch = self.nodes[node].server.epoch;
        if commit.who != Who::Client {
            self.checks.rows.push(self.wal.position(commit.place));
        }
        self.checks.acknowledged.push(commit.place);
        if epoch < self.checks.newest_acknowledged && !self.nodes[node].unguarded {
            self.violation(&format!(
                "two primaries: n{} acknowledges under epoch {epoch} after epoch {} has",
                node + 1,
                self.checks.newest_acknowledged
            ));
        }
        self.checks.newest_acknowledged = self.checks.newest_acknowledged.max(epoch);
        if self.checks.lossy {
            return;
        }
        if let Some((newest, branch)) = self.checks.newest
            && newest > epoch
            && !self.wal.contains(
                Place {
                    branch,
                    lsn: u64::MAX,
                },
                commit.place,
            )
        {
            self.violation(&format!(
                "lost: n{} acknowledges {:?} under epoch {epoch}, epoch {newest} does not have it",
                node + 1,
                commit.place
            ));
        }
        self.check_recorded(node, commit.place);
    }

    /// Some recorded rule explains why the commit may be acknowledged.
    fn check_recorded(&mut self, node: usize, commit: Place) {
        let state = self.raft.newest();
        if state.holder != Some(id(node)) {
            return;
        }
        let holders = self.holders_of(commit);
        let explained = SyncRule::possible(&state.sync).iter().any(|rule| {
            let have = rule
                .members
                .iter()
                .filter(|member| holders.contains(member))
                .count();
            rule.primary == id(node) && have >= rule.k as usize
        });
        if !explained {
            let rules = format!("{:?}", state.sync);
            self.violation(&format!(
                "n{} acknowledges {commit:?}, which only {holders:?} have; recorded: {rules}",
                node + 1
            ));
        }
    }

    pub fn check_promotion(&mut self, node: usize, epoch: Epoch, place: Place) {
        let young = self.now < self.nodes[node].agent_since + 1_000 * MS;
        let it = &self.nodes[node];
        let resumed = it.resumed.is_some_and(|at| self.now < at + 1_000 * MS);
        let watched = it.guard.is_some() && !it.suspended && !resumed;
        if !watched && (self.nodes[node].agent.is_none() || self.nodes[node].frozen || young) {
            self.nodes[node].unguarded = true;
        }
        let unguarded = self.nodes[node].unguarded;
        if !unguarded && epoch < self.raft.newest().epoch {
            let newest = self.raft.newest();
            if newest.holder != Some(id(node)) {
                self.violation(&format!(
                    "n{} is promoted under epoch {epoch}, which is over",
                    node + 1
                ));
            }
        }
        for other in 0..self.nodes.len() {
            let it = &self.nodes[other];
            if other != node && it.server.writable() && !it.unguarded && !unguarded {
                self.violation(&format!(
                    "two primaries: n{} while n{} is writable",
                    node + 1,
                    other + 1
                ));
            }
        }
        if self.checks.newest.is_none_or(|(newest, _)| newest < epoch) {
            self.checks.newest = Some((epoch, place.branch));
            self.check_nothing_lost(place);
        }
    }

    fn check_nothing_lost(&mut self, place: Place) {
        if self.checks.lossy {
            return;
        }
        let lost = self
            .checks
            .acknowledged
            .iter()
            .copied()
            .find(|commit| !self.wal.contains(place, *commit));
        if let Some(commit) = lost {
            self.violation(&format!(
                "lost: the new primary at {place:?} does not have {commit:?}"
            ));
        }
    }

    pub fn check_entry(
        &mut self,
        before: &ClusterState,
        command: &Command,
        after: &ClusterState,
        accepted: bool,
    ) {
        if after.settings.sync_mode == SyncMode::Async {
            self.checks.lossy = true;
        }
        if after.epoch < before.epoch || after.epoch > before.epoch.next() {
            self.violation("the epoch falls or jumps");
        }
        if !accepted {
            return;
        }
        match command {
            Command::ChangeEpoch(change) => {
                if after.epoch != before.epoch.next() {
                    self.violation("a grant does not raise the epoch by one");
                }
                if change.cause != Cause::PledgeRepair && !self.checks.timelines.insert(after.timeline.0) {
                    self.violation(&format!("timeline {} is reserved twice", after.timeline));
                }
                let by_hand = matches!(
                    change.cause,
                    Cause::PledgeRepair | Cause::Switchover | Cause::ManualFailover
                );
                if before.pause.is_some() && !by_hand {
                    self.violation("a paused cluster changes its primary by itself");
                }
                match (change.cause, change.may_lose_bytes) {
                    (Cause::ManualFailover, Some(_)) => self.checks.lossy = true,
                    (_, Some(bytes)) if bytes > before.settings.max_lag_bytes => {
                        self.violation("an automatic failover loses more than the bound");
                    }
                    _ => {}
                }
            }
            Command::OpenGate { timeline, lsn, .. } => {
                let row = Position {
                    timeline: *timeline,
                    lsn: *lsn,
                };
                if !self.checks.rows.contains(&row) {
                    self.violation("the gate opens before the epoch's first row is acknowledged");
                }
            }
            _ => {}
        }
    }

    /// The same command again changes nothing.
    pub fn check_replay(&mut self, command: &Command, state: &ClusterState) {
        if matches!(command, Command::Note { .. }) || self.mutant.is_some() {
            return;
        }
        let mut again = state.clone();
        let _ = again.apply(command);
        again.events.clone_from(&state.events);
        again.next_event = state.next_event;
        if again != *state {
            self.violation(&format!("a replayed command changes the state: {command:?}"));
        }
    }

    /// A node whose lease is over has no writable server for longer than its fence may take.
    pub fn check_leases(&mut self) {
        for node in 0..self.nodes.len() {
            let reading = self.reading(node);
            let it = &self.nodes[node];
            // The lease of the agent's former life, which its guard still knows.
            let inherited = it
                .guard
                .and_then(|guard| guard.armed())
                .is_some_and(|(_, until)| !reading.any_reached(until));
            let lapsed = it.server.run == Run::Primary
                && !it.unguarded
                && !inherited
                && it.agent.as_ref().is_some_and(|agent| {
                    let old = agent
                        .old_deadline
                        .is_some_and(|deadline| !reading.any_reached(deadline));
                    !old && agent.holder.as_ref().is_none_or(|holder| !holder.valid(reading))
                });
            if !lapsed {
                self.checks.lapsed.remove(&node);
                continue;
            }
            let since = *self.checks.lapsed.entry(node).or_insert(self.now);
            if self.now - since > self.plan.settings.timing.fence_ms * MS + MS {
                self.violation(&format!("n{} is writable although its lease is over", node + 1));
            }
        }
    }

    /// Whoever waits says for what.
    pub fn check_explained(
        &mut self,
        node: usize,
        rule: &str,
        actions: usize,
        reasons: &[Reason],
        wakes: bool,
    ) {
        if actions == 0 && !wakes && !reasons.iter().any(|reason| !reason.open) && !AT_REST.contains(&rule) {
            self.violation(&format!("n{} waits ({rule}) and does not say for what", node + 1));
        }
    }

    /// What still keeps the cluster from being whole; empty if nothing does.
    pub fn why_not_whole(&self) -> String {
        let state = self.raft.newest();
        let Some(holder) = state.holder else {
            return self.with_reasons("there is no holder");
        };
        let primary = index(holder);
        let reading = self.reading(primary);
        let it = &self.nodes[primary];
        let valid = it.agent.as_ref().is_some_and(|a| {
            a.holder
                .as_ref()
                .is_some_and(|h| h.epoch() == state.epoch && h.valid(reading))
        });
        if !valid {
            return self.with_reasons("the holder has no lease");
        }
        if it.server.run != Run::Primary || state.promotion.is_none() {
            return self.with_reasons("the holder does not serve");
        }
        if it
            .agent
            .as_ref()
            .is_some_and(|agent| agent.memory.gate != Some(state.epoch))
        {
            return self.with_reasons("the gate is shut");
        }
        let place = it.server.place().expect("a primary has data");
        let mut others = 0;
        for node in (0..self.nodes.len()).filter(|node| *node != primary) {
            if self.nodes[node].disk.pledge > state.epoch {
                return self.with_reasons("a pledge to an epoch that was not granted");
            }
            if self.nodes[node].kind == MemberKind::Witness {
                continue;
            }
            others += 1;
            let server = &self.nodes[node].server;
            let streams = server.run == Run::Standby
                && server.receiver.as_ref().is_some_and(|receiver| {
                    receiver.upstream == primary
                        && (receiver.name == state.application_name(id(node), state.epoch)
                            || self.mutant.is_some())
                });
            if !streams
                || !server
                    .place()
                    .is_some_and(|there| self.wal.contains(place, there))
            {
                return self.with_reasons(&format!("n{} does not stream", node + 1));
            }
        }
        let rule = state.sync_rule().expect("a holder has a rule");
        if state.sync_unsettled() || state.voters.unsettled() {
            return self.with_reasons("a walk is under way");
        }
        let full = state.settings.sync_mode == SyncMode::Async
            || (rule.members.len() == others
                && rule.k as usize == others.min(state.settings.sync_standbys as usize));
        if !full {
            return self.with_reasons("the synchronous set is not full");
        }
        if state.switchover.is_some() || state.failover_order.is_some() {
            let orders = format!("{:?} {:?}", state.switchover, state.failover_order);
            return self.with_reasons(&format!("an order is not carried out: {orders}"));
        }
        String::new()
    }

    fn with_reasons(&self, what: &str) -> String {
        let mut text = what.to_owned();
        for node in 0..self.nodes.len() {
            if let Some(agent) = &self.nodes[node].agent {
                for reason in agent.explain.iter().filter(|reason| !reason.open) {
                    text.push_str(&format!("; n{}: {} ({})", node + 1, reason.id, reason.found));
                }
            }
        }
        text
    }
}
