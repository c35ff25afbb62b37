//! One who breaks things, and mends them.

use super::clock::Clocks;
use super::disk::{self, Disks, Stall};
use super::fault::{Family, Fault};
use super::machine::Machine;
use super::operator::{self, Undo};
use super::schedule::{Planned, Step};
use super::{network, process, whom};
use crate::checker::Nanos;
use crate::workload::Live;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, DEADLINE, Mono, wait_until};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// A fault that was made, or was to be made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Which step of the schedule it belongs to, from 1.
    pub step: u64,
    /// Its name.
    pub fault: &'static str,
    /// Who was hit.
    pub target: String,
    /// When it was made.
    pub at: Nanos,
    /// When it was undone, with all others of its step.
    pub undone: Nanos,
    /// Why it could not be made, or what else was strange about it.
    pub note: Option<String>,
}

/// The nemesis of a run.
pub struct Nemesis {
    /// Whom it torments.
    pub cluster: Cluster,
    /// What it can do.
    pub machine: Machine,
    /// The profile of the lease's terms to which it returns.
    pub profile: String,
    disks: Disks,
    clocks: Clocks,
    undos: Vec<Undo>,
    /// Agents that ended although nobody ended them.
    pub ended_by_themselves: Vec<String>,
    /// What went wrong that no client can see.
    pub complaints: Vec<String>,
}

