//! What the rooms need of each other, as traits: the API knows neither the consensus nor the driver.

use agent_core::cluster::{Applied, ClusterState, Command, Member, Rejected, RestoreTarget};
use agent_core::decide::node::BackupSight;
use agent_core::health::LogWrites;
use agent_core::ids::{NodeId, RequestId};
use agent_core::pg::{Lsn, SystemId, TimelineHistory, TimelineId};
use agent_core::reason::Reason;
use agent_core::view::ClusterView;
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;

/// Why a request to the cluster got no answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The state machine refused the command.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// No Raft leader could be reached within the deadline; the command was not accepted by anyone.
    #[error(
        "no Raft leader within {waited:?} ({detail}): a majority of the agents must run and reach each other; \
         see `pgctl status` on each node"
    )]
    NoLeader { waited: Duration, detail: String },
    /// The Raft leader took the command, and its answer did not come: it may or may not have been carried out.
    #[error(
        "the outcome is unknown ({detail}): look with `pgctl events`; the same request id may be sent again"
    )]
    Unknown { detail: String },
    /// This node's consensus has stopped.
    #[error("the consensus of this node has stopped ({detail}): restart the agent, and read its log")]
    Stopped { detail: String },
}

/// The replicated state, and the way to change it, from any node.
pub trait Consensus: Send + Sync + 'static {
    /// The newest state that this node has applied.
    fn state(&self) -> Arc<ClusterState>;
    /// Sees each newly applied state.
    fn watch(&self) -> tokio::sync::watch::Receiver<Arc<ClusterState>>;
    /// This node's number.
    fn node_id(&self) -> NodeId;
    /// The Raft leader as far as this node knows.
    fn raft_leader(&self) -> Option<NodeId>;
    /// How long this node's writes of the Raft log take; `None` before the first.
    fn log_writes(&self) -> Option<LogWrites> {
        None
    }
    /// Whether this node is the Raft leader, has heard of a majority lately, and has applied all that was committed
    /// when it became leader.
    fn leads(&self) -> bool;
    /// The log index up to which this node has applied.
    fn applied_index(&self) -> u64;
    /// Comes back, with the reason, when this node's consensus has stopped and will not come back by itself.
    fn failed(&self) -> BoxFuture<'_, String>;
    /// Has `command` committed and applied, through whichever node is the Raft leader.
    fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'_, Result<Applied, ProposeError>>;
    /// Gives a new member its number and takes it into the group, first as a learner, then as a voter. Returns as
    /// soon as the number is given; the Raft leader makes it a voter once its agent is there and has caught up.
    fn add_member(&self, request: RequestId, member: Member) -> BoxFuture<'_, Result<NodeId, ProposeError>>;
    /// Takes a member out of the group and forgets it.
    fn remove_member(&self, request: RequestId, node: NodeId) -> BoxFuture<'_, Result<(), ProposeError>>;
}

/// What one agent's fence devices said of a machine, or did to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTest {
    /// The agent's node.
    pub by: NodeId,
    /// `on`, `off`, or empty where the device gave no answer.
    pub power: String,
    /// The program or URL, without secrets.
    pub device: String,
    /// The end of what it said.
    pub output: String,
    /// Why it gave no answer; empty where it did.
    pub error: String,
    pub elapsed: Duration,
}

/// The fence devices of all agents.
pub trait FenceDevices: Send + Sync + 'static {
    /// Asks every agent but `target`'s own whether that machine is on. Changes nothing.
    fn test(&self, target: NodeId) -> BoxFuture<'_, Vec<DeviceTest>>;
    /// Has the agent of `by` turn the machine of `target` off. If it held the newest epoch, the proof is recorded.
    fn turn_off(&self, target: NodeId, by: NodeId) -> BoxFuture<'_, DeviceTest>;
}

/// What the driver knows and the API shows.
pub trait Overview: Send + Sync + 'static {
    /// The newest reports of all nodes, as this node has them (complete on the Raft leader, forwarded to the others
    /// with each report they make).
    fn view(&self) -> ClusterView;
    /// How old each report of [`Overview::view`] is, measured at the call.
    fn report_age(&self, node: NodeId) -> Option<Duration>;
    /// Every gate of the coordinator's last decision; asked of the Raft leader, wherever it is.
    fn explain(&self) -> BoxFuture<'_, Result<Vec<Reason>, ProposeError>>;
    /// This node's own last decision: the rule that fired, and what blocks others.
    fn explain_node(&self) -> Vec<Reason>;
}

/// What the server runs to archive its WAL and to fetch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCommands {
    /// `archive_command`.
    pub push: String,
    /// `restore_command` of a standby that follows a primary: answered at once, and never in a way that ends its server.
    pub follow: String,
    /// `restore_command` of a rewind, which fails without the file that it asks for.
    pub exact: String,
    /// `restore_command` of a restored server, which waits for what it needs and is never ended by it.
    pub recover: String,
}

