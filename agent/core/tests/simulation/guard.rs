//! The guard of a node: it ends the server at the deadline that it was told last, whether the agent lives or not.

use crate::clock::MS;
use crate::event::Event;
use crate::mutants::Mutant;
use crate::world::World;
use agent_core::ids::Epoch;
use agent_core::lease::{Holder, Watch};

/// It looks again after so long: a clock may have become faster meanwhile.
const LONGEST_WAIT: u64 = 50 * MS;

impl World {
    /// The agent tells the guard how long its lease lasts. It is confirmed at once: the holder goes by what is confirmed.
    pub fn arm_guard(&mut self, node: usize) {
        let reading = self.reading(node);
        let agent = self.agent(node);
        let Some((epoch, until)) = agent
            .holder
            .as_ref()
            .and_then(|h| Some((h.epoch(), h.deadline()?)))
        else {
            return;
        };
        let Some(guard) = &mut self.nodes[node].guard else {
            return;
        };
        guard.arm(epoch, until, reading);
        if guard.armed() == Some((epoch, until)) {
            self.guard_looks(node);
            return;
        }
        // It has ended this epoch's server, or is about to.
        let ended = guard.fenced() >= epoch;
        let agent = self.agent(node);
        if let Some(holder) = agent.holder.as_mut() {
            Holder::end(holder);
        }
        if ended {
            self.fence(node, epoch, "the guard has ended the server");
        }
    }

    /// Acts if it is time, and otherwise sets its clock for the time when it will be.
    pub fn guard_looks(&mut self, node: usize) {
        let reading = self.reading(node);
        let it = &self.nodes[node];
        // A machine that stands still wakes its guard when it goes on.
        let Some(guard) = it.guard.filter(|_| !it.suspended) else {
            return;
        };
        let Some((_, until)) = guard.armed() else { return };
        match guard.due(reading) {
            Some(_) if self.mutant == Some(Mutant::GuardSleeps) => {}
            Some(epoch) => {
                let longest = self.plan.settings.timing.fence_ms * MS;
                let delay = self.rng.below(longest);
                self.after(delay, Event::Guarded { node, epoch });
            }
            None => {
                let delay = it.clock.until_any(self.now, until).min(LONGEST_WAIT);
                self.after(delay, Event::Guard { node });
            }
        }
    }

    /// The machine has lost its power: its guard has forgotten everything, and its server is gone.
    pub fn guard_starts_anew(&mut self, node: usize) {
        if let Some(guard) = &mut self.nodes[node].guard {
            *guard = Watch::default();
        }
    }

    pub fn guard_has_ended(&mut self, node: usize, epoch: Epoch) {
        let Some(guard) = self.nodes[node].guard.as_mut() else {
            return;
        };
        if guard.armed().is_some_and(|(armed, _)| armed == epoch) {
            guard.ended(epoch);
            self.note(|| format!("n{} guard ends the server of epoch {epoch}", node + 1));
            self.kill_server(node);
            if self.nodes[node].agent.is_some() && !self.nodes[node].frozen {
                self.look_soon(node);
            }
        }
    }
}
