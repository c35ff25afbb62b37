use super::PgError;
use agent_core::ids::Epoch;
use agent_core::pg::{ControlFile, Lsn, Position, SystemId, TimelineId};
use agent_core::view::{PgObservation, Upstream};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// What the operator's configuration says of the server.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// This node's name.
    pub node_name: String,
    /// The cluster's name; becomes `cluster_name`.
    pub cluster_name: String,
    /// The server's data directory, absolute.
    pub data_dir: PathBuf,
    /// Where `postgres` and its companions are; searched for when absent.
    pub bin_dir: Option<PathBuf>,
    /// Where the server puts its unix socket.
    pub socket_dir: PathBuf,
    /// `listen_addresses`.
    pub listen_addresses: String,
    /// The server's port.
    pub port: u16,
    /// Who the server runs as, if the agent is root: default `postgres`, else the owner of the data directory.
    pub os_user: Option<String>,
    /// The operator's server settings.
    pub parameters: BTreeMap<String, String>,
    /// The operator's lines for `pg_hba.conf`; none means `host all all all scram-sha-256`.
    pub hba: Vec<String>,
    /// The agent's own directory: transcripts of the programs it ran, and marks of jobs that must not be forgotten.
    pub state_dir: PathBuf,
}

/// The two roles that the nodes of a cluster use with each other; neither is a superuser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Streams WAL and takes base backups.
    pub replication_user: String,
    pub replication_password: String,
    /// Reads files of a source for `pg_rewind`.
    pub rewind_user: String,
    pub rewind_password: String,
}

/// What the agent-owned include file must say at the moment; everything else in it follows from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConf {
    /// Where to stream from; `None` leaves `primary_conninfo` empty.
    pub upstream: Option<Upstream>,
    /// `primary_slot_name`.
    pub slot: Option<String>,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// `max_slot_wal_keep_size`, bytes; rounded up to whole MiB.
    pub slot_budget_bytes: u64,
    /// `restart_after_crash`.
    pub restart_after_crash: bool,
}

/// How to shut a server down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, writes the shutdown checkpoint, streams it to the standbys.
    Fast,
    /// Ends at once; the next start has to recover.
    Immediate,
}

/// A server that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Of a primary that was shut down cleanly: the end of its shutdown checkpoint's record, which is what a standby
    /// must have received to have everything.
    pub clean_end: Option<Position>,
}

/// A replication slot as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    pub name: String,
    /// A walsender uses it.
    pub active: bool,
    /// WAL from here on is kept; `None` for a slot that was never used.
    pub restart_lsn: Option<Lsn>,
    /// It fell behind its budget and is of no use any more.
    pub lost: bool,
}

/// What a rewind has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindReport {
    /// False where the histories had not diverged and nothing had to be done.
    pub rewound: bool,
    /// The last point that both histories share.
    pub fork: Position,
    /// Where the WAL beyond that point was copied to; `None` where there was none.
    pub diverged_wal: Option<PathBuf>,
}

/// A setting of the operator's that does not take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    pub name: String,
    pub user_value: String,
    pub our_value: String,
    pub why: &'static str,
}

/// Ends every process of an instance.
#[derive(Clone, Debug)]
pub struct TreeKiller {}

/// What [`TreeKiller::kill`] has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillReport {
    /// The processes that were there, by id.
    pub killed: Vec<i32>,
    /// How long it took until the last one was gone.
    pub took: Duration,
}

/// Some processes outlived the deadline, as one in uninterruptible sleep does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "processes {survivors:?} did not die in time; the server must be taken for able to write until they are gone"
)]
pub struct KillFailed {
    pub survivors: Vec<i32>,
}

impl TreeKiller {
    /// Synchronous, no tokio, no disk.
    pub fn kill(&self, _deadline: Duration) -> Result<KillReport, KillFailed> {
        Err(KillFailed {
            survivors: Vec::new(),
        })
    }
}

/// One PostgreSQL instance; cheap to clone.
#[derive(Clone, Debug)]
pub struct Instance {}

fn later<T>() -> Result<T, PgError> {
    Err(PgError::NotRunning { doing: "do this" })
}

#[allow(clippy::unused_async, unused_variables)]
impl Instance {
    pub fn open(config: InstanceConfig, credentials: Credentials) -> Result<Instance, PgError> {
        later()
    }
    pub fn version_num(&self) -> u32 {
        0
    }
    pub fn set_credentials(&self, credentials: Credentials) {}
    pub fn control_file(&self) -> Result<Option<ControlFile>, PgError> {
        later()
    }
    pub fn overridden(&self) -> Vec<Overridden> {
        Vec::new()
    }
    pub async fn observe(&self) -> PgObservation {
        PgObservation {
            server: agent_core::view::Server::NoData,
            control: None,
            version_num: 0,
            postmaster_pid: None,
            trouble: None,
            pending_restart: Vec::new(),
        }
    }
    pub async fn initdb(&self) -> Result<SystemId, PgError> {
        later()
    }
    pub async fn start(&self, conf: &ServerConf) -> Result<(), PgError> {
        later()
    }
    pub async fn adopt(&self) -> Option<i32> {
        None
    }
    pub fn postmaster(&self) -> watch::Receiver<Option<i32>> {
        watch::channel(None).1
    }
    pub fn killer(&self) -> TreeKiller {
        TreeKiller {}
    }
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> Result<Stopped, PgError> {
        later()
    }
    pub async fn wait_exit(&self, deadline: Duration) -> Result<(), PgError> {
        later()
    }
    pub async fn reconfigure(&self, conf: &ServerConf) -> Result<bool, PgError> {
        later()
    }
    pub async fn cut_upstream(&self, conf: &ServerConf) -> Result<Position, PgError> {
        later()
    }
    pub async fn tail_position(&self) -> Result<Position, PgError> {
        later()
    }
    pub async fn promote(&self, reserved: TimelineId, deadline: Duration) -> Result<Position, PgError> {
        later()
    }
    pub async fn checkpoint(&self) -> Result<(), PgError> {
        later()
    }
    pub async fn current_wal_flush(&self) -> Result<Lsn, PgError> {
        later()
    }
    pub async fn write_epoch_row(&self, epoch: Epoch, deadline: Duration) -> Result<Lsn, PgError> {
        later()
    }
    pub async fn ensure_roles(&self) -> Result<(), PgError> {
        later()
    }
    pub async fn ensure_slots(&self, wanted: &BTreeMap<String, Option<Lsn>>) -> Result<(), PgError> {
        later()
    }
    pub async fn slots(&self) -> Result<Vec<SlotView>, PgError> {
        later()
    }
    pub async fn base_backup(
        &self,
        from: &Upstream,
        progress: impl Fn(u64, Option<u64>) + Send,
    ) -> Result<(), PgError> {
        later()
    }
    pub async fn rewind(&self, from: &Upstream) -> Result<RewindReport, PgError> {
        later()
    }
    pub fn set_data_aside(&self, why: &str) -> Result<PathBuf, PgError> {
        later()
    }
    pub async fn run_sql(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, PgError> {
        later()
    }
}
