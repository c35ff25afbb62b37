//! Snapshots of nodes in each role.

use crate::cluster::{Member, MemberKind, Promotion, SyncRule};
use crate::health::*;
use crate::pg::{Lsn, Position, TimelineHistory, TimelineId};
use crate::view::{
    HolderReport, NodeReport, PrimaryView, Receiver, Server, StandbyConnection, StandbyView, VoterReport,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const N1: NodeId = NodeId(1);
pub(super) const N2: NodeId = NodeId(2);
pub(super) const N3: NodeId = NodeId(3);
pub(super) const W4: NodeId = NodeId(4);

pub(super) fn member(name: &str, kind: MemberKind) -> Member {
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
pub(super) fn state() -> ClusterState {
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

pub(super) fn at(lsn: u64) -> Position {
    Position {
        timeline: TimelineId(3),
        lsn: Lsn(lsn),
    }
}

pub(super) fn observed(server: Server) -> Arc<PgObservation> {
    Arc::new(PgObservation {
        server,
        control: None,
        version_num: 150_018,
        postmaster_pid: Some(4242),
        trouble: None,
        pending_restart: Vec::new(),
        vitals: Default::default(),
    })
}

pub(super) fn primary_view() -> PrimaryView {
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

pub(super) fn standby_view() -> StandbyView {
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

pub(super) fn report(node: NodeId, server: Server) -> NodeReport {
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
        watchdog: None,
        fencing: None,
        archive: None,
    }
}

pub(super) const NOW: Instants = Instants {
    reading: ClockReading {
        boot_ns: 50_000_000_000,
        raw_ns: 40_000_000_000,
    },
    mono: MonoTime(100_000),
};

pub(super) fn later(by: Duration) -> Instants {
    Instants {
        reading: NOW.reading.plus(by),
        mono: NOW.mono.plus(by),
    }
}

pub(super) fn view() -> ClusterView {
    ClusterView {
        reports: BTreeMap::from([
            (N1, (NOW.mono, report(N1, Server::Primary(primary_view())))),
            (N2, (NOW.mono, report(N2, Server::Standby(standby_view())))),
        ]),
    }
}

pub(super) fn snapshot(node: NodeId, server: Server) -> HealthSnapshot {
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
        log_writes: LogWrites::of([Duration::from_millis(9), Duration::from_millis(4)]),
        agent_version: "0.1.0".to_owned(),
    }
}

/// n1, serving clients, its lease renewed just now.
pub(super) fn serving() -> HealthSnapshot {
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
pub(super) fn following() -> HealthSnapshot {
    snapshot(N2, Server::Standby(standby_view()))
}

pub(super) fn ask(request: &str, snapshot: &HealthSnapshot, now: Instants) -> (u16, serde_json::Value) {
    let (path, query) = request.split_once('?').unwrap_or((request, ""));
    let answer = respond(path, query, snapshot, now);
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

#[track_caller]
pub(super) fn status(request: &str, snapshot: &HealthSnapshot, expected: u16) {
    let (found, body) = ask(request, snapshot, NOW);
    assert_eq!(found, expected, "{request}: {body}");
}

#[track_caller]
pub(super) fn primary_refused(snapshot: &HealthSnapshot, now: Instants, reason: &str) {
    let (status, body) = ask("/primary", snapshot, now);
    assert_eq!(
        (status, body["reason"]["id"].as_str()),
        (503, Some(reason)),
        "{body}"
    );
}
