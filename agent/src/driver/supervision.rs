//! The gRPC service of the driver: what agents ask of each other about servers and leases.

use super::coordinator::Coordinator;
use super::node::{Node, ServerSide, server_conf};
use super::restoring::may_tell_position;
use super::stonith::use_devices;
use crate::lease::ReleaseAnswer;
use agent_core::cluster::SyncRule;
use agent_core::decide::node::Conf;
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{Lsn, Position};
use agent_core::sabotage::Rule;
use agent_core::view::{FenceReceipt, NodeReport, Server};
use proto::supervision::supervision_server::Supervision;
use proto::supervision::{
    AgedReport, BoundReply, BoundRequest, Envelope, ExplainReply, ExplainRequest, FenceReply, FenceRequest,
    Pledged, ReleaseReply, ReleaseRequest, ReportReply, ReportRequest, release_reply,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// How long a standby waits for WAL that the coordinator knows to be on its way.
const WAIT_FOR_WAL: Duration = Duration::from_millis(1_000);
/// How long a release waits for whoever is at work on the server.
const WAIT_FOR_HANDS: Duration = Duration::from_millis(2_000);

/// Answers the other agents.
pub struct SupervisionService {
    node: Arc<Node>,
    coordinator: Arc<Coordinator>,
}

impl SupervisionService {
    /// A service over this node.
    #[must_use]
    pub fn new(node: Arc<Node>, coordinator: Arc<Coordinator>) -> SupervisionService {
        SupervisionService { node, coordinator }
    }

    fn check(&self, envelope: Option<&Envelope>) -> Result<NodeId, Status> {
        let state = self.node.consensus.state();
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("the message has no envelope"))?;
        if envelope.cluster_id != state.cluster_id || envelope.to != self.node.id().0 {
            return Err(Status::failed_precondition(format!(
                "this is node {} of cluster {}, the message is for node {} of cluster {}: check the member's address",
                self.node.id(),
                state.cluster_id,
                envelope.to,
                envelope.cluster_id
            )));
        }
        Ok(NodeId(envelope.from))
    }
}

