//! Clients that insert rows and remember what became of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use futures::stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use super::TABLE;
use super::history::{Ack, Gap, History, RowId};
use crate::clock::Mono;
use crate::condition::wait_until;
use crate::sql;

/// Whom the clients connect to.
#[derive(Clone, Debug)]
pub enum Target {
    /// The servers of a cluster, as in libpq's list of hosts with `target_session_attrs=read-write`: tried in turn,
    /// beginning with the one that worked last.
    Hosts(Vec<SocketAddr>),
    /// One address, taken as it is: a proxy, or one server that is watched.
    One(SocketAddr),
}

/// How the clients behave.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// How many clients write at once.
    pub clients: u32,
    /// The pause of each client after an acknowledged row.
    pub pace: Duration,
    /// How long a connection may take to be ready, for each address.
    pub connect: Duration,
    /// How long an insert may take before the client gives the connection up and counts the row as unknown.
    pub statement: Duration,
    /// The number of the first client: rows of writers with disjoint numbers can be told apart in one table.
    pub first_client: u32,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            clients: 4,
            pace: Duration::from_millis(5),
            connect: Duration::from_millis(500),
            statement: Duration::from_secs(1),
            first_client: 1,
        }
    }
}

/// The pause between two rounds of attempts to find a writable server.
const RETRY: Duration = Duration::from_millis(5);

/// Running clients.
#[derive(Debug)]
pub struct Writer {
    stop: watch::Sender<bool>,
    began: Mono,
    log: Arc<Log>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients have seen so far.
#[derive(Debug, Default)]
struct Log {
    acked: AtomicU64,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    acks: Vec<Ack>,
    unknown: Vec<RowId>,
    failures: BTreeMap<String, (u64, Mono)>,
}

impl Log {
    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, why: &anyhow::Error) {
        let mut entries = self.entries();
        let failure = entries
            .failures
            .entry(format!("{why:#}"))
            .or_insert((0, Mono::now()));
        *failure = (failure.0 + 1, Mono::now());
    }
}

impl Writer {
    /// Makes the table on a primary, if it is not there.
    ///
    /// # Errors
    /// The server is not writable.
    pub async fn prepare(primary: SocketAddr) -> Result<()> {
        let create = format!("CREATE TABLE IF NOT EXISTS {TABLE} (client int NOT NULL, seq bigint NOT NULL)");
        sql::query(primary, &create).await.map(drop)
    }

    /// Starts the clients. They go on, through whatever happens, until [`Writer::stop`].
    pub fn start(target: Target, options: WriterOptions) -> Writer {
        let (stop, stopped) = watch::channel(false);
        let log = Arc::new(Log::default());
        let clients = (0..options.clients).map(|i| {
            let client = LoneClient {
                number: options.first_client + i,
                target: target.clone(),
                options: options.clone(),
                log: Arc::clone(&log),
                stopped: stopped.clone(),
                last_good: i as usize,
            };
            tokio::spawn(client.run())
        });
        Writer {
            stop,
            began: Mono::now(),
            clients: clients.collect(),
            log,
        }
    }

    /// Rows acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.log.acked.load(Ordering::Relaxed)
    }

    /// The last acknowledgement so far.
    pub fn last_ack(&self) -> Option<Ack> {
        self.log.entries().acks.last().cloned()
    }

    /// Waits until `rows` more rows have been acknowledged.
    ///
    /// # Errors
    /// They have not after `deadline`; the error tells the clients' newest failure.
    pub async fn wait_for_acks(&self, rows: u64, deadline: Duration) -> Result<()> {
        let goal = self.acked() + rows;
        let what = format!("{rows} more rows are acknowledged");
        wait_until(&what, deadline, || async {
            let acked = self.acked();
            if acked >= goal {
                Ok(())
            } else {
                Err(anyhow!("{acked} of {goal}; {}", self.newest_failure()))
            }
        })
        .await
    }

    /// Waits until a row is acknowledged that was sent after `after`, and returns the first such acknowledgement.
    ///
    /// # Errors
    /// None is after `deadline`; the error tells the clients' newest failure.
    pub async fn wait_for_ack_after(&self, after: Mono, deadline: Duration) -> Result<Ack> {
        wait_until("a row is acknowledged again", deadline, || async {
            let entries = self.log.entries();
            let newer = entries.acks.iter().rev().take_while(|ack| ack.acked >= after);
            let first = newer.filter(|ack| ack.sent >= after).last().cloned();
            drop(entries);
            first.ok_or_else(|| anyhow!("none; {}", self.newest_failure()))
        })
        .await
    }

    fn newest_failure(&self) -> String {
        let entries = self.log.entries();
        let newest = entries.failures.iter().max_by_key(|(_, (_, last))| *last);
        newest.map_or("no failures".to_owned(), |(why, (count, _))| {
            format!("newest failure ({count} times): {why}")
        })
    }

    /// Ends the clients, letting statements under way come to their end, and tells what they saw.
    pub async fn stop(mut self) -> History {
        // Nobody listens only if every client has panicked already: the join below tells.
        let _ = self.stop.send(true);
        for client in std::mem::take(&mut self.clients) {
            if let Err(e) = client.await
                && e.is_panic()
            {
                std::panic::resume_unwind(e.into_panic());
            }
        }
        let mut entries = self.log.entries();
        let mut acks = std::mem::take(&mut entries.acks);
        acks.sort_by_key(|ack| ack.acked);
        History {
            run: Gap {
                from: self.began,
                to: Mono::now(),
            },
            acks,
            unknown: std::mem::take(&mut entries.unknown),
            failures: std::mem::take(&mut entries.failures),
        }
    }
}

