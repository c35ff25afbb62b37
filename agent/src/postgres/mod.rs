//! One PostgreSQL instance under control.
//!
//! This room decides nothing. It answers what the server is ([`Instance::observe`]) and does what it is told, each
//! operation being safe to repeat after a crash of the agent at any point of it.
//!
//! | file | does |
//! |---|---|
//! | `instance`, `config` | the handle, and what it is told |
//! | `binaries`, `account` | finds the programs and the operating system's user |
//! | `data_dir`, `durable_file` | is this folder ours to use; files that survive a crash whole |
//! | `proc_table`, `pidfd`, `cgroup`, `process`, `kill` | processes: who they are, when they die, how to end them all |
//! | `control_file`, `wal_files` | what the disk says of a server that does not |
//! | `conf`, `owned_settings`, `hba`, `conf_text` | the server's configuration files |
//! | `session`, `look`, `observe` | SQL with deadlines; the one query; what it means |
//! | `pulse` | the small questions by which a hung server is told from a busy one |
//! | `lifecycle`, `reload`, `standby`, `promote` | start, stop, configure, cut off, promote |
//! | `epoch_row`, `roles`, `slots` | what the agents keep in the database |
//! | `backup_source` | what the archive reads for a base backup |
//! | `schema_server`, `scratch` | what schema changes need: sessions, the schema as SQL, an empty server to try them on |
//! | `program`, `initdb`, `base_backup`, `rewind`, `fork_point`, `aside` | making, copying and mending data directories |
//!
//! *Invariant:* a server is only ever started as a standby; [`Instance::promote`] is the one way to a primary.
//! *Invariant:* nothing here deletes data that a server has written: what is in the way is renamed and named.
//! *Invariant:* no wall clock decides anything; every wait has a deadline on the client's side.

mod account;
mod aside;
mod backup_source;
mod base_backup;
mod binaries;
mod cgroup;
mod conf;
mod conf_text;
mod config;
mod control_file;
mod data_dir;
mod durable_file;
mod epoch_row;
mod error;
mod fork_point;
mod hba;
mod initdb;
mod instance;
mod kill;
mod lifecycle;
mod look;
mod observe;
mod owned_settings;
mod pidfd;
mod proc_table;
mod process;
mod program;
mod promote;
mod pulse;
mod reload;
mod restored;
mod rewind;
mod roles;
mod schema_server;
mod scratch;
mod session;
mod slots;
mod source;
mod standby;
mod wal_files;

pub use config::{
    Credentials, InstanceConfig, Overridden, Recovery, RewindReport, ServerConf, SlotView, StopMode, Stopped,
};
pub use error::PgError;
pub use instance::Instance;
pub use kill::{KillFailed, KillReport, TreeKiller};
pub use pulse::{Beat, CommitPulse, KeptPulse};
pub use slots::SLOT_PREFIX;
