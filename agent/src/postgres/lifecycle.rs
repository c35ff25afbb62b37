//! Starting and stopping the server.

use super::control_file::ControlData;
use super::data_dir::Condition;
use super::{Instance, PgError, ServerConf, StopMode, Stopped, durable_file, process, wal_files};
use agent_core::pg::ControlState;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How often to look whether the control file says "shut down". Its writer costs more than our reading.
const POLL: Duration = Duration::from_millis(2);
/// How long the server program may take to lock its data directory, and an earlier one to finish its exit.
const LOCKED_WITHIN: Duration = Duration::from_secs(30);
const ORPHANS_GONE_WITHIN: Duration = Duration::from_secs(5);
/// The file that makes a server start as a standby.
pub(super) const STANDBY_SIGNAL: &str = "standby.signal";

impl Instance {
    /// Starts the server, always as a standby, and returns once it has locked its data directory. Whether and when it
    /// takes connections is for [`Instance::observe`] to see.
    ///
    /// What is left of an earlier server without its postmaster is ended first: it can serve nobody any more, but could
    /// still commit.
    ///
    /// # Errors
    /// When the data directory cannot be used, a server already runs, or the program ends at once; the message then
    /// carries the end of its log.
    pub async fn start(&self, conf: &ServerConf) -> Result<(), PgError> {
        let result = self.start_unnoted(conf).await;
        self.note(result)
    }

    async fn start_unnoted(&self, conf: &ServerConf) -> Result<(), PgError> {
        self.adopt().await;
        if let Some(running) = self.process().current() {
            if !running.is_stopping() {
                return Err(PgError::StillRunning {
                    doing: "start the server",
                    pid: running.pid,
                });
            }
            self.wait_exit(LOCKED_WITHIN).await?;
        }
        if let Some(job) = self.job() {
            return Err(PgError::Busy {
                doing: "start the server",
                job: job.to_owned(),
            });
        }
        let (instance, conf) = (self.clone(), conf.clone());
        let preparing = tokio::task::spawn_blocking(move || instance.prepare_start(&conf).map(|()| conf));
        let conf = preparing.await.map_err(|error| PgError::Process {
            action: "prepare the start".to_owned(),
            source: std::io::Error::other(error),
        })??;
        let pid = self.spawn_server(&conf)?;
        self.set_confirmed(None);
        self.memory().settings_changed();
        self.wait_locked(pid).await
    }

    fn prepare_start(&self, conf: &ServerConf) -> Result<(), PgError> {
        let data_dir = &self.config().data_dir;
        let unusable = |why: String| PgError::Unusable {
            path: data_dir.clone(),
            why,
        };
        match self.condition() {
            Condition::Usable => {}
            Condition::Absent => return Err(unusable(super::data_dir::NO_DATA.to_owned())),
            Condition::HalfRewound(why) | Condition::Unusable(why) => return Err(unusable(why)),
        }
        if !self.target().processes().is_empty() {
            self.killer().kill(ORPHANS_GONE_WITHIN).map_err(|failed| {
                unusable(format!(
                    "processes of an earlier server are left and cannot be ended: {failed}"
                ))
            })?;
        }
        self.remove_stale_locks()?;
        let socket_dir = &self.config().socket_dir;
        self.account().create_dir(socket_dir, 0o755)?;
        let metadata = std::fs::metadata(socket_dir).map_err(PgError::file("read", socket_dir))?;
        if !self.account().may_enter(&metadata, true) {
            return Err(PgError::Setting {
                name: "socket_dir".to_owned(),
                why: format!(
                    "the server's user \"{name}\" may not create files in {shown}; run: chown {name}: {shown}",
                    name = self.account().name,
                    shown = socket_dir.display()
                ),
            });
        }
        self.clean_auto_conf(conf)?;
        self.write_configuration(conf)?;
        // A leftover request would promote a server that was only to be started.
        durable_file::remove(&data_dir.join(super::promote::PROMOTE_SIGNAL))?;
        durable_file::replace(&data_dir.join(STANDBY_SIGNAL), "", self.account(), 0o600)?;
        Ok(())
    }