/// Clients that nobody will ask for their history must not go on writing.
impl Drop for Writer {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

/// One client.
struct LoneClient {
    number: u32,
    target: Target,
    options: WriterOptions,
    log: Arc<Log>,
    stopped: watch::Receiver<bool>,
    last_good: usize,
}

/// A connection to a writable server.
struct Session {
    client: Client,
    driver: JoinHandle<()>,
    /// Set by a warning of the server: then a success may mean less than it says.
    warned: Arc<AtomicBool>,
    server: SocketAddr,
    timeline: u32,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl LoneClient {
    async fn run(mut self) {
        let mut seq = 0;
        while !*self.stopped.borrow() {
            let session = match self.connect().await {
                Ok(session) => session,
                Err(why) => {
                    self.log.failed(&why);
                    sleep(RETRY).await;
                    continue;
                }
            };
            while !*self.stopped.borrow() {
                seq += 1;
                if let Err(why) = self.insert(&session, seq).await {
                    self.log.entries().unknown.push((self.number, seq));
                    self.log.failed(&why);
                    break;
                }
                sleep(self.options.pace).await;
            }
        }
    }

    /// Inserts one row. Whatever goes wrong, the row counts as unknown: an error that arrives may be older than the
    /// commit, or the commit may have happened on a server that could not tell.
    async fn insert(&self, session: &Session, seq: u64) -> Result<()> {
        let insert = format!("INSERT INTO {TABLE} VALUES ({}, {seq})", self.number);
        let sent = Mono::now();
        timeout(self.options.statement, session.client.batch_execute(&insert))
            .await
            .map_err(|_| anyhow!("no acknowledgement in time"))?
            .map_err(described)?;
        let acked = Mono::now();
        if session.warned.load(Ordering::Acquire) {
            // A wait for standbys that was cancelled ends in success, with nothing but a warning.
            bail!("acknowledged, but with a warning");
        }
        let ack = Ack {
            id: (self.number, seq),
            sent,
            acked,
            server: session.server,
            timeline: session.timeline,
        };
        self.log.entries().acks.push(ack);
        self.log.acked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn connect(&mut self) -> Result<Session> {
        let hosts = match &self.target {
            Target::One(address) => return self.connect_to(*address).await,
            Target::Hosts(hosts) => hosts.clone(),
        };
        let mut last = anyhow!("there are no hosts to connect to");
        for i in 0..hosts.len() {
            let index = (self.last_good + i) % hosts.len();
            match self.connect_to(hosts[index]).await {
                Ok(session) => {
                    self.last_good = index;
                    return Ok(session);
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Session> {
        let connecting = async {
            let (client, mut connection) = sql::config(address).connect(NoTls).await.map_err(described)?;
            let warned = Arc::new(AtomicBool::new(false));
            let warning = Arc::clone(&warned);
            let driver = tokio::spawn(async move {
                let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
                while let Some(Ok(message)) = messages.next().await {
                    if let AsyncMessage::Notice(notice) = message
                        && notice.parsed_severity() == Some(Severity::Warning)
                    {
                        warning.store(true, Ordering::Release);
                    }
                }
            });
            let session = (client, driver, warned);
            let server = about(&session.0).await?;
            Ok::<_, anyhow::Error>((session, server))
        };
        let connected = timeout(self.options.connect, connecting).await;
        let ((client, driver, warned), (server, timeline)) = connected
            .map_err(|_| anyhow!("{address}: no connection in time"))?
            .context(address.to_string())?;
        Ok(Session {
            client,
            driver,
            warned,
            server,
            timeline,
        })
    }
}

/// The server's own address and the timeline it writes; an error if it is not writable.
async fn about(client: &Client) -> Result<(SocketAddr, u32)> {
    let question = "SELECT host(inet_server_addr()), inet_server_port(), current_setting('transaction_read_only'), \
                    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END";
    let messages = client.simple_query(question).await.map_err(described)?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.context("no row")?;
    let field = |i: usize| row.get(i);
    if field(2) == Some("on") {
        bail!("not writable");
    }
    let address = field(0)
        .zip(field(1))
        .map(|(ip, port)| format!("{ip}:{port}"))
        .context("no address")?;
    let timeline = field(3).and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
    Ok((address.parse()?, timeline.context("no timeline")?))
}

/// The server's own words, which tokio-postgres keeps one level down.
fn described(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(said) => anyhow!("{}: {}", said.code().code(), said.message()),
        None => anyhow::Error::new(error),
    }
}
