//! The examination at the end of many runs: the whole cluster loses its primary in one last way, which is not mended
//! until another node serves. A protocol that never grants anything would pass every check but this one.

use crate::clock::{MS, Time};
use crate::event::Event;
use crate::faults::Trouble;
use crate::network::Datagrams;
use crate::postgres::Run;
use crate::raft::index;
use crate::world::World;
use agent_core::cluster::{StonithMode, SyncMode};
use agent_core::ids::Epoch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exam {
    Ahead,
    Running { primary: usize, epoch: Epoch },
    Over,
}

/// A way to lose the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Node,
    Server,
    Agent,
    AgentFrozen,
    Isolated,
    /// It is heard and hears nothing.
    Deaf,
    /// It hears and is not heard.
    Mute,
    /// Its renewals arrive, and the answers do not.
    AnswersLost,
}

const LOSSES: [Loss; 8] = [
    Loss::Node,
    Loss::Server,
    Loss::Agent,
    Loss::AgentFrozen,
    Loss::Isolated,
    Loss::Deaf,
    Loss::Mute,
    Loss::AnswersLost,
];

impl World {
    /// Begins the examination, in some runs. It asks for a takeover only where nothing forbids one.
    pub fn begin_exam(&mut self) -> bool {
        let state = self.raft.newest().clone();
        let Some(holder) = state.holder else { return false };
        if self.exam != Exam::Ahead || state.settings.sync_mode != SyncMode::Quorum || !self.rng.chance(300) {
            return false;
        }
        let primary = index(holder);
        let loss = *self.rng.pick(&LOSSES);
        self.note(|| format!("--- exam: {loss:?} n{}", primary + 1));
        self.exam = Exam::Running {
            primary,
            epoch: state.epoch,
        };
        let others: Vec<usize> = (0..self.nodes.len()).filter(|node| *node != primary).collect();
        match loss {
            Loss::Node => {
                self.kill_server(primary);
                self.guard_starts_anew(primary);
                self.stop_agent(primary);
            }
            Loss::Server => {
                self.kill_server(primary);
                self.look_soon(primary);
            }
            Loss::Agent => self.stop_agent(primary),
            Loss::AgentFrozen => {
                self.nodes[primary].frozen = true;
                self.nodes[primary].unguarded = self.nodes[primary].guard.is_none();
            }
            _ => {}
        }
        for other in others {
            if matches!(loss, Loss::Isolated | Loss::Mute) {
                self.net.cut(primary, other);
            }
            if matches!(loss, Loss::Isolated | Loss::Deaf) {
                self.net.cut(other, primary);
            }
            if loss == Loss::AnswersLost {
                self.net.treat_datagrams(other, primary, Datagrams::Drop);
            }
        }
        let timing = state.settings.timing;
        // An attempt with a device that hangs may be under way.
        let device = match state.settings.stonith {
            StonithMode::None => 0,
            StonithMode::BestEffort | StonithMode::Required => 6_000,
        };
        let bound: Time = timing.promise_ms * 5 + state.settings.failover_pause_ms * 11 / 10 + 3_000 + device;
        self.after(bound * MS, Event::Trouble(Trouble::ExamEnds));
        true
    }

    /// Whether `node` is the primary that was lost for good.
    pub fn is_examined(&self, node: usize) -> bool {
        matches!(self.exam, Exam::Running { primary, .. } if primary == node)
    }

    /// Somebody must serve by now.
    pub fn end_exam(&mut self) {
        let Exam::Running { epoch, .. } = self.exam else {
            return;
        };
        self.exam = Exam::Over;
        let state = self.raft.newest();
        let serves = state.promotion.is_some_and(|promotion| promotion.epoch > epoch)
            && state
                .holder
                .is_some_and(|holder| self.nodes[index(holder)].server.run == Run::Primary);
        // A degrade that was on its way when the primary was lost has been recorded after it: nobody may take over then.
        let degraded = state.sync.iter().any(|rule| rule.epoch == epoch && rule.k == 0);
        // An operator's last word may have arrived only now.
        if !serves && !degraded && state.pause.is_none() {
            let why = self.why_not_whole();
            self.violation(&format!("nobody took over in time: {why}"));
        }
        self.last = self.now + crate::world::WHOLE_WITHIN;
        self.checks.whole_at = None;
        self.heal_all();
    }
}
