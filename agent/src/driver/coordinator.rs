//! The loop over the cluster: runs on every node, decides only on the Raft leader.

use super::node::Node;
use super::peers::{Peers, envelope, within};
use super::supervision::{Released, release};
use crate::ports::Consensus;
use crate::wall_time::stamp as wall;
use agent_core::cluster::{ClusterState, Release, SwitchoverPhase};
use agent_core::decide::cluster::{
    ClusterAction, CoordinatorMemory, CoordinatorView, FRESH, Round, decide, is_heard_of,
};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::pg::{Lsn, Position, TimelineId};
use agent_core::reason::Reason;
use agent_core::view::FenceReceipt;
use proto::supervision::{BoundRequest, ReleaseRequest, release_reply};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often a node that does not lead looks whether it does now.
const FOLLOWING: Duration = Duration::from_millis(100);
/// How long the loop sleeps when nothing wakes it.
const CALM: Duration = Duration::from_millis(50);
/// How long a voter may take to say how long it is bound.
const BOUND: Duration = Duration::from_millis(300);
/// How long a member may take to pledge and to cut its standby off.
const RELEASE: Duration = Duration::from_millis(3_000);
/// How long one attempt to have a command committed may take.
const PROPOSAL: Duration = Duration::from_secs(5);

/// What the coordinator remembers, and what it last found.
pub struct Coordinator {
    pub(super) node: Arc<Node>,
    peers: Peers,
    desk: Mutex<Desk>,
}

#[derive(Default)]
pub(super) struct Desk {
    pub(super) memory: CoordinatorMemory,
    epoch: Epoch,
    switchover: Option<(RequestId, SwitchoverPhase)>,
    reasons: Vec<Reason>,
    rule: String,
}

