use super::*;
use crate::cluster::{Member, MemberKind, Pause, Promotion, SyncRule};
use crate::pg::{Lsn, Position, TimelineHistory, TimelineId};
use crate::time::WallTime;
use crate::view::{
    HolderReport, NodeReport, PrimaryView, Receiver, Server, StandbyConnection, StandbyView, VoterReport,
};
use std::collections::{BTreeMap, BTreeSet};

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const W4: NodeId = NodeId(4);

fn member(name: &str, kind: MemberKind) -> Member {
    Member {
        name: name.to_owned(),
        kind,
        peer: format!("{name}:7432"),
        http: format!("{name}:8008"),
        postgres: if kind == MemberKind::Data {
            format!("{name}:5432")
        } else {
            String::new()
        },
        tags: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        nofailover: false,
    }
}

/// Three data nodes and a witness in epoch 5; n1 holds it, commits wait for any one of n2.
fn state() -> ClusterState {
    ClusterState {
        name: "demo".to_owned(),
        members: BTreeMap::from([
            (N1, member("n1", MemberKind::Data)),
            (N2, member("n2", MemberKind::Data)),
            (N3, member("n3", MemberKind::Data)),
            (W4, member("w4", MemberKind::Witness)),
        ]),
        epoch: Epoch(5),
        holder: Some(N1),
        timeline: TimelineId(3),
        promotion: Some(Promotion {
            epoch: Epoch(5),
            timeline: TimelineId(3),
            lsn: Lsn(0x500),
        }),
        sync: vec![SyncRule {
            epoch: Epoch(5),
            primary: N1,
            k: 1,
            members: BTreeSet::from([N2]),
        }],
        ..ClusterState::default()
    }
}

fn at(lsn: u64) -> Position {
    Position {
        timeline: TimelineId(3),
        lsn: Lsn(lsn),
    }
}

fn observed(server: Server) -> Arc<PgObservation> {
    Arc::new(PgObservation {
        server,
        control: None,
        version_num: 150_018,
        postmaster_pid: Some(4242),
        trouble: None,
        pending_restart: Vec::new(),
    })
}

fn primary_view() -> PrimaryView {
    PrimaryView {
        position: at(0x2000),
        history: TimelineHistory {
            timeline: TimelineId(3),
            switches: Vec::new(),
        },
        synchronous_standby_names: "ANY 1 (\"n2_e5\")".to_owned(),
        standbys: vec![StandbyConnection {
            application_name: "n2_e5".to_owned(),
            streaming: true,
            sync_state: "quorum".to_owned(),
            flush: Lsn(0x2000),
            replay: Lsn(0x1F00),
        }],
        read_only: false,
    }
}

fn standby_view() -> StandbyView {
    StandbyView {
        position: at(0x2000),
        replay: Lsn(0x1F00),
        replay_age_ms: Some(12),
        upstream: None,
        receiver: Some(Receiver {
            streaming: true,
            latest_end: Lsn(0x2000),
        }),
        replay_paused: false,
    }
}

fn report(node: NodeId, server: Server) -> NodeReport {
    NodeReport {
        node,
        incarnation: 1,
        pg: Some(observed(server).as_ref().clone()),
        voter: VoterReport::default(),
        holder: (node == N1).then(|| HolderReport {
            epoch: Epoch(5),
            left: Duration::from_secs(2),
            gate_open: true,
            fenced: None,
        }),
        pledge: Epoch(5),
        applied: 10,
        prepared_for: None,
        explain: Vec::new(),
        agent_version: "0.1.0".to_owned(),
    }
}

const NOW: Instants = Instants {
    reading: ClockReading {
        boot_ns: 50_000_000_000,
        raw_ns: 40_000_000_000,
    },
    mono: MonoTime(100_000),
};

fn later(by: Duration) -> Instants {
    Instants {
        reading: NOW.reading.plus(by),
        mono: NOW.mono.plus(by),
    }
}

fn view() -> ClusterView {
    ClusterView {
        reports: BTreeMap::from([
            (N1, (NOW.mono, report(N1, Server::Primary(primary_view())))),
            (N2, (NOW.mono, report(N2, Server::Standby(standby_view())))),
        ]),
    }
}

