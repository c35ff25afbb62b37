//! `pgctl`'s gRPC service.
//!
//! Reads are answered from what this node has applied and heard. Writes go through [`Consensus::propose`], which finds
//! the Raft leader wherever it is; each carries the client's request id, so that one that is sent again, to this agent
//! or to another, is carried out once.

use super::admit::{allow_failover, earlier, leaving_member, member, new_member, request_id};
use super::progress::{Kind, ProgressStream, Watched, follow};
use super::{describe, fence, refusal, settings};
use crate::ports::{Consensus, FenceDevices, Overview};
use agent_core::cluster::{
    Applied, ClusterState, Command, FailoverRisk, Member, MemberKind, choose_target, failover_risk,
    fit_for_switchover,
};
use agent_core::ids::NodeId;
use proto::control as wire;
use proto::control::control_server::{Control, ControlServer};
use std::sync::Arc;
use std::time::Duration;

use crate::wall_time::stamp as now;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// How long a command may take to be committed and applied.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Answers `pgctl`, on any node.
pub struct ControlService {
    consensus: Arc<dyn Consensus>,
    overview: Arc<dyn Overview>,
    devices: Arc<dyn FenceDevices>,
}

impl ControlService {
    /// A service that reads from and writes to these.
    #[must_use]
    pub fn new(
        consensus: Arc<dyn Consensus>,
        overview: Arc<dyn Overview>,
        devices: Arc<dyn FenceDevices>,
    ) -> ControlService {
        ControlService {
            consensus,
            overview,
            devices,
        }
    }

    /// The service as tonic's router takes it.
    #[must_use]
    pub fn into_server(self) -> ControlServer<ControlService> {
        ControlServer::new(self)
    }

    async fn propose(&self, command: Command) -> Result<Applied, Status> {
        self.consensus
            .propose(command, PROPOSE_DEADLINE)
            .await
            .map_err(refusal::of_propose)
    }

    async fn change(&self, command: Command) -> Result<Response<wire::Change>, Status> {
        let applied = self.propose(command).await?;
        Ok(Response::new(wire::Change {
            changed: applied != Applied::Unchanged,
        }))
    }

    fn risk_of(&self, state: &ClusterState, to: NodeId) -> FailoverRisk {
        failover_risk(
            state,
            &self.overview.view(),
            |node| self.overview.report_age(node),
            to,
        )
    }

