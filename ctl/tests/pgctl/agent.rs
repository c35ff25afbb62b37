//! Agents that answer from a script, and the program run against them.

use proto::control::control_server::{Control, ControlServer};
use proto::control::{
    self as wire, Change, Cluster, Event, Explanation, FailoverRisk, MemberAdded, Outcome, Progress,
};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

pub type Told = Result<Progress, Status>;

/// An agent that answers as it was told to.
#[derive(Default, Clone)]
pub struct Agent {
    pub script: Arc<Mutex<Script>>,
}

#[derive(Default)]
pub struct Script {
    pub cluster: Cluster,
    /// What each write is answered with; the last one again and again.
    pub refusal: Option<Status>,
    pub risk: FailoverRisk,
    pub fence_test: wire::FenceTest,
    /// The messages of each stream that is opened, one after the other. A stream without an outcome breaks off.
    pub streams: VecDeque<Vec<Told>>,
    pub events: Vec<Event>,
    /// The request ids that were seen.
    pub requests: Vec<String>,
}

impl Agent {
    fn write(&self, request: &str) -> Result<Response<Change>, Status> {
        let mut script = self.script.lock().expect("no panic");
        script.requests.push(request.to_owned());
        match &script.refusal {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(Change { changed: true })),
        }
    }

    fn stream(&self, request: String) -> Result<Response<ReceiverStream<Told>>, Status> {
        let mut script = self.script.lock().expect("no panic");
        script.requests.push(request);
        if let Some(status) = &script.refusal {
            return Err(status.clone());
        }
        let messages = script.streams.pop_front().unwrap_or_default();
        let (tell, told) = tokio::sync::mpsc::channel(messages.len().max(1));
        for message in messages {
            tell.try_send(message).expect("room");
        }
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

#[tonic::async_trait]
impl Control for Agent {
    type EventsStream = ReceiverStream<Result<Event, Status>>;
    type SwitchoverStream = ReceiverStream<Told>;
    type FailoverStream = ReceiverStream<Told>;

    async fn get_cluster(&self, _: Request<wire::GetClusterRequest>) -> Result<Response<Cluster>, Status> {
        Ok(Response::new(
            self.script.lock().expect("no panic").cluster.clone(),
        ))
    }
    async fn explain(&self, _: Request<wire::ExplainRequest>) -> Result<Response<Explanation>, Status> {
        let gate = wire::Gate {
            id: "old-holder-is-fenced".to_owned(),
            open: false,
            found: "only n1 has released it".to_owned(),
            next: "start n2 or n3".to_owned(),
        };
        Ok(Response::new(Explanation {
            cluster: vec![gate],
            ..Explanation::default()
        }))
    }
    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let from = request.into_inner().from;
        let events = self.script.lock().expect("no panic").events.clone();
        let (tell, told) = tokio::sync::mpsc::channel(events.len().max(1));
        for event in events.into_iter().filter(|event| event.number >= from) {
            tell.try_send(Ok(event)).expect("room");
        }
        Ok(Response::new(ReceiverStream::new(told)))
    }
    async fn switchover(
        &self,
        request: Request<wire::SwitchoverRequest>,
    ) -> Result<Response<ReceiverStream<Told>>, Status> {
        self.stream(request.into_inner().request)
    }
    async fn preview_failover(
        &self,
        _: Request<wire::PreviewFailoverRequest>,
    ) -> Result<Response<FailoverRisk>, Status> {
        Ok(Response::new(self.script.lock().expect("no panic").risk.clone()))
    }
    async fn failover(
        &self,
        request: Request<wire::FailoverRequest>,
    ) -> Result<Response<ReceiverStream<Told>>, Status> {
        self.stream(request.into_inner().request)
    }
    async fn pause(&self, request: Request<wire::PauseRequest>) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn resume(&self, request: Request<wire::ResumeRequest>) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn get_settings(
        &self,
        _: Request<wire::GetSettingsRequest>,
    ) -> Result<Response<wire::Settings>, Status> {
        let setting = wire::Setting {
            key: "sync_standbys".to_owned(),
            value: "1".to_owned(),
            default: "1".to_owned(),
            ..wire::Setting::default()
        };
        Ok(Response::new(wire::Settings {
            version: 7,
            settings: vec![setting],
        }))
    }
    async fn change_settings(
        &self,
        request: Request<wire::ChangeSettingsRequest>,
    ) -> Result<Response<wire::Settings>, Status> {
        let request = request.into_inner();
        self.write(&request.request)?;
        let setting = |given: wire::Assignment| wire::Setting {
            key: given.key,
            value: given.value,
            ..wire::Setting::default()
        };
        let settings = request.assignments.into_iter().map(setting).collect();
        Ok(Response::new(wire::Settings {
            version: request.version + 1,
            settings,
        }))
    }
    async fn check_settings(
        &self,
        _: Request<wire::CheckSettingsRequest>,
    ) -> Result<Response<wire::SettingsCheck>, Status> {
        Ok(Response::new(wire::SettingsCheck::default()))
    }
    async fn add_member(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<MemberAdded>, Status> {
        self.write(&request.into_inner().request)?;
        Ok(Response::new(MemberAdded { id: 4 }))
    }
    async fn remove_member(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn maintenance(
        &self,
        request: Request<wire::MaintenanceRequest>,
    ) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn fence_node(&self, request: Request<wire::FenceNodeRequest>) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn unfence_node(
        &self,
        request: Request<wire::UnfenceNodeRequest>,
    ) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn confirm_off(
        &self,
        request: Request<wire::ConfirmOffRequest>,
    ) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn test_fence(
        &self,
        _: Request<wire::TestFenceRequest>,
    ) -> Result<Response<wire::FenceTest>, Status> {
        Ok(Response::new(
            self.script.lock().expect("no panic").fence_test.clone(),
        ))
    }
}

/// A running agent; it ends with the test.
pub struct Running {
    pub agent: Agent,
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

pub fn start(agent: Agent) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    let service = ControlServer::new(agent.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let incoming =
                TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).expect("a socket"));
            let ended = async {
                let _ = stopped.await;
            };
            let server = tonic::transport::Server::builder().add_service(service);
            server
                .serve_with_incoming_shutdown(incoming, ended)
                .await
                .expect("a server");
        });
    });
    Running {
        agent,
        address,
        _stop: stop,
    }
}

