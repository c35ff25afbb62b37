//! One look at the server: what the agents decide by. It takes a second at most, whatever state server and disk are in.

use super::conf_text::parse_conninfo;
use super::control_file::ControlData;
use super::data_dir::{Condition, inspect};
use super::session::{Kept, is_full};
use super::{Instance, PgError, rewind, wal_files};
use agent_core::pg::{Lsn, Position, TimelineHistory, TimelineId};
use agent_core::view::{
    PgObservation, PrimaryView, Receiver, Server, StandbyConnection, StandbyView, Upstream,
};
use serde::Deserialize;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long server and disk may take for their parts of a look.
const SERVER_DEADLINE: Duration = Duration::from_millis(600);
const DISK_DEADLINE: Duration = Duration::from_millis(300);
/// How often to try a fresh connection beside the kept one: a stopped postmaster leaves old sessions working.
const FRESH_EVERY: Duration = Duration::from_secs(2);
/// How often to ask for settings that wait for a restart; the question is dearer than all the others.
const PENDING_EVERY: Duration = Duration::from_secs(5);

/// The one query of a look. Each function is called only on the kind of server that has an answer.
pub(super) const LOOK: &str = "
WITH me AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby)
SELECT json_build_object(
  'standby', me.standby,
  'pending_restart', CASE WHEN $1::bool
    THEN (SELECT json_agg(name ORDER BY name) FROM pg_settings WHERE pending_restart) END,
  'replay', CASE WHEN me.standby THEN pg_last_wal_replay_lsn() END,
  'receive', CASE WHEN me.standby THEN pg_last_wal_receive_lsn() END,
  'replay_age_ms', CASE WHEN me.standby THEN greatest(0,
    1000 * extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()))::bigint END,
  'paused', CASE WHEN me.standby THEN pg_is_wal_replay_paused() END,
  'waits_for_wal', CASE WHEN me.standby THEN EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
    AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')) END,
  'conninfo', CASE WHEN me.standby THEN current_setting('primary_conninfo') END,
  'receiver', CASE WHEN me.standby THEN (SELECT json_build_object('pid', pid, 'status', status,
    'latest_end', latest_end_lsn, 'timeline', received_tli) FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) END,
  'flush', CASE WHEN NOT me.standby THEN pg_current_wal_flush_lsn() END,
  'walfile', CASE WHEN NOT me.standby THEN pg_walfile_name(pg_current_wal_flush_lsn()) END,
  'synchronous_standby_names', current_setting('synchronous_standby_names'),
  'read_only', current_setting('default_transaction_read_only')::bool,
  'standbys', CASE WHEN NOT me.standby THEN (SELECT json_agg(json_build_object(
    'application_name', application_name, 'state', state, 'sync_state', sync_state,
    'flush', flush_lsn, 'replay', replay_lsn) ORDER BY application_name, pid) FROM pg_stat_replication) END
)::text FROM me";

