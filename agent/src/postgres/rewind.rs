//! Bringing a diverged data directory back onto the primary's timeline.

use super::aside::{free_name, utc_stamp};
use super::base_backup::source;
use super::conf::INCLUDE_FILE;
use super::conf_text::quote_setting;
use super::control_file::ControlData;
use super::data_dir::blocked_way;
use super::fork_point::fork_point;
use super::lifecycle::{STANDBY_SIGNAL, is_shut_down};
use super::program::Program;
use super::session::DATABASE;
use super::{Instance, PgError, RewindReport, ServerConf, StopMode, durable_file, wal_files};
use agent_core::pg::{ControlState, Lsn, Position, TimelineHistory, TimelineId};
use agent_core::view::Upstream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DOING: &str = "rewind the data directory";
const SQL_WITHIN: Duration = Duration::from_secs(5);
/// How long crash recovery may take before a rewind.
const RECOVERY_WITHIN: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(20);
/// The mark of a rewind that has begun to change files, in the agent's directory.
const MARK: &str = "rewind.unfinished";
/// What `pg_rewind` says just before it changes the first file.
const FIRST_CHANGE: &str = "need to copy";
/// The files that are a node's own; `pg_rewind` would bring the source's.
const OWN_FILES: [&str; 4] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
];

impl Instance {
    /// Makes this stopped data directory able to follow the server at `from`: copies the WAL beyond the fork to
    /// `<data_dir>.diverged/<UTC time>/` and runs `pg_rewind`. Where the histories have not parted nothing is changed.
    ///
    /// A server that was not shut down cleanly is first recovered as a standby without upstream. The source counts only
    /// when its control file is on its new timeline: until its first checkpoint `pg_rewind` would find nothing to do.
    /// Exit status 0 is not the last word: that the standby streams afterwards is.
    ///
    /// # Errors
    /// When the source cannot be asked or belongs to another cluster, or `pg_rewind` fails. If it had begun to change
    /// files, the data directory counts as unusable from then on and must be set aside.
    pub async fn rewind(&self, from: &Upstream) -> Result<RewindReport, PgError> {
        let result = self.rewind_unnoted(from).await;
        self.note(result)
    }

    /// Whether a rewind has left the data directory half changed: it is not started before it is made anew.
    #[must_use]
    pub fn half_rewound(&self) -> bool {
        unfinished(&self.config().state_dir).is_some()
    }

    async fn rewind_unnoted(&self, from: &Upstream) -> Result<RewindReport, PgError> {
        if let Some(why) = unfinished(&self.config().state_dir) {
            return Err(PgError::Unusable {
                path: self.config().data_dir.clone(),
                why,
            });
        }
        if !is_shut_down(&self.existing_control()?) {
            self.recover_first().await?;
        }
        if self.process().pid().is_none() {
            // Its log collector may outlive a server that has just ended.
            self.wait_exit(SQL_WITHIN).await?;
        }
        let _claim = self.claim(DOING, "rewind")?;
        let control = self.existing_control()?;
        let source = self.ask_source(from, control.file.system_id).await?;
        let own = self.history(control.file.timeline.max(control.min_recovery_timeline))?;
        let end = self.end_of_wal(&control)?;
        let fork = fork_point(&own, &source.history).ok_or_else(|| PgError::Unusable {
            path: self.config().data_dir.clone(),
            why: "its history has no timeline in common with the source's; make a new copy (reinit)"
                .to_owned(),
        })?;
        if end <= fork.lsn {
            return Ok(RewindReport {
                rewound: false,
                fork,
                diverged_wal: None,
            });
        }
        let instance = self.clone();
        let copying = tokio::task::spawn_blocking(move || {
            instance.keep_diverged_wal(&own, fork, end, control.segment_size)
        });
        let diverged_wal = copying.await.map_err(|error| PgError::Process {
            action: "copy the diverged WAL".to_owned(),
            source: std::io::Error::other(error),
        })??;
        self.run_rewind(from).await?;
        Ok(RewindReport {
            rewound: true,
            fork,
            diverged_wal: Some(diverged_wal),
        })
    }

    async fn run_rewind(&self, from: &Upstream) -> Result<(), PgError> {
        let data_dir = &self.config().data_dir;
        let own_files: Vec<(PathBuf, String)> = OWN_FILES
            .iter()
            .filter_map(|name| {
                let path = data_dir.join(name);
                Some((path.clone(), std::fs::read_to_string(path).ok()?))
            })
            .collect();
        let mark = self.config().state_dir.join(MARK);
        let note = format!("{}\n", data_dir.display());
        durable_file::write_private(&mark, &note)?;
        let credentials = self.credentials();
        let mut program = Program::new("pg_rewind")
            .arg("--target-pgdata")
            .arg(data_dir)
            .arg(format!(
                "--source-server={}",
                source(from, &credentials.rewind_user, Some(DATABASE))
            ))
            .arg("--progress")
            .env("PGPASSWORD", credentials.rewind_password);
        if self.fetches_target_wal()? {
            program = program.arg("--restore-target-wal");
        }
        let mut changing = false;
        let result = self
            .run(program, |line| {
                changing |= line.contains(FIRST_CHANGE);
                line.contains(" kB (")
            })
            .await;
        if let Err(error) = result {
            if !changing {
                durable_file::remove(&mark)?;
            }
            return Err(error);
        }
        for (path, content) in own_files {
            durable_file::replace(&path, &content, self.account(), 0o600)?;
        }
        durable_file::replace(&data_dir.join(STANDBY_SIGNAL), "", self.account(), 0o600)?;
        durable_file::remove(&mark)?;
        self.data_dir_replaced();
        Ok(())
    }

