//! Observations: what was seen of a server, and when. Everything that a decision may look at is here or in the
//! replicated state.

use crate::ids::{Epoch, NodeId};
use crate::pg::{ControlFile, Lsn, Position, SystemId, TimelineHistory};
use crate::time::MonoTime;
use crate::vitals::Vitals;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one look at a node's PostgreSQL showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PgObservation {
    /// The server's condition.
    pub server: Server,
    /// The control file, where there is a data directory. Read from disk, so it is known of a stopped server too.
    pub control: Option<ControlFile>,
    /// `server_version_num`, such as 150018 or 180006; of the binaries where no server runs.
    pub version_num: u32,
    /// The postmaster's process id.
    pub postmaster_pid: Option<i32>,
    /// Why the last start, rejoin or copy failed; cleared by the next success.
    pub trouble: Option<String>,
    /// Settings that wait for a restart of the server.
    pub pending_restart: Vec<String>,
    /// What the probes of server and disks say.
    #[serde(default)]
    pub vitals: Vitals,
}

/// A server's condition, as observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Server {
    /// The data directory does not exist or is empty.
    NoData,
    /// There is a data directory that must not be touched: not PostgreSQL's, of another version, wrong owner.
    Unusable { why: String },
    /// A data directory, and no server process that uses it.
    Down,
    /// A job of the agent's own is at work on the data directory: `initdb`, `base backup`, `rewind`.
    Busy { job: String },
    /// There is a postmaster that does not take connections yet.
    Starting,
    /// In recovery.
    Standby(StandbyView),
    /// Out of recovery: this server takes writes.
    Primary(PrimaryView),
    /// A postmaster is there, and a connection got no answer in time.
    Unresponsive { why: String },
}

/// What a standby says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyView {
    /// The end of the WAL that is safe on disk here: received and flushed, or found and replayed.
    pub position: Position,
    /// How far it was replayed.
    pub replay: Lsn,
    /// Milliseconds since the last replayed transaction was committed; `None` if none was replayed yet.
    pub replay_age_ms: Option<u64>,
    /// `primary_conninfo`'s host, port and application name as the running server has them; `None` when empty.
    pub upstream: Option<Upstream>,
    /// The walreceiver, if one runs.
    pub receiver: Option<Receiver>,
    /// Replay is paused.
    pub replay_paused: bool,
}

/// Where a standby is told to stream from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
    /// Carries the epoch, such as `n2_e5`: an old primary's synchronous set never lists the names of a new epoch.
    pub application_name: String,
}

/// A running walreceiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// It is connected and streams.
    pub streaming: bool,
    /// The last WAL end that the upstream told of.
    pub latest_end: Lsn,
}

/// What a primary says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryView {
    /// Its current timeline and the end of its flushed WAL.
    pub position: Position,
    /// The history of its timeline, which tells a returning server whether it diverged.
    pub history: TimelineHistory,
    /// `synchronous_standby_names` as a fresh connection sees it.
    pub synchronous_standby_names: String,
    /// The connected walsenders.
    pub standbys: Vec<StandbyConnection>,
    /// `pg_is_in_backup`-like jobs and prepared transactions do not matter here; default_transaction_read_only does.
    pub read_only: bool,
}

/// One row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyConnection {
    pub application_name: String,
    /// `state` is `streaming`.
    pub streaming: bool,
    /// `sync_state`: `async`, `potential`, `sync` or `quorum`.
    pub sync_state: String,
    pub flush: Lsn,
    pub replay: Lsn,
}

/// What a node tells the coordinator, and what everybody is told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    /// Changes with every start of the agent.
    pub incarnation: u64,
    /// `None` on a witness, and before the first look.
    pub pg: Option<PgObservation>,
    /// What this node's voter knows of the lease.
    pub voter: VoterReport,
    /// What this node's holder side knows; `None` where it holds nothing.
    pub holder: Option<HolderReport>,
    /// The highest epoch below which this node has revoked its support, safe on its disk.
    pub pledge: Epoch,
    /// The Raft log index up to which this node has applied.
    pub applied: u64,
    /// The switchover for which the holder has made its checkpoint.
    pub prepared_for: Option<crate::ids::RequestId>,
    /// Why this node does what it does, in the words of [`crate::reason`].
    pub explain: Vec<crate::reason::Reason>,
    /// The agent's version.
    pub agent_version: String,
    /// The watchdog, where one is configured.
    #[serde(default)]
    pub watchdog: Option<WatchdogReport>,
    /// What fences its server when the agent does not; `None` on a witness.
    #[serde(default)]
    pub fencing: Option<FencingReport>,
    /// Of its archive; `None` on a node without a repository.
    #[serde(default)]
    pub archive: Option<ArchiveReport>,
}

