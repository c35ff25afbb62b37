//! A cluster of three data nodes, and what may be seen of it.

use agent_core::cluster::{
    Cause, ClusterState, Command, EpochChange, Member, MemberKind, Release, Secrets, Settings, SyncMode,
    SyncRule,
};
use agent_core::decide::cluster::{CoordinatorMemory, CoordinatorView, Round};
use agent_core::decide::node::{LeaseView, NodeMemory, NodeView};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::pg::{ControlFile, ControlState, Lsn, Position, SystemId, TimelineHistory, TimelineId};
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::{
    ClusterView, HolderReport, NodeReport, PgObservation, PrimaryView, Receiver, Server, StandbyConnection,
    StandbyView, VoterReport,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub const N1: NodeId = NodeId(1);
pub const N2: NodeId = NodeId(2);
pub const N3: NodeId = NodeId(3);
pub const SYSTEM: SystemId = SystemId(42);
/// The time of every look.
pub const NOW: MonoTime = MonoTime(100_000);

pub fn nodes(ids: &[NodeId]) -> BTreeSet<NodeId> {
    ids.iter().copied().collect()
}

pub fn at(timeline: u32, lsn: u64) -> Position {
    Position {
        timeline: TimelineId(timeline),
        lsn: Lsn(lsn),
    }
}

pub fn member(name: &str, kind: MemberKind) -> Member {
    Member {
        name: name.to_owned(),
        kind,
        peer: format!("{name}:7000"),
        http: format!("{name}:8000"),
        postgres: format!("{name}:5432"),
        tags: BTreeMap::new(),
        nofailover: false,
    }
}

pub fn request(id: &str) -> RequestId {
    RequestId(id.to_owned())
}

/// Founded, with three voters, and nothing else.
pub fn founded(mode: SyncMode) -> ClusterState {
    let mut state = ClusterState::default();
    let members = [(N1, "n1"), (N2, "n2"), (N3, "n3")];
    let command = Command::Found {
        cluster_id: "c".to_owned(),
        name: "test".to_owned(),
        members: members
            .into_iter()
            .map(|(id, name)| (id, member(name, MemberKind::Data)))
            .collect(),
        settings: Box::new(Settings {
            sync_mode: mode,
            ..Settings::default()
        }),
        secrets: Secrets::default(),
    };
    state.apply(&command).expect("a cluster is founded once");
    state.apply_voters(1, &[nodes(&[N1, N2, N3])]);
    state
}

pub fn rule(epoch: u64, primary: NodeId, k: u32, members: &[NodeId]) -> SyncRule {
    SyncRule {
        epoch: Epoch(epoch),
        primary,
        k,
        members: nodes(members),
    }
}

/// n1 holds epoch 1 on timeline 2 and serves; commits wait for any one of n2 and n3.
pub fn serving(mode: SyncMode) -> ClusterState {
    let mut state = founded(mode);
    let choose = Command::ChooseCreator {
        node: N1,
        at: WallTime(0),
    };
    let adopt = Command::AdoptSystem {
        node: N1,
        system_id: SYSTEM,
        at: WallTime(0),
    };
    let grant = Command::ChangeEpoch(Box::new(EpochChange {
        from: Epoch(0),
        to: N1,
        cause: Cause::Creation,
        why: "it has the database".to_owned(),
        released: BTreeMap::from([(N1, told(1, 100))]),
        receipt: None,
        sync: rule(1, N1, 1, &[N2, N3]),
        may_lose_bytes: None,
        at: WallTime(0),
    }));
    let open = Command::OpenGate {
        epoch: Epoch(1),
        timeline: TimelineId(2),
        lsn: Lsn(200),
        at: WallTime(0),
    };
    for command in [choose, adopt, grant, open] {
        state.apply(&command).expect("the way to the first epoch");
    }
    state
}

pub fn told(timeline: u32, lsn: u64) -> Release {
    Release::at(Some(at(timeline, lsn)))
}

pub fn observed(server: Server, control: ControlState, timeline: u32) -> PgObservation {
    let has_data = !matches!(server, Server::NoData);
    PgObservation {
        server,
        control: has_data.then_some(ControlFile {
            system_id: SYSTEM,
            state: control,
            checkpoint: Lsn(100),
            redo: Lsn(100),
            timeline: TimelineId(timeline),
            min_recovery: Lsn(0),
            checksums: true,
        }),
        version_num: 150_018,
        postmaster_pid: None,
        trouble: None,
        pending_restart: Vec::new(),
        vitals: Default::default(),
    }
}

pub fn standby(position: Position, streaming: bool) -> PgObservation {
    let view = StandbyView {
        position,
        replay: position.lsn,
        replay_age_ms: None,
        upstream: None,
        receiver: streaming.then_some(Receiver {
            streaming: true,
            latest_end: position.lsn,
        }),
        replay_paused: false,
    };
    observed(
        Server::Standby(view),
        ControlState::InArchiveRecovery,
        position.timeline.0,
    )
}

/// A primary whose timeline left timeline `timeline - 1` at `fork`, with `standbys` streaming under names of `epoch`.
pub fn primary(position: Position, fork: u64, epoch: u64, standbys: &[(NodeId, u64)]) -> PgObservation {
    let parent = position.timeline.0 - 1;
    let view = PrimaryView {
        position,
        history: TimelineHistory {
            timeline: position.timeline,
            switches: vec![agent_core::pg::TimelineSwitch {
                timeline: TimelineId(parent),
                end: Lsn(fork),
            }],
        },
        synchronous_standby_names: String::new(),
        standbys: standbys
            .iter()
            .map(|(node, flush)| StandbyConnection {
                application_name: format!("n{node}_e{epoch}"),
                streaming: true,
                sync_state: "quorum".to_owned(),
                flush: Lsn(*flush),
                replay: Lsn(*flush),
            })
            .collect(),
        read_only: false,
    };
    observed(
        Server::Primary(view),
        ControlState::InProduction,
        position.timeline.0,
    )
}

pub fn down() -> PgObservation {
    observed(Server::Down, ControlState::InProduction, 2)
}

/// What node `me` sees; it holds a valid lease exactly if it holds the newest epoch.
pub fn node_view(me: NodeId, state: &ClusterState, pg: PgObservation) -> NodeView<'_> {
    NodeView {
        me,
        state: Cow::Borrowed(state),
        now: NOW,
        pledge: state.epoch,
        lease: LeaseView {
            epoch: if state.holder == Some(me) {
                state.epoch
            } else {
                Epoch(0)
            },
            valid: state.holder == Some(me),
            fenced: Epoch(0),
            unguarded: None,
        },
        pg,
        conf: None,
        holder: None,
        peers: Vec::new(),
        memory: NodeMemory::default(),
        watchdog: None,
        backup: Some(None),
    }
}