impl Nemesis {
    /// The nemesis of a cluster that runs.
    pub fn new(cluster: Cluster, machine: Machine, disks: Disks, clocks: Clocks, profile: &str) -> Nemesis {
        Nemesis {
            cluster,
            machine,
            profile: profile.to_owned(),
            disks,
            clocks,
            undos: Vec::new(),
            ended_by_themselves: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// Makes the faults of a step, holds them, and undoes them. What cannot be made is noted.
    ///
    /// # Errors
    /// The lab itself cannot mend what was broken.
    pub async fn play(&mut self, number: u64, step: &Step) -> Result<Vec<Made>> {
        // Who is meant is asked before anything is broken.
        let mut targets = Vec::new();
        for planned in &step.faults {
            targets.push(whom::resolve(&self.cluster, planned.whom, planned.pick).await);
        }
        // Nothing more can be done to a machine without power: the other fault is for another one.
        if step.faults.iter().any(|planned| planned.fault == Fault::PowerCut)
            && let [first, second] = targets.as_mut_slice()
            && first == second
        {
            let others = self.cluster.data_nodes().map(lab::Node::name);
            let others: Vec<&str> = others.filter(|name| name != first).collect();
            *second = others[(step.faults[1].pick % others.len() as u64) as usize].to_owned();
        }
        let mut made = Vec::new();
        for (planned, target) in step.faults.iter().zip(targets) {
            let at = Mono::now().nanos();
            let result = self.make(planned, &target, step.hold).await;
            let (target, note) = match result {
                Ok(target) => (target, None),
                Err(why) => (target, Some(format!("{why:#}"))),
            };
            made.push(Made {
                step: number,
                fault: planned.fault.name(),
                target,
                at,
                undone: 0,
                note,
            });
        }
        let least = step.faults.iter().map(|planned| planned.fault.least_hold());
        let time = least.max().unwrap_or_default().max(step.hold);
        self.hold(step, time, &made).await?;
        let mended = self.mend().await;
        let undone = Mono::now().nanos();
        for one in &mut made {
            one.undone = undone;
        }
        mended?;
        Ok(made)
    }

    async fn make(&mut self, planned: &Planned, target: &str, hold: Duration) -> Result<String> {
        let Planned { fault, pick, .. } = *planned;
        let cluster = &mut self.cluster;
        let everybody = || Ok("everybody".to_owned());
        let names: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect();
        let node = cluster.node(target);
        match fault {
            Fault::KillAgent => node.signal_agent(Signal::SIGKILL)?,
            Fault::PauseAgent => node.signal_agent(Signal::SIGSTOP)?,
            Fault::KillServer => node.signal_postmaster(Signal::SIGKILL)?,
            Fault::PauseServer => node.signal_postmaster(Signal::SIGSTOP)?,
            Fault::StopServer => node.signal_postmaster(Signal::SIGINT)?,
            Fault::FreezeNode => node.host().freeze()?,
            Fault::PowerCut => cluster.node_mut(target).power_off()?,
            Fault::KillBackend => return process::signal_backend(node, pick, Signal::SIGKILL),
            Fault::PauseBackend => return process::signal_backend(node, pick, Signal::SIGSTOP),
            Fault::KillGuard => return process::signal_guards(node, Signal::SIGKILL),
            Fault::PauseGuard => return process::signal_guards(node, Signal::SIGSTOP),
            Fault::PowerCutAll => {
                for name in &names {
                    cluster.node_mut(name).power_off()?;
                }
                return everybody();
            }
            Fault::KillAgents => {
                for name in &names {
                    cluster.node(name).signal_agent(Signal::SIGKILL)?;
                }
                return everybody();
            }
            Fault::DiskFull => {
                self.disks.fill(node)?;
                Mono::now()
            }
            Fault::HungDisk => {
                self.disks.stall(node, Stall::Hung, hold)?;
                Mono::now()
            }
            Fault::SlowDisk => {
                self.disks.stall(node, Stall::Slow, hold)?;
                Mono::now()
            }
            Fault::Amnesia => {
                // Whoever leads the group remembers what it leads, and gives nobody anything for as long as it is new.
                let leader = whom::raft_leader(cluster).await.unwrap_or_default();
                let others = names.iter().filter(|name| *name != target && **name != leader);
                cluster.isolate_from_peers(target)?;
                for name in others.clone() {
                    cluster.node(name).signal_agent(Signal::SIGKILL)?;
                }
                for name in others {
                    wait_until("the killed agent is gone", DEADLINE, || async {
                        ensure!(cluster.node(name).agent_pid().is_none(), "{name} still has one");
                        Ok(())
                    })
                    .await?;
                    cluster.node_mut(name).start().await?;
                }
                return Ok(target.to_owned());
            }
            Fault::ClockStep => return self.clocks.shift(node, pick),
            _ if fault.family() == Family::Partition => return network::make(cluster, fault, target, pick),
            _ => {
                let (target, undo) = operator::make(cluster, fault, target, pick, &self.profile).await?;
                self.undos.extend(undo);
                return Ok(target);
            }
        };
        Ok(target.to_owned())
    }

    /// Lets time pass; what flaps, flaps, and what has a second act gets it.
    async fn hold(&mut self, step: &Step, time: Duration, made: &[Made]) -> Result<()> {
        let end = Instant::now() + time;
        let was_made = |fault: Fault| {
            let of_name = made.iter().find(|one| one.fault == fault.name());
            of_name.filter(|one| one.note.is_none())
        };
        if let Some(flapping) = was_made(Fault::Flapping) {
            let pick = step.faults.first().map_or(0, |planned| planned.pick);
            let (off, on) = (200 + pick % 900, 100 + pick / 1_000 % 700);
            while Instant::now() < end {
                sleep(Duration::from_millis(off)).await;
                self.cluster.heal()?;
                sleep(Duration::from_millis(on)).await;
                self.cluster.isolate(&flapping.target)?;
            }
        } else if let Some(late) = was_made(Fault::LateAnswers) {
            sleep(time / 2).await;
            // What is on its way still arrives.
            self.cluster.isolate_from_peers(&late.target)?;
        }
        sleep_until(end).await;
        Ok(())
    }

    /// Undoes everything, whatever it was.
    ///
    /// # Errors
    /// The lab cannot.
    pub async fn mend(&mut self) -> Result<()> {
        if self.machine.network {
            self.cluster.heal()?;
        }
        self.disks.relieve()?;
        for node in self.cluster.nodes() {
            self.clocks.set_right(node)?;
        }
        for node in self.cluster.nodes().iter().filter(|node| node.host().is_on()) {
            node.host().thaw()?;
            // It may end by itself at this very moment; then it is started below.
            let _ = node.signal_agent(Signal::SIGCONT);
        }
        self.start_agents().await?;
        for undo in std::mem::take(&mut self.undos) {
            if let Err(why) = operator::undo(&mut self.cluster, &undo).await {
                // A cluster that is whole again takes orders. Tried again after the next step all the same.
                self.complaints
                    .push(format!("with all faults undone, {undo} is not possible: {why:#}"));
                self.undos.push(undo);
            }
        }
        Ok(())
    }

    /// Starts the agents that do not run, as a service manager would.
    async fn start_agents(&mut self) -> Result<()> {
        let down: Vec<String> = self
            .cluster
            .nodes()
            .iter()
            .filter(|node| node.agent_pid().is_none())
            .map(|node| node.name().to_owned())
            .collect();
        for name in down {
            self.cluster.node_mut(&name).start().await?;
        }
        Ok(())
    }

    /// Waits until a write is acknowledged that was sent from now on, for at most `budget`. Agents that end meanwhile are
    /// started again, and noted. True if there was one.
    ///
    /// # Errors
    /// An agent cannot be started.
    pub async fn wait_for_write(&mut self, live: &Live, budget: Duration) -> Result<bool> {
        let from = Mono::now().nanos();
        let end = Instant::now() + budget;
        while Instant::now() < end {
            if live.last_sent() >= from {
                return Ok(true);
            }
            sleep(Duration::from_millis(100)).await;
            self.restart_what_ended().await?;
        }
        Ok(false)
    }

    /// Waits until every node is in sync, for at most `budget`.
    ///
    /// # Errors
    /// It is not so in time, or an agent cannot be started.
    pub async fn wait_in_sync(&mut self, budget: Duration) -> Result<String> {
        let end = Instant::now() + budget;
        loop {
            self.restart_what_ended().await?;
            let patience = Duration::from_secs(5).min(end - Instant::now());
            match self.cluster.wait_all_in_sync(patience).await {
                Ok(primary) => {
                    for node in self.cluster.nodes() {
                        disk::remove_set_aside(node)?;
                    }
                    return Ok(primary);
                }
                Err(why) if Instant::now() >= end => {
                    return Err(why).context(format!("not all nodes are in sync after {budget:?}"));
                }
                Err(_) => {}
            }
        }
    }

    async fn restart_what_ended(&mut self) -> Result<()> {
        let ended: Vec<String> = self
            .cluster
            .nodes()
            .iter()
            .filter(|node| node.agent_pid().is_none())
            .map(|node| format!("{}: {}", node.name(), node.log_tail(1)))
            .collect();
        if !ended.is_empty() {
            self.ended_by_themselves.extend(ended);
            // A service manager waits a little, too.
            sleep(Duration::from_millis(200)).await;
            self.start_agents().await?;
        }
        Ok(())
    }

    /// What no agent may ever say in its log.
    pub fn panics(&self) -> Vec<String> {
        let nodes = self.cluster.nodes().iter();
        let logs = nodes.map(|node| {
            let text = std::fs::read(node.log_path()).unwrap_or_default();
            (node.name(), String::from_utf8_lossy(&text).into_owned())
        });
        logs.flat_map(|(name, text)| {
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            lines.map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
        })
        .collect()
    }

    /// Waits until every node is in sync for the first time.
    ///
    /// # Errors
    /// The cluster does not come up.
    pub async fn first_sync(cluster: &mut Cluster) -> Result<String> {
        cluster.start().await?;
        cluster.wait_all_in_sync(2 * DEADLINE).await
    }
}
