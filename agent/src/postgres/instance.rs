//! The handle on one instance, and what it remembers between two operations.

use super::account::Account;
use super::binaries::Binaries;
use super::cgroup::Cgroup;
use super::control_file::{self, ControlData};
use super::kill::KillTarget;
use super::observe::Memory;
use super::process::ServerProcess;
use super::session::KeptSession;
use super::{Credentials, InstanceConfig, PgError, ServerConf, TreeKiller, data_dir};
use agent_core::pg::{ControlFile, TimelineHistory, TimelineId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// One PostgreSQL instance; cheap to clone, all clones being the same instance.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<Inner>,
}

struct Inner {
    config: InstanceConfig,
    binaries: Binaries,
    account: Account,
    credentials: Mutex<Credentials>,
    target: Arc<KillTarget>,
    process: Arc<ServerProcess>,
    kept: KeptSession,
    last_conf: Mutex<Option<ServerConf>>,
    confirmed: Mutex<Option<Confirmed>>,
    job: Mutex<Option<&'static str>>,
    trouble: Mutex<Option<String>>,
    histories: Mutex<BTreeMap<TimelineId, TimelineHistory>>,
    memory: Memory,
}

/// Which configuration the running server was seen to have in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub postmaster: i32,
    pub conf: ServerConf,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("data_dir", &self.inner.config.data_dir)
            .field("version_num", &self.inner.binaries.version_num())
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// Finds the server's programs and user and checks the settings; touches neither server nor data.
    ///
    /// # Errors
    /// When no programs of a fitting version are there, the user cannot be used, or a setting has an impossible value.
    pub fn open(config: InstanceConfig, credentials: Credentials) -> Result<Instance, PgError> {
        config.check()?;
        let binaries = Binaries::find(config.bin_dir.as_deref(), &config.data_dir)?;
        let account = Account::resolve(&config)?;
        let cgroup = Cgroup::prepare(&config.cluster_name, &config.node_name, &config.data_dir);
        let target = Arc::new(KillTarget::new(config.data_dir.clone(), cgroup));
        Ok(Instance {
            inner: Arc::new(Inner {
                process: Arc::new(ServerProcess::new(Arc::clone(&target))),
                target,
                binaries,
                account,
                credentials: Mutex::new(credentials),
                kept: KeptSession::default(),
                last_conf: Mutex::default(),
                confirmed: Mutex::default(),
                job: Mutex::default(),
                trouble: Mutex::default(),
                histories: Mutex::default(),
                memory: Memory::default(),
                config,
            }),
        })
    }

    /// `server_version_num` of the programs, such as 150018 or 180006.
    #[must_use]
    pub fn version_num(&self) -> u32 {
        self.inner.binaries.version_num()
    }

    /// Replaces the passwords; takes effect in files and roles with the next operation that writes them.
    pub fn set_credentials(&self, credentials: Credentials) {
        *lock(&self.inner.credentials) = credentials;
        *lock(&self.inner.confirmed) = None;
    }

    /// Reads the control file; `None` where there is no data directory. Does not need or ask a server.
    ///
    /// # Errors
    /// [`PgError::ControlFile`] when it is damaged or of an unknown layout.
    pub fn control_file(&self) -> Result<Option<ControlFile>, PgError> {
        Ok(self.control_data()?.map(|control| control.file))
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &std::path::Path {
        &self.inner.config.data_dir
    }

    /// Who the server runs as: user and group.
    #[must_use]
    pub fn server_account(&self) -> (u32, u32) {
        (self.inner.account.uid.as_raw(), self.inner.account.gid.as_raw())
    }

    /// The postmaster's process id, `None` from the moment it is dead.
    #[must_use]
    pub fn postmaster(&self) -> watch::Receiver<Option<i32>> {
        self.inner.process.subscribe()
    }

    /// What ends every process of this instance at once.
    #[must_use]
    pub fn killer(&self) -> TreeKiller {
        TreeKiller::new(Arc::clone(&self.inner.target))
    }

    pub(super) fn config(&self) -> &InstanceConfig {
        &self.inner.config
    }

    pub(super) fn binaries(&self) -> &Binaries {
        &self.inner.binaries
    }

    pub(super) fn major(&self) -> u32 {
        self.inner.binaries.major()
    }

    pub(super) fn account(&self) -> &Account {
        &self.inner.account
    }

    pub(super) fn credentials(&self) -> Credentials {
        lock(&self.inner.credentials).clone()
    }

    pub(super) fn target(&self) -> &Arc<KillTarget> {
        &self.inner.target
    }

    pub(super) fn process(&self) -> &Arc<ServerProcess> {
        &self.inner.process
    }

    pub(super) fn kept(&self) -> &KeptSession {
        &self.inner.kept
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.inner.memory
    }

    pub(super) fn control_data(&self) -> Result<Option<ControlData>, PgError> {
        control_file::read(&self.inner.config.data_dir)
    }

    /// The control file, for operations that make no sense without a data directory.
    pub(super) fn existing_control(&self) -> Result<ControlData, PgError> {
        self.control_data()?.ok_or_else(|| PgError::Unusable {
            path: self.inner.config.data_dir.clone(),
            why: data_dir::NO_DATA.to_owned(),
        })
    }

    pub(super) fn last_conf(&self) -> Option<ServerConf> {
        lock(&self.inner.last_conf).clone()
    }

    pub(super) fn remember_conf(&self, conf: &ServerConf) {
        *lock(&self.inner.last_conf) = Some(conf.clone());
    }

    pub(super) fn confirmed(&self) -> Option<Confirmed> {
        lock(&self.inner.confirmed).clone()
    }

    pub(super) fn set_confirmed(&self, confirmed: Option<Confirmed>) {
        *lock(&self.inner.confirmed) = confirmed;
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.inner.trouble).clone()
    }

    /// Remembers why an operation on the data directory failed, for observations; a success clears it.
    pub(super) fn note<T>(&self, result: Result<T, PgError>) -> Result<T, PgError> {
        *lock(&self.inner.trouble) = result.as_ref().err().map(ToString::to_string);
        result
    }

    /// The history of a timeline, read once: the content of a history file never changes.
    pub(super) fn history(&self, timeline: TimelineId) -> Result<TimelineHistory, PgError> {
        if let Some(known) = lock(&self.inner.histories).get(&timeline) {
            return Ok(known.clone());
        }
        let history = super::wal_files::history(&self.inner.config.data_dir, timeline)?;
        lock(&self.inner.histories).insert(timeline, history.clone());
        Ok(history)
    }

    /// The job that is at work on the data directory.
    pub(super) fn job(&self) -> Option<&'static str> {
        *lock(&self.inner.job)
    }

    /// Claims the data directory for a job that needs it without a server, until the claim is dropped.
    pub(super) fn claim(&self, doing: &'static str, job: &'static str) -> Result<Claim, PgError> {
        if let Some(pid) = self.process().pid() {
            return Err(PgError::StillRunning { doing, pid });
        }
        if let Some(process) = self.target().processes().first() {
            return Err(PgError::StillRunning {
                doing,
                pid: process.pid,
            });
        }
        let mut current = lock(&self.inner.job);
        if let Some(other) = *current {
            return Err(PgError::Busy {
                doing,
                job: other.to_owned(),
            });
        }
        *current = Some(job);
        Ok(Claim {
            instance: self.clone(),
        })
    }

    /// Forgets what was learned of a data directory that another one has replaced.
    pub(super) fn data_dir_replaced(&self) {
        lock(&self.inner.histories).clear();
        self.set_confirmed(None);
        self.target().refresh_folder();
    }
}

/// While it lives, no other job may touch the data directory.
pub(super) struct Claim {
    instance: Instance,
}

impl Drop for Claim {
    fn drop(&mut self) {
        *lock(&self.instance.inner.job) = None;
    }
}

/// A panic elsewhere leaves these values whole: each is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