/// The answer to [`LOOK`].
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Look {
    pub standby: bool,
    pending_restart: Option<Vec<String>>,
    pub replay: Option<Lsn>,
    pub receive: Option<Lsn>,
    replay_age_ms: Option<u64>,
    paused: Option<bool>,
    waits_for_wal: Option<bool>,
    conninfo: Option<String>,
    pub receiver: Option<ReceiverRow>,
    flush: Option<Lsn>,
    walfile: Option<String>,
    synchronous_standby_names: String,
    read_only: bool,
    standbys: Option<Vec<SenderRow>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ReceiverRow {
    pub pid: i32,
    status: Option<String>,
    latest_end: Option<Lsn>,
    timeline: Option<TimelineId>,
}

#[derive(Debug, Clone, Deserialize)]
struct SenderRow {
    application_name: String,
    state: Option<String>,
    sync_state: Option<String>,
    flush: Option<Lsn>,
    replay: Option<Lsn>,
}

/// What is remembered between looks. The process ids say of which server a thing is known.
#[derive(Default)]
pub(super) struct Memory {
    /// All WAL that was on disk at the start has been replayed.
    caught_up: AtomicI32,
    /// A session could be opened.
    connected: AtomicI32,
    fresh: Mutex<Option<(i32, Instant)>>,
    pending: Mutex<Option<(Instant, Vec<String>)>>,
    control: Mutex<Option<ControlData>>,
    /// A promotion to that timeline was asked for.
    promoting: Mutex<Option<(i32, TimelineId)>>,
    /// At most one look waits for the disk, so that a hung disk does not eat up the threads.
    disk: Arc<tokio::sync::Mutex<()>>,
}

impl Memory {
    pub(super) fn is_promoting(&self, postmaster: i32, timeline: TimelineId) -> bool {
        *self.promoting.lock().unwrap_or_else(PoisonError::into_inner) == Some((postmaster, timeline))
    }

    pub(super) fn set_promoting(&self, postmaster: i32, timeline: TimelineId) {
        *self.promoting.lock().unwrap_or_else(PoisonError::into_inner) = Some((postmaster, timeline));
    }

    /// Settings may have changed: ask for those that wait for a restart at the next look.
    pub(super) fn settings_changed(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Instance {
    /// Looks at the server, in at most about a second.
    pub async fn observe(&self) -> PgObservation {
        if self.job().is_none() && self.process().pid().is_none() {
            self.adopt().await;
        }
        let ((control, condition), server) = tokio::join!(self.look_at_disk(), self.look_at_server());
        let server = match (self.job(), server) {
            (Some(job), _) => Server::Busy { job: job.to_owned() },
            (None, Some(Ok(look))) => self.interpret(look).await,
            (None, Some(Err(condition))) => condition,
            (None, None) => match condition {
                Some(Condition::Absent) => Server::NoData,
                Some(Condition::Usable) => Server::Down,
                Some(Condition::Unusable(why)) => Server::Unusable { why },
                None => Server::Unresponsive {
                    why: "the disk of the data directory does not answer".to_owned(),
                },
            },
        };
        PgObservation {
            server,
            control: control.map(|control| control.file),
            version_num: self.version_num(),
            postmaster_pid: self.process().pid(),
            trouble: self.trouble().or_else(|| self.process().last_end()),
            pending_restart: self.pending_restart(),
        }
    }

    /// How far this standby's durable WAL reaches, and on which timeline.
    ///
    /// # Errors
    /// When no standby answers, or it has not yet read all the WAL that was on its disk when it was started: until
    /// then nobody knows where that ends.
    pub async fn tail_position(&self) -> Result<Position, PgError> {
        let look = self.ask(SERVER_DEADLINE).await?;
        let doing = "tell how far the standby's WAL reaches";
        if !look.standby {
            return Err(PgError::Sql {
                doing,
                why: "this server is not in recovery".to_owned(),
            });
        }
        let instance = self.clone();
        let position = self.on_disk(move || instance.position_of(&look)).await.flatten();
        position.ok_or_else(|| PgError::Deadline {
            doing,
            after: SERVER_DEADLINE,
            why: "it still reads WAL that was on its disk when it was started; ask again".to_owned(),
        })
    }

    /// Asks the server over the kept session; tries a new one once if that has broken.
    pub(super) async fn ask(&self, deadline: Duration) -> Result<Look, PgError> {
        let begun = Instant::now();
        let mut result = self.ask_once(deadline).await;
        if matches!(result, Err(PgError::Connect { .. })) {
            self.kept().forget().await;
            result = self.ask_once(deadline.saturating_sub(begun.elapsed())).await;
        }
        if result.is_err() {
            self.kept().forget().await;
        }
        result
    }

    async fn ask_once(&self, deadline: Duration) -> Result<Look, PgError> {
        let begun = Instant::now();
        let kept: Arc<Kept> = self.kept_session(deadline).await?;
        let doing = "look at the server";
        let with_pending = self.pending_is_due();
        let left = deadline.saturating_sub(begun.elapsed());
        let row = kept
            .session
            .query_one(doing, &kept.look, &[&with_pending], left)
            .await?;
        let look: Look = serde_json::from_str(row.get(0)).map_err(|error| PgError::Sql {
            doing,
            why: format!("its answer was not understood: {error}"),
        })?;
        self.memory().connected.store(kept.postmaster, Ordering::SeqCst);
        if look.standby && (look.receive.is_some() || look.waits_for_wal == Some(true)) {
            self.memory().caught_up.store(kept.postmaster, Ordering::SeqCst);
        }
        if with_pending {
            let pending = look.pending_restart.clone().unwrap_or_default();
            *self
                .memory()
                .pending
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), pending));
        }
        Ok(look)
    }

    /// `None` where no server runs.
    async fn look_at_server(&self) -> Option<Result<Look, Server>> {
        let pid = self.process().pid()?;
        let (look, fresh) = tokio::join!(self.ask(SERVER_DEADLINE), self.try_fresh_session(pid));
        // It may have died while it was asked; what it said then is no news.
        self.process().pid()?;
        Some(match (look, fresh) {
            (Ok(look), Ok(())) => Ok(look),
            (Err(PgError::NotReady { .. }), _) => Err(Server::Starting),
            (Err(error), _) => Err(self.silent(pid, &error)),
            (Ok(_), Err(error)) => {
                let why = format!("an open session answers, but no new one can be had: {error}");
                Err(Server::Unresponsive { why })
            }
        })
    }

    /// What to make of a server that did not answer: one that never did may still be on its way up, but only a live
    /// postmaster without a socket is; one that has the socket open and stays silent is hung.
    fn silent(&self, pid: i32, error: &PgError) -> Server {
        let never_answered = self.memory().connected.load(Ordering::SeqCst) != pid;
        match error {
            PgError::Connect { .. } if never_answered && !is_full(error) => Server::Starting,
            error => Server::Unresponsive {
                why: error.to_string(),
            },
        }
    }

    async fn try_fresh_session(&self, pid: i32) -> Result<(), PgError> {
        let last = *self.memory().fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|(of, at)| of == pid && at.elapsed() < FRESH_EVERY) {
            return Ok(());
        }
        match self.session(&[], SERVER_DEADLINE).await {
            Err(error) if !is_full(&error) && !matches!(error, PgError::NotReady { .. }) => {
                return Err(error);
            }
            _ => {}
        }
        *self.memory().fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some((pid, Instant::now()));
        Ok(())
    }

    /// The control file and, where no server runs, the condition of the data directory. If the disk does not answer,
    /// the control file is the last one seen and the condition unknown.
    async fn look_at_disk(&self) -> (Option<ControlData>, Option<Condition>) {
        let instance = self.clone();
        let running = self.process().pid().is_some();
        let looked = self
            .on_disk(move || {
                let control = instance.control_data().ok().flatten();
                let condition = if running { None } else { Some(instance.condition()) };
                (control, condition)
            })
            .await;
        let mut last = self
            .memory()
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match looked {
            Some((control, condition)) => {
                *last = control;
                (control, condition)
            }
            None => (*last, None),
        }
    }

    pub(super) fn condition(&self) -> Condition {
        let condition = inspect(&self.config().data_dir, self.account(), self.binaries());
        match rewind::unfinished(&self.config().state_dir) {
            Some(why) if condition != Condition::Absent => Condition::Unusable(why),
            _ => condition,
        }
    }

    /// Does `work` where it may block on the disk; `None` if it takes too long.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = Arc::clone(&self.memory().disk);
        let waiting = async move {
            let turn = turn.lock_owned().await;
            let worked = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            worked.await.ok()
        };
        tokio::time::timeout(DISK_DEADLINE, waiting).await.ok().flatten()
    }

    async fn interpret(&self, look: Look) -> Server {
        let instance = self.clone();
        let unknown = Server::Unresponsive {
            why: "the disk of the data directory does not answer".to_owned(),
        };
        self.on_disk(move || {
            if look.standby {
                instance.as_standby(look)
            } else {
                instance.as_primary(look)
            }
        })
        .await
        .unwrap_or(unknown)
    }

    /// A standby whose end of WAL is not known yet counts as starting: to report a lower position than it has could
    /// lose an acknowledged commit that lies beyond.
    fn as_standby(&self, look: Look) -> Server {
        let Some(position) = self.position_of(&look) else {
            return Server::Starting;
        };
        Server::Standby(StandbyView {
            position,
            replay: look.replay.unwrap_or_default(),
            replay_age_ms: look.replay_age_ms,
            upstream: look.conninfo.as_deref().and_then(upstream_in),
            receiver: look.receiver.map(|receiver| Receiver {
                streaming: receiver.status.as_deref() == Some("streaming"),
                latest_end: receiver.latest_end.unwrap_or_default(),
            }),
            replay_paused: look.paused.unwrap_or(false),
        })
    }

    fn as_primary(&self, look: Look) -> Server {
        let timeline = look
            .walfile
            .as_deref()
            .and_then(timeline_of_walfile)
            .unwrap_or_default();
        let history = self.history(timeline).unwrap_or_else(|error| {
            tracing::warn!(%timeline, %error, "the history of the primary's timeline cannot be read");
            TimelineHistory {
                timeline,
                switches: Vec::new(),
            }
        });
        Server::Primary(PrimaryView {
            position: Position {
                timeline,
                lsn: look.flush.unwrap_or_default(),
            },
            history,
            synchronous_standby_names: look.synchronous_standby_names,
            standbys: look
                .standbys
                .unwrap_or_default()
                .into_iter()
                .map(StandbyConnection::from)
                .collect(),
            read_only: look.read_only,
        })
    }

    /// The end of a standby's durable WAL; `None` until it has read all that was on its disk at the start.
    fn position_of(&self, look: &Look) -> Option<Position> {
        let pid = self.process().pid()?;
        if self.memory().caught_up.load(Ordering::SeqCst) != pid {
            return None;
        }
        let lsn = look.receive.max(look.replay)?;
        let data_dir = &self.config().data_dir;
        let received = look.receiver.as_ref().and_then(|receiver| receiver.timeline);
        let timeline = match received {
            Some(timeline) => timeline,
            None => {
                let control = self.control_data().ok().flatten()?;
                wal_files::newest_timeline_at(data_dir, lsn, control.segment_size)
                    .unwrap_or(control.file.timeline)
            }
        };
        // A copy that was begun on this timeline may lack its history, and then lies on it with all its WAL.
        let owner = self
            .history(timeline)
            .map_or(timeline, |history| wal_files::owner_of(&history, lsn));
        Some(Position { timeline: owner, lsn })
    }

    fn pending_is_due(&self) -> bool {
        let pending = self
            .memory()
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pending
            .as_ref()
            .is_none_or(|(at, _)| at.elapsed() >= PENDING_EVERY)
    }

    fn pending_restart(&self) -> Vec<String> {
        if self.process().pid().is_none() {
            return Vec::new();
        }
        let pending = self
            .memory()
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pending
            .as_ref()
            .map(|(_, names)| names.clone())
            .unwrap_or_default()
    }
}