/// What a node says of its archive. Backups are decided by it, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// Files that its server waits to have archived.
    pub ready: u64,
    /// For how long the oldest of them has waited, milliseconds.
    pub oldest_ready_ms: Option<u64>,
    /// Since the agent started: archived, refused or failed, and put into quarantine.
    pub archived: u64,
    pub failed: u64,
    pub quarantined: u64,
    /// Segments that were given up because the queue was too long, since the agent started.
    #[serde(default)]
    pub given_up: u64,
    /// Segments missing in a repository, at the last look; only the primary's node looks.
    pub missing_segments: Option<u64>,
    /// The claimed duties that it is at.
    pub duties: Vec<String>,
}

/// What keeps a server from outliving its node's lease when the agent cannot. Shown, and never decided by: the `F` of the
/// lease's arithmetic counts on the slowest layer, so that it holds where the others are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencingReport {
    /// The process beside the agent that ends the server.
    pub guard: FenceLayer,
    /// The kernel's timer, without which no client reaches the server.
    pub kernel_lease: FenceLayer,
}

/// One way to fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceLayer {
    pub state: FenceLayerState,
    /// For people: what is missing or limited; empty where there is nothing to say.
    pub detail: String,
}

/// Whether a way to fence would act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FenceLayerState {
    On,
    /// It is not wanted.
    Off,
    /// It is wanted, and does not work.
    Missing,
}

/// A node's watchdog: the device that resets the machine when nobody pets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogReport {
    /// The node is not to be promoted without it.
    pub required: bool,
    /// Its timeout (`W`), seconds.
    pub timeout_s: u64,
    pub state: WatchdogState,
    /// For people: the device, or why there is none.
    pub detail: String,
}

/// Whether a watchdog would act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogState {
    /// It resets the machine unless it is petted.
    Armed,
    /// It is there, and armed as soon as this node holds the lease.
    Ready,
    /// It is not there, or the terms of the lease leave no room for it.
    Absent,
}

/// A voter's side of the lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterReport {
    /// The epoch of the last renewal that was acknowledged.
    pub epoch: Epoch,
    /// How much longer the promise binds this voter, quarantine after a start included.
    pub bound_for: Duration,
    /// How much longer it releases nothing because its agent has restarted, whatever receipt it is shown.
    #[serde(default)]
    pub quarantine: Duration,
    /// Time since the last renewal of the current epoch arrived; `None` if none did since the start.
    pub silent_for: Option<Duration>,
}

/// The holder's side of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderReport {
    pub epoch: Epoch,
    /// Time left until this node must have stopped; zero once it is over.
    pub left: Duration,
    /// The gate is open: a sync-acknowledged row was written under this epoch.
    pub gate_open: bool,
    /// The server processes were ended under this epoch, and how.
    pub fenced: Option<FenceReceipt>,
}

/// The proof that a node's server can write nothing more under an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReceipt {
    /// The epoch that is over on that node.
    pub epoch: Epoch,
    pub node: NodeId,
    pub incarnation: u64,
    /// For a server that was shut down cleanly: the end of its WAL, the shutdown checkpoint included.
    pub clean_end: Option<Position>,
}

/// All that the coordinator may look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The newest report of each node, and when it arrived.
    pub reports: BTreeMap<NodeId, (MonoTime, NodeReport)>,
}

impl ClusterView {
    /// The report of `node` if it is no older than `age`.
    #[must_use]
    pub fn fresh(&self, node: NodeId, now: MonoTime, age: Duration) -> Option<&NodeReport> {
        self.reports
            .get(&node)
            .filter(|(at, _)| now.since(*at) <= age)
            .map(|(_, report)| report)
    }
}

impl PgObservation {
    /// The database cluster's identity, where there is a data directory.
    #[must_use]
    pub fn system_id(&self) -> Option<SystemId> {
        self.control.map(|control| control.system_id)
    }

    /// How far this server's durable WAL reaches, where that is known: of a running server, or of one whose clean
    /// shutdown is on record.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.server {
            Server::Standby(standby) => Some(standby.position),
            Server::Primary(primary) => Some(primary.position),
            Server::NoData | Server::Unusable { .. } | Server::Down | Server::Busy { .. } => None,
            Server::Starting | Server::Unresponsive { .. } => None,
        }
    }
}
