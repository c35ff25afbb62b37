//! Clients that read and write one table, and remember their longest wait.

use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const READERS: u64 = 4;
const WRITERS: u64 = 2;
/// Between two statements of one client.
const PAUSE: Duration = Duration::from_millis(2);

/// What is going on.
pub struct Load {
    stop: Arc<AtomicBool>,
    worst_read: Arc<AtomicU64>,
    worst_write: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<()>>>,
}

/// The longest waits, milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Worst {
    pub read_ms: f64,
    pub write_ms: f64,
}

pub async fn connect(server: SocketAddr, user: &str, database: &str) -> Result<Client> {
    let mut config = lab::sql::config(server);
    config.dbname(database).user(user);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Load {
    /// `report`: somebody also reads the table in transactions of 3 s, with 1 s in between.
    pub async fn start(server: SocketAddr, database: &str, rows: u64, report: bool) -> Result<Load> {
        let mut load = Load {
            stop: Arc::default(),
            worst_read: Arc::default(),
            worst_write: Arc::default(),
            clients: Vec::new(),
        };
        for number in 0..READERS + WRITERS {
            let client = connect(server, "app", database).await?;
            let writes = number >= READERS;
            let worst = Arc::clone(if writes {
                &load.worst_write
            } else {
                &load.worst_read
            });
            let stop = Arc::clone(&load.stop);
            load.clients.push(tokio::spawn(async move {
                let mut id = number.wrapping_mul(7919) % rows;
                while !stop.load(Ordering::Relaxed) {
                    id = (id * 48_271 + 11) % rows;
                    let sql = if writes {
                        format!("UPDATE big SET w = w + 1 WHERE id = {id}")
                    } else {
                        format!("SELECT b FROM big WHERE id = {id}")
                    };
                    let asked = Instant::now();
                    client.simple_query(&sql).await?;
                    worst.fetch_max(micros(asked), Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            }));
        }
        if report {
            let client = connect(server, "app", database).await?;
            let stop = Arc::clone(&load.stop);
            load.clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.batch_execute("BEGIN; SELECT b FROM big LIMIT 1").await?;
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    client.batch_execute("COMMIT").await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(())
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        load.worst_read.store(0, Ordering::Relaxed);
        load.worst_write.store(0, Ordering::Relaxed);
        Ok(load)
    }

    pub async fn stop(self) -> Result<Worst> {
        // Who waits behind a lock finishes before it is counted.
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await??;
        }
        let milliseconds = |worst: &AtomicU64| worst.load(Ordering::Relaxed) as f64 / 1000.0;
        Ok(Worst {
            read_ms: milliseconds(&self.worst_read),
            write_ms: milliseconds(&self.worst_write),
        })
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