/// What the archive asks of the server beside it.
pub trait BackupSource: Send + Sync + 'static {
    /// What a backup of it is a backup of.
    fn facts(&self) -> BoxFuture<'_, Result<SourceFacts, String>>;
    /// A copy of its data directory, as one tar archive with the server's manifest in it; with the manifest of an earlier
    /// backup only what has changed since.
    fn stream(
        &self,
        max_rate_kb: Option<u32>,
        since: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<Box<dyn ArchiveStream>, String>>;
    /// Closes the current WAL segment; only a primary can.
    fn switch_wal(&self) -> BoxFuture<'_, Result<Lsn, String>>;
    /// Makes a checkpoint, or on a standby a restartpoint.
    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>>;
    /// A timeline's history, if it is in the data directory.
    fn history_of(&self, timeline: TimelineId) -> Option<TimelineHistory>;
    /// Which database cluster it is, and whether its server is shutting down. Reads the control file only.
    fn identity(&self) -> Option<(SystemId, bool)>;
    /// One of the server's own programs, to be run as its user when the machine has nothing better to do.
    fn at_low_priority(&self, program: &str) -> std::process::Command;
    /// Bytes of a WAL segment, by the control file.
    fn segment_bytes(&self) -> Option<u64>;
}

/// Backups of the repositories, for a node that has no data.
pub trait Restores: Send + Sync + 'static {
    /// The newest complete backup of that database cluster by a server of that major version; `None` if there is none.
    fn newest(&self, of: SystemId, major: u32) -> BoxFuture<'_, Result<Option<BackupSight>, String>>;
    /// Writes the files of a backup into an empty folder.
    fn restore(&self, of: SystemId, id: String, into: PathBuf) -> BoxFuture<'_, Result<(), String>>;
    /// How to get to `target`: why not, if that cannot be.
    fn plan(
        &self,
        of: SystemId,
        major: u32,
        target: RestoreTarget,
    ) -> BoxFuture<'_, Result<PlannedRestore, String>>;
    /// From now on the server beside is given WAL by this order, and archives nothing; `None`: like any other.
    ///
    /// # Errors
    /// The order cannot be read.
    fn recover_by(&self, order: Option<OpenOrder>) -> Result<(), String>;
}

/// What a restored server may fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOrder {
    /// As [`PlannedRestore::order`].
    pub order: String,
    /// `pg_wal` of the data that were set aside: what was not archived yet lies there.
    pub aside_wal: Option<PathBuf>,
}

/// A way to a point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRestore {
    pub backup: String,
    /// Of the backup's files.
    pub bytes: u64,
    /// What the recovery may fetch, and what it must find: JSON of the repository's.
    pub order: String,
    /// The server's `recovery_target...` settings.
    pub settings: Vec<(String, String)>,
    /// For people.
    pub lines: Vec<String>,
}

/// Why a statement of a rollout gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// The SQLSTATE; `None` where the connection broke or none could be had.
    pub code: Option<String>,
    /// What the server said, with its detail and hint.
    pub message: String,
}

/// Rows as text, `None` for NULL.
pub type SqlRows = Vec<Vec<Option<String>>>;

/// A session for schema changes. Dropping it closes the connection; what runs in it may run on for a moment.
pub trait SqlSession: Send + Sync {
    /// Runs statements, as long as they take; the rows of all of them.
    fn rows<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<SqlRows, SqlError>>;
    /// The warnings (and below, where the session asks for them) that have come with the answers so far.
    fn take_notices(&mut self) -> Vec<String>;
}

/// In whose name a session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlRole {
    /// The agent's own, which sees everything.
    Agent,
    /// The one that carries schema changes out.
    Rollout,
}

/// What schema changes ask of the server beside the agent.
pub trait SchemaServer: Send + Sync + 'static {
    /// A session with a database. `settings` are `name=value`.
    fn open<'a>(
        &'a self,
        database: &'a str,
        role: SqlRole,
        settings: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Box<dyn SqlSession>, SqlError>>;
    /// The schema of a database, as `pg_dump --schema-only` writes it.
    fn dump<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<String, String>>;
    /// An empty server of the same version that nobody else uses, until it is dropped.
    fn scratch(&self) -> BoxFuture<'_, Result<Box<dyn ScratchServer>, String>>;
    /// Such as 150018.
    fn server_version(&self) -> u32;
    /// The role that carries schema changes out; `None` where the configuration names none.
    fn rollout_role(&self) -> Option<&str>;
    /// WAL files that wait to be archived.
    fn archive_queue(&self) -> u64;
    /// Of the volumes of the data directory and of the WAL, the one with less room: free bytes, and its size. `None` where
    /// it cannot be told.
    fn room(&self) -> Option<(u64, u64)>;
}

/// A server to try things on. It ends when it is dropped, and leaves nothing.
pub trait ScratchServer: Send + Sync {
    /// A session of its superuser, or of the role that carries schema changes out, which has to be made first.
    fn open<'a>(
        &'a self,
        role: SqlRole,
        settings: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Box<dyn SqlSession>, SqlError>>;
}

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFacts {
    pub system_id: SystemId,
    pub segment_bytes: u64,
    /// Such as 150018.
    pub server_version: u32,
    pub standby: bool,
}

/// An archive in the making. Dropping it ends whoever makes it.
pub trait ArchiveStream: Send {
    fn bytes(&mut self) -> &mut (dyn AsyncRead + Send + Unpin);
    /// Once all bytes are read: whether it was all of them, and what was said if not.
    fn ended(&mut self) -> BoxFuture<'_, Result<(), String>>;
}