impl Coordinator {
    /// A coordinator for `node`.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Arc<Coordinator> {
        Arc::new(Coordinator {
            node,
            peers: Peers::default(),
            desk: Mutex::default(),
        })
    }

    /// The gates that its last decision looked at.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        self.desk().reasons.clone()
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn consensus(&self) -> &dyn Consensus {
        self.node.consensus.as_ref()
    }

    /// Runs until `stop` says so.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut state = self.consensus().watch();
        let mut reports = self.node.reports.watch();
        loop {
            let current = state.borrow_and_update().clone();
            reports.borrow_and_update();
            self.remember(&current);
            let leads = self.consensus().leads();
            if leads {
                self.turn(&current).await;
            } else {
                self.forget_round();
            }
            tokio::select! {
                () = tokio::time::sleep(if leads { self.pause(&current) } else { FOLLOWING }) => {}
                _ = reports.changed() => {}
                changed = state.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// How long nothing need be looked at: the moment at which this node's own voter is free again is not slept through.
    fn pause(&self, state: &ClusterState) -> Duration {
        let bound = self.node.lease.bound_for(state.epoch.next(), None);
        if bound.is_zero() {
            CALM
        } else {
            bound.clamp(Duration::from_millis(1), CALM)
        }
    }

    /// Keeps what every node keeps, whether it leads or not: how long the newest epoch has been there, and receipts.
    fn remember(&self, state: &ClusterState) {
        let now = self.node.clock.now();
        let mut desk = self.desk();
        if desk.epoch != state.epoch || desk.memory.epoch_since.is_none() {
            let pause = Duration::from_millis(state.settings.failover_pause_ms);
            let lasted = desk.memory.epoch_since.map(|since| now.since(since));
            let short = desk.epoch > Epoch(0) && lasted.is_some_and(|lasted| lasted < pause);
            let short_epochs = if short { desk.memory.short_epochs + 1 } else { 0 };
            desk.epoch = state.epoch;
            desk.memory = CoordinatorMemory {
                epoch_since: Some(now),
                short_epochs,
                ..CoordinatorMemory::default()
            };
        }
        let switchover = state
            .switchover
            .as_ref()
            .map(|running| (running.request.clone(), running.phase));
        if desk.switchover != switchover {
            desk.memory.switchover_since = switchover.is_some().then_some(now);
            desk.switchover = switchover;
        }
        let view = self.node.reports.view();
        let receipt = view
            .reports
            .values()
            .filter_map(|(_, report)| report.holder.as_ref()?.fenced)
            .find(|receipt| receipt.epoch == state.epoch && Some(receipt.node) == state.holder);
        if receipt.is_some() {
            desk.memory.receipt = receipt;
        }
        for (kind, duty) in &state.duties.running {
            let report = view.fresh(duty.node, now, FRESH);
            if is_heard_of(duty, report) {
                desk.memory.duty_silent_since.remove(kind);
            } else {
                desk.memory.duty_silent_since.entry(*kind).or_insert(now);
            }
        }
        desk.memory
            .duty_silent_since
            .retain(|kind, _| state.duties.running.contains_key(kind));
        let stray = view
            .reports
            .values()
            .any(|(_, report)| report.pledge > state.epoch);
        desk.memory.stray_pledge_since = match desk.memory.stray_pledge_since {
            _ if !stray => None,
            None => Some(now),
            since => since,
        };
    }

    fn forget_round(&self) {
        let mut desk = self.desk();
        desk.memory.round = None;
        desk.memory.stonith = None;
        desk.memory.bound.clear();
        desk.reasons.clear();
    }

    async fn turn(self: &Arc<Self>, state: &ClusterState) {
        // Its own word must not be older than the question.
        self.node
            .reports
            .take_quietly(super::reporter::report(&self.node));
        let decision = {
            let view = CoordinatorView {
                me: self.node.id(),
                state: Cow::Borrowed(state),
                reports: self.node.reports.view().as_ref().clone(),
                now: self.node.clock.now(),
                wall: wall(),
                memory: self.desk().memory.clone(),
            };
            decide(&view)
        };
        {
            let mut desk = self.desk();
            desk.reasons.clone_from(&decision.reasons);
            if desk.rule != decision.rule {
                tracing::debug!(rule = decision.rule, "coordinating");
                desk.rule.clone_from(&decision.rule);
            }
        }
        for action in decision.actions {
            match action {
                ClusterAction::Propose(command) => {
                    let what = format!("{command:?}");
                    if let Err(error) = self.consensus().propose(command, PROPOSAL).await {
                        tracing::warn!(%error, command = what, "the decision was not committed");
                    }
                }
                ClusterAction::AskBound { next, receipt } => self.ask_bound(state, next, receipt).await,
                ClusterAction::AskRelease {
                    epoch,
                    receipt,
                    wait_for,
                } => {
                    self.ask_release(state, epoch, receipt, wait_for);
                }
                ClusterAction::TurnOff { node, epoch } => self.turn_off(state, node, epoch),
            }
        }
    }

    async fn ask_bound(self: &Arc<Self>, state: &ClusterState, next: Epoch, receipt: Option<FenceReceipt>) {
        let own = self.node.lease.bound_for(next, receipt.as_ref());
        self.note_bound(self.node.id(), next, own);
        let others = state
            .voters
            .all()
            .into_iter()
            .filter(|node| *node != self.node.id());
        let questions = others.map(|node| self.bound_of(state, node, next, receipt));
        futures::future::join_all(questions).await;
    }

    async fn bound_of(&self, state: &ClusterState, node: NodeId, next: Epoch, receipt: Option<FenceReceipt>) {
        let Some(mut client) = self.peers.client(state, node) else {
            return;
        };
        let request = BoundRequest {
            envelope: Some(envelope(state, self.node.id(), node)),
            next_epoch: next.0,
            receipt: encode(receipt),
        };
        match within(BOUND, client.bound(request)).await {
            Ok(reply) => self.note_bound(node, next, Duration::from_nanos(reply.bound_ns)),
            Err(error) => tracing::debug!(%node, error, "did not say how long it is bound"),
        }
    }

    fn note_bound(&self, node: NodeId, next: Epoch, bound: Duration) {
        let now = self.node.clock.now();
        let mut desk = self.desk();
        if desk.epoch.next() == next {
            desk.memory.bound.insert(node, (now, bound));
        }
    }

    /// Asks every member, and lets the answers come in by themselves.
    fn ask_release(
        self: &Arc<Self>,
        state: &ClusterState,
        epoch: Epoch,
        receipt: Option<FenceReceipt>,
        wait_for: Option<Lsn>,
    ) {
        let now = self.node.clock.now();
        let members: Vec<NodeId> = state.members.keys().copied().collect();
        {
            let mut desk = self.desk();
            let fresh = Round {
                epoch,
                started: now,
                asked: now,
                released: Default::default(),
                pending: Default::default(),
            };
            let mut round = desk
                .memory
                .round
                .take()
                .filter(|round| round.epoch == epoch)
                .unwrap_or(fresh);
            round.asked = now;
            round.pending = members.iter().copied().collect();
            desk.memory.round = Some(round);
        }
        tracing::info!(%epoch, receipt = receipt.is_some(), "asking the members to release the old epoch");
        for member in members {
            let coordinator = self.clone();
            let state = state.clone();
            tokio::spawn(async move {
                let answer = coordinator
                    .release_of(&state, member, epoch, receipt, wait_for)
                    .await;
                coordinator.note_release(member, epoch, answer);
            });
        }
    }

    async fn release_of(
        &self,
        state: &ClusterState,
        node: NodeId,
        epoch: Epoch,
        receipt: Option<FenceReceipt>,
        wait_for: Option<Lsn>,
    ) -> Result<Released, String> {
        if node == self.node.id() {
            return release(&self.node, epoch, receipt, wait_for).await;
        }
        let client = self.peers.client(state, node);
        let mut client = client.ok_or_else(|| format!("the address of node {node} is not known"))?;
        let request = ReleaseRequest {
            envelope: Some(envelope(state, self.node.id(), node)),
            epoch: epoch.0,
            receipt: encode(receipt),
            wait_for_lsn: wait_for.map_or(0, |lsn| lsn.0),
        };
        let reply = within(RELEASE, client.release(request)).await?;
        match reply.answer {
            Some(release_reply::Answer::Pledged(pledged)) => {
                let position = pledged.position.map(|position| Position {
                    timeline: TimelineId(position.timeline),
                    lsn: Lsn(position.lsn),
                });
                Ok(Released::Pledged(position))
            }
            Some(release_reply::Answer::BoundNs(bound)) => Ok(Released::Bound(Duration::from_nanos(bound))),
            Some(release_reply::Answer::Failed(error)) => Err(error),
            None => Err("an empty answer".to_owned()),
        }
    }

    fn note_release(&self, node: NodeId, epoch: Epoch, answer: Result<Released, String>) {
        let mut desk = self.desk();
        let Some(round) = desk.memory.round.as_mut().filter(|round| round.epoch == epoch) else {
            return;
        };
        round.pending.remove(&node);
        match answer {
            Ok(Released::Pledged(position)) => {
                round.released.insert(node, Release::at(position));
            }
            Ok(Released::Bound(bound)) => tracing::debug!(%node, ?bound, "is still bound"),
            Err(error) => tracing::debug!(%node, error, "did not pledge"),
        }
        drop(desk);
        self.node.reports.announce();
    }
}

fn encode(receipt: Option<FenceReceipt>) -> Vec<u8> {
    receipt
        .and_then(|receipt| serde_json::to_vec(&receipt).ok())
        .unwrap_or_default()
}
