//! What can go wrong with a server, said so that an operator knows what to do next.

use agent_core::pg::TimelineId;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something could not be done to or learned from the PostgreSQL instance.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// No usable server programs.
    #[error(
        "no PostgreSQL server programs of version 13 to 18 were found (looked in {looked}); install the server \
         package or set `bin_dir` to the folder that holds `postgres`"
    )]
    NoBinaries { looked: String },
    /// The programs and the data directory are of different major versions.
    #[error(
        "the data directory {data_dir} was made by PostgreSQL {data}, but the programs in {bin_dir} are of version \
         {programs}; install the server package of version {data} or set `bin_dir` to its programs"
    )]
    WrongVersion {
        data_dir: PathBuf,
        data: u32,
        bin_dir: PathBuf,
        programs: u32,
    },
    /// A setting of ours has an impossible value.
    #[error("the setting `{name}` cannot be used: {why}")]
    Setting { name: String, why: String },
    /// The data directory must not be touched as it is.
    #[error("the data directory {path} cannot be used: {why}")]
    Unusable { path: PathBuf, why: String },
    /// The operating system refused a file operation.
    #[error("could not {action} {path}: {source}; {}", advice(.source, .path))]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The control file is missing, damaged or of an unknown layout.
    #[error(
        "{path} cannot be read: {why}; if the disk is sound, this copy of the data must be made anew (reinit)"
    )]
    ControlFile { path: PathBuf, why: String },
    /// A process could not be started or signalled.
    #[error(
        "could not {action}: {source}; check the limits on processes and the user that the agent runs as"
    )]
    Process { action: String, source: io::Error },
    /// The server ended while it was being started.
    #[error("the server did not start: {said}; its log is in {log}")]
    StartFailed { said: String, log: PathBuf },
    /// The operation needs a running server.
    #[error("could not {doing}: no server is running on this data directory; start it first")]
    NotRunning { doing: &'static str },
    /// The operation needs a stopped server.
    #[error("could not {doing}: process {pid} still serves this data directory; stop it first")]
    StillRunning { doing: &'static str, pid: i32 },
    /// No session could be opened. `answered`: it was the server that refused.
    #[error("could not connect to the server at {to}: {why}")]
    Connect { to: String, why: String, answered: bool },
    /// The server takes no sessions yet, or no longer.
    #[error("the server at {to} takes no connections now ({why}); try again when it is up")]
    NotReady { to: String, why: String },
    /// The server refused a statement.
    #[error("could not {doing}: the server answered: {why}")]
    Sql { doing: &'static str, why: String },
    /// There was no answer in time.
    #[error("could not {doing} within {after:?}: {why}")]
    Deadline {
        doing: &'static str,
        after: Duration,
        why: String,
    },
    /// A promotion would lead, or has led, to a timeline that another epoch owns.
    #[error(
        "the promotion would begin timeline {found}, but {reserved} was reserved for it: {why}; \
         do not open this server to clients"
    )]
    Timeline {
        reserved: TimelineId,
        found: TimelineId,
        why: String,
    },
    /// The commit is in the local WAL, but the synchronous standbys did not acknowledge it.
    #[error(
        "the commit was not acknowledged by the synchronous standbys ({why}); it may not survive a failover, so \
         the server must stay closed to clients until a row is acknowledged"
    )]
    NotAcknowledged { why: String },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed ({status}): {said}; {advice}; its output is in {log}")]
    Program {
        program: &'static str,
        status: String,
        said: String,
        advice: &'static str,
        log: PathBuf,
    },
    /// A role with one of our names exists and has rights that it must not have.
    #[error(
        "the role \"{role}\" is a superuser, and its password would be known to every node; choose another name, \
         or run ALTER ROLE \"{role}\" NOSUPERUSER"
    )]
    RoleIsSuperuser { role: String },
    /// Another job is at work on the data directory.
    #[error("could not {doing}: {job} is still at work on this data directory; wait for it to end")]
    Busy { doing: &'static str, job: String },
}

impl PgError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PgError {
        let path = path.to_owned();
        move |source| PgError::File { action, path, source }
    }
}

fn advice(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space on that file system".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "check who owns it and every folder above it (`namei -l {}`)",
                path.display()
            )
        }
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
            "if it is a mount point, set `data_dir` to a folder below it".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only: see `dmesg`".to_owned(),
        io::ErrorKind::NotFound => "check the path in the configuration".to_owned(),
        _ => "see `dmesg` for trouble with the disk".to_owned(),
    }
}
