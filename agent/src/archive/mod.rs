//! WAL and backups into the repositories of the configuration.
//!
//! The server runs `pgctl-wal` for each file; that asks this room over a Unix socket. Every node archives (`archive_mode =
//! always`): what a lost primary had received and not archived is in the `pg_wal` of a standby, and that archives it. As a
//! rule the primary was quicker, and a standby only compares hashes.
//!
//! | file | does |
//! |---|---|
//! | `command` | what the server is told to run |
//! | `socket` | answers `pgctl-wal` |
//! | `push` | one file into every repository, with those that come next looked at ahead |
//! | `fetch` | one file for this node's server, from peers or repositories |
//! | `chase` | when a standby is helped, and when it is sent back to stream |
//! | `peers`, `local` | WAL from agent to agent; WAL in this node's own `pg_wal` |
//! | `ready` | which files the server waits to have archived, and in which order |
//! | `sight`, `placement` | what of the replicated state counts here; whether WAL lies beyond a fork |
//! | `doors` | the repositories, opened when they can be |
//! | `tally`, `given_up` | what was done and what failed; what was let go of because too much waited |
//! | `backups`, `increments` | base backups, one at a time; what an incremental one begins with |
//! | `dumps` | logical dumps |
//! | `duties` | scheduled work that the cluster has given to this node |
//! | `upkeep` | retention, and reading a share of the repositories |
//! | `drill`, `scratch` | a restore into scratch space; the server that is thrown away |
//! | `report` | what the cluster is told of all this |
//! | `restores` | a backup for a node that has no data |
//! | `in_place`, `recovering` | the whole cluster goes back in time: the plan and `pgctl`'s orders; WAL for the restored server |
//! | `schedule` | what is due, for `pgctl` |
//! | `service` | all of this for `pgctl` |
//!
//! *Invariant:* nothing here is waited for by the node's loop, the lease or a promotion; it has a runtime of its own.
//! *Invariant:* a standby's question is answered from memory, and never while its node has pledged or is to be promoted.
//! *Invariant:* "archived" is said only when every repository has the file, durably; or when an operator's limit was exceeded
//! and that is known for good.

mod backups;
mod chase;
mod command;
mod doors;
mod drill;
mod dumps;
mod duties;
mod fetch;
mod given_up;
mod in_place;
mod increments;
mod local;
mod peers;
mod placement;
mod push;
mod ready;
mod recovering;
mod report;
mod restores;
mod schedule;
mod scratch;
mod service;
mod sight;
mod socket;
mod tally;
mod upkeep;

pub use command::{socket_path, wal_commands};
pub use service::ArchiveService;
pub use sight::Sight;

use crate::ports::{BackupSource, Consensus};
use agent_core::view::ArchiveReport;
use doors::Doors;
use fetch::Fetcher;
use push::Pusher;
use recovering::Recovering;
use repository::RepositoryConfig;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, watch};

/// Threads for files and for compressing.
const THREADS: usize = 6;
/// Threads that each directory can keep if its file system hangs.
const THREADS_FOR_A_DIRECTORY: usize = 5;
/// Files that are given to other nodes at once.
const GIFTS: usize = 2;

/// What the archive is told once.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    pub cluster: String,
    /// This node's name.
    pub node: String,
    pub data_dir: PathBuf,
    /// Where the agent keeps its own files.
    pub state_dir: PathBuf,
    /// Where `pgctl-wal` asks.
    pub socket: PathBuf,
    /// Who the server runs as: user and group.
    pub owner: (u32, u32),
    pub repositories: Vec<RepositoryConfig>,
}

/// The archive of this node.
pub struct Archive {
    config: ArchiveConfig,
    source: Arc<dyn BackupSource>,
    pusher: Arc<Pusher>,
    fetcher: Arc<Fetcher>,
    /// How many files are given to other nodes at once: each is held in memory.
    gifts: Arc<Semaphore>,
    doors: Arc<Doors>,
    sight: Arc<dyn Fn() -> Sight + Send + Sync>,
    backups: backups::Desk,
    /// One drill at a time.
    drilling: Arc<tokio::sync::Mutex<()>>,
    recovering: Arc<Recovering>,
    reports: watch::Sender<ArchiveReport>,
    runtime: OwnRuntime,
}

/// Compressing and a slow store must not take threads from what keeps the lease.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A store that hangs must not keep the agent from ending.
            runtime.shutdown_background();
        }
    }
}

impl Archive {
    /// Starts to answer `pgctl-wal`.
    ///
    /// # Errors
    /// No threads are to be had.
    pub fn start(
        config: ArchiveConfig,
        source: Arc<dyn BackupSource>,
        sight: impl Fn() -> Sight + Send + Sync + 'static,
    ) -> std::io::Result<Arc<Archive>> {
        let directories = config.repositories.iter().filter(|it| it.path.is_some()).count();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(THREADS + THREADS_FOR_A_DIRECTORY * directories)
            .thread_name("archive")
            .enable_all()
            .build()?;
        let sight: Arc<dyn Fn() -> Sight + Send + Sync> = Arc::new(sight);
        let drilling = Arc::new(tokio::sync::Mutex::new(()));
        let (left, turn) = (scratch::place(&config), Arc::clone(&drilling));
        runtime.spawn_blocking(move || {
            let _turn = turn.blocking_lock();
            // Of an agent that was killed in the middle of a drill.
            if let Err(error) = scratch::clear(&left) {
                tracing::warn!(error, "scratch space of an earlier drill could not be cleared");
            }
        });
        let doors = Arc::new(Doors::new(&config, Arc::clone(&sight)));
        let pusher = Arc::new(Pusher::new(
            config.clone(),
            Arc::clone(&source),
            Arc::clone(&doors),
            Arc::clone(&sight),
        ));
        let fetcher = Arc::new(Fetcher::new(
            config.clone(),
            Arc::clone(&source),
            Arc::clone(&doors),
            Arc::clone(&sight),
        ));
        let recovering = Arc::new(Recovering::new(Arc::clone(&doors)));
        runtime.spawn(socket::serve(
            config.socket.clone(),
            config.owner,
            Arc::clone(&pusher),
            Arc::clone(&fetcher),
            Arc::clone(&recovering),
        ));
        Ok(Arc::new(Archive {
            config,
            source,
            pusher,
            fetcher,
            gifts: Arc::new(Semaphore::new(GIFTS)),
            doors,
            sight,
            backups: backups::Desk::default(),
            drilling,
            recovering,
            reports: watch::channel(ArchiveReport::default()).0,
            runtime: OwnRuntime(Some(runtime)),
        }))
    }

    /// Takes up what the cluster gives this node to do, and tells of the archive. To be called once. `incarnation`: of this
    /// start of the agent.
    pub fn take_duties(
        self: &Arc<Self>,
        consensus: &Arc<dyn Consensus>,
        incarnation: u64,
    ) -> watch::Receiver<ArchiveReport> {
        if let Some(runtime) = self.runtime.handle() {
            runtime.spawn(report::run(Arc::downgrade(self)));
            runtime.spawn(given_up::run(Arc::downgrade(self), Arc::clone(consensus)));
            let consensus = Arc::clone(consensus);
            runtime.spawn(duties::run(Arc::downgrade(self), consensus, incarnation));
        }
        self.reports.subscribe()
    }
}