pub fn scripted(script: Script) -> Running {
    start(Agent {
        script: Arc::new(Mutex::new(script)),
    })
}

pub fn refusal(code: Code, id: &'static str, message: &str, next: &str) -> Status {
    let mut status = Status::new(code, message);
    status
        .metadata_mut()
        .insert("pgctl-id", MetadataValue::from_static(id));
    status
        .metadata_mut()
        .insert_bin("pgctl-next-bin", BinaryMetadataValue::from_bytes(next.as_bytes()));
    status
}

/// An address on which nobody listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

pub fn pgctl(endpoints: &[SocketAddr], words: &[&str]) -> Output {
    let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    Command::new(env!("CARGO_BIN_EXE_pgctl"))
        .args(words)
        .env_clear()
        .env("PGCTL_ENDPOINT", endpoints.join(","))
        .output()
        .expect("the program runs")
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", out(output)))
}

fn fence_layer(state: &str, detail: &str) -> wire::FenceLayer {
    wire::FenceLayer {
        state: state.to_owned(),
        detail: detail.to_owned(),
    }
}

pub fn cluster() -> Cluster {
    let member = |id: u64, name: &str| wire::Member {
        id,
        name: name.to_owned(),
        kind: "data".to_owned(),
        role: if id == 1 {
            "primary".to_owned()
        } else {
            "standby".to_owned()
        },
        state: if id == 1 {
            "running".to_owned()
        } else {
            "streaming".to_owned()
        },
        peer: format!("{name}:7432"),
        postgres: format!("{name}:5432"),
        holder: id == 1,
        voter: true,
        in_sync_set: id != 1,
        upstream: if id == 1 {
            String::new()
        } else {
            "n1:5432".to_owned()
        },
        lag_bytes: (id != 1).then_some(2048),
        report_age_ms: Some(100),
        guard: Some(fence_layer("on", "")),
        kernel_lease: Some(match id {
            1 => fence_layer("on", ""),
            _ => fence_layer("missing", "give the agent CAP_NET_ADMIN"),
        }),
        ..wire::Member::default()
    };
    Cluster {
        name: "demo".to_owned(),
        epoch: 5,
        holder: "n1".to_owned(),
        writable: true,
        members: vec![member(1, "n1"), member(2, "n2")],
        sync: Some(wire::SyncSet {
            mode: "quorum".to_owned(),
            required: 1,
            members: vec!["n2".to_owned()],
            ..wire::SyncSet::default()
        }),
        history: vec![wire::EpochRecord {
            epoch: 5,
            holder: "n1".to_owned(),
            cause: "failover".to_owned(),
            why: "n3 was silent".to_owned(),
            granted_at_unix_ms: 1_709_251_200_000,
            opened_at_unix_ms: Some(1_709_251_200_350),
            ..wire::EpochRecord::default()
        }],
        ..Cluster::default()
    }
}

pub fn stage(phase: &str, succeeded: Option<bool>) -> Told {
    let outcome = succeeded.map(|succeeded| Outcome {
        succeeded,
        from: "n1".to_owned(),
        to: "n2".to_owned(),
        epoch: 6,
        timeline: 4,
    });
    Ok(Progress {
        phase: phase.to_owned(),
        message: format!("it is {phase}"),
        elapsed_ms: 120,
        outcome,
    })
}
