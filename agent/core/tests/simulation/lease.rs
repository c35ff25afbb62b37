//! The lease thread of an agent: renewals, the deadline, the fence, and the voter's side.

use crate::clock::MS;
use crate::event::{Event, Msg, Releasing, Timer};
use crate::faults::Trouble;
use crate::mutants::Mutant;
use crate::postgres::Run;
use crate::raft::id;
use crate::world::World;
use agent_core::cluster::{Command, Release};
use agent_core::decide::node::Conf;
use agent_core::ids::Epoch;
use agent_core::lease::{Holder, RenewAnswer};
use agent_core::pg::{ControlState, Position, TimelineId};
use agent_core::view::FenceReceipt;
use std::time::Duration;

impl World {
    /// Takes notice of a newly applied state: a new epoch of this node's own is renewed at once.
    pub fn follow_epoch(&mut self, node: usize) {
        let state = self.state(node);
        let me = id(node);
        let reading = self.reading(node);
        let limit = self.nodes[node]
            .disk
            .promise_limit
            .max(state.settings.timing.promise());
        self.nodes[node].disk.promise_limit = limit;
        let agent = self.agent(node);
        agent.voter.allow_promises(limit);
        let mine =
            state.holder == Some(me) && agent.fenced < state.epoch && agent.voter.pledge() <= state.epoch;
        if !mine
            || agent
                .holder
                .as_ref()
                .is_some_and(|holder| holder.epoch() == state.epoch)
        {
            return;
        }
        let lease = state.settings.timing.lease();
        let before = agent.holder.replace(Holder::new(state.epoch, lease));
        // The server of the epoch before may go on until that lease ends.
        agent.old_deadline = before
            .filter(|holder| holder.valid(reading))
            .and_then(|holder| holder.deadline());
        let epoch = state.epoch;
        self.agent_after(node, 0, Timer::Renew { epoch });
    }

    pub fn renew(&mut self, node: usize, epoch: Epoch) {
        let state = self.state(node);
        let reading = self.reading(node);
        let incarnation = self.nodes[node].life;
        let timing = state.settings.timing;
        let mutant = self.mutant;
        let agent = self.agent(node);
        if state.epoch != epoch || state.holder != Some(id(node)) {
            return;
        }
        let mut renewal = None;
        if let Some(holder) = agent.holder.as_mut().filter(|holder| holder.epoch() == epoch) {
            holder.set_lease(timing.lease());
            renewal = holder.renew(reading).map(|renewal| renewal.round);
        }
        if mutant == Some(Mutant::RenewAfterFence) && renewal.is_none() {
            renewal = Some(u64::MAX);
        }
        self.arm_deadline(node);
        let Some(round) = renewal else { return };
        let msg = Msg::Renew {
            epoch,
            round,
            incarnation,
            promise: timing.promise(),
        };
        for voter in state.voters.all() {
            self.send(node, crate::raft::index(voter), msg.clone());
        }
        let again = self.nodes[node]
            .clock
            .until_any(self.now, reading.plus(timing.renew()));
        self.agent_after(node, again, Timer::Renew { epoch });
    }

    pub fn on_renew(
        &mut self,
        node: usize,
        from: usize,
        epoch: Epoch,
        round: u64,
        incarnation: u64,
        promise: Duration,
    ) {
        let reading = self.reading(node);
        if self.mutant == Some(Mutant::PromiseTakenBack) {
            self.take_promise_back(node, promise);
        }
        let mut answer = self.agent(node).voter.renew(epoch, incarnation, promise, reading);
        if self.mutant == Some(Mutant::PledgedVoterRenews) {
            answer = RenewAnswer::Granted;
        }
        let answer = Msg::Renewed {
            epoch,
            round,
            incarnation,
            answer,
        };
        self.send(node, from, answer);
    }

    /// Forgets the promise that binds longer than `promise`, but never a quarantine.
    fn take_promise_back(&mut self, node: usize, promise: Duration) {
        let reading = self.reading(node);
        let up = Duration::from_micros(self.now - self.nodes[node].agent_since);
        let voter = &mut self.agent(node).voter;
        let (pledge, limit) = (voter.pledge(), voter.promise_limit());
        if up > limit * 2 && voter.bound_for(pledge.next(), reading) > promise {
            *voter = agent_core::lease::Voter::started(pledge, Duration::ZERO, reading);
            voter.allow_promises(limit);
        }
    }

