//! A control service on fakes of its ports.

use crate::api::control::ControlService;
use crate::api::progress::ProgressStream;
use crate::api::refusal;
use crate::ports::{Consensus, DeviceTest, FenceDevices, Overview, ProposeError};
use agent_core::cluster::{
    Applied, Cause, ClusterState, Command, EpochRecord, Member, MemberKind, Promotion, SyncRule,
};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::pg::{Lsn, Position, TimelineHistory, TimelineId};
use agent_core::reason::Reason;
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::{
    ClusterView, HolderReport, NodeReport, PgObservation, PrimaryView, Receiver, Server, StandbyView,
    VoterReport,
};
use futures::future::BoxFuture;
use proto::control as wire;
use proto::control::control_server::Control;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

pub(super) const N1: NodeId = NodeId(1);
pub(super) const N2: NodeId = NodeId(2);
pub(super) const N3: NodeId = NodeId(3);
pub(super) const W4: NodeId = NodeId(4);

/// A consensus of one node that applies at once, or fails as it is told.
pub(super) struct FakeConsensus {
    pub(super) state: watch::Sender<Arc<ClusterState>>,
    pub(super) failure: Mutex<Option<ProposeError>>,
    pub(super) proposed: Mutex<Vec<Command>>,
}

impl FakeConsensus {
    pub(super) fn apply(&self, command: &Command) -> Result<Applied, ProposeError> {
        let mut state = ClusterState::clone(&self.state.borrow());
        let outcome = state.apply(command);
        self.state.send_replace(Arc::new(state));
        Ok(outcome?)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ClusterState)) {
        let mut state = ClusterState::clone(&self.state.borrow());
        change(&mut state);
        self.state.send_replace(Arc::new(state));
    }

    pub(super) fn proposals(&self) -> usize {
        self.proposed.lock().expect("no panic").len()
    }
}

impl Consensus for FakeConsensus {
    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }
    fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.subscribe()
    }
    fn node_id(&self) -> NodeId {
        N3
    }
    fn raft_leader(&self) -> Option<NodeId> {
        Some(N2)
    }
    fn leads(&self) -> bool {
        false
    }
    fn applied_index(&self) -> u64 {
        42
    }
    fn propose(&self, command: Command, _: Duration) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        self.proposed.lock().expect("no panic").push(command.clone());
        Box::pin(async move {
            match self.failure.lock().expect("no panic").clone() {
                Some(failure) => Err(failure),
                None => self.apply(&command),
            }
        })
    }
    fn add_member(&self, request: RequestId, member: Member) -> BoxFuture<'_, Result<NodeId, ProposeError>> {
        Box::pin(async move {
            match self.apply(&Command::AddMember {
                request,
                member,
                at: WallTime(1),
            })? {
                Applied::Member { node } => Ok(node),
                other => panic!("{other:?}"),
            }
        })
    }
    fn remove_member(&self, request: RequestId, node: NodeId) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(async move {
            self.apply(&Command::RemoveMember {
                request,
                node,
                at: WallTime(1),
            })
            .map(|_| ())
        })
    }
}

/// What was heard of each node, and how long ago.
pub(super) struct FakeOverview {
    pub(super) reports: Mutex<BTreeMap<NodeId, (Duration, NodeReport)>>,
}

/// Devices that n2's agent reaches and the others do not.
struct FakeDevices;

impl FakeDevices {
    fn answer(by: NodeId, power: &str) -> DeviceTest {
        let reached = by == N2;
        DeviceTest {
            by,
            power: if reached { power } else { "" }.to_owned(),
            device: "a device".to_owned(),
            output: String::new(),
            error: if reached { "" } else { "no route" }.to_owned(),
            elapsed: Duration::from_millis(7),
        }
    }
}

impl FenceDevices for FakeDevices {
    fn test(&self, target: NodeId) -> BoxFuture<'_, Vec<DeviceTest>> {
        let others = [N1, N2, N3].into_iter().filter(|by| *by != target);
        let answers: Vec<DeviceTest> = others.map(|by| FakeDevices::answer(by, "on")).collect();
        Box::pin(async move { answers })
    }
    fn turn_off(&self, _: NodeId, by: NodeId) -> BoxFuture<'_, DeviceTest> {
        Box::pin(async move { FakeDevices::answer(by, "off") })
    }
}

impl Overview for FakeOverview {
    fn view(&self) -> ClusterView {
        let reports = self.reports.lock().expect("no panic");
        let reports = reports
            .iter()
            .map(|(node, (_, report))| (*node, (MonoTime(0), report.clone())));
        ClusterView {
            reports: reports.collect(),
        }
    }
    fn report_age(&self, node: NodeId) -> Option<Duration> {
        self.reports
            .lock()
            .expect("no panic")
            .get(&node)
            .map(|(age, _)| *age)
    }
    fn explain(&self) -> BoxFuture<'_, Result<Vec<Reason>, ProposeError>> {
        Box::pin(async { Ok(vec![Reason::shut("lease-is-over", "n1 renews", "nothing")]) })
    }
    fn explain_node(&self) -> Vec<Reason> {
        vec![Reason::open("follows-holder", "streams from n1")]
    }
}

pub(super) struct Rig {
    pub(super) service: ControlService,
    pub(super) consensus: Arc<FakeConsensus>,
    pub(super) overview: Arc<FakeOverview>,
}

pub(super) fn member(name: &str, kind: MemberKind) -> Member {
    Member {
        name: name.to_owned(),
        kind,
        peer: format!("{name}:7432"),
        http: format!("{name}:8008"),
        postgres: format!("{name}:5432"),
        tags: BTreeMap::new(),
        nofailover: false,
    }
}