fn receipt(bytes: &[u8]) -> Result<Option<FenceReceipt>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(bytes)
        .map(Some)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl Supervision for SupervisionService {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        let request = request.into_inner();
        let from = self.check(request.envelope.as_ref())?;
        let report: NodeReport = serde_json::from_slice(&request.report)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if report.node != from {
            return Err(Status::invalid_argument(
                "the report is of another node than its sender",
            ));
        }
        let taken = self.node.consensus.raft_leader() == Some(self.node.id());
        if !taken {
            return Ok(Response::new(ReportReply {
                taken,
                reports: Vec::new(),
            }));
        }
        self.node.reports.take(report, Duration::ZERO);
        let now = self.node.clock.now();
        let view = self.node.reports.view();
        let others = view.reports.iter().filter(|(id, _)| **id != from);
        let aged = others.filter_map(|(_, (at, report))| {
            let age_ms = u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
            Some(AgedReport {
                age_ms,
                report: serde_json::to_vec(report).ok()?,
            })
        });
        Ok(Response::new(ReportReply {
            taken,
            reports: aged.collect(),
        }))
    }

    async fn bound(&self, request: Request<BoundRequest>) -> Result<Response<BoundReply>, Status> {
        let request = request.into_inner();
        self.check(request.envelope.as_ref())?;
        let receipt = receipt(&request.receipt)?;
        let bound = self
            .node
            .lease
            .bound_for(Epoch(request.next_epoch), receipt.as_ref());
        let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Ok(Response::new(BoundReply { bound_ns }))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseReply>, Status> {
        let request = request.into_inner();
        self.check(request.envelope.as_ref())?;
        let receipt = receipt(&request.receipt)?;
        let wait_for = (request.wait_for_lsn > 0).then_some(Lsn(request.wait_for_lsn));
        let answer = match release(&self.node, Epoch(request.epoch), receipt, wait_for).await {
            Ok(Released::Pledged(position)) => release_reply::Answer::Pledged(Pledged {
                position: position.map(|position| proto::supervision::Position {
                    timeline: position.timeline.0,
                    lsn: position.lsn.0,
                }),
            }),
            Ok(Released::Bound(bound)) => {
                release_reply::Answer::BoundNs(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX))
            }
            Err(error) => release_reply::Answer::Failed(error),
        };
        Ok(Response::new(ReleaseReply { answer: Some(answer) }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        self.check(request.into_inner().envelope.as_ref())?;
        let leads = self.node.consensus.leads();
        let reasons = serde_json::to_vec(&self.coordinator.reasons()).unwrap_or_default();
        Ok(Response::new(ExplainReply { leads, reasons }))
    }

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceReply>, Status> {
        let request = request.into_inner();
        self.check(request.envelope.as_ref())?;
        let target = NodeId(request.node);
        if target == self.node.id() {
            return Err(Status::invalid_argument("a node does not turn itself off"));
        }
        Ok(Response::new(use_devices(&self.node, target, request.off).await))
    }
}

/// What a node answers to a release.
pub(super) enum Released {
    Pledged(Option<Position>),
    Bound(Duration),
}

/// Pledges to `epoch`, and cuts the standby off from its upstream.
pub(super) async fn release(
    node: &Arc<Node>,
    epoch: Epoch,
    receipt: Option<FenceReceipt>,
    wait_for: Option<Lsn>,
) -> Result<Released, String> {
    let bound = node.lease.bound_for(epoch, receipt.as_ref());
    if !bound.is_zero() {
        return Ok(Released::Bound(bound));
    }
    if let (Some(lsn), Some(server)) = (wait_for, &node.server) {
        receive_up_to(server, lsn).await;
    }
    let lease = node.lease.clone();
    let answer = tokio::task::spawn_blocking(move || lease.release(epoch, receipt.as_ref()))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    match answer {
        ReleaseAnswer::Bound(bound) => Ok(Released::Bound(bound)),
        ReleaseAnswer::Pledged => Ok(Released::Pledged(cut_off(node, epoch).await)),
    }
}

/// Waits a moment until the standby has the WAL up to `lsn`, or has no way to get it.
async fn receive_up_to(server: &ServerSide, lsn: Lsn) {
    let started = Instant::now();
    while started.elapsed() < WAIT_FOR_WAL {
        match server.instance.observe().await.server {
            Server::Standby(standby) if standby.position.lsn < lsn => {}
            _ => return,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The replication half of a pledge. `None` if this node's server does not run, or cannot be cut off: then it counts
/// for nothing in the promotion gate.
async fn cut_off(node: &Arc<Node>, epoch: Epoch) -> Option<Position> {
    let server = node.server.as_ref()?;
    if !may_tell_position(node) {
        return None;
    }
    let restored = node.desk().memory.restored.is_some();
    let clean_end = node
        .desk()
        .receipt
        .filter(|receipt| receipt.epoch.next() == epoch)
        // It is that of the data that were set aside.
        .filter(|_| !restored)
        .and_then(|r| r.clean_end);
    if clean_end.is_some() {
        return clean_end;
    }
    let Ok(mut hands) = tokio::time::timeout(WAIT_FOR_HANDS, server.hands.lock()).await else {
        tracing::warn!("the server is busy with something else and cannot be cut off from its upstream");
        return None;
    };
    let seen = server.instance.observe().await;
    let desk_forbids = {
        let desk = node.desk();
        desk.memory.broken || desk.job.is_some()
    };
    if desk_forbids || !matches!(seen.server, Server::Standby(_)) {
        return None;
    }
    if Rule::PledgedStandbyIsCutOff.is_off() {
        return seen.position();
    }
    let conf = Conf {
        upstream: None,
        slot: None,
        synchronous_standby_names: SyncRule::unsatisfiable(),
        slot_budget_bytes: node.consensus.state().settings.slot_budget_bytes,
    };
    hands.conf = None;
    match server.instance.cut_upstream(&server_conf(&conf)).await {
        Ok(position) => {
            hands.conf = Some(conf);
            Some(position)
        }
        Err(error) => {
            tracing::warn!(%error, "the standby could not be cut off from its upstream");
            None
        }
    }
}
