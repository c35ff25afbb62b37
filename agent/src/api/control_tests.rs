use super::control::ControlService;
use super::progress::{Kind, Watched, stage};
use super::refusal;
use crate::ports::{Consensus, Overview, ProposeError};
use agent_core::cluster::{
    Applied, Cause, ClusterState, Command, EpochRecord, Member, MemberKind, Promotion, Settings, SyncRule,
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

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const W4: NodeId = NodeId(4);

/// A consensus of one node that applies at once, or fails as it is told.
struct FakeConsensus {
    state: watch::Sender<Arc<ClusterState>>,
    failure: Mutex<Option<ProposeError>>,
    proposed: Mutex<Vec<Command>>,
}

impl FakeConsensus {
    fn apply(&self, command: &Command) -> Result<Applied, ProposeError> {
        let mut state = ClusterState::clone(&self.state.borrow());
        let outcome = state.apply(command);
        self.state.send_replace(Arc::new(state));
        Ok(outcome?)
    }

    fn change(&self, change: impl FnOnce(&mut ClusterState)) {
        let mut state = ClusterState::clone(&self.state.borrow());
        change(&mut state);
        self.state.send_replace(Arc::new(state));
    }

    fn proposals(&self) -> usize {
        self.proposed.lock().expect("no panic").len()
    }
}

impl Consensus for FakeConsensus {
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
struct FakeOverview {
    reports: Mutex<BTreeMap<NodeId, (Duration, NodeReport)>>,
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

struct Rig {
    service: ControlService,
    consensus: Arc<FakeConsensus>,
    overview: Arc<FakeOverview>,
}

fn member(name: &str, kind: MemberKind) -> Member {
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

fn report(node: NodeId, server: Server) -> NodeReport {
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
        }),
        voter: VoterReport::default(),
        holder: None,
        pledge: Epoch(5),
        applied: 40,
        explain: Vec::new(),
        agent_version: "0.1.0".to_owned(),
    }
}

fn at(lsn: u64) -> Position {
    Position {
        timeline: TimelineId(3),
        lsn: Lsn(lsn),
    }
}

fn primary(lsn: u64) -> NodeReport {
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

fn standby(node: NodeId, lsn: u64) -> NodeReport {
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
fn rig() -> Rig {
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
    let service = ControlService::new(consensus.clone(), overview.clone());
    Rig {
        service,
        consensus,
        overview,
    }
}

impl Rig {
    fn silence(&self, node: NodeId) {
        let mut reports = self.overview.reports.lock().expect("no panic");
        reports.get_mut(&node).expect("a report").0 = Duration::from_secs(60);
    }

    fn grant(&self, to: NodeId, cause: Cause) {
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

    fn open_gate(&self) {
        self.consensus.change(|state| {
            state.promotion = Some(Promotion {
                epoch: state.epoch,
                timeline: state.timeline,
                lsn: Lsn(1),
            });
        });
    }

    async fn switchover(&self, request: &str, to: &str) -> Result<super::progress::ProgressStream, Status> {
        let request = wire::SwitchoverRequest {
            request: request.to_owned(),
            to: to.to_owned(),
        };
        self.service
            .switchover(Request::new(request))
            .await
            .map(tonic::Response::into_inner)
    }

    async fn failover(&self, to: &str, accept: bool) -> Result<super::progress::ProgressStream, Status> {
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

async fn next(stream: &mut super::progress::ProgressStream) -> wire::Progress {
    let told = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    told.expect("in time").expect("a message").expect("no error")
}

#[track_caller]
fn refused<T>(result: Result<T, Status>, code: Code, id: &str) {
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

fn assignment(key: &str, value: &str) -> wire::Assignment {
    wire::Assignment {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

#[tokio::test]
async fn the_cluster_is_shown_with_what_was_heard_of_each_node() {
    let rig = rig();
    rig.silence(N2);
    let shown = rig
        .service
        .get_cluster(Request::new(wire::GetClusterRequest {}))
        .await
        .expect("shown")
        .into_inner();
    assert_eq!(
        (shown.name.as_str(), shown.epoch, shown.holder.as_str()),
        ("demo", 5, "n1")
    );
    assert!(shown.writable);
    assert_eq!(
        (shown.answered_by.as_str(), shown.raft_leader.as_str()),
        ("n3", "n2")
    );
    let states: Vec<(&str, &str, Option<u64>)> = shown
        .members
        .iter()
        .map(|member| (member.role.as_str(), member.state.as_str(), member.lag_bytes))
        .collect();
    assert_eq!(
        states,
        [
            ("primary", "running", None),
            ("standby", "silent", Some(0x100)),
            ("standby", "streaming", Some(0)),
            ("witness", "unknown", None)
        ]
    );
}

#[tokio::test]
async fn the_cluster_is_not_writable_once_the_holders_report_is_older_than_its_lease() {
    let rig = rig();
    rig.silence(N1);
    let shown = rig
        .service
        .get_cluster(Request::new(wire::GetClusterRequest {}))
        .await
        .expect("shown")
        .into_inner();
    assert!(!shown.writable);
}

#[tokio::test]
async fn a_switchover_without_a_target_goes_to_the_furthest_synchronous_standby_and_is_told_to_its_end() {
    let rig = rig();
    let mut stream = rig.switchover("s1", "").await.expect("started");
    let told = next(&mut stream).await;
    assert_eq!(told.phase, "preparing");
    assert!(told.message.contains("n3"), "{}", told.message);
    let request = RequestId("s1".to_owned());
    rig.consensus
        .apply(&Command::StopForSwitchover {
            request,
            at: WallTime(2),
        })
        .expect("applied");
    assert_eq!(next(&mut stream).await.phase, "stopping");
    rig.grant(N3, Cause::Switchover);
    assert_eq!(next(&mut stream).await.phase, "granted");
    rig.open_gate();
    let told = next(&mut stream).await;
    let outcome = told.outcome.expect("the end");
    assert!(outcome.succeeded);
    assert_eq!(
        (outcome.from.as_str(), outcome.to.as_str(), outcome.epoch),
        ("n1", "n3", 6)
    );
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn an_aborted_switchover_says_why() {
    let rig = rig();
    let mut stream = rig.switchover("s1", "n2").await.expect("started");
    assert_eq!(next(&mut stream).await.phase, "preparing");
    let request = RequestId("s1".to_owned());
    rig.consensus
        .apply(&Command::EndSwitchover {
            request,
            why: "n2 lags".to_owned(),
            at: WallTime(2),
        })
        .expect("applied");
    let told = next(&mut stream).await;
    assert_eq!(
        (told.phase.as_str(), told.message.as_str()),
        ("failed", "n2 lags")
    );
    assert!(!told.outcome.expect("the end").succeeded);
}

#[tokio::test]
async fn the_same_switchover_sent_twice_is_one_switchover() {
    let rig = rig();
    let _first = rig.switchover("s1", "n2").await.expect("started");
    // Meanwhile n2 would no longer do: the second request must not be judged by that.
    rig.silence(N2);
    let mut second = rig.switchover("s1", "n2").await.expect("joined");
    assert_eq!(next(&mut second).await.phase, "preparing");
    assert_eq!(rig.consensus.proposals(), 1);
    rig.grant(N2, Cause::Switchover);
    rig.open_gate();
    let mut third = rig.switchover("s1", "n2").await.expect("joined after its end");
    assert!(next(&mut third).await.outcome.expect("the end").succeeded);
}

#[tokio::test]
async fn targets_that_cannot_be_are_refused_before_anything_is_begun() {
    let rig = rig();
    for (to, id) in [
        ("n9", "not-a-member"),
        ("w4", "witness"),
        ("n1", "already-primary"),
    ] {
        refused(rig.switchover("s1", to).await, Code::FailedPrecondition, id);
    }
    rig.silence(N2);
    refused(
        rig.switchover("s1", "n2").await,
        Code::FailedPrecondition,
        "target-is-gone",
    );
    rig.silence(N3);
    refused(
        rig.switchover("s1", "").await,
        Code::FailedPrecondition,
        "no-target",
    );
    assert_eq!(rig.consensus.proposals(), 0);
}

#[tokio::test]
async fn a_second_switchover_is_refused_while_one_is_under_way() {
    let rig = rig();
    let _first = rig.switchover("s1", "n2").await.expect("started");
    refused(
        rig.switchover("s2", "n3").await,
        Code::FailedPrecondition,
        "switchover-running",
    );
}

#[tokio::test]
async fn a_failover_that_may_lose_commits_is_refused_with_the_figures_until_that_is_accepted() {
    let rig = rig();
    rig.silence(N1);
    rig.silence(N3);
    let preview = wire::PreviewFailoverRequest { to: "n2".to_owned() };
    let risk = rig
        .service
        .preview_failover(Request::new(preview))
        .await
        .expect("a preview")
        .into_inner();
    assert_eq!(
        (risk.bytes_at_risk, risk.span_at_risk_ms),
        (Some(0x100), Some(60_000))
    );
    assert!(!risk.acknowledged_is_safe && risk.target_ready);
    let status = rig.failover("n2", false).await.expect_err("refused");
    assert!(status.message().contains("256 bytes"), "{}", status.message());
    refused(
        rig.failover("n2", false).await,
        Code::FailedPrecondition,
        "data-loss-not-accepted",
    );
    let mut stream = rig.failover("n2", true).await.expect("ordered");
    assert_eq!(next(&mut stream).await.phase, "ordered");
    rig.grant(N2, Cause::ManualFailover);
    assert_eq!(next(&mut stream).await.phase, "granted");
    rig.open_gate();
    assert!(next(&mut stream).await.outcome.expect("the end").succeeded);
}

#[tokio::test]
async fn a_failover_that_loses_nothing_acknowledged_needs_no_consent() {
    let rig = rig();
    rig.silence(N1);
    refused(
        rig.failover("n1", true).await,
        Code::FailedPrecondition,
        "already-primary",
    );
    let mut stream = rig.failover("n3", false).await.expect("ordered");
    assert_eq!(next(&mut stream).await.phase, "ordered");
}

#[tokio::test]
async fn a_dropped_failover_order_is_told_as_failed() {
    let rig = rig();
    let mut stream = rig.failover("n3", true).await.expect("ordered");
    assert_eq!(next(&mut stream).await.phase, "ordered");
    let request = RequestId("f1".to_owned());
    rig.consensus
        .apply(&Command::DropFailoverOrder {
            request,
            why: "n3 went away".to_owned(),
            at: WallTime(3),
        })
        .expect("applied");
    let told = next(&mut stream).await;
    assert_eq!(
        (told.phase.as_str(), told.message.as_str()),
        ("failed", "n3 went away")
    );
}

#[test]
fn a_request_that_this_node_has_not_applied_yet_is_waited_for() {
    let state = ClusterState::default();
    for kind in [Kind::Switchover, Kind::Failover] {
        let request = RequestId("x".to_owned());
        let watched = Watched {
            request,
            kind,
            from: None,
            to: N2,
            epoch: Epoch(0),
        };
        assert_eq!(stage(&state, &watched), None);
    }
}

#[tokio::test]
async fn failures_of_the_consensus_reach_the_client_as_what_they_are() {
    let rig = rig();
    let pause = || {
        Request::new(wire::PauseRequest {
            request: "p1".to_owned(),
            reason: "work".to_owned(),
        })
    };
    let fail = |error| *rig.consensus.failure.lock().expect("no panic") = Some(error);
    fail(ProposeError::NoLeader {
        waited: Duration::from_secs(1),
        detail: "test".to_owned(),
    });
    refused(
        rig.service.pause(pause()).await,
        Code::Unavailable,
        "no-raft-leader",
    );
    fail(ProposeError::Unknown {
        detail: "test".to_owned(),
    });
    refused(rig.service.pause(pause()).await, Code::Unknown, "outcome-unknown");
}

#[tokio::test]
async fn pause_resume_and_maintenance_say_whether_they_changed_anything() {
    let rig = rig();
    let resume = |id: &str| {
        Request::new(wire::ResumeRequest {
            request: id.to_owned(),
        })
    };
    let pause = wire::PauseRequest {
        request: "p1".to_owned(),
        reason: "work".to_owned(),
    };
    assert!(
        rig.service
            .pause(Request::new(pause))
            .await
            .expect("paused")
            .into_inner()
            .changed
    );
    assert_eq!(
        rig.consensus
            .state()
            .pause
            .as_ref()
            .map(|pause| pause.reason.clone()),
        Some("work".to_owned())
    );
    assert!(
        rig.service
            .resume(resume("r1"))
            .await
            .expect("resumed")
            .into_inner()
            .changed
    );
    assert!(
        !rig.service
            .resume(resume("r2"))
            .await
            .expect("resumed")
            .into_inner()
            .changed
    );
    let maintenance = |name: &str| {
        Request::new(wire::MaintenanceRequest {
            request: format!("m-{name}"),
            name: name.to_owned(),
            on: true,
        })
    };
    assert!(
        rig.service
            .maintenance(maintenance("n2"))
            .await
            .expect("done")
            .into_inner()
            .changed
    );
    refused(
        rig.service.maintenance(maintenance("n22")).await,
        Code::FailedPrecondition,
        "not-a-member",
    );
}

#[tokio::test]
async fn requests_without_an_id_of_their_own_are_refused() {
    let rig = rig();
    for id in ["", "two words", &"x".repeat(65)] {
        refused(
            rig.switchover(id, "n2").await,
            Code::InvalidArgument,
            "bad-request-id",
        );
    }
}

#[tokio::test]
async fn settings_change_from_the_version_that_was_read_and_only_as_a_whole() {
    let rig = rig();
    let change = |id: &str, version, assignments| {
        Request::new(wire::ChangeSettingsRequest {
            request: id.to_owned(),
            version,
            assignments,
        })
    };
    let wan = || vec![assignment("timing", "wan"), assignment("sync_mode", "strict")];
    let changed = rig
        .service
        .change_settings(change("c1", 0, wan()))
        .await
        .expect("changed")
        .into_inner();
    assert_eq!(changed.version, 1);
    assert_eq!(rig.consensus.state().settings.timing.lease_ms, 8_000);
    let again = rig
        .service
        .change_settings(change("c1", 0, wan()))
        .await
        .expect("the same again")
        .into_inner();
    assert_eq!(again.version, 1);
    refused(
        rig.service.change_settings(change("c2", 0, wan())).await,
        Code::Aborted,
        "settings-changed",
    );
    let half = vec![
        assignment("sync_mode", "async"),
        assignment("timing.promise_ms", "100"),
    ];
    refused(
        rig.service.change_settings(change("c3", 1, half)).await,
        Code::InvalidArgument,
        "bad-settings",
    );
    assert_eq!(
        rig.consensus.state().settings.sync_mode,
        agent_core::cluster::SyncMode::Strict
    );
    refused(
        rig.service.change_settings(change("c4", 1, Vec::new())).await,
        Code::InvalidArgument,
        "nothing-to-change",
    );
}

#[tokio::test]
async fn a_check_tells_everything_and_changes_nothing() {
    let rig = rig();
    let check = |assignments| Request::new(wire::CheckSettingsRequest { assignments });
    let told = rig.service.check_settings(check(vec![
        assignment("sync_standby", "2"),
        assignment("timing", "fast"),
    ]));
    let told = told.await.expect("checked").into_inner();
    assert_eq!(told.problems.len(), 2);
    assert!(
        told.problems[0].contains("did you mean sync_standbys?"),
        "{:?}",
        told.problems
    );
    let told = rig
        .service
        .check_settings(check(vec![assignment("timing.promise_ms", "2000")]));
    let told = told.await.expect("checked").into_inner();
    assert!(told.timing.iter().any(|check| !check.holds) && !told.problems.is_empty());
    assert_eq!(rig.consensus.state().settings, Settings::default());
}

#[tokio::test]
async fn members_are_added_and_removed_with_care() {
    let rig = rig();
    let add = |name: &str, peer: &str| {
        Request::new(wire::AddMemberRequest {
            request: format!("add-{name}"),
            name: name.to_owned(),
            peer: peer.to_owned(),
            ..wire::AddMemberRequest::default()
        })
    };
    assert_eq!(
        rig.service
            .add_member(add("n5", "n5:7432"))
            .await
            .expect("added")
            .into_inner()
            .id,
        5
    );
    assert_eq!(
        rig.service
            .add_member(add("n5", "n5:7432"))
            .await
            .expect("the same again")
            .into_inner()
            .id,
        5
    );
    refused(
        rig.service.add_member(add("N6", "n6:7432")).await,
        Code::InvalidArgument,
        "bad-name",
    );
    refused(
        rig.service.add_member(add("n6", "n6")).await,
        Code::InvalidArgument,
        "bad-peer",
    );
    refused(
        rig.service.add_member(add("n6", "n2:7432")).await,
        Code::FailedPrecondition,
        "peer-taken",
    );
    refused(
        rig.service.add_member(add("n2", "n9:7432")).await,
        Code::FailedPrecondition,
        "name-taken",
    );
    let remove = |name: &str| {
        Request::new(wire::RemoveMemberRequest {
            request: format!("remove-{name}"),
            name: name.to_owned(),
        })
    };
    refused(
        rig.service.remove_member(remove("n1")).await,
        Code::FailedPrecondition,
        "holder-stays",
    );
    refused(
        rig.service.remove_member(remove("n2")).await,
        Code::FailedPrecondition,
        "in-synchronous-set",
    );
    rig.service.remove_member(remove("n5")).await.expect("removed");
    rig.service
        .remove_member(remove("n5"))
        .await
        .expect("the same again");
    refused(
        rig.service.remove_member(remove("n7")).await,
        Code::FailedPrecondition,
        "not-a-member",
    );
}

#[tokio::test]
async fn events_are_told_from_a_number_on_and_followed() {
    let rig = rig();
    let note = |text: &str| {
        let command = Command::Note {
            kind: "note".to_owned(),
            text: text.to_owned(),
            at: WallTime(7),
        };
        rig.consensus.apply(&command).expect("applied");
    };
    note("zero");
    note("one");
    let events = |from, follow| {
        rig.service
            .events(Request::new(wire::EventsRequest { from, follow }))
    };
    let told: Vec<_> = events(1, false).await.expect("told").into_inner().collect().await;
    assert_eq!(told.len(), 1);
    let mut stream = events(2, true).await.expect("told").into_inner();
    note("two");
    let told = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    let told = told.expect("in time").expect("an event").expect("no error");
    assert_eq!((told.number, told.text.as_str()), (2, "two"));
}

#[tokio::test]
async fn explain_has_the_coordinators_gates_and_each_nodes_own() {
    let rig = rig();
    let told = rig
        .service
        .explain(Request::new(wire::ExplainRequest {}))
        .await
        .expect("told")
        .into_inner();
    assert_eq!(told.cluster[0].id, "lease-is-over");
    let own = told.nodes.iter().find(|node| node.node == "n3").expect("itself");
    assert_eq!(own.gates[0].id, "follows-holder");
}
