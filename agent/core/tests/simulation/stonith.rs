//! Fence devices: in some worlds the coordinator has the machine of a lost primary turned off, by a device that is slow
//! and at times broken.

use crate::clock::MS;
use crate::event::Event;
use crate::exam::Exam;
use crate::faults::Trouble;
use crate::raft::{id, index};
use crate::world::World;
use agent_core::cluster::{Command, StonithMode, StonithProof};
use agent_core::decide::cluster::StonithProgress;
use agent_core::ids::{Epoch, NodeId};
use agent_core::time::WallTime;

impl World {
    /// The same world, whose cluster waits for fence devices.
    pub fn with_stonith(mut self) -> World {
        self.plan.settings.stonith = StonithMode::Required;
        self.plan.settings.stonith_pause_ms = 300;
        self
    }

    /// The coordinator on `by` has `target` turned off.
    pub fn turn_off(&mut self, by: usize, target: NodeId, epoch: Epoch) {
        let memory = &mut self.agent(by).coordinator.stonith;
        let tries = memory
            .as_ref()
            .filter(|progress| progress.epoch == epoch)
            .map_or(0, |progress| progress.tries);
        *memory = Some(StonithProgress {
            epoch,
            tries,
            ended: None,
            failure: None,
        });
        let most = if self.device_is_well() { 500 } else { 4_000 };
        let takes = self.rng.between(100, most) * MS;
        let target = index(target);
        self.after(takes, Event::Trouble(Trouble::TurnedOff { by, target, epoch }));
    }

    fn device_is_well(&self) -> bool {
        self.healed || matches!(self.exam, Exam::Running { .. })
    }

    /// The device has done its work, or has not.
    pub fn turned_off(&mut self, by: usize, target: usize, epoch: Epoch) {
        let works = self.device_is_well() || self.rng.chance(600);
        if works {
            self.note(|| format!("--- n{} turns n{} off", by + 1, target + 1));
            self.kill_server(target);
            let back_in = self.rng.between(30, 3_000) * MS;
            self.stop_agent(target);
            self.after(back_in, Event::Trouble(Trouble::PoweredOn { node: target }));
        }
        // Whoever asked may have died meanwhile, or stands still: then another asks again.
        let asked = self.nodes[by].agent.is_some() && !self.nodes[by].frozen && by != target;
        if !asked {
            if self.nodes[by].agent.is_some() {
                self.agent(by).coordinator.stonith = None;
            }
            return;
        }
        let now = self.nodes[by].clock.mono(self.now);
        if let Some(progress) = &mut self.agent(by).coordinator.stonith {
            progress.tries += 1;
            progress.ended = Some(now);
            progress.failure = (!works).then(|| "the device is broken".to_owned());
        }
        if works {
            let proof = StonithProof {
                epoch,
                node: id(target),
                by: format!("n{}", by + 1),
                device: "a device".to_owned(),
                exit_code: Some(2),
                output: String::new(),
                began: WallTime(0),
                at: WallTime(0),
            };
            let proof = Box::new(proof);
            self.propose(by, Command::RecordStonith { request: None, proof });
        }
        self.coordinate_soon(by);
    }
}
