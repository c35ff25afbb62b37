//! SQL sessions whose every step has a deadline on our side: a hung server must cost an answer, never the agent.

use super::hba::AGENT_ROLE;
use super::{Instance, PgError};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, SimpleQueryMessage, Statement};

const APPLICATION: &str = "pgctl-agent";
/// The database that the agents keep their few objects in.
pub const DATABASE: &str = "postgres";

/// One session. Dropping it closes the connection without a cancel request: a wait for a synchronous standby that
/// was going on goes on in the server, and nothing is released early.
pub struct Session {
    client: Client,
    notices: mpsc::UnboundedReceiver<DbError>,
    connection: AbortHandle,
    to: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    /// Connects with `config` within `deadline`.
    ///
    /// # Errors
    /// [`PgError::NotReady`] while the server starts or stops, [`PgError::Deadline`] where nobody answers,
    /// [`PgError::Connect`] otherwise.
    pub async fn open(config: &Config, to: String, deadline: Duration) -> Result<Session, PgError> {
        let connecting = tokio::time::timeout(deadline, config.connect(NoTls)).await;
        let (client, mut connection) = match connecting {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                return Err(PgError::NotReady {
                    to,
                    why: said(&error),
                });
            }
            Ok(Err(error)) => {
                return Err(PgError::Connect {
                    to,
                    why: said(&error),
                    answered: error.as_db_error().is_some(),
                });
            }
            Err(_) => {
                let why = format!("nobody answered at {to}; the server may be hung");
                return Err(PgError::Deadline {
                    doing: "connect",
                    after: deadline,
                    why,
                });
            }
        };
        let (sender, notices) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    // Nobody listens to the notices of a session that is being dropped.
                    let _ = sender.send(notice);
                }
            }
        });
        Ok(Session {
            client,
            notices,
            connection: task.abort_handle(),
            to,
        })
    }

    /// Whether the connection is known to have ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements that give no rows.
    pub async fn execute(&self, doing: &'static str, sql: &str, deadline: Duration) -> Result<(), PgError> {
        self.bounded(doing, deadline, self.client.batch_execute(sql))
            .await
    }

    /// The first column of the first row, as text; `None` without a row or for NULL.
    pub async fn text(
        &self,
        doing: &'static str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Option<String>, PgError> {
        Ok(self
            .rows(doing, sql, deadline)
            .await?
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next()?))
    }

    /// All rows, as text.
    pub async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Vec<Vec<Option<String>>>, PgError> {
        let messages = self
            .bounded(doing, deadline, self.client.simple_query(sql))
            .await?;
        Ok(text_rows(messages))
    }

    pub async fn prepare(
        &self,
        doing: &'static str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Statement, PgError> {
        self.bounded(doing, deadline, self.client.prepare(sql)).await
    }

    pub async fn query_one(
        &self,
        doing: &'static str,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Row, PgError> {
        self.bounded(doing, deadline, self.client.query_one(statement, parameters))
            .await
    }

    /// All rows, as text, as long as it takes; the server's own error.
    pub async fn answer(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?;
        Ok(text_rows(messages))
    }

    /// Everything that the server has said of its own accord so far.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.notices.try_recv().ok())
            .map(|notice| format!("{}: {}", notice.severity(), notice.message()))
            .collect()
    }

    /// The warnings that have come with the answers so far.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        while let Ok(notice) = self.notices.try_recv() {
            if notice.severity() == "WARNING" || notice.code().code().starts_with("01") {
                warnings.push(notice.message().to_owned());
            }
        }
        warnings
    }

    async fn bounded<T>(
        &self,
        doing: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PgError> {
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN) => {
                Err(PgError::Connect {
                    to: self.to.clone(),
                    why: said(&error),
                    answered: false,
                })
            }
            Ok(Err(error)) => Err(PgError::Sql {
                doing,
                why: said(&error),
            }),
            Err(_) => Err(PgError::Deadline {
                doing,
                after: deadline,
                why: "the server did not answer; it may be hung, or wait for a lock or a standby".to_owned(),
            }),
        }
    }
}

fn text_rows(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<Option<String>>> {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    });
    rows.collect()
}