fn snapshot(node: NodeId, server: Server) -> HealthSnapshot {
    HealthSnapshot {
        node,
        name: state().name_of(node),
        state: Arc::new(state()),
        probe: Some(Probe {
            at: NOW.mono,
            pg: observed(server),
        }),
        lease: None,
        gate_open: false,
        fencing: false,
        heartbeat: NOW.mono,
        view: Arc::new(view()),
        raft_leader: Some(N1),
        log_fsync: Some(Duration::from_millis(4)),
        agent_version: "0.1.0".to_owned(),
    }
}

/// n1, serving clients, its lease renewed just now.
fn serving() -> HealthSnapshot {
    HealthSnapshot {
        lease: Some(HeldLease {
            epoch: Epoch(5),
            deadline: NOW.reading.plus(Duration::from_secs(2)),
        }),
        gate_open: true,
        ..snapshot(N1, Server::Primary(primary_view()))
    }
}

/// n2, in the synchronous set, streaming.
fn following() -> HealthSnapshot {
    snapshot(N2, Server::Standby(standby_view()))
}

fn ask(request: &str, snapshot: &HealthSnapshot, now: Instants) -> (u16, serde_json::Value) {
    let (path, query) = request.split_once('?').unwrap_or((request, ""));
    let answer = respond(path, query, snapshot, now);
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

#[track_caller]
fn status(request: &str, snapshot: &HealthSnapshot, expected: u16) {
    let (found, body) = ask(request, snapshot, NOW);
    assert_eq!(found, expected, "{request}: {body}");
}

#[track_caller]
fn primary_refused(snapshot: &HealthSnapshot, now: Instants, reason: &str) {
    let (status, body) = ask("/primary", snapshot, now);
    assert_eq!(
        (status, body["reason"]["id"].as_str()),
        (503, Some(reason)),
        "{body}"
    );
}

#[test]
fn a_serving_primary_answers_by_its_role() {
    for path in [
        "/",
        "/primary",
        "/read-write",
        "/master",
        "/primary/",
        "/leader",
        "/read-only",
        "/read-only-sync",
    ] {
        status(path, &serving(), 200);
    }
    for path in [
        "/read-only-quorum",
        "/health",
        "/liveness",
        "/readiness",
        "/patroni",
    ] {
        status(path, &serving(), 200);
    }
    for path in ["/replica", "/sync", "/async", "/quorum", "/standby-leader"] {
        status(path, &serving(), 503);
    }
}

#[test]
fn a_standby_of_the_synchronous_set_answers_by_its_role() {
    for path in [
        "/replica",
        "/sync",
        "/synchronous",
        "/quorum",
        "/read-only",
        "/read-only-sync",
        "/health",
        "/readiness",
    ] {
        status(path, &following(), 200);
    }
    for path in [
        "/",
        "/primary",
        "/read-write",
        "/leader",
        "/async",
        "/asynchronous",
    ] {
        status(path, &following(), 503);
    }
}

#[test]
fn a_standby_outside_of_the_set_is_asynchronous() {
    let outside = snapshot(N3, Server::Standby(standby_view()));
    for (path, expected) in [
        ("/async", 200),
        ("/replica", 200),
        ("/sync", 503),
        ("/read-only-sync", 503),
    ] {
        status(path, &outside, expected);
    }
}

#[test]
fn primary_closes_a_tenth_of_the_lease_before_its_end_and_stays_closed() {
    let lease = Duration::from_secs(2);
    assert_eq!(ask("/primary", &serving(), later(lease * 8 / 10)).0, 200);
    primary_refused(&serving(), later(lease * 9 / 10), "lease-is-held");
    primary_refused(&serving(), later(lease * 100), "lease-is-held");
}

#[test]
fn primary_closes_as_soon_as_one_of_the_two_clocks_says_so() {
    for reading in [
        ClockReading {
            boot_ns: NOW.reading.boot_ns + 2_000_000_000,
            ..NOW.reading
        },
        ClockReading {
            raw_ns: NOW.reading.raw_ns + 2_000_000_000,
            ..NOW.reading
        },
    ] {
        primary_refused(&serving(), Instants { reading, ..NOW }, "lease-is-held");
    }
}

#[test]
fn primary_is_refused_for_each_condition_by_its_name() {
    let good = serving();
    primary_refused(
        &HealthSnapshot {
            lease: None,
            ..good.clone()
        },
        NOW,
        "lease-is-held",
    );
    primary_refused(
        &HealthSnapshot {
            gate_open: false,
            ..good.clone()
        },
        NOW,
        "client-gate-is-open",
    );
    primary_refused(
        &HealthSnapshot {
            fencing: true,
            ..good.clone()
        },
        NOW,
        "not-fencing",
    );
    primary_refused(
        &HealthSnapshot {
            probe: None,
            ..good.clone()
        },
        NOW,
        "probe-is-fresh",
    );
    let read_only = Server::Primary(PrimaryView {
        read_only: true,
        ..primary_view()
    });
    let with = |server| HealthSnapshot {
        probe: Some(Probe {
            at: NOW.mono,
            pg: observed(server),
        }),
        ..good.clone()
    };
    primary_refused(&with(read_only), NOW, "server-takes-writes");
    primary_refused(&with(Server::Standby(standby_view())), NOW, "server-is-primary");
    primary_refused(&with(Server::Down), NOW, "server-is-primary");
}

#[test]
fn a_lease_of_an_older_epoch_or_of_another_holder_counts_for_nothing() {
    let good = serving();
    let newer = ClusterState {
        epoch: Epoch(6),
        ..state()
    };
    primary_refused(
        &HealthSnapshot {
            state: Arc::new(newer),
            ..good.clone()
        },
        NOW,
        "lease-is-held",
    );
    let other = ClusterState {
        holder: Some(N2),
        ..state()
    };
    primary_refused(
        &HealthSnapshot {
            state: Arc::new(other),
            ..good
        },
        NOW,
        "lease-is-held",
    );
}

#[test]
fn answers_decay_when_the_server_is_no_longer_looked_at() {
    let soon = later(Duration::from_secs(3));
    let late = later(Duration::from_millis(3_001));
    // The lease is renewed all the time: only the driver and the server hang.
    let renewed = HealthSnapshot {
        lease: Some(HeldLease {
            epoch: Epoch(5),
            deadline: late.reading.plus(Duration::from_secs(2)),
        }),
        ..serving()
    };
    assert_eq!(ask("/primary", &renewed, soon).0, 200);
    primary_refused(&renewed, late, "probe-is-fresh");
    for path in [
        "/replica",
        "/sync",
        "/read-only",
        "/health",
        "/liveness",
        "/readiness",
    ] {
        assert_eq!(ask(path, &following(), soon).0, 200, "{path}");
        assert_eq!(ask(path, &following(), late).0, 503, "{path}");
    }
}

#[test]
fn liveness_is_not_taken_away_from_who_paused() {
    let paused = ClusterState {
        pause: Some(Pause {
            reason: "work on the racks".to_owned(),
            since: WallTime(0),
        }),
        ..state()
    };
    let snapshot = HealthSnapshot {
        state: Arc::new(paused),
        ..following()
    };
    assert_eq!(
        ask("/liveness", &snapshot, later(Duration::from_secs(3600))).0,
        200
    );
}

#[test]
fn a_standby_that_lags_is_refused_by_the_bound_that_is_asked_for() {
    for (request, expected) in [
        ("/replica?lag=256", 200),
        ("/replica?lag=255", 503),
        ("/replica?lag=1MB", 200),
        ("/read-only?lag=255", 503),
        ("/async?lag=0", 503),
        ("/readiness?lag=255", 503),
        ("/readiness?lag=255&mode=write", 200),
    ] {
        status(request, &following(), expected);
    }
    status("/read-only?lag=0", &serving(), 200);
}

#[test]
fn the_lag_counts_from_the_furthest_end_that_was_heard_of() {
    let mut behind = standby_view();
    behind.receiver = Some(Receiver {
        streaming: true,
        latest_end: Lsn(0x9000),
    });
    status("/replica?lag=1000", &snapshot(N2, Server::Standby(behind)), 503);
}

#[test]
fn an_unknown_lag_is_within_no_bound() {
    let deaf = StandbyView {
        receiver: None,
        ..standby_view()
    };
    let snapshot = HealthSnapshot {
        view: Arc::new(ClusterView::default()),
        ..snapshot(N2, Server::Standby(deaf))
    };
    status("/replica?lag=1TB", &snapshot, 503);
    status("/replica", &snapshot, 200);
    status("/replica?replication_state=streaming", &snapshot, 503);
    status("/sync", &snapshot, 503);
    status("/readiness", &snapshot, 503);
}

#[test]
fn tags_choose_among_the_nodes() {
    status("/replica?tag_zone=a", &following(), 200);
    status("/replica?tag_zone=b", &following(), 503);
    status("/primary?tag_zone=a", &serving(), 200);
    status("/primary?tag_rack=1", &serving(), 503);
    let mut kept_out = state();
    kept_out
        .members
        .get_mut(&N2)
        .expect("a member")
        .tags
        .insert("noloadbalance".to_owned(), "true".to_owned());
    let snapshot = HealthSnapshot {
        state: Arc::new(kept_out),
        ..following()
    };
    status("/replica", &snapshot, 503);
    status("/health", &snapshot, 200);
}

#[test]
fn a_witness_is_alive_and_nothing_else() {
    let witness = HealthSnapshot {
        node: W4,
        probe: None,
        name: "w4".to_owned(),
        ..following()
    };
    for (path, expected) in [
        ("/primary", 503),
        ("/replica", 503),
        ("/health", 503),
        ("/liveness", 200),
        ("/readiness", 200),
    ] {
        status(path, &witness, expected);
    }
    assert_eq!(ask("/patroni", &witness, NOW).1["role"], "witness");
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    let (status, body) = ask("/primry", &serving(), NOW);
    assert_eq!(status, 404);
    assert!(
        body["paths"]
            .as_array()
            .is_some_and(|paths| paths.contains(&json!("/primary")))
    );
    for (request, parameter) in [
        ("/replica?lag=lots", "lag"),
        ("/replica?lga=1", "lga"),
        ("/x/../primary?", ""),
    ] {
        let (status, body) = ask(request, &following(), NOW);
        assert_eq!(status, if parameter.is_empty() { 404 } else { 400 });
        assert_eq!(body["parameter"].as_str().unwrap_or_default(), parameter);
    }
}

#[test]
fn every_listed_path_is_known() {
    for path in Endpoint::PATHS {
        assert!(Endpoint::of_path(path).is_some(), "{path}");
    }
}

#[test]
fn the_body_has_the_fields_that_monitors_read() {
    let (_, body) = ask("/patroni", &serving(), NOW);
    assert_eq!(body["state"], "running");
    assert_eq!(body["role"], "primary");
    assert_eq!(body["server_version"], 150_018);
    assert_eq!(body["timeline"], 3);
    assert_eq!(body["xlog"]["location"], 0x2000);
    assert_eq!(body["replication"][0]["sync_state"], "quorum");
    assert_eq!(body["patroni"]["scope"], "demo");
    assert_eq!(body["pgctl"]["lease_left_ms"], 2000);
    let (_, body) = ask("/patroni", &following(), NOW);
    assert_eq!(body["role"], "replica");
    assert_eq!(body["xlog"]["replayed_location"], 0x1F00);
    assert_eq!(body["replication_state"], "streaming");
}

#[test]
fn the_cluster_lists_every_member_also_those_that_are_silent() {
    let (status, body) = ask("/cluster", &following(), NOW);
    assert_eq!(status, 200);
    let row = |index: usize| &body["members"][index];
    assert_eq!(
        (row(0)["role"].as_str(), row(0)["state"].as_str()),
        (Some("leader"), Some("running"))
    );
    assert_eq!(
        (row(1)["role"].as_str(), row(1)["lag"].as_u64()),
        (Some("quorum_standby"), Some(0))
    );
    assert_eq!(
        (row(2)["state"].as_str(), row(2)["lag"].as_str()),
        (Some("unknown"), Some("unknown"))
    );
    assert_eq!(row(3)["role"], "witness");
}

#[test]
fn metrics_are_well_formed_and_follow_the_lease() {
    let metric = |now| {
        let page = respond("/metrics", "", &serving(), now);
        assert_eq!(page.status, 200);
        for line in page.body.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(
                name.starts_with("pgctl_") && name.contains("{scope=\"demo\",name=\"n1\""),
                "{line}"
            );
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        let line = page
            .body
            .lines()
            .find(|line| line.starts_with("pgctl_lease_left_seconds{"))
            .map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
    };
    assert_eq!(metric(NOW), Some(2.0));
    assert_eq!(metric(later(Duration::from_secs(5))), Some(0.0));
}

#[test]
fn labels_are_escaped() {
    let mut odd = state();
    odd.name = "de\"mo\\\n".to_owned();
    let page = respond(
        "/metrics",
        "",
        &HealthSnapshot {
            state: Arc::new(odd),
            ..serving()
        },
        NOW,
    )
    .body;
    assert!(page.contains(r#"scope="de\"mo\\\n""#), "{page}");
}
