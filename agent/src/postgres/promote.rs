//! Making a standby the primary, on the timeline that was reserved for it.

use super::reload::current_flush;
use super::{Instance, PgError, durable_file, look, wal_files};
use agent_core::pg::{Lsn, Position, TimelineId};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// The file that asks the postmaster for a promotion.
pub(super) const PROMOTE_SIGNAL: &str = "promote";
/// What stands in the history files of timelines that nobody will use.
const PLACEHOLDER: &str =
    "# skipped: the cluster reserved a higher number for the promotion that made this file\n";
const POLL: Duration = Duration::from_millis(2);
const SQL_WITHIN: Duration = Duration::from_secs(1);

impl Instance {
    /// Promotes this standby to the primary of timeline `reserved` and returns where its WAL stands.
    ///
    /// PostgreSQL takes the lowest number above its own for which there is no history file, so the numbers between are
    /// taken up by files without content; they must stay, since standbys that follow ask for each of them. Called again
    /// while a promotion is under way, this waits for that one.
    ///
    /// # Errors
    /// [`PgError::Timeline`] if the server would begin, or has begun, another timeline than the reserved one: before
    /// the promotion nothing has happened; after it the server must be ended. [`PgError::Deadline`] if it is still in
    /// recovery after `deadline`; it may leave it later, so it must be ended as well.
    pub async fn promote(&self, reserved: TimelineId, deadline: Duration) -> Result<Position, PgError> {
        let begun = Instant::now();
        let doing = "promote the standby";
        let postmaster = self.process().current().ok_or(PgError::NotRunning { doing })?;
        if !self.ask(SQL_WITHIN).await?.standby {
            return self.promoted(reserved).await;
        }
        if !self.memory().is_promoting(postmaster.pid, reserved) {
            self.request_promotion(reserved).await?;
            self.memory().set_promoting(postmaster.pid, reserved);
            postmaster.signal(Signal::SIGUSR1)?;
        }
        loop {
            let left = deadline.saturating_sub(begun.elapsed()).min(SQL_WITHIN);
            let why = match self.in_recovery(left).await {
                Ok(false) => return self.promoted(reserved).await,
                Ok(true) => {
                    "it is still in recovery; WAL to replay, or a paused replay, delays it".to_owned()
                }
                Err(error) if self.process().pid() != Some(postmaster.pid) => return Err(error),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= deadline {
                return Err(PgError::Deadline {
                    doing,
                    after: deadline,
                    why,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn request_promotion(&self, reserved: TimelineId) -> Result<(), PgError> {
        let instance = self.clone();
        let preparing = tokio::task::spawn_blocking(move || {
            instance.reserve_timelines(reserved)?;
            let path = instance.config().data_dir.join(PROMOTE_SIGNAL);
            durable_file::replace(&path, "", instance.account(), 0o600)?;
            Ok(())
        });
        preparing.await.map_err(|error| PgError::Process {
            action: "prepare the promotion".to_owned(),
            source: std::io::Error::other(error),
        })?
    }

    /// Makes `reserved` the next timeline that this server will begin.
    fn reserve_timelines(&self, reserved: TimelineId) -> Result<(), PgError> {
        let data_dir = &self.config().data_dir;
        let control = self.existing_control()?;
        let own = control.file.timeline.max(control.min_recovery_timeline);
        let refuse = |found, why: &str| {
            Err(PgError::Timeline {
                reserved,
                found,
                why: why.to_owned(),
            })
        };
        if reserved <= own {
            return refuse(own, "this server is already on that timeline or a later one");
        }
        if wal_files::history_path(data_dir, reserved).exists() {
            return refuse(
                reserved,
                "pg_wal already holds a history of that number; reserve a higher one",
            );
        }
        for number in own.0 + 1..reserved.0 {
            let path = wal_files::history_path(data_dir, TimelineId(number));
            if !path.exists() {
                durable_file::replace(&path, PLACEHOLDER, self.account(), 0o600)?;
            }
        }
        Ok(())
    }

    async fn in_recovery(&self, deadline: Duration) -> Result<bool, PgError> {
        let kept = self.kept_session(deadline).await?;
        let answer = kept
            .session
            .text(
                "ask whether it is in recovery",
                "SELECT pg_is_in_recovery()",
                deadline,
            )
            .await;
        if answer.is_err() {
            self.kept().forget().await;
        }
        Ok(answer?.as_deref() != Some("f"))
    }

    async fn promoted(&self, reserved: TimelineId) -> Result<Position, PgError> {
        let doing = "read the new primary's timeline";
        let session = self.session(&[], SQL_WITHIN).await?;
        let walfile = session
            .text(doing, "SELECT pg_walfile_name(pg_current_wal_lsn())", SQL_WITHIN)
            .await?;
        let found = walfile
            .as_deref()
            .and_then(look::timeline_of_walfile)
            .unwrap_or_default();
        if found != reserved {
            let why = "the server has left recovery on it all the same".to_owned();
            return Err(PgError::Timeline { reserved, found, why });
        }
        Ok(Position {
            timeline: found,
            lsn: current_flush(&session, doing).await?,
        })
    }

    /// Writes a checkpoint and waits for it, up to ten minutes.
    ///
    /// # Errors
    /// When the server refuses or does not finish it.
    pub async fn checkpoint(&self) -> Result<(), PgError> {
        let session = self.session(&[], SQL_WITHIN).await?;
        session
            .execute("write a checkpoint", "CHECKPOINT", Duration::from_secs(600))
            .await
    }

    /// On a primary: flushes the WAL and tells where it ends. Everything committed before the call lies before it.
    ///
    /// # Errors
    /// On a standby, or when the server does not answer within a second.
    pub async fn current_wal_flush(&self) -> Result<Lsn, PgError> {
        let doing = "flush the WAL";
        let session = self.session(&["synchronous_commit=local"], SQL_WITHIN).await?;
        // Committing a transaction that has written something flushes everything before it.
        session
            .execute(
                doing,
                "SELECT pg_logical_emit_message(true, 'pgctl', '')",
                SQL_WITHIN,
            )
            .await?;
        current_flush(&session, doing).await
    }
}
