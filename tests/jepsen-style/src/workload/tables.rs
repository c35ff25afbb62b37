//! The tables: made before the run, read after it.

use super::append::elements;
use super::bank::{ACCOUNTS, TOTAL, balances};
use super::link::{Route, Rows};
use super::procedure::DEFINITION;
use crate::checker::set::Element;
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// For each statement: these tables may be large.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was there in the end.
#[derive(Debug, Default)]
pub struct Last {
    /// Each element of the set and how often it is there.
    pub set: BTreeMap<Element, u64>,
    /// The lists.
    pub lists: BTreeMap<u32, Vec<u64>>,
    /// The accounts.
    pub balances: BTreeMap<u32, i64>,
    /// The registers.
    pub registers: BTreeMap<u32, u64>,
}

/// Makes the tables, with so many registers and lists. With `local_commits` no commit of a client waits for a standby.
///
/// # Errors
/// The server does not take writes.
pub async fn prepare(primary: SocketAddr, keys: u64, local_commits: bool) -> Result<()> {
    let commits = match local_commits {
        true => "ALTER ROLE postgres SET synchronous_commit = local;",
        false => "",
    };
    let each = TOTAL / i64::from(ACCOUNTS);
    run(
        primary,
        &format!(
            "CREATE TABLE jepsen_set (client int NOT NULL, seq bigint NOT NULL);
             CREATE TABLE jepsen_register (k int PRIMARY KEY, v bigint NOT NULL);
             CREATE TABLE jepsen_append (k int PRIMARY KEY, v bigint[] NOT NULL);
             CREATE TABLE jepsen_bank (account int PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO jepsen_register SELECT k, 0 FROM generate_series(0, {keys} - 1) k;
             INSERT INTO jepsen_append SELECT k, '{{}}' FROM generate_series(0, {keys} - 1) k;
             INSERT INTO jepsen_bank SELECT a, {each} FROM generate_series(0, {ACCOUNTS} - 1) a;
             CREATE TABLE jepsen_read_after_write (client int, seq bigint, PRIMARY KEY (client, seq));
             {DEFINITION}
             {commits}
             ANALYZE;"
        ),
    )
    .await
    .map(drop)
}

/// Reads all tables.
///
/// # Errors
/// A table cannot be read, or holds what it cannot hold.
pub async fn read_last(primary: SocketAddr) -> Result<Last> {
    let mut last = Last::default();
    for row in run(
        primary,
        "SELECT client, seq, count(*) FROM jepsen_set GROUP BY 1, 2",
    )
    .await?
    {
        let [client, seq, times] = numbers(&row)?;
        last.set.insert((client as u32, seq), times);
    }
    for row in run(primary, "SELECT k, v FROM jepsen_register WHERE v <> 0").await? {
        let [key, value] = numbers(&row)?;
        last.registers.insert(key as u32, value);
    }
    for row in run(primary, "SELECT k, v FROM jepsen_append WHERE v <> '{}'").await? {
        let [key] = numbers(&row)?;
        let list = elements(row.get(1).and_then(Option::as_deref)).context("a list")?;
        last.lists.insert(key as u32, list);
    }
    let rows = run(
        primary,
        "SELECT string_agg(account || ' ' || balance, ',') FROM jepsen_bank",
    )
    .await?;
    let text = rows.first().and_then(|row| row.first()?.as_deref());
    last.balances = balances(text.unwrap_or_default());
    Ok(last)
}

async fn run(server: SocketAddr, statements: &str) -> Result<Rows> {
    let route = Route::Direct {
        name: "the last look".to_owned(),
        server,
    };
    let link = route.connect(PATIENCE).await?;
    let rows = link.run(statements, PATIENCE).await;
    rows.map_err(|why| anyhow!("{server}: {}", why.why()))
}

fn numbers<const N: usize>(row: &[Option<String>]) -> Result<[u64; N]> {
    let numbers: Option<Vec<u64>> = (0..N).map(|i| row.get(i)?.as_deref()?.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.with_context(|| format!("{N} numbers in {row:?}"))
}
