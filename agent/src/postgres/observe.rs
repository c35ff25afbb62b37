//! One look at the server: what the agents decide by. It takes a second at most, whatever state server and disk are in.

use super::control_file::ControlData;
use super::data_dir::{Condition, inspect};
use super::look::{Look, timeline_of_walfile, upstream_in};
use super::session::{Kept, is_full};
use super::{Instance, PgError, rewind, wal_files};
use agent_core::pg::{Position, TimelineHistory, TimelineId};
use agent_core::view::{PgObservation, PrimaryView, Receiver, Server, StandbyConnection, StandbyView};
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

/// What the disk tells.
#[derive(Default)]
struct DiskLook {
    control: Option<ControlData>,
    /// Of the data directory, where no server runs.
    condition: Option<Condition>,
    /// How the last server ended, if nobody had told it to.
    ended: Option<String>,
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
        let (disk, server) = tokio::join!(self.look_at_disk(), self.look_at_server());
        let DiskLook {
            control,
            condition,
            ended,
        } = disk;
        let server = match (self.job(), server) {
            (Some(job), _) => Server::Busy { job: job.to_owned() },
            (None, Some(Ok(look))) => self.interpret(look).await,
            (None, Some(Err(condition))) => condition,
            (None, None) => match condition {
                Some(Condition::Absent) => Server::NoData,
                Some(Condition::Usable | Condition::HalfRewound(_)) => Server::Down,
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
            trouble: self.trouble().or(ended),
            pending_restart: self.pending_restart(),
            vitals: Default::default(),
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
        // What lies beyond its target on the disk of a restored server is not for it.
        let at_target = look.paused == Some(true) && look.has_target == Some(true);
        if look.standby && (look.receive.is_some() || look.waits_for_wal == Some(true) || at_target) {
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
        let never_answered = !self.has_served(pid);
        match error {
            PgError::Connect { .. } if never_answered && !is_full(error) => Server::Starting,
            error => Server::Unresponsive {
                why: error.to_string(),
            },
        }
    }

    /// Whether the postmaster `pid` has ever served a session of ours.
    pub(super) fn has_served(&self, pid: i32) -> bool {
        self.memory().connected.load(Ordering::SeqCst) == pid
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

    /// If the disk does not answer, the control file is the last one seen and the rest unknown.
    async fn look_at_disk(&self) -> DiskLook {
        let instance = self.clone();
        let running = self.process().pid().is_some();
        let looked = self
            .on_disk(move || {
                let control = instance.control_data().ok().flatten();
                if running {
                    return DiskLook {
                        control,
                        ..DiskLook::default()
                    };
                }
                let ended = instance.process().last_end().map(|how| {
                    let (said, log) = instance.log_tail();
                    format!("{how}; the last lines of {}: {said}", log.display())
                });
                DiskLook {
                    control,
                    condition: Some(instance.condition()),
                    ended,
                }
            })
            .await;
        let mut last = self
            .memory()
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match looked {
            Some(looked) => {
                *last = looked.control;
                looked
            }
            None => DiskLook {
                control: *last,
                ..DiskLook::default()
            },
        }
    }

    pub(super) fn condition(&self) -> Condition {
        let condition = inspect(&self.config().data_dir, self.account(), self.binaries());
        match rewind::unfinished(&self.config().state_dir) {
            Some(why) if condition != Condition::Absent => Condition::HalfRewound(why),
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