    /// The target that was named, or the best one.
    fn switchover_target(&self, state: &ClusterState, to: &str) -> Result<NodeId, Status> {
        if state.holder.is_none() {
            return Err(refusal::conflict(
                "no-primary",
                "there is no primary to switch from",
                "see `pgctl explain`",
            ));
        }
        let view = self.overview.view();
        let age = |node| self.overview.report_age(node);
        if to.is_empty() {
            return choose_target(state, &view, age).map_err(|unfit| refusal::of_unfit(&unfit));
        }
        let node = member(state, to)?;
        fit_for_switchover(state, &view, age, node).map_err(|unfit| refusal::of_unfit(&unfit))?;
        Ok(node)
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type EventsStream = ReceiverStream<Result<wire::Event, Status>>;
    type SwitchoverStream = ProgressStream;
    type FailoverStream = ProgressStream;

    async fn get_cluster(
        &self,
        _: Request<wire::GetClusterRequest>,
    ) -> Result<Response<wire::Cluster>, Status> {
        Ok(Response::new(describe::cluster(
            self.consensus.as_ref(),
            self.overview.as_ref(),
        )))
    }

    async fn explain(&self, _: Request<wire::ExplainRequest>) -> Result<Response<wire::Explanation>, Status> {
        let (cluster, unreachable) = match self.overview.explain().await {
            Ok(gates) => (gates, String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        };
        let state = self.consensus.state();
        let view = self.overview.view();
        let nodes = state.members.iter().map(|(node, member)| {
            let told = if *node == self.consensus.node_id() {
                self.overview.explain_node()
            } else {
                view.reports
                    .get(node)
                    .map(|(_, report)| report.explain.clone())
                    .unwrap_or_default()
            };
            wire::NodeExplanation {
                node: member.name.clone(),
                report_age_ms: self.overview.report_age(*node).map(super::milliseconds),
                gates: told.into_iter().map(describe::gate).collect(),
            }
        });
        Ok(Response::new(wire::Explanation {
            cluster: cluster.into_iter().map(describe::gate).collect(),
            cluster_unreachable: unreachable,
            nodes: nodes.collect(),
        }))
    }

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let wire::EventsRequest { from, follow } = request.into_inner();
        let (tell, told) = mpsc::channel(64);
        let mut states = self.consensus.watch();
        tokio::spawn(async move {
            let mut next = from;
            loop {
                let state = Arc::clone(&states.borrow_and_update());
                for event in state.events.iter().filter(|event| event.number >= next) {
                    let event = wire::Event {
                        number: event.number,
                        at_unix_ms: event.at.0,
                        kind: event.kind.clone(),
                        text: event.text.clone(),
                    };
                    if tell.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                next = next.max(state.next_event);
                drop(state);
                if !follow {
                    return;
                }
                tokio::select! {
                    () = tell.closed() => return,
                    changed = states.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn switchover(
        &self,
        request: Request<wire::SwitchoverRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        let wire::SwitchoverRequest { request, to } = request.into_inner();
        let request = request_id(request)?;
        let state = self.consensus.state();
        let running = state
            .switchover
            .as_ref()
            .filter(|running| running.request == request);
        let ended = state
            .last_switchover
            .as_ref()
            .filter(|last| last.request == request);
        let joined = running
            .map(|it| (it.from, it.to))
            .or(ended.map(|it| (it.from, it.to)));
        let (from, to) = match joined {
            Some((from, to)) => (Some(from), to),
            None => {
                let to = self.switchover_target(&state, &to)?;
                self.propose(Command::StartSwitchover {
                    request: request.clone(),
                    to,
                    at: now(),
                })
                .await?;
                (state.holder, to)
            }
        };
        let watched = Watched {
            request,
            kind: Kind::Switchover,
            from,
            to,
            epoch: state.epoch,
        };
        Ok(Response::new(follow(Arc::clone(&self.consensus), watched)))
    }

    async fn preview_failover(
        &self,
        request: Request<wire::PreviewFailoverRequest>,
    ) -> Result<Response<wire::FailoverRisk>, Status> {
        let state = self.consensus.state();
        let to = member(&state, &request.into_inner().to)?;
        Ok(Response::new(describe::risk(&state, &self.risk_of(&state, to))))
    }

    async fn failover(
        &self,
        request: Request<wire::FailoverRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        let wire::FailoverRequest {
            request,
            to,
            accept_data_loss,
        } = request.into_inner();
        let request = request_id(request)?;
        let state = self.consensus.state();
        let to = member(&state, &to)?;
        if earlier(&state, &request)?.is_none() {
            let risk = self.risk_of(&state, to);
            allow_failover(&state, &risk, accept_data_loss)?;
            self.propose(Command::OrderFailover {
                request: request.clone(),
                to,
                accept_data_loss,
                at: now(),
            })
            .await?;
        }
        let watched = Watched {
            request,
            kind: Kind::Failover,
            from: state.holder,
            to,
            epoch: state.epoch,
        };
        Ok(Response::new(follow(Arc::clone(&self.consensus), watched)))
    }

    async fn pause(&self, request: Request<wire::PauseRequest>) -> Result<Response<wire::Change>, Status> {
        let wire::PauseRequest { request, reason } = request.into_inner();
        let reason = if reason.is_empty() {
            "no reason was given".to_owned()
        } else {
            reason
        };
        self.change(Command::Pause {
            request: request_id(request)?,
            reason,
            at: now(),
        })
        .await
    }

    async fn resume(&self, request: Request<wire::ResumeRequest>) -> Result<Response<wire::Change>, Status> {
        let request = request_id(request.into_inner().request)?;
        self.change(Command::Resume { request, at: now() }).await
    }

    async fn get_settings(
        &self,
        _: Request<wire::GetSettingsRequest>,
    ) -> Result<Response<wire::Settings>, Status> {
        Ok(Response::new(settings::shown(&self.consensus.state().settings)))
    }

    async fn change_settings(
        &self,
        request: Request<wire::ChangeSettingsRequest>,
    ) -> Result<Response<wire::Settings>, Status> {
        let wire::ChangeSettingsRequest {
            request,
            version,
            assignments,
        } = request.into_inner();
        let request = request_id(request)?;
        let state = self.consensus.state();
        if earlier(&state, &request)?.is_some() {
            return Ok(Response::new(settings::shown(&state.settings)));
        }
        if version != state.settings.version {
            return Err(refusal::refuse(
                tonic::Code::Aborted,
                "settings-changed",
                format!(
                    "the settings have version {} now, the change was made from {version}",
                    state.settings.version
                ),
                "read the settings again and repeat the change",
            ));
        }
        let watchdogs = settings::Watchdogs::of(&state, &self.overview.view());
        let mut changed = settings::accepted(&state.settings, &assignments, &watchdogs)?;
        self.propose(Command::ChangeSettings {
            request,
            settings: Box::new(changed.clone()),
            at: now(),
        })
        .await?;
        // This node may not have applied it yet.
        changed.version += 1;
        Ok(Response::new(settings::shown(&changed)))
    }

    async fn check_settings(
        &self,
        request: Request<wire::CheckSettingsRequest>,
    ) -> Result<Response<wire::SettingsCheck>, Status> {
        let assignments = request.into_inner().assignments;
        let state = self.consensus.state();
        let watchdogs = settings::Watchdogs::of(&state, &self.overview.view());
        Ok(Response::new(settings::checked(
            &state.settings,
            &assignments,
            &watchdogs,
        )))
    }

    async fn add_member(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<wire::MemberAdded>, Status> {
        let wire::AddMemberRequest {
            request,
            name,
            peer,
            witness,
            nofailover,
            tags,
        } = request.into_inner();
        let request = request_id(request)?;
        let peer = new_member(&self.consensus.state(), &name, &peer)?;
        let kind = if witness {
            MemberKind::Witness
        } else {
            MemberKind::Data
        };
        let member = Member {
            name,
            kind,
            peer,
            http: String::new(),
            postgres: String::new(),
            tags,
            nofailover,
        };
        let node = self
            .consensus
            .add_member(request, member)
            .await
            .map_err(refusal::of_propose)?;
        Ok(Response::new(wire::MemberAdded { id: node.0 }))
    }

    async fn remove_member(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<wire::Change>, Status> {
        let wire::RemoveMemberRequest { request, name } = request.into_inner();
        let request = request_id(request)?;
        let state = self.consensus.state();
        if earlier(&state, &request)?.is_some() {
            return Ok(Response::new(wire::Change { changed: true }));
        }
        let node = leaving_member(&state, &name)?;
        self.consensus
            .remove_member(request, node)
            .await
            .map_err(refusal::of_propose)?;
        Ok(Response::new(wire::Change { changed: true }))
    }

    async fn maintenance(
        &self,
        request: Request<wire::MaintenanceRequest>,
    ) -> Result<Response<wire::Change>, Status> {
        let wire::MaintenanceRequest { request, name, on } = request.into_inner();
        let request = request_id(request)?;
        let node = member(&self.consensus.state(), &name)?;
        self.change(Command::Maintenance {
            request,
            node,
            on,
            at: now(),
        })
        .await
    }

    async fn fence_node(
        &self,
        request: Request<wire::FenceNodeRequest>,
    ) -> Result<Response<wire::Change>, Status> {
        let wire::FenceNodeRequest {
            request,
            name,
            reason,
            even_primary,
        } = request.into_inner();
        let request = request_id(request)?;
        let state = self.consensus.state();
        if earlier(&state, &request)?.is_some() {
            return Ok(Response::new(wire::Change { changed: true }));
        }
        let node = fence::target(&state, &name, even_primary, "fence")?;
        self.change(Command::FenceNode {
            request,
            node,
            reason: fence::reason(&reason),
            at: now(),
        })
        .await
    }

    async fn unfence_node(
        &self,
        request: Request<wire::UnfenceNodeRequest>,
    ) -> Result<Response<wire::Change>, Status> {
        let wire::UnfenceNodeRequest { request, name } = request.into_inner();
        let request = request_id(request)?;
        let node = member(&self.consensus.state(), &name)?;
        self.change(Command::UnfenceNode {
            request,
            node,
            at: now(),
        })
        .await
    }

    async fn confirm_off(
        &self,
        request: Request<wire::ConfirmOffRequest>,
    ) -> Result<Response<wire::Change>, Status> {
        let wire::ConfirmOffRequest { request, name } = request.into_inner();
        let request = Some(request_id(request)?);
        let state = self.consensus.state();
        let proof = fence::confirmed(&state, self.overview.as_ref(), &name, now())?;
        let proof = Box::new(proof);
        self.change(Command::RecordStonith { request, proof }).await
    }

    async fn test_fence(
        &self,
        request: Request<wire::TestFenceRequest>,
    ) -> Result<Response<wire::FenceTest>, Status> {
        let wire::TestFenceRequest {
            name,
            off,
            even_primary,
        } = request.into_inner();
        let state = self.consensus.state();
        let node = fence::target(&state, &name, even_primary || !off, "turn off")?;
        let leader = self.consensus.raft_leader();
        let test = fence::test(&state, self.devices.as_ref(), node, off, leader).await;
        Ok(Response::new(test))
    }
}