/// What an error says, with the detail and the hint that the server gave.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    let Some(answer) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map(|source| format!(": {source}"));
        return format!("{error}{}", cause.unwrap_or_default());
    };
    let mut text = format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    for more in [answer.detail(), answer.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

/// Whether the server is alive and merely full. That is no failure: the agent's kept session goes on.
pub fn is_full(error: &PgError) -> bool {
    matches!(error, PgError::Connect { why, .. } if why.contains(SqlState::TOO_MANY_CONNECTIONS.code()))
}

/// The session that is kept open between looks, with the postmaster it belongs to.
#[derive(Default)]
pub struct KeptSession {
    current: Mutex<Option<Arc<Kept>>>,
}

pub struct Kept {
    pub postmaster: i32,
    pub session: Session,
    pub look: Statement,
}

impl KeptSession {
    pub async fn forget(&self) {
        *self.current.lock().await = None;
    }
}

impl Instance {
    /// Runs statements on a connection of their own and gives the rows as text, for diagnostics.
    ///
    /// # Errors
    /// Where no session can be had, or the server refuses a statement or takes longer than a minute.
    pub async fn run_sql(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, PgError> {
        let session = self.session(&[], Duration::from_secs(2)).await?;
        session
            .rows("run a statement", sql, Duration::from_secs(60))
            .await
    }

    /// Settings that would end or delay a session of the agent's by itself, turned off.
    pub(super) fn untroubled(&self) -> Vec<&'static str> {
        let mut startup = vec![
            "statement_timeout=0",
            "lock_timeout=0",
            "idle_in_transaction_session_timeout=0",
            "jit=off",
        ];
        if self.major() >= 14 {
            startup.push("idle_session_timeout=0");
        }
        if self.major() >= 17 {
            startup.push("transaction_timeout=0");
        }
        startup
    }

    /// A fresh session of the agent's over the unix socket, with more `settings` in its startup packet.
    pub(super) async fn session(&self, settings: &[&str], deadline: Duration) -> Result<Session, PgError> {
        let mut startup = vec![
            "search_path=pg_catalog",
            "log_statement=none",
            "log_min_duration_statement=-1",
        ];
        startup.extend(self.untroubled());
        startup.extend(settings);
        self.session_as(AGENT_ROLE, DATABASE, APPLICATION, &startup, deadline)
            .await
    }

    /// A session of some role with some database, with these settings in its startup packet.
    pub(super) async fn session_as(
        &self,
        role: &str,
        database: &str,
        application: &str,
        settings: &[&str],
        deadline: Duration,
    ) -> Result<Session, PgError> {
        let config = self.config();
        let options: Vec<String> = settings
            .iter()
            .map(|setting| format!("-c {}", setting.replace('\\', "\\\\").replace(' ', "\\ ")))
            .collect();
        let mut libpq = Config::new();
        libpq
            .host_path(&config.socket_dir)
            .port(config.port)
            .user(role)
            .dbname(database)
            .application_name(application)
            .options(options.join(" "));
        let to = config
            .socket_dir
            .join(format!(".s.PGSQL.{}", config.port))
            .display()
            .to_string();
        Session::open(&libpq, to, deadline).await
    }

    /// The kept session to the present postmaster, opened if there is none.
    pub(super) async fn kept_session(&self, deadline: Duration) -> Result<Arc<Kept>, PgError> {
        let begun = Instant::now();
        let late = |_| PgError::Deadline {
            doing: "get the kept session",
            after: deadline,
            why: "another look at the server still waits for it".to_owned(),
        };
        let mut current = tokio::time::timeout(deadline, self.kept().current.lock())
            .await
            .map_err(late)?;
        let postmaster = self.process().pid().unwrap_or_default();
        let fits = |kept: &&Arc<Kept>| kept.postmaster == postmaster && !kept.session.is_closed();
        if let Some(kept) = current.as_ref().filter(fits) {
            return Ok(Arc::clone(kept));
        }
        *current = None;
        let session = self
            .session(&[], deadline.saturating_sub(begun.elapsed()))
            .await?;
        let left = deadline.saturating_sub(begun.elapsed());
        let look = session
            .prepare("look at the server", super::look::LOOK, left)
            .await?;
        let kept = Arc::new(Kept {
            postmaster,
            session,
            look,
        });
        *current = Some(Arc::clone(&kept));
        Ok(kept)
    }
}
