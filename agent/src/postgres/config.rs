//! What the operator and the driver want of a server.

use super::PgError;
use crate::ports::WalCommands;
use agent_core::pg::{Lsn, Position};
use agent_core::view::Upstream;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The longest path of a unix socket that the kernel takes, in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// What the operator's configuration says of the server.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// This node's name.
    pub node_name: String,
    /// The cluster's name; becomes `cluster_name`.
    pub cluster_name: String,
    /// The server's data directory, absolute. Beside it, under the same name with an ending, the agent puts
    /// `.log` (the server's logs), `.diverged` (WAL that a rewind left behind) and `.pgctl-new` (a copy in the making).
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
    /// The operator's server settings, by name.
    pub parameters: BTreeMap<String, String>,
    /// The operator's lines for `pg_hba.conf`; none means `host all all all scram-sha-256`.
    pub hba: Vec<String>,
    /// The role that carries schema changes out; `None`: nobody may.
    pub rollout_role: Option<String>,
    /// What the server runs to archive WAL and to fetch it; `None` where that is left to the operator.
    pub wal_commands: Option<WalCommands>,
    /// The agent's own directory: transcripts of the programs it ran, and marks of jobs that must not be forgotten.
    pub state_dir: PathBuf,
}

impl InstanceConfig {
    /// Finds what would break a configuration file or a socket before anything is written.
    pub(super) fn check(&self) -> Result<(), PgError> {
        let wrong = |name: &str, why: String| {
            Err(PgError::Setting {
                name: name.to_owned(),
                why,
            })
        };
        for (name, path) in [
            ("data_dir", &self.data_dir),
            ("socket_dir", &self.socket_dir),
            ("state_dir", &self.state_dir),
        ] {
            if !path.is_absolute() {
                return wrong(name, format!("{} is not an absolute path", path.display()));
            }
            if path.to_str().is_none_or(|text| text.contains(['\n', '\r', ','])) {
                return wrong(
                    name,
                    "the path holds a comma, a line break or bytes that are no text".to_owned(),
                );
            }
        }
        if self.data_dir.file_name().is_none() {
            return wrong("data_dir", "it must name a folder below the root".to_owned());
        }
        let socket = self.socket_dir.join(format!(".s.PGSQL.{}", self.port));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return wrong(
                "socket_dir",
                format!(
                    "{} is longer than the {SOCKET_PATH_MAX} bytes of a socket's path",
                    socket.display()
                ),
            );
        }
        if self.port == 0 {
            return wrong("port", "it must be between 1 and 65535".to_owned());
        }
        for (name, value) in &self.parameters {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            if name.is_empty() || !name.chars().all(plain) {
                return wrong(
                    name,
                    "a parameter's name has letters, digits, `_` and `.` only".to_owned(),
                );
            }
            if value.contains(['\n', '\r', '\0']) {
                return wrong(name, "a parameter's value must be one line".to_owned());
            }
        }
        for line in &self.hba {
            if line.contains(['\n', '\r', '\0']) {
                return wrong("hba", format!("{line:?} is more than one line"));
            }
        }
        Ok(())
    }

    /// The data directory's name with `ending`, beside it.
    pub(super) fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.data_dir.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        self.data_dir.with_file_name(name)
    }
}

/// The two roles that the nodes of a cluster use with each other; neither is a superuser.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Streams WAL and takes base backups.
    pub replication_user: String,
    pub replication_password: String,
    /// Reads files of a source for `pg_rewind`.
    pub rewind_user: String,
    pub rewind_password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("replication_user", &self.replication_user)
            .field("rewind_user", &self.rewind_user)
            .finish_non_exhaustive()
    }
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
    /// Of a restored server: how far it is recovered, from the archive. Counts at the start only.
    pub recovery: Option<Recovery>,
}

/// Where a restored server stops replaying, until it is promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// `recovery_target...` by name. Given at the start and not in a file, so that the next start is without them.
    pub settings: Vec<(String, String)>,
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
    /// must have received to have everything. `None` after any other end.
    pub clean_end: Option<Position>,
}

/// A physical replication slot as the server has it.
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
    /// The last point that both histories share, on the timeline of the old one.
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
