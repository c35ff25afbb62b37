//! Fence devices at work: for the coordinator, for the other agents that ask what this one's devices say, and for an
//! operator who tries them out.

use super::coordinator::Coordinator;
use super::node::Node;
use super::peers::{Peers, envelope, within};
use crate::fencing::stonith::{Off, Power};
use crate::ports::{DeviceTest, FenceDevices, ProposeError};
use crate::wall_time::stamp as wall;
use agent_core::cluster::{ClusterState, Command, StonithMode, StonithProof};
use agent_core::decide::cluster::StonithProgress;
use agent_core::ids::{Epoch, NodeId};
use agent_core::time::WallTime;
use futures::future::BoxFuture;
use proto::supervision::{FenceReply, FenceRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a device may take to say whether a machine is on, when an operator asks.
const STATUS: Duration = Duration::from_secs(5);
/// How much longer another agent is waited for than its device.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// How long one attempt to have the proof committed may take.
const PROPOSAL: Duration = Duration::from_secs(5);
/// A node that has reported within this time is alive again, and is not turned off for an epoch that is over.
const ALIVE: Duration = Duration::from_secs(3);

impl Coordinator {
    /// Has the machine of `target` turned off, beside everything else. One attempt at a time for an epoch.
    pub(super) fn turn_off(self: &Arc<Self>, state: &ClusterState, target: NodeId, epoch: Epoch) {
        {
            let memory = &mut self.desk().memory;
            let progress = memory.stonith.take().filter(|progress| progress.epoch == epoch);
            let progress = progress.unwrap_or(StonithProgress {
                epoch,
                ended: Some(self.node.clock.now()),
                ..StonithProgress::default()
            });
            let under_way = progress.ended.is_none();
            memory.stonith = Some(StonithProgress {
                ended: None,
                ..progress
            });
            if under_way {
                return;
            }
        }
        let (coordinator, name) = (self.clone(), state.name_of(target));
        let settings = state.settings.clone();
        tokio::spawn(async move {
            let tries = match settings.stonith {
                StonithMode::BestEffort => settings.stonith_tries,
                StonithMode::None | StonithMode::Required => 1,
            };
            let deadline = Duration::from_millis(settings.stonith_deadline_ms);
            let pause = Duration::from_millis(settings.stonith_pause_ms);
            for attempt in 1..=tries {
                if attempt > 1 {
                    tokio::time::sleep(pause).await;
                    if coordinator
                        .node
                        .reports
                        .age(target)
                        .is_some_and(|age| age < ALIVE)
                    {
                        break;
                    }
                }
                tracing::warn!(%epoch, name, attempt, "turning the machine of the old primary off");
                if coordinator
                    .attempt(target, &name, epoch, deadline, tries == attempt)
                    .await
                {
                    break;
                }
            }
        });
    }

    /// One attempt; says whether the machine is off.
    async fn attempt(
        &self,
        target: NodeId,
        name: &str,
        epoch: Epoch,
        deadline: Duration,
        last: bool,
    ) -> bool {
        let begun = wall();
        let outcome = self.node.stonith.turn_off(name, deadline).await;
        let failure = match outcome {
            Ok(off) => {
                tracing::warn!(%epoch, name, device = off.device, "the machine of the old primary is off");
                record(&self.node, proof(&self.node, target, epoch, begun, off))
                    .await
                    .err()
            }
            Err(error) => {
                tracing::error!(%epoch, name, %error, "the machine of the old primary could not be turned off");
                Some(error.to_string())
            }
        };
        let off = failure.is_none();
        let first = self.note_attempt(epoch, failure.as_ref(), off || last);
        if let Some(failure) = failure.filter(|_| first) {
            let text = format!("{name}, the holder of epoch {epoch}: {failure}");
            let note = Command::Note {
                kind: "turn-off-failed".to_owned(),
                text,
                at: wall(),
            };
            if let Err(error) = self.node.consensus.propose(note, PROPOSAL).await {
                tracing::debug!(%error, "the failure was not noted");
            }
        }
        self.node.reports.announce();
        off
    }
    /// Keeps how an attempt ended; says whether it is the first of this epoch that failed.
    fn note_attempt(&self, epoch: Epoch, failure: Option<&String>, ended: bool) -> bool {
        let now = self.node.clock.now();
        let mut desk = self.desk();
        let progress = desk.memory.stonith.as_mut();
        let Some(progress) = progress.filter(|progress| progress.epoch == epoch) else {
            return false;
        };
        let first = progress.failure.is_none() && failure.is_some();
        progress.tries += 1;
        progress.failure = failure.cloned();
        progress.ended = ended.then_some(now);
        first
    }
}

fn proof(node: &Node, target: NodeId, epoch: Epoch, began: WallTime, off: Off) -> StonithProof {
    StonithProof {
        epoch,
        node: target,
        by: node.consensus.state().name_of(node.id()),
        device: off.device,
        exit_code: off.exit_code,
        output: off.output,
        began,
        at: wall(),
    }
}

/// Has the proof committed, however long that takes, unless it is refused.
async fn record(node: &Node, proof: StonithProof) -> Result<(), String> {
    let command = Command::RecordStonith {
        request: None,
        proof: Box::new(proof),
    };
    loop {
        match node.consensus.propose(command.clone(), PROPOSAL).await {
            Ok(_) => return Ok(()),
            Err(error @ (ProposeError::Rejected(_) | ProposeError::Stopped { .. })) => {
                return Err(error.to_string());
            }
            Err(error) => tracing::warn!(%error, "the proof is not committed yet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What this node's own devices say or do, for another agent or for an operator.
pub(super) async fn use_devices(node: &Node, target: NodeId, off: bool) -> FenceReply {
    let begun = (Instant::now(), wall());
    let state = node.consensus.state();
    let name = state.name_of(target);
    let outcome = if off {
        let deadline = Duration::from_millis(state.settings.stonith_deadline_ms);
        let turned = node.stonith.turn_off(&name, deadline).await;
        turned.map(|off| (Power::Off, off))
    } else {
        node.stonith.status(&name, STATUS).await
    };
    let elapsed_ms = u64::try_from(begun.0.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok((power, said)) => {
            let mut error = String::new();
            let state = node.consensus.state();
            if off && state.holder == Some(target) {
                let proof = proof(node, target, state.epoch, begun.1, said.clone());
                error = record(node, proof).await.err().unwrap_or_default();
            }
            FenceReply {
                power: power_name(power).to_owned(),
                device: said.device,
                output: said.output,
                error,
                elapsed_ms,
            }
        }
        Err(error) => FenceReply {
            error: error.to_string(),
            elapsed_ms,
            ..FenceReply::default()
        },
    }
}

fn power_name(power: Power) -> &'static str {
    match power {
        Power::On => "on",
        Power::Off => "off",
    }
}

/// The devices of all agents, for the API.
pub struct DriverDevices {
    node: Arc<Node>,
    peers: Peers,
}

impl DriverDevices {
    /// Through this node and its connections.
    #[must_use]
    pub fn new(node: Arc<Node>) -> DriverDevices {
        DriverDevices {
            node,
            peers: Peers::default(),
        }
    }

    async fn ask(&self, by: NodeId, target: NodeId, off: bool) -> DeviceTest {
        let state = self.node.consensus.state();
        let reply = if by == self.node.id() {
            Ok(use_devices(&self.node, target, off).await)
        } else {
            let device = match off {
                true => Duration::from_millis(state.settings.stonith_deadline_ms),
                false => STATUS,
            };
            match self.peers.client(&state, by) {
                None => Err("its address is not known".to_owned()),
                Some(mut client) => {
                    let request = FenceRequest {
                        envelope: Some(envelope(&state, self.node.id(), by)),
                        node: target.0,
                        off,
                    };
                    within(device + ON_THE_WAY, client.fence(request)).await
                }
            }
        };
        let reply = reply.unwrap_or_else(|error| FenceReply {
            error: format!("its agent did not answer: {error}"),
            ..FenceReply::default()
        });
        DeviceTest {
            by,
            power: reply.power,
            device: reply.device,
            output: reply.output,
            error: reply.error,
            elapsed: Duration::from_millis(reply.elapsed_ms),
        }
    }
}

impl FenceDevices for DriverDevices {
    fn test(&self, target: NodeId) -> BoxFuture<'_, Vec<DeviceTest>> {
        let state = self.node.consensus.state();
        let others: Vec<NodeId> = state.members.keys().copied().filter(|by| *by != target).collect();
        let asked = others.into_iter().map(move |by| self.ask(by, target, false));
        Box::pin(futures::future::join_all(asked))
    }

    fn turn_off(&self, target: NodeId, by: NodeId) -> BoxFuture<'_, DeviceTest> {
        Box::pin(self.ask(by, target, true))
    }
}