impl From<SenderRow> for StandbyConnection {
    fn from(row: SenderRow) -> StandbyConnection {
        StandbyConnection {
            application_name: row.application_name,
            streaming: row.state.as_deref() == Some("streaming"),
            sync_state: row.sync_state.unwrap_or_default(),
            flush: row.flush.unwrap_or_default(),
            replay: row.replay.unwrap_or_default(),
        }
    }
}

fn upstream_in(conninfo: &str) -> Option<Upstream> {
    let mut pairs = parse_conninfo(conninfo);
    Some(Upstream {
        host: pairs.remove("host")?,
        port: pairs.get("port").map_or(Some(5432), |port| port.parse().ok())?,
        application_name: pairs.remove("application_name").unwrap_or_default(),
    })
}

/// The first eight digits of a WAL file's name.
pub(super) fn timeline_of_walfile(name: &str) -> Option<TimelineId> {
    u32::from_str_radix(name.get(..8)?, 16).ok().map(TimelineId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_read_back_from_what_we_write() {
        let text = "host=10.0.0.2 port=5433 user=r passfile='/a b' application_name=n2_e5 connect_timeout=2";
        let expected = Upstream {
            host: "10.0.0.2".to_owned(),
            port: 5433,
            application_name: "n2_e5".to_owned(),
        };
        assert_eq!(upstream_in(text), Some(expected));
        assert_eq!(upstream_in(""), None);
    }

    #[test]
    fn timelines_in_file_names_are_hexadecimal() {
        assert_eq!(
            timeline_of_walfile("0000001F0000000000000001"),
            Some(TimelineId(31))
        );
        assert_eq!(timeline_of_walfile(""), None);
    }
}
