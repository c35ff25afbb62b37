//! Changing the configuration of a running server, and making sure that it is in force.

use super::conf_text::{quote_name, sql_literal};
use super::instance::Confirmed;
use super::owned_settings::{Owned, same_value};
use super::session::Session;
use super::{Instance, PgError, ServerConf};
use agent_core::pg::Lsn;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a server may take to put a reload into force.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(5);
/// How long a walsender gets to show that it has read the new configuration, before it is ended to come back with it.
const WALSENDERS_WITHIN: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(2);
const SQL_WITHIN: Duration = Duration::from_secs(1);

/// The settings that may change while the server runs, all read by a fresh session as the server's processes have them.
const DYNAMIC: [&str; 6] = [
    "primary_conninfo",
    "restore_command",
    "primary_slot_name",
    "synchronous_standby_names",
    "max_slot_wal_keep_size",
    "restart_after_crash",
];

impl Instance {
    /// Writes the configuration if it differs, has the server read it, and returns once it is in force: seen by a fresh
    /// session (which shows that the postmaster has read it and told its children), and by every walsender where the
    /// synchronous set has changed. True if anything was changed. Without a server only the files are written.
    ///
    /// # Errors
    /// When it is not in force within a few seconds; the files are written and the server was told, so another call
    /// can confirm it.
    pub async fn reconfigure(&self, conf: &ServerConf) -> Result<bool, PgError> {
        let Some(postmaster) = self.process().current() else {
            return self.write_off_thread(conf).await;
        };
        let wanted = Confirmed {
            postmaster: postmaster.pid,
            conf: conf.clone(),
        };
        let before = self.confirmed();
        let changed = self.write_off_thread(conf).await?;
        if !changed && before.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        self.set_confirmed(None);
        postmaster.signal(Signal::SIGHUP)?;
        self.memory().settings_changed();
        let session = self.wait_in_force(conf).await?;
        let known_set = before.filter(|before| before.postmaster == postmaster.pid);
        if known_set.is_none_or(|set| set.conf.synchronous_standby_names != conf.synchronous_standby_names) {
            settle_walsenders(&session).await?;
        }
        self.set_confirmed(Some(wanted));
        Ok(changed)
    }

    async fn write_off_thread(&self, conf: &ServerConf) -> Result<bool, PgError> {
        let (instance, conf) = (self.clone(), conf.clone());
        let writing = tokio::task::spawn_blocking(move || instance.write_configuration(&conf));
        writing.await.map_err(|error| PgError::Process {
            action: "write the server's configuration".to_owned(),
            source: std::io::Error::other(error),
        })?
    }