pub(super) fn report(node: NodeId, server: Server) -> NodeReport {
    NodeReport {
        node,
        incarnation: 1,
        pg: Some(PgObservation {
            server,
            control: None,
            version_num: 150_000,
            postmaster_pid: None,
            trouble: None,
            pending_restart: Vec::new(),
            vitals: Default::default(),
        }),
        voter: VoterReport::default(),
        holder: None,
        pledge: Epoch(5),
        applied: 40,
        prepared_for: None,
        explain: Vec::new(),
        agent_version: "0.1.0".to_owned(),
        watchdog: None,
        fencing: None,
        archive: None,
    }
}

pub(super) fn at(lsn: u64) -> Position {
    Position {
        timeline: TimelineId(3),
        lsn: Lsn(lsn),
    }
}

pub(super) fn primary(lsn: u64) -> NodeReport {
    let history = TimelineHistory {
        timeline: TimelineId(3),
        switches: Vec::new(),
    };
    let view = PrimaryView {
        position: at(lsn),
        history,
        synchronous_standby_names: String::new(),
        standbys: Vec::new(),
        read_only: false,
    };
    let holder = HolderReport {
        epoch: Epoch(5),
        left: Duration::from_secs(2),
        gate_open: true,
        fenced: None,
    };
    NodeReport {
        holder: Some(holder),
        ..report(N1, Server::Primary(view))
    }
}

pub(super) fn standby(node: NodeId, lsn: u64) -> NodeReport {
    let view = StandbyView {
        position: at(lsn),
        replay: Lsn(lsn),
        replay_age_ms: Some(1_500),
        upstream: None,
        receiver: Some(Receiver {
            streaming: true,
            latest_end: Lsn(lsn),
        }),
        replay_paused: false,
    };
    report(node, Server::Standby(view))
}

/// Three data nodes and a witness; n1 holds epoch 5, commits wait for any one of n2 and n3; all are heard of.
pub(super) fn rig() -> Rig {
    let state = ClusterState {
        name: "demo".to_owned(),
        members: BTreeMap::from([
            (N1, member("n1", MemberKind::Data)),
            (N2, member("n2", MemberKind::Data)),
            (N3, member("n3", MemberKind::Data)),
            (W4, member("w4", MemberKind::Witness)),
        ]),
        next_node: 5,
        epoch: Epoch(5),
        holder: Some(N1),
        timeline: TimelineId(3),
        sync: vec![SyncRule {
            epoch: Epoch(5),
            primary: N1,
            k: 1,
            members: BTreeSet::from([N2, N3]),
        }],
        ..ClusterState::default()
    };
    let (state, _) = watch::channel(Arc::new(state));
    let consensus = Arc::new(FakeConsensus {
        state,
        failure: Mutex::new(None),
        proposed: Mutex::default(),
    });
    let fresh = |report: NodeReport| (report.node, (Duration::from_millis(200), report));
    let reports = BTreeMap::from([
        fresh(primary(0x3000)),
        fresh(standby(N2, 0x2F00)),
        fresh(standby(N3, 0x3000)),
    ]);
    let overview = Arc::new(FakeOverview {
        reports: Mutex::new(reports),
    });
    let service = ControlService::new(consensus.clone(), overview.clone(), Arc::new(FakeDevices));
    Rig {
        service,
        consensus,
        overview,
    }
}

impl Rig {
    pub(super) fn silence(&self, node: NodeId) {
        let mut reports = self.overview.reports.lock().expect("no panic");
        reports.get_mut(&node).expect("a report").0 = Duration::from_secs(60);
    }

    pub(super) fn grant(&self, to: NodeId, cause: Cause) {
        self.consensus.change(|state| {
            state.epoch = state.epoch.next();
            state.holder = Some(to);
            state.history.push_back(EpochRecord {
                epoch: state.epoch,
                holder: to,
                holder_name: state.name_of(to),
                cause,
                why: "test".to_owned(),
                proof: Vec::new(),
                timeline: state.timeline,
                position: None,
                granted_at: WallTime(1),
                opened_at: None,
                may_have_lost_bytes: None,
                stonith: Vec::new(),
            });
            state.failover_order = None;
            if let Some(running) = state.switchover.take() {
                state.last_switchover = Some(agent_core::cluster::SwitchoverOutcome {
                    request: running.request,
                    from: running.from,
                    to: running.to,
                    succeeded: running.to == to,
                    message: "test".to_owned(),
                });
            }
        });
    }

    pub(super) fn open_gate(&self) {
        self.consensus.change(|state| {
            state.promotion = Some(Promotion {
                epoch: state.epoch,
                timeline: state.timeline,
                lsn: Lsn(1),
            });
        });
    }

    pub(super) async fn switchover(&self, request: &str, to: &str) -> Result<ProgressStream, Status> {
        let request = wire::SwitchoverRequest {
            request: request.to_owned(),
            to: to.to_owned(),
        };
        self.service
            .switchover(Request::new(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub(super) async fn failover(&self, to: &str, accept: bool) -> Result<ProgressStream, Status> {
        let request = wire::FailoverRequest {
            request: "f1".to_owned(),
            to: to.to_owned(),
            accept_data_loss: accept,
        };
        self.service
            .failover(Request::new(request))
            .await
            .map(tonic::Response::into_inner)
    }
}

pub(super) async fn next(stream: &mut ProgressStream) -> wire::Progress {
    let told = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    told.expect("in time").expect("a message").expect("no error")
}

#[track_caller]
pub(super) fn refused<T>(result: Result<T, Status>, code: Code, id: &str) {
    let Err(status) = result else {
        panic!("it was taken")
    };
    let found = status
        .metadata()
        .get(refusal::ID)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    assert_eq!((status.code(), found), (code, id), "{}", status.message());
}

pub(super) fn assignment(key: &str, value: &str) -> wire::Assignment {
    wire::Assignment {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}
