//! Rollouts for `pgctl`.

use super::sql::Db;
use super::{Rollouts, convert, janitor, schema, trace, versions};
use crate::ports::{ProposeError, SchemaServer, SqlError, SqlRole};
use crate::wall_time::stamp;
use agent_core::cluster::{Command, Rejected, RolloutAct, RolloutStep};
use agent_core::ids::RequestId;
use proto::rollout as wire;
use proto::rollout::rollout_server::{Rollout as Wire, RolloutServer};
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

const PROPOSE_WITHIN: Duration = Duration::from_secs(10);

/// Answers `pgctl`, on any node.
pub struct RolloutService {
    rollouts: Arc<Rollouts>,
}

impl RolloutService {
    /// The service over this node's rollouts, as tonic's router takes it.
    #[must_use]
    pub fn server(rollouts: Arc<Rollouts>) -> RolloutServer<RolloutService> {
        RolloutServer::new(RolloutService { rollouts })
    }

    fn server_here(&self) -> Result<&Arc<dyn SchemaServer>, Status> {
        self.rollouts.server.as_ref().ok_or_else(|| {
            // Another agent is asked then.
            refuse(
                Code::Unavailable,
                "witness",
                "this node has no server to look at",
                "ask another agent",
            )
        })
    }

    fn node_name(&self) -> String {
        let state = self.rollouts.consensus.state();
        state.name_of(self.rollouts.consensus.node_id())
    }

    fn permitted(&self) -> Result<(), Status> {
        if self.server_here()?.rollout_role().is_some() {
            return Ok(());
        }
        Err(refuse(
            Code::FailedPrecondition,
            "no-rollout-role",
            format!(
                "{} has no role in whose name a schema could be changed",
                self.node_name()
            ),
            "set rollout.role in node.toml on every node (docs/config.md), and restart the agents",
        ))
    }

    async fn propose(&self, request: Option<RequestId>, act: RolloutAct) -> Result<(), Status> {
        let command = Command::Rollout {
            request,
            act: Box::new(act),
            at: stamp(),
        };
        let answer = self.rollouts.consensus.propose(command, PROPOSE_WITHIN).await;
        answer.map(drop).map_err(of_propose)
    }

    fn status(&self) -> wire::Status {
        let state = self.rollouts.consensus.state();
        let rollout = state.rollouts.current.as_ref();
        let holder = state.holder.and_then(|holder| state.members.get(&holder));
        let here = state.holder == Some(self.rollouts.consensus.node_id());
        wire::Status {
            rollout: rollout.map(convert::rollout),
            executor: holder.map(|member| member.peer.clone()).unwrap_or_default(),
            live: rollout
                .filter(|_| here)
                .and_then(|rollout| convert::live(rollout, &self.rollouts.live.borrow())),
        }
    }
}

#[tonic::async_trait]
impl Wire for RolloutService {
    async fn schema(
        &self,
        request: Request<wire::SchemaRequest>,
    ) -> Result<Response<wire::SchemaReply>, Status> {
        let database = request.into_inner().database;
        let server = self.server_here()?;
        // Names of tables and columns are told to those only who may change them.
        self.permitted()?;
        let reply = schema::of(server.as_ref(), &database, self.node_name()).await;
        reply.map(Response::new).map_err(of_sql)
    }

    async fn trace(
        &self,
        request: Request<wire::TraceRequest>,
    ) -> Result<Response<wire::TraceReply>, Status> {
        let wire::TraceRequest { database, steps } = request.into_inner();
        let server = self.server_here()?;
        self.permitted()?;
        let steps: Result<Vec<RolloutStep>, String> = steps.into_iter().map(convert::step).collect();
        let steps = steps.map_err(|why| refuse(Code::InvalidArgument, "bad-rollout", why, ""))?;
        let _one_at_a_time = self.rollouts.scratch.lock().await;
        let traced = trace::of(server.as_ref(), &database, &steps)
            .await
            .map_err(|why| {
                refuse(
                    Code::FailedPrecondition,
                    "no-trace",
                    why,
                    "plan with --no-trace, which judges by the text and the catalogue",
                )
            })?;
        Ok(Response::new(wire::TraceReply {
            node: self.node_name(),
            server_version: server.server_version(),
            steps: traced,
        }))
    }

    async fn start(&self, request: Request<wire::StartRequest>) -> Result<Response<wire::Status>, Status> {
        let wire::StartRequest { request, plan } = request.into_inner();
        let request = request_id(request)?;
        self.permitted()?;
        let plan = convert::plan(plan.unwrap_or_default())
            .map_err(|why| refuse(Code::InvalidArgument, "bad-rollout", why, ""))?;
        self.propose(Some(request), RolloutAct::Start { plan }).await?;
        Ok(Response::new(self.status()))
    }

    async fn get_status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::Status>, Status> {
        Ok(Response::new(self.status()))
    }

