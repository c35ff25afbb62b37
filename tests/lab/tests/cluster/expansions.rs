//! A version of a schema that is opened while the primary dies, with the old program at work all the while.

use crate::rollouts::{OWNER, Stage, connect, value};
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Lab, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Slow enough to be killed in.
const CHANGE: &str = "
-- pgctl:down amount = round(amount * 100)
ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12,2) USING amount / 100.0 + length(pg_sleep(0.0005)::text);
ALTER TABLE orders ALTER COLUMN id TYPE bigint;
ALTER TABLE orders RENAME COLUMN touched TO seen;
";

/// Inserts rows, and changes them, at whichever server takes writes; what was acknowledged, and what may have been.
async fn old_program(servers: Vec<SocketAddr>, stop: Arc<AtomicBool>) -> (BTreeMap<u64, u64>, u64) {
    let (mut acknowledged, mut id) = (BTreeMap::new(), 10_000_u64);
    while !stop.load(Ordering::Relaxed) {
        for server in &servers {
            let Ok(client) = connect(*server, OWNER, "broken").await else {
                continue;
            };
            loop {
                id += 1;
                let insert = format!(
                    "INSERT INTO orders (id, customer, amount) VALUES ({id}, 1, {})",
                    id % 977
                );
                if client.batch_execute(&insert).await.is_err() {
                    break;
                }
                acknowledged.insert(id, id % 977);
                let update = format!("UPDATE orders SET amount = amount + 1 WHERE id = {id}");
                if client.batch_execute(&update).await.is_err() {
                    // It may have happened or not.
                    acknowledged.remove(&id);
                    break;
                }
                acknowledged.insert(id, id % 977 + 1);
                if stop.load(Ordering::Relaxed) {
                    return (acknowledged, id);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (acknowledged, id)
}

async fn versions(stage: &Stage, database: &str) -> Result<Value> {
    let words = ["ddl", "versions", "--database", database, "-o", "json"];
    Ok(serde_json::from_str(
        &stage.scene.cluster.pgctl_ok(&words).await?,
    )?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_opens_and_closes_without_a_lost_write_though_the_primary_dies_while_it_is_filled()
-> Result<()> {
    let lab = Lab::new()?;
    let mut stage = Stage::set(&lab, "versions", &["straight", "broken"], CHANGE).await?;
    let script = stage.script.display().to_string();
    let expand = |database: &'static str| {
        let words = [
            "ddl",
            "expand",
            "--yes",
            "--database",
            database,
            "--version",
            "app_v2",
        ];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words.extend(["--batch-ms".to_owned(), "100".to_owned(), script.clone()]);
        words
    };
    let run = async |stage: &Stage, words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        stage.scene.cluster.pgctl_ok(&words).await
    };
    run(&stage, expand("straight")).await?;
    let straight = stage.until("done").await?;

    let mut servers = Vec::new();
    for node in stage.scene.cluster.nodes() {
        if let Ok(server) = node.pg_address() {
            servers.push(server);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let program = tokio::spawn(old_program(servers, Arc::clone(&stop)));
    let mut detached = expand("broken");
    detached.push("--detach".to_owned());
    run(&stage, detached).await?;
    let first = stage.scene.first.clone();
    let watcher = connect(stage.scene.cluster.node(&first).pg_address()?, OWNER, "broken").await?;
    wait_until("rows are being filled", RECOVERY, || async {
        let filled = "SELECT count(*) FROM orders WHERE id < 10000 AND pgctl_new_amount IS NOT NULL";
        let filled: u64 = value(&watcher, filled).await?.parse()?;
        ensure!(filled > 0, "none is");
        ensure!(filled < 4000, "all are: this run shows nothing");
        Ok(())
    })
    .await?;
    let off = stage.scene.cluster.node_mut(&first).power_off()?;
    drop(watcher);
    let second = stage.scene.writable_after(off).await?;
    ensure!(second != first, "a node without power cannot be the primary");
    stage.scene.cluster.node_mut(&first).start().await?;
    let broken = stage.until("done").await?;
    let fingerprint = |status: &Value| status["rollout"]["fingerprint"].as_str().map(str::to_owned);
    ensure!(
        fingerprint(&broken).is_some() && fingerprint(&broken) == fingerprint(&straight),
        "the schemas differ: {broken} and {straight}"
    );
    ensure!(versions(&stage, "broken").await?[0]["state"] == "open");
    // What an open version needs is no leftover.
    let words = ["ddl", "janitor", "--database", "broken", "-o", "json"];
    let janitor: Value = serde_json::from_str(&stage.scene.cluster.pgctl_ok(&words).await?)?;
    ensure!(janitor["leftovers"] == serde_json::json!([]), "{janitor}");

    // The old program is at work: nothing is contracted, and who it is is said.
    let contract = [
        "ddl",
        "contract",
        "--yes",
        "--database",
        "broken",
        "--version",
        "app_v2",
        "--unused-for",
        "3",
    ];
    let refused = stage.scene.cluster.pgctl(&contract).await?;
    ensure!(
        !refused.status.success(),
        "it was contracted under the old program"
    );
    let failed = stage.until("failed").await?;
    let message = failed["rollout"]["message"]
        .as_str()
        .context("a message")?
        .to_owned();
    ensure!(message.contains("old version"), "{message}");
    stage.scene.cluster.pgctl_ok(&["ddl", "abort", "--yes"]).await?;
    stage.until("aborted").await?;

    let client = stage.primary("broken").await?;
    client
        .batch_execute("UPDATE app_v2.orders SET amount = amount + 0.5 WHERE id <= 10")
        .await?;
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, last) = program.await?;
    ensure!(acknowledged.len() > 50, "only {} rows", acknowledged.len());
    let seen = value(&client, "SELECT amount FROM orders WHERE id = 10").await?;
    ensure!(seen == "60", "the old program sees {seen}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    stage.scene.cluster.pgctl_ok(&contract).await?;
    stage.until("done").await?;
    ensure!(versions(&stage, "broken").await?[0]["state"] == "contracted");

    let sums = format!(
        "SELECT id, round(amount * 100) FROM public.orders WHERE id BETWEEN 10001 AND {last} ORDER BY id"
    );
    let mut found = BTreeMap::new();
    for message in client.simple_query(&sums).await? {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            let number = |at| row.get(at).unwrap_or_default().parse::<u64>();
            found.insert(number(0)?, number(1)?);
        }
    }
    for (id, cents) in &acknowledged {
        ensure!(
            found.get(id) == Some(cents),
            "row {id}: {:?}, not {cents}",
            found.get(id)
        );
    }
    let wrong = "SELECT count(*) FROM public.orders WHERE id < 10000 AND amount <> CASE WHEN id <= 10 THEN id / 100.0 + 0.5 \
                 ELSE id / 100.0 END";
    ensure!(value(&client, wrong).await? == "0", "rows have other values");
    let kinds = "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attname) FROM pg_attribute \
                 WHERE attrelid = 'public.orders'::regclass AND attname IN ('id', 'amount', 'seen')";
    let kinds = value(&client, kinds).await?;
    ensure!(kinds == "numeric(12,2) bigint integer", "{kinds}");
    stage.scene.end().await?;
    Ok(())
}