    /// Opens fresh sessions until one has all dynamic settings as wanted, and gives that one.
    async fn wait_in_force(&self, conf: &ServerConf) -> Result<Session, PgError> {
        let begun = Instant::now();
        let wanted: Vec<Owned> = self
            .owned_settings(conf)
            .into_iter()
            .filter(|owned| DYNAMIC.contains(&owned.name))
            .collect();
        let mut reset = false;
        loop {
            let why = match self.differing(&wanted).await {
                Ok((session, differing)) if differing.is_empty() => return Ok(session),
                Ok((session, differing)) => {
                    let altered: Vec<&Difference> =
                        differing.iter().filter(|one| one.by_alter_system).collect();
                    if !altered.is_empty() && !reset {
                        reset = true;
                        self.reset_altered(&session, &altered).await?;
                    }
                    differing
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                }
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= IN_FORCE_WITHIN {
                let doing = "put the new configuration into force";
                return Err(PgError::Deadline {
                    doing,
                    after: IN_FORCE_WITHIN,
                    why,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn differing(&self, wanted: &[Owned]) -> Result<(Session, Vec<Difference>), PgError> {
        let session = self.session(&[], SQL_WITHIN).await?;
        let names: Vec<String> = wanted.iter().map(|owned| sql_literal(owned.name)).collect();
        let sql = format!(
            "SELECT name, current_setting(name), sourcefile LIKE '%/postgresql.auto.conf' \
             FROM pg_settings WHERE name IN ({})",
            names.join(", ")
        );
        let rows = session
            .rows("read the settings in force", &sql, SQL_WITHIN)
            .await?;
        let found: BTreeMap<String, (String, bool)> = rows
            .into_iter()
            .filter_map(|mut row| {
                let altered = row.get(2)?.as_deref() == Some("t");
                let value = row.get_mut(1)?.take()?;
                Some((row.get_mut(0)?.take()?, (value, altered)))
            })
            .collect();
        let differing = wanted.iter().filter_map(|owned| {
            let (value, by_alter_system) = found.get(owned.name).cloned().unwrap_or_default();
            let same = value == owned.value || same_value(&owned.value, &value);
            (!same).then_some(Difference {
                name: owned.name,
                value,
                by_alter_system,
            })
        });
        Ok((session, differing.collect()))
    }

    /// Takes back what ALTER SYSTEM has set over an owned setting, which before version 17 cannot be forbidden.
    async fn reset_altered(&self, session: &Session, altered: &[&Difference]) -> Result<(), PgError> {
        for difference in altered {
            tracing::warn!(
                name = difference.name,
                value = difference.value,
                "took back an ALTER SYSTEM of an owned setting"
            );
            let sql = format!("ALTER SYSTEM RESET {}", quote_name(difference.name));
            session
                .execute("take back an ALTER SYSTEM", &sql, SQL_WITHIN)
                .await?;
        }
        match self.process().current() {
            Some(postmaster) => postmaster.signal(Signal::SIGHUP),
            None => Err(PgError::NotRunning {
                doing: "reload the configuration",
            }),
        }
    }
}

struct Difference {
    name: &'static str,
    value: String,
    by_alter_system: bool,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} still is '{}'", self.name, self.value)
    }
}

/// Returns once no walsender works by an older synchronous set.
///
/// A fresh session proves that each was signalled, but one that is busy reads the new set only at the head of its loop,
/// and by the old set could release a commit that the new one does not cover. A standby that has confirmed WAL written
/// after the reload was answered by a walsender that has passed that point. One that shows no such sign is ended; its
/// standby connects again.
async fn settle_walsenders(session: &Session) -> Result<(), PgError> {
    let doing = "make the walsenders read the synchronous set";
    let standby = session
        .text(doing, "SELECT pg_is_in_recovery()", SQL_WITHIN)
        .await?;
    if standby.as_deref() == Some("t") {
        return Ok(());
    }
    let present = "SELECT pid FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')";
    let pids: Vec<String> = session
        .rows(doing, present, SQL_WITHIN)
        .await?
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    if pids.is_empty() {
        return Ok(());
    }
    let write = "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgctl', '')";
    session.execute(doing, write, SQL_WITHIN).await?;
    let mark = current_flush(session, doing).await?;
    let unproven = format!(
        "SELECT pid FROM pg_stat_replication WHERE pid IN ({}) AND (flush_lsn IS NULL OR flush_lsn < '{mark}')",
        pids.join(", ")
    );
    let begun = Instant::now();
    let mut ended = false;
    loop {
        let left: Vec<String> = session
            .rows(doing, &unproven, SQL_WITHIN)
            .await?
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= WALSENDERS_WITHIN && !ended {
            ended = true;
            let sql = format!(
                "SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[{}]::int[]) pid",
                left.join(", ")
            );
            session.rows(doing, &sql, SQL_WITHIN).await?;
        }
        if begun.elapsed() >= IN_FORCE_WITHIN {
            let why = format!("walsenders {} neither answer nor end", left.join(", "));
            return Err(PgError::Deadline {
                doing,
                after: IN_FORCE_WITHIN,
                why,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The end of the flushed WAL of a primary.
pub(super) async fn current_flush(session: &Session, doing: &'static str) -> Result<Lsn, PgError> {
    let text = session
        .text(doing, "SELECT pg_current_wal_flush_lsn()", SQL_WITHIN)
        .await?
        .unwrap_or_default();
    text.parse().map_err(|error| PgError::Sql {
        doing,
        why: format!("{error}"),
    })
}