    async fn wait_locked(&self, pid: i32) -> Result<(), PgError> {
        let begun = Instant::now();
        let path = self.config().data_dir.join("postmaster.pid");
        loop {
            if process::pid_file(&path).is_some_and(|file| file.pid == pid) {
                return Ok(());
            }
            if self.process().pid() != Some(pid) {
                let (said, log) = self.log_tail();
                return Err(PgError::StartFailed { said, log });
            }
            if begun.elapsed() > LOCKED_WITHIN {
                return Err(PgError::Deadline {
                    doing: "start the server",
                    after: LOCKED_WITHIN,
                    why: format!("process {pid} has not locked its data directory; is the disk hung?"),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops the server. In [`StopMode::Fast`] this returns as soon as the control file says that it is shut down, since
    /// no WAL can follow that; the process ends a little later ([`Instance::wait_exit`]). Nothing to stop is a success.
    ///
    /// # Errors
    /// After `deadline`, naming the processes that are in the way; the server goes on with its shutdown.
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> Result<Stopped, PgError> {
        let begun = Instant::now();
        let Some(postmaster) = self.process().current() else {
            return self.stopped();
        };
        // A server that is still starting up has not yet marked the control file as in use.
        let unmarked = self.control_data()?.is_some_and(|control| is_shut_down(&control));
        postmaster.set_stopping();
        let signal = match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        match postmaster.signal(signal) {
            Err(PgError::Process { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
        while self.process().pid() == Some(postmaster.pid) {
            let marked =
                || Ok::<bool, PgError>(self.control_data()?.is_some_and(|control| is_shut_down(&control)));
            if mode == StopMode::Fast && !unmarked && marked()? {
                break;
            }
            if begun.elapsed() >= deadline {
                return Err(PgError::Deadline {
                    doing: "stop the server",
                    after: deadline,
                    why: self.in_the_way(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        self.stopped()
    }

    /// Waits until the postmaster and all other processes of the server are gone. The last one is usually its log
    /// collector, which stays until nobody can write to it any more.
    ///
    /// # Errors
    /// After `deadline`, naming the processes that are in the way.
    pub async fn wait_exit(&self, deadline: Duration) -> Result<(), PgError> {
        let begun = Instant::now();
        let mut postmaster = self.postmaster();
        // That it timed out shows in the loop below.
        let _ = tokio::time::timeout(deadline, postmaster.wait_for(Option::is_none)).await;
        loop {
            if self.process().pid().is_none() && self.target().processes().is_empty() {
                return Ok(());
            }
            if begun.elapsed() >= deadline {
                let doing = "wait for the server's exit";
                return Err(PgError::Deadline {
                    doing,
                    after: deadline,
                    why: self.in_the_way(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn stopped(&self) -> Result<Stopped, PgError> {
        let control = self
            .control_data()?
            .filter(|control| control.file.state == ControlState::ShutDown);
        let end = control.map(|control| wal_files::end_of_checkpoint(&self.config().data_dir, &control));
        Ok(Stopped {
            clean_end: end.transpose()?,
        })
    }

    /// The server's processes by their titles, which tell sessions, their users and what they do.
    fn in_the_way(&self) -> String {
        let titles: Vec<String> = self
            .target()
            .processes()
            .iter()
            .map(|process| format!("{} ({})", process.pid, process.title()))
            .collect();
        format!(
            "these processes are in the way: {}; end the sessions, or stop it in immediate mode",
            titles.join(", ")
        )
    }
}

pub(super) fn is_shut_down(control: &ControlData) -> bool {
    matches!(
        control.file.state,
        ControlState::ShutDown | ControlState::ShutDownInRecovery
    )
}