    pub fn on_renewed(
        &mut self,
        node: usize,
        by: usize,
        epoch: Epoch,
        round: u64,
        incarnation: u64,
        answer: RenewAnswer,
    ) {
        let state = self.state(node);
        let reading = self.reading(node);
        let mutant = self.mutant;
        // An answer to this agent's former life would stand for a renewal of this one, which has the same number.
        if answer != RenewAnswer::Granted || incarnation != self.nodes[node].life {
            return;
        }
        let agent = self.agent(node);
        let Some(holder) = agent.holder.as_mut().filter(|holder| holder.epoch() == epoch) else {
            return;
        };
        let had = holder.valid(reading);
        let longer = if mutant == Some(Mutant::DeadlineFromTheAnswer) {
            agent
                .answers
                .retain(|(of, who)| of + 4 > round && (*of, *who) != (round, id(by)));
            agent.answers.push((round, id(by)));
            let who = agent
                .answers
                .iter()
                .filter(|(of, _)| *of == round)
                .map(|(_, who)| *who)
                .collect();
            state.voters.majority(&who)
                && holder.renew(reading).is_some_and(|fresh| {
                    who.into_iter()
                        .any(|voter| holder.acknowledged(fresh.round, voter, &state.voters, reading))
                })
        } else {
            holder.acknowledged(round, id(by), &state.voters, reading)
        };
        if !longer {
            return;
        }
        agent.old_deadline = None;
        self.arm_guard(node);
        if state.voters.unsettled() {
            // This majority was one of the newest sets, too.
            let version = state.voters.version;
            self.propose(node, Command::VotersSettled { version });
        }
        if !had {
            self.look_soon(node);
        }
        self.arm_deadline(node);
    }

    /// Sets the clock for the moment at which the lease ends.
    pub fn arm_deadline(&mut self, node: usize) {
        let Some(deadline) = self.deadline_of(node) else {
            return;
        };
        let delay = self.nodes[node].clock.until_any(self.now, deadline);
        self.agent_after(node, delay, Timer::Deadline);
    }

    fn deadline_of(&self, node: usize) -> Option<agent_core::time::ClockReading> {
        let agent = self.nodes[node].agent.as_ref()?;
        let holder = agent.holder.as_ref()?;
        holder.deadline().or(agent.old_deadline).or(holder.ends_at())
    }

    pub fn on_deadline(&mut self, node: usize) {
        let reading = self.reading(node);
        let Some(deadline) = self.deadline_of(node) else {
            return;
        };
        if !reading.any_reached(deadline) {
            // It was extended since, and its own timer is set; or a clock was slewed.
            return;
        }
        let Some(epoch) = self.agent(node).holder.as_ref().map(Holder::epoch) else {
            return;
        };
        if self.agent(node).fenced >= epoch {
            return;
        }
        let held = self
            .agent(node)
            .holder
            .as_ref()
            .is_some_and(|holder| holder.deadline().is_some());
        match self.mutant {
            Some(Mutant::NoFenceAtLeaseEnd) => return,
            Some(Mutant::HolderNeverGivesUp) if held => {}
            Some(Mutant::ExtendedAfterItsEnd | Mutant::HolderNeverGivesUp) => {
                let lease = self.state(node).settings.timing.lease();
                self.agent(node).holder = Some(Holder::new(epoch, lease));
                self.agent_after(node, 0, Timer::Renew { epoch });
                return;
            }
            _ => {}
        }
        self.fence(node, epoch, "the lease is over");
    }

    /// Ends the server's processes, within the time that the terms allow, and tells everybody.
    pub fn fence(&mut self, node: usize, epoch: Epoch, why: &str) {
        let longest = self.plan.settings.timing.fence_ms * MS;
        let delay = if self.rng.chance(300) {
            longest
        } else {
            self.rng.below(longest)
        };
        let agent = self.agent(node);
        if let Some(holder) = agent.holder.as_mut().filter(|holder| holder.epoch() <= epoch) {
            holder.end();
        }
        if agent.fencing.is_some() {
            return;
        }
        agent.fencing = Some(epoch);
        self.note(|| format!("n{} fences epoch {epoch}: {why}", node + 1));
        self.agent_after(node, delay, Timer::Kill { epoch });
    }

    pub fn kill(&mut self, node: usize, epoch: Epoch) {
        if self.mutant == Some(Mutant::OnlyPostmasterKilled) {
            self.kill_postmaster(node);
        } else {
            self.kill_server(node);
        }
        self.agent(node).fencing = None;
        self.give_receipt(node, epoch, None);
    }

    pub fn give_receipt(&mut self, node: usize, epoch: Epoch, clean_end: Option<Position>) {
        let receipt = FenceReceipt {
            epoch,
            node: id(node),
            incarnation: self.nodes[node].life,
            clean_end,
        };
        let agent = self.agent(node);
        agent.fenced = agent.fenced.max(epoch);
        if let Some(holder) = agent.holder.as_mut().filter(|holder| holder.epoch() <= epoch) {
            holder.end();
        }
        agent.old_deadline = None;
        agent.receipt = Some(receipt);
        if let Some(guard) = &mut self.nodes[node].guard {
            guard.ended(epoch);
        }
        self.broadcast(node, &Msg::Receipt(receipt));
        if !self.healed && self.rng.chance(self.plan.at_grants / 3) {
            let delay = self.rng.mostly_short(0, 60 * MS);
            self.after(delay, Event::Trouble(Trouble::Restart { node }));
        }
        self.report(node);
        self.look_soon(node);
    }

