//! Feeling the server's pulse: three small questions, each on sessions of its own, each with a deadline.
//!
//! An answer of any kind is life, also a refusal: what counts as silence is only a question that nobody takes, or
//! that is not answered in time.

use super::session::{Session, is_full};
use super::{Instance, PgError};
use agent_core::vitals::Connections;
use std::time::Duration;

const DOING: &str = "feel the server's pulse";
/// Sessions of clients, and how many they may have. `pg_stat_activity` is in shared memory: nothing is locked.
const CONNECTIONS: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int \
    - coalesce(current_setting('reserved_connections', true)::int, 0)";
/// Waits for no standby, and for no lock for long.
const COMMIT_SETTINGS: [&str; 4] = [
    "synchronous_commit=local",
    "default_transaction_read_only=off",
    "client_min_messages=warning",
    "lock_timeout=500ms",
];
const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS pgctl; \
    CREATE TABLE IF NOT EXISTS pgctl.pulse (at timestamptz NOT NULL) WITH (fillfactor = 10)";
/// As for the epoch's row: a table of that name that a lesser role owns could carry triggers.
const SAFE: &str = "SELECT bool_and(r.rolsuper) FROM (\
    SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'pgctl' UNION ALL \
    SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'pgctl' AND relname = 'pulse') o JOIN pg_roles r ON r.oid = o.owner";
/// The row of a commit that is stuck is left alone, and another one is written.
const UPDATE: &str = "UPDATE pgctl.pulse SET at = clock_timestamp() \
    WHERE ctid = (SELECT ctid FROM pgctl.pulse LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING 1";
const INSERT: &str = "INSERT INTO pgctl.pulse VALUES (clock_timestamp())";

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    /// It was answered, if only by a refusal.
    Answered,
    /// It tells nothing: there is no server, it still starts or already stops, or the question does not apply to it.
    Nothing,
    /// Nobody answered.
    Silent(String),
}

/// A question on a session that is kept open.
#[derive(Default)]
pub struct KeptPulse {
    session: Option<(i32, Session)>,
    /// The newest answer.
    pub connections: Option<Connections>,
}

/// A commit on a session that is kept open.
#[derive(Default)]
pub struct CommitPulse {
    session: Option<(i32, Session)>,
    /// The table is there and ours, on the server with this process id.
    ready: Option<i32>,
}

impl KeptPulse {
    /// Asks once, within `deadline`.
    pub async fn beat(&mut self, instance: &Instance, deadline: Duration) -> Beat {
        let Some(pid) = instance.process().pid() else {
            *self = KeptPulse::default();
            return Beat::Nothing;
        };
        let result = self.ask(instance, pid, deadline).await;
        if result.is_err() {
            *self = KeptPulse::default();
        }
        instance.beat_of(pid, result)
    }

    async fn ask(&mut self, instance: &Instance, pid: i32, deadline: Duration) -> Result<(), PgError> {
        let session = kept(&mut self.session, instance, pid, &[], deadline).await?;
        let rows = session.rows(DOING, CONNECTIONS, deadline).await?;
        let number = |column: usize| rows.first()?.get(column)?.as_deref()?.parse().ok();
        self.connections = number(0)
            .zip(number(1))
            .map(|(used, limit)| Connections { used, limit });
        Ok(())
    }
}

impl CommitPulse {
    /// Commits once, within `deadline`, where the server is a primary.
    pub async fn beat(&mut self, instance: &Instance, deadline: Duration) -> Beat {
        let Some(pid) = instance.process().pid() else {
            *self = CommitPulse::default();
            return Beat::Nothing;
        };
        let result = self.commit(instance, pid, deadline).await;
        if !matches!(result, Ok(_) | Err(PgError::Sql { .. })) {
            self.session = None;
        }
        match result {
            Ok(false) => Beat::Nothing,
            Ok(true) => Beat::Answered,
            Err(error) => instance.beat_of(pid, Err(error)),
        }
    }

    /// False on a standby.
    async fn commit(&mut self, instance: &Instance, pid: i32, deadline: Duration) -> Result<bool, PgError> {
        let session = kept(&mut self.session, instance, pid, &COMMIT_SETTINGS, deadline).await?;
        let recovering = "SELECT pg_is_in_recovery()";
        if session.text(DOING, recovering, deadline).await?.as_deref() != Some("f") {
            return Ok(false);
        }
        if self.ready != Some(pid) {
            let there = "SELECT to_regclass('pgctl.pulse') IS NOT NULL";
            if session.text(DOING, there, deadline).await?.as_deref() != Some("t") {
                session.execute(DOING, CREATE, deadline).await?;
            }
            if session.text(DOING, SAFE, deadline).await?.as_deref() != Some("t") {
                // The first row of an epoch says what to do about it.
                return Ok(false);
            }
            self.ready = Some(pid);
        }
        if session.rows(DOING, UPDATE, deadline).await?.is_empty() {
            session.execute(DOING, INSERT, deadline).await?;
        }
        Ok(true)
    }
}

impl Instance {
    /// Opens a session, asks once, and closes it, within `deadline`.
    pub async fn fresh_beat(&self, deadline: Duration) -> Beat {
        let Some(pid) = self.process().pid() else {
            return Beat::Nothing;
        };
        let asked = async {
            let session = self.session(&[], deadline).await?;
            session.text(DOING, "SELECT 1", deadline).await.map(drop)
        };
        let result = match tokio::time::timeout(deadline, asked).await {
            Ok(result) => result,
            Err(_) => Err(PgError::Deadline {
                doing: DOING,
                after: deadline,
                why: "a new session was not served".to_owned(),
            }),
        };
        self.beat_of(pid, result)
    }

    /// How many starts of the server did not last, since this agent started: it ended within half a minute, and nobody had
    /// told or made it to.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.process().crashes()
    }

    fn beat_of(&self, pid: i32, result: Result<(), PgError>) -> Beat {
        if self.process().pid() != Some(pid) {
            return Beat::Nothing;
        }
        match result {
            Ok(()) | Err(PgError::Sql { .. }) => Beat::Answered,
            Err(PgError::NotReady { .. }) => Beat::Nothing,
            Err(error) if is_full(&error) => Beat::Answered,
            // Until a server has served its first session it may just not have come that far.
            Err(PgError::Connect { .. }) if !self.has_served(pid) => Beat::Nothing,
            Err(error) => Beat::Silent(error.to_string()),
        }
    }
}

/// The session to the present postmaster, opened if there is none.
async fn kept<'a>(
    kept: &'a mut Option<(i32, Session)>,
    instance: &Instance,
    pid: i32,
    settings: &[&str],
    deadline: Duration,
) -> Result<&'a Session, PgError> {
    let fits = kept
        .as_ref()
        .is_some_and(|(of, session)| *of == pid && !session.is_closed());
    if !fits {
        *kept = None;
        let session = instance.session(settings, deadline).await?;
        *kept = Some((pid, session));
    }
    match kept {
        Some((_, session)) => Ok(session),
        None => Err(PgError::NotRunning { doing: DOING }),
    }
}
