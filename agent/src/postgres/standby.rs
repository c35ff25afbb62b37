//! Cutting a standby off its upstream: the half of a pledge that happens in the server.

use super::{Instance, PgError, ServerConf};
use agent_core::pg::Position;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(1);
/// When the walreceiver is told to end directly: the process that would end it may be waiting in the replay.
const NUDGE_AFTER: Duration = Duration::from_millis(100);
/// For how long the walreceiver must have been seen gone.
const QUIET: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(5);
const LOOK_WITHIN: Duration = Duration::from_secs(1);

impl Instance {
    /// Puts a configuration without upstream into force, waits until the walreceiver is gone, and tells how far the WAL
    /// reaches then. From here on this standby acknowledges nothing to anybody.
    ///
    /// A walreceiver that the server had asked for a moment earlier cannot come up later and stream: the password file
    /// is emptied before anything else, and only our access rule lets the replication role in.
    ///
    /// # Errors
    /// When `conf` has an upstream, the server is no standby, or the receiver does not end within some seconds. The
    /// caller must then not pledge.
    pub async fn cut_upstream(&self, conf: &ServerConf) -> Result<Position, PgError> {
        let doing = "cut the standby off its upstream";
        if conf.upstream.is_some() {
            return Err(PgError::Setting {
                name: "primary_conninfo".to_owned(),
                why: "a server cannot be cut off with a configuration that names an upstream".to_owned(),
            });
        }
        if self.process().pid().is_none() {
            return Err(PgError::NotRunning { doing });
        }
        self.reconfigure(conf).await?;
        let begun = Instant::now();
        let mut gone_since: Option<Instant> = None;
        loop {
            let look = self.ask(LOOK_WITHIN).await?;
            if !look.standby {
                return Err(PgError::Sql {
                    doing,
                    why: "this server is not in recovery".to_owned(),
                });
            }
            match &look.receiver {
                None if gone_since.get_or_insert_with(Instant::now).elapsed() >= QUIET => break,
                None => {}
                Some(receiver) => {
                    gone_since = None;
                    if begun.elapsed() >= NUDGE_AFTER {
                        self.end_receiver(receiver.pid);
                    }
                }
            }
            if begun.elapsed() >= DEADLINE {
                let why = "its walreceiver is still there; it may hang on the disk".to_owned();
                return Err(PgError::Deadline {
                    doing,
                    after: DEADLINE,
                    why,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        self.caught_up_position(DEADLINE).await
    }

    /// The end of the WAL, waiting for a server that still reads what was on its disk.
    async fn caught_up_position(&self, deadline: Duration) -> Result<Position, PgError> {
        let begun = Instant::now();
        loop {
            match self.tail_position().await {
                Err(PgError::Deadline { .. }) if begun.elapsed() < deadline => tokio::time::sleep(POLL).await,
                answer => return answer,
            }
        }
    }

    /// SIGTERM to the walreceiver, if that process is one of this server's.
    fn end_receiver(&self, pid: i32) {
        let ours = self
            .target()
            .processes()
            .into_iter()
            .find(|process| process.pid == pid);
        if ours.is_some_and(|process| process.title().contains("walreceiver")) {
            // If it has ended meanwhile, all is well.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}