    pub fn on_receipt(&mut self, node: usize, mut receipt: FenceReceipt) {
        let state = self.state(node);
        let reading = self.reading(node);
        let mutant = self.mutant;
        if mutant == Some(Mutant::ReceiptCoversLaterIncarnations) {
            receipt.incarnation = u64::MAX;
        }
        let agent = self.agent(node);
        agent.voter.receipt(&receipt);
        if mutant == Some(Mutant::ReceiptEndsQuarantine)
            && agent.voter.report(state.epoch.next(), reading).epoch == Epoch(0)
        {
            let limit = agent.voter.promise_limit();
            let pledge = agent.voter.pledge();
            agent.voter = agent_core::lease::Voter::started(pledge, Duration::ZERO, reading);
            agent.voter.allow_promises(limit);
        }
        if receipt.epoch == state.epoch && Some(receipt.node) == state.holder {
            agent.coordinator.receipt = Some(receipt);
        }
        self.coordinate_soon(node);
    }

    pub fn on_ask_bound(&mut self, node: usize, from: usize, next: Epoch, receipt: Option<FenceReceipt>) {
        if let Some(receipt) = receipt {
            self.on_receipt(node, receipt);
        }
        let reading = self.reading(node);
        let bound = self.agent(node).voter.bound_for(next, reading);
        self.send(node, from, Msg::Bound { next, bound });
    }

    /// The question to support no epoch below `epoch` any more, and to take no more WAL from its holder.
    pub fn on_ask_release(&mut self, node: usize, releasing: Releasing) {
        let next = releasing.epoch;
        let state = self.state(node);
        let server = &self.nodes[node].server;
        if let (Some(wait_for), Some(place), Some(_)) = (releasing.wait_for, server.place(), &server.receiver)
            && place.lsn < wait_for.0
            && self.now - releasing.since < 500 * MS
        {
            self.agent_after(node, 5 * MS, Timer::Release(releasing));
            return;
        }
        if let Some(receipt) = releasing.receipt {
            self.on_receipt(node, receipt);
        }
        let reading = self.reading(node);
        let bound = self.agent(node).voter.bound_for(next, reading) > Duration::ZERO
            && self.mutant != Some(Mutant::ReleaseWhileBound);
        // A holder that may still write, or become able to, cannot stand by its word.
        let holds = self.agent(node).holder.as_mut().is_some_and(|holder| {
            holder.epoch() < next && holder.epoch() >= state.epoch && !holder.is_over(reading)
        });
        let fencing = self.agent(node).fencing.is_some();
        if bound || holds || fencing || state.epoch >= next || self.agent(node).releasing {
            self.send(
                node,
                releasing.asker,
                Msg::Released {
                    epoch: next,
                    release: None,
                },
            );
            return;
        }
        let disk = if self.nodes[node].slow_until > self.now {
            self.rng.between(50, 800) * MS
        } else {
            self.takes(MS, 15 * MS)
        };
        let agent = self.agent(node);
        agent.voter.release(next);
        agent.releasing = true;
        self.agent_after(node, disk, Timer::PledgeSafe(releasing));
    }

    /// The pledge is on disk: now the standby stops receiving.
    pub fn pledge_is_safe(&mut self, node: usize, releasing: Releasing) {
        if self.mutant != Some(Mutant::ReleaseNotDurable) {
            let pledge = self.nodes[node].disk.pledge.max(releasing.epoch);
            self.nodes[node].disk.pledge = pledge;
        }
        let mut delay = 0;
        if self.nodes[node].server.run == Run::Standby && self.mutant != Some(Mutant::UpstreamKeptOnPledge) {
            let conf = self.conf_alone(node);
            delay = self.reload_server(node, &conf);
            self.agent(node).conf = Some(conf);
        }
        self.agent_after(node, delay + 1, Timer::Cut(releasing));
    }

    pub fn answer_release(&mut self, node: usize, releasing: &Releasing) {
        self.agent(node).releasing = false;
        let job = self.agent(node).job.is_some();
        let server = &self.nodes[node].server;
        // What a job is about to change is not told.
        let place = server.place().filter(|_| !job);
        let position = match server.run {
            Run::Standby if server.receiver.is_none() && server.upstream.is_none() => place,
            Run::Standby if self.mutant == Some(Mutant::UpstreamKeptOnPledge) => place,
            Run::Down
                if server
                    .data
                    .is_some_and(|data| data.state == ControlState::ShutDown) =>
            {
                place
            }
            _ => None,
        };
        let position = position
            .map(|place| self.wal.position(place))
            .map(|position| match self.mutant {
                Some(Mutant::PositionWithoutTimeline) => Position {
                    timeline: TimelineId(1),
                    ..position
                },
                _ => position,
            });
        self.note(|| format!("n{} pledges to {}: {position:?}", node + 1, releasing.epoch));
        let release = Some(Release::at(position));
        self.send(
            node,
            releasing.asker,
            Msg::Released {
                epoch: releasing.epoch,
                release,
            },
        );
    }

    /// The include file of a server that follows nobody and acknowledges nothing.
    pub fn conf_alone(&self, node: usize) -> Conf {
        Conf {
            upstream: None,
            slot: None,
            synchronous_standby_names: agent_core::cluster::SyncRule::unsatisfiable(),
            slot_budget_bytes: self.state(node).settings.slot_budget_bytes,
        }
    }
}