    /// Whether `pg_rewind` may fetch WAL that this server has recycled already. It reads the command from the stopped
    /// server's configuration, which the next start writes anew.
    fn fetches_target_wal(&self) -> Result<bool, PgError> {
        let of_operator = self.config().parameters.get("restore_command");
        let Some(commands) = &self.config().wal_commands else {
            return Ok(of_operator.is_some_and(|command| !command.trim().is_empty()));
        };
        let path = self.config().data_dir.join(INCLUDE_FILE);
        let mut text = std::fs::read_to_string(&path).map_err(PgError::file("read", &path))?;
        text.push_str(&format!(
            "# for a rewind\nrestore_command = {}\n",
            quote_setting(&commands.exact)
        ));
        durable_file::replace(&path, &text, self.account(), 0o600)?;
        Ok(true)
    }

    /// Starts the server as a standby that follows nobody, lets it read all of its WAL, and shuts it down cleanly.
    async fn recover_first(&self) -> Result<(), PgError> {
        let alone = ServerConf {
            upstream: None,
            slot: None,
            synchronous_standby_names: String::new(),
            slot_budget_bytes: 1 << 30,
            restart_after_crash: false,
            recovery: None,
        };
        let conf = self.last_conf().map_or(alone, |conf| ServerConf {
            upstream: None,
            slot: None,
            recovery: None,
            ..conf
        });
        self.start(&conf).await?;
        let begun = Instant::now();
        let recovered = loop {
            match self.tail_position().await {
                Ok(_) => break Ok(()),
                Err(_) if self.process().pid().is_none() => {
                    let (said, log) = self.log_tail();
                    return Err(PgError::StartFailed { said, log });
                }
                Err(error) if begun.elapsed() > RECOVERY_WITHIN => break Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        self.stop(StopMode::Fast, SQL_WITHIN * 12).await?;
        self.wait_exit(SQL_WITHIN * 12).await?;
        recovered
    }

    /// Where this stopped server's WAL ends.
    fn end_of_wal(&self, control: &ControlData) -> Result<Lsn, PgError> {
        if control.file.state == ControlState::ShutDown {
            return Ok(wal_files::end_of_checkpoint(&self.config().data_dir, control)?.lsn);
        }
        Ok(control.file.min_recovery.max(control.file.checkpoint))
    }

    /// Copies the segments that hold WAL beyond the fork, and returns where to.
    fn keep_diverged_wal(
        &self,
        own: &TimelineHistory,
        fork: Position,
        end: Lsn,
        segment_size: u64,
    ) -> Result<PathBuf, PgError> {
        let root = self.config().beside(".diverged");
        self.account().create_dir(&root, 0o700)?;
        if let Some(why) = blocked_way(&root, self.account()) {
            return Err(PgError::Unusable { path: root, why });
        }
        let place = free_name(&root.join(utc_stamp(crate::wall_time::now())));
        self.account().create_dir(&place, 0o700)?;
        let folder = wal_files::folder(&self.config().data_dir);
        let first = fork.lsn.0 - fork.lsn.0 % segment_size;
        let belongs = |timeline: TimelineId| timeline >= fork.timeline && own.end_of(timeline).is_some();
        for entry in std::fs::read_dir(&folder)
            .map_err(PgError::file("list", &folder))?
            .flatten()
        {
            let name = entry.file_name();
            let segment = name
                .to_str()
                .and_then(|name| wal_files::parse_segment_name(name, segment_size));
            let wanted =
                segment.is_some_and(|(timeline, start)| belongs(timeline) && start.0 >= first && start < end);
            let history = name.to_str().is_some_and(|name| name.ends_with(".history"));
            if wanted || history {
                copy_durably(&entry.path(), &place.join(&name))?;
                self.account().own(&place.join(&name))?;
            }
        }
        durable_file::sync_parent(&place.join("."))?;
        durable_file::sync_parent(&place)?;
        Ok(place)
    }
}

fn copy_durably(from: &Path, to: &Path) -> Result<(), PgError> {
    std::fs::copy(from, to).map_err(PgError::file("copy to", to))?;
    let sync = || std::fs::File::open(to)?.sync_all();
    sync().map_err(PgError::file("flush", to))
}

/// Why the data directory is unusable, if a rewind of it was interrupted after its first change.
pub(super) fn unfinished(state_dir: &Path) -> Option<String> {
    let noted = std::fs::read_to_string(state_dir.join(MARK)).ok()?;
    Some(format!(
        "a rewind of {} was interrupted and has left it half changed; set it aside and make a new copy (reinit)",
        noted.trim()
    ))
}

/// To be called when the data directory that the mark is about is out of the way.
pub(super) fn forget_unfinished(state_dir: &Path) -> Result<(), PgError> {
    durable_file::remove(&state_dir.join(MARK))
}