pub fn report(node: NodeId, pg: PgObservation) -> NodeReport {
    NodeReport {
        node,
        incarnation: 1,
        pg: Some(pg),
        voter: VoterReport {
            epoch: Epoch(1),
            bound_for: Duration::from_secs(1),
            quarantine: Duration::ZERO,
            silent_for: None,
        },
        holder: None,
        pledge: Epoch(0),
        applied: 1,
        prepared_for: None,
        explain: Vec::new(),
        agent_version: String::new(),
        watchdog: None,
        fencing: None,
        archive: None,
    }
}

/// The holder's report while all is well.
pub fn well(node: NodeId, epoch: u64, pg: PgObservation) -> NodeReport {
    NodeReport {
        holder: Some(HolderReport {
            epoch: Epoch(epoch),
            left: Duration::from_secs(1),
            gate_open: true,
            fenced: None,
        }),
        ..report(node, pg)
    }
}

/// What the coordinator on `me` sees; it has known the epoch for a long time.
pub fn coordinator_view<'a>(
    me: NodeId,
    state: &'a ClusterState,
    reports: Vec<NodeReport>,
) -> CoordinatorView<'a> {
    CoordinatorView {
        me,
        state: Cow::Borrowed(state),
        reports: ClusterView {
            reports: reports
                .into_iter()
                .map(|report| (report.node, (NOW, report)))
                .collect(),
        },
        now: NOW,
        wall: WallTime(0),
        memory: CoordinatorMemory {
            epoch_since: Some(MonoTime(0)),
            ..CoordinatorMemory::default()
        },
    }
}

/// A round whose answers are `released`, begun a while ago, with nobody left to answer.
pub fn round(epoch: u64, released: &[(NodeId, Release)]) -> Round {
    Round {
        epoch: Epoch(epoch),
        started: MonoTime(NOW.0 - 1_000),
        asked: MonoTime(NOW.0 - 10),
        released: released.iter().copied().collect(),
        pending: BTreeSet::new(),
    }
}