    async fn direct(&self, request: Request<wire::DirectRequest>) -> Result<Response<wire::Status>, Status> {
        let wire::DirectRequest { request, order, undo } = request.into_inner();
        let request = request_id(request)?;
        let current = self
            .rollouts
            .consensus
            .state()
            .rollouts
            .current
            .as_ref()
            .map(|it| it.id.clone());
        let Some(id) = current else {
            return Err(refuse(
                Code::FailedPrecondition,
                "no-such-rollout",
                "there is no rollout",
                "begin one with `pgctl ddl apply`",
            ));
        };
        let act = match order.as_str() {
            "pause" => RolloutAct::Pause { id },
            "resume" => RolloutAct::Resume { id },
            "abort" => RolloutAct::Abort { id, undo },
            other => {
                let message = format!("{other:?} is no order: pause, resume and abort are");
                return Err(refuse(Code::InvalidArgument, "bad-order", message, ""));
            }
        };
        self.propose(Some(request), act).await?;
        Ok(Response::new(self.status()))
    }

    async fn history(
        &self,
        _: Request<wire::HistoryRequest>,
    ) -> Result<Response<wire::HistoryReply>, Status> {
        let state = self.rollouts.consensus.state();
        Ok(Response::new(wire::HistoryReply {
            rollouts: state.rollouts.past.iter().map(convert::past).collect(),
        }))
    }

    async fn versions(
        &self,
        request: Request<wire::VersionsRequest>,
    ) -> Result<Response<wire::VersionsReply>, Status> {
        let wire::VersionsRequest { database, tables } = request.into_inner();
        let server = self.server_here()?.as_ref();
        self.permitted()?;
        let reply = versions::of(server, &database, &tables, self.node_name()).await;
        reply.map(Response::new).map_err(of_sql)
    }

    async fn janitor(
        &self,
        request: Request<wire::JanitorRequest>,
    ) -> Result<Response<wire::JanitorReply>, Status> {
        let wire::JanitorRequest { database, repair } = request.into_inner();
        let server = self.server_here()?.as_ref();
        self.permitted()?;
        let agent = Db::open(server, &database, SqlRole::Agent, &[])
            .await
            .map_err(of_sql)?;
        let mut leftovers = janitor::look(&agent).await.map_err(of_sql)?;
        if repair {
            self.may_repair()?;
            let worker = Db::open(server, &database, SqlRole::Rollout, &["synchronous_commit=local"]).await;
            let worker = worker.map_err(of_sql)?;
            janitor::repair(&worker, &agent, &mut leftovers)
                .await
                .map_err(of_sql)?;
        }
        Ok(Response::new(wire::JanitorReply {
            node: self.node_name(),
            leftovers,
        }))
    }
}

impl RolloutService {
    fn may_repair(&self) -> Result<(), Status> {
        let state = self.rollouts.consensus.state();
        if (self.rollouts.writable)() != Some(state.epoch) {
            return Err(refuse(
                Code::Unavailable,
                "not-the-primary",
                format!("{} is not the primary", self.node_name()),
                "ask the primary's agent",
            ));
        }
        let busy = state
            .rollouts
            .current
            .as_ref()
            .filter(|rollout| !rollout.phase.ended());
        match busy {
            Some(rollout) => Err(refuse(
                Code::FailedPrecondition,
                "rollout-under-way",
                format!("the rollout of {} is {}", rollout.plan.name, rollout.phase.name()),
                "wait for it, or `pgctl ddl abort`: what looks left behind may be what it is building",
            )),
            None => Ok(()),
        }
    }
}

fn request_id(id: String) -> Result<RequestId, Status> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 64 || !id.chars().all(plain) {
        return Err(refuse(
            Code::InvalidArgument,
            "bad-request-id",
            "a request id is 1 to 64 of a-z A-Z 0-9 - _ .",
            "give each request an id of its own, such as a UUID",
        ));
    }
    Ok(RequestId(id))
}

/// As `pgctl` reads a refusal: an id, and what to do next.
fn refuse(code: Code, id: &str, message: impl Into<String>, next: &str) -> Status {
    let mut status = Status::new(code, message);
    if let Ok(value) = MetadataValue::try_from(id) {
        status.metadata_mut().insert("pgctl-id", value);
    }
    status
        .metadata_mut()
        .insert_bin("pgctl-next-bin", BinaryMetadataValue::from_bytes(next.as_bytes()));
    status
}

fn of_sql(error: SqlError) -> Status {
    match error.code.as_deref() {
        Some("3D000") => refuse(
            Code::FailedPrecondition,
            "no-such-database",
            error.message,
            "name one with --database",
        ),
        Some(_) => refuse(
            Code::FailedPrecondition,
            "refused-by-the-server",
            error.message,
            "",
        ),
        None => refuse(
            Code::Unavailable,
            "no-server",
            error.message,
            "see `pgctl list`; another agent may have a server that runs",
        ),
    }
}

fn of_propose(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(Rejected::Conflict { id, message }) => {
            refuse(Code::FailedPrecondition, &id, message, "see `pgctl ddl status`")
        }
        ProposeError::Rejected(rejected) => {
            refuse(Code::FailedPrecondition, "refused", rejected.to_string(), "")
        }
        ProposeError::Unknown { .. } => refuse(
            Code::Unknown,
            "outcome-unknown",
            error.to_string(),
            "look with `pgctl ddl status`; the same request id may be sent again",
        ),
        ProposeError::NoLeader { .. } | ProposeError::Stopped { .. } => refuse(
            Code::Unavailable,
            "no-raft-leader",
            error.to_string(),
            "a majority of the agents must run and reach each other: see `pgctl status` on each node",
        ),
    }
}
