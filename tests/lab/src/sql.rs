//! One question to one server, with a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);

/// A connection's settings as every client of the lab uses them: superuser `postgres`, trusted.
pub fn config(server: SocketAddr) -> Config {
    let mut config = Config::new();
    config
        .user("postgres")
        .dbname("postgres")
        .application_name("lab")
        .connect_timeout(CONNECT);
    config.host(server.ip().to_string()).port(server.port());
    config
}

/// Runs `query` and returns its rows as text, `None` for null.
///
/// # Errors
/// The server cannot be reached, refuses, or does not answer in time.
pub async fn query(server: SocketAddr, query: &str) -> Result<Vec<Vec<Option<String>>>> {
    let (client, connection) = timeout(CONNECT, config(server).connect(NoTls))
        .await
        .with_context(|| format!("no connection to {server} within {CONNECT:?}"))?
        .with_context(|| format!("cannot connect to {server}"))?;
    let driving = tokio::spawn(connection);
    let answer = timeout(ANSWER, client.simple_query(query)).await;
    driving.abort();
    let messages = answer
        .with_context(|| format!("no answer from {server} within {ANSWER:?} to: {query}"))?
        .with_context(|| format!("{server} refused: {query}"))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

/// The one value that `query` returns.
///
/// # Errors
/// As for [`query()`]; also if there is no row or the value is null.
pub async fn value(server: SocketAddr, text: &str) -> Result<String> {
    let rows = query(server, text).await?;
    let first = rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next().flatten());
    first.with_context(|| format!("{server} returned no value for: {text}"))
}
