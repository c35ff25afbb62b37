//! A client's connection to a server.

use super::client::now;
use crate::checker::Nanos;
use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, stream};
use lab::sql;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage};

/// How a client finds its server.
#[derive(Clone, Debug)]
pub enum Route {
    /// One server, whatever it is by now. Such a client stays with an old primary on purpose.
    Direct { name: String, server: SocketAddr },
    /// As libpq does with several hosts and `target_session_attrs=read-write`: in turn, each with its own time.
    AnyOf(Vec<SocketAddr>),
    /// HAProxy.
    Proxy(SocketAddr),
}

impl Route {
    /// For messages.
    pub fn name(&self) -> &str {
        match self {
            Route::Direct { name, .. } => name,
            Route::AnyOf(_) => "hosts",
            Route::Proxy(_) => "proxy",
        }
    }

    /// Whether it leads to one server only.
    pub fn is_loyal(&self) -> bool {
        matches!(self, Route::Direct { .. })
    }

    /// The one server that it leads to, and its name.
    pub fn only_server(&self) -> Option<(String, SocketAddr)> {
        match self {
            Route::Direct { name, server } => Some((name.clone(), *server)),
            _ => None,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// No server answers within `patience` (each), or none of several takes writes.
    pub async fn connect(&self, patience: Duration) -> Result<Link> {
        match self {
            Route::Direct { server, .. } => Link::open(*server, TargetSessionAttrs::Any, patience).await,
            Route::Proxy(server) => Link::open(*server, TargetSessionAttrs::Any, patience).await,
            Route::AnyOf(servers) => {
                let mut last = anyhow!("there are no hosts");
                for server in servers {
                    match Link::open(*server, TargetSessionAttrs::ReadWrite, patience).await {
                        Ok(link) => return Ok(link),
                        Err(why) => last = why,
                    }
                }
                Err(last)
            }
        }
    }
}

/// Rows of text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why a statement has no result.
#[derive(Debug)]
pub enum Failed {
    /// The server refused it, and the connection goes on: for messages.
    Refused(String),
    /// No answer in time, or no connection any more.
    Broken(String),
}

impl Failed {
    /// What happened.
    pub fn why(&self) -> &str {
        match self {
            Failed::Refused(why) | Failed::Broken(why) => why,
        }
    }
}

/// What the server said while a statement ran, and when it arrived.
pub type Notices = Vec<(Nanos, String)>;

/// An open connection.
pub struct Link {
    client: tokio_postgres::Client,
    driver: JoinHandle<()>,
    warned: Arc<AtomicBool>,
    notices: Arc<Mutex<Notices>>,
    /// The server's own address, also behind a proxy.
    pub server: String,
    /// The identity of its database.
    pub database: String,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Closed without a word, as by a client that was killed. Nothing is cancelled: a cancelled wait for the standbys
        // would make a commit visible that none of them has.
        self.driver.abort();
    }
}

impl Link {
    async fn open(server: SocketAddr, attributes: TargetSessionAttrs, patience: Duration) -> Result<Link> {
        let opening = Link::open_in_any_time(server, attributes);
        let opened = timeout(patience, opening).await;
        opened
            .map_err(|_| anyhow!("no connection in time"))?
            .with_context(|| server.to_string())
    }

    async fn open_in_any_time(server: SocketAddr, attributes: TargetSessionAttrs) -> Result<Link> {
        let mut config = sql::config(server);
        config.application_name("jepsen").target_session_attrs(attributes);
        let (client, mut connection) = config
            .connect(NoTls)
            .await
            .map_err(|error| anyhow!(said(&error)))?;
        let warned = Arc::new(AtomicBool::new(false));
        let warning = Arc::clone(&warned);
        let notices = Arc::new(Mutex::new(Notices::new()));
        let heard = Arc::clone(&notices);
        let driver = tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                let AsyncMessage::Notice(notice) = message else {
                    continue;
                };
                match notice.parsed_severity() {
                    Some(Severity::Warning) => warning.store(true, Ordering::Release),
                    // What is said after a warning is worth nothing: see `run`.
                    _ if warning.load(Ordering::Acquire) => {}
                    _ => locked(&heard).push((now(), notice.message().to_owned())),
                }
            }
        });
        let mut link = Link {
            client,
            driver,
            warned,
            notices,
            server: String::new(),
            database: String::new(),
        };
        let about = "SELECT host(inet_server_addr()) || ':' || inet_server_port(), system_identifier \
                     FROM pg_control_system()";
        let messages = link
            .client
            .simple_query(about)
            .await
            .map_err(|error| anyhow!(said(&error)))?;
        let Some([Some(server), Some(database)]) = rows(messages)
            .pop()
            .and_then(|row| <[Option<String>; 2]>::try_from(row).ok())
        else {
            bail!("the server does not say who it is");
        };
        (link.server, link.database) = (server, database);
        Ok(link)
    }

    /// Runs one statement. A success that came with a warning is none: a wait for standbys that was cancelled ends so.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn run(&self, statement: &str, patience: Duration) -> Result<Rows, Failed> {
        let answer = timeout(patience, self.client.simple_query(statement)).await;
        let messages = match answer {
            Err(_) => return Err(Failed::Broken("no answer in time".to_owned())),
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => {
                // The classes that end the connection, or come from a server that is going down.
                let ends = error.as_db_error().is_none_or(|told| {
                    *told.code() == SqlState::READ_ONLY_SQL_TRANSACTION
                        || matches!(told.code().code().get(..2), Some("57" | "58" | "53" | "XX"))
                });
                let why = said(&error);
                return Err(if ends {
                    Failed::Broken(why)
                } else {
                    Failed::Refused(why)
                });
            }
        };
        if self.warned.load(Ordering::Acquire) {
            return Err(Failed::Broken("answered, but with a warning".to_owned()));
        }
        Ok(rows(messages))
    }

    /// What the server has said since this was last asked, up to the first warning.
    pub fn heard(&self) -> Notices {
        std::mem::take(&mut *locked(&self.notices))
    }

    /// Whether this server takes no writes. To be asked before a write on a route that leads to standbys too, so that
    /// what they refuse does not count as unknown.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn is_standby(&self, patience: Duration) -> Result<bool, Failed> {
        let rows = self.run("SELECT pg_is_in_recovery()", patience).await?;
        Ok(text(&rows, 0) != Some("f"))
    }
}

fn locked(notices: &Mutex<Notices>) -> std::sync::MutexGuard<'_, Notices> {
    notices.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A field of the first row.
pub fn text(rows: &Rows, field: usize) -> Option<&str> {
    rows.first()?.get(field)?.as_deref()
}

/// What a query adds to its row so that its client knows the timeline that it wrote.
pub const TIMELINE: &str = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

/// Reads [`TIMELINE`].
pub fn timeline(text: Option<&str>) -> Option<u32> {
    u32::from_str_radix(text?, 16).ok()
}

/// Makes a transaction that only read wait for the standbys too: it writes this to the WAL and nothing else.
pub const CONFIRM: &str = "pg_logical_emit_message(true, 'jepsen', '')";

fn rows(messages: Vec<SimpleQueryMessage>) -> Rows {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    });
    rows.collect()
}

/// The server's own words, which tokio-postgres keeps one level down.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{}: {}", said.code().code(), said.message()),
        None => error.to_string(),
    }
}
