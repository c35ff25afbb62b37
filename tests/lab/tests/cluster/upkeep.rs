//! What the archive does by itself: it lets go of WAL when it must, and reads, mends, expires and dumps by schedule.

use crate::archive::{archived_up_to_now, newest_segment, place};
use crate::orders::events;
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, sql, wait_until};
use scripted_store::{Act, ScriptedStore};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Until the minute comes round, and a machine that is busy has done it all.
const DONE_WITHIN: Duration = Duration::from_secs(300);

fn config_of(cluster: &Cluster) -> String {
    cluster
        .node("n1")
        .host()
        .dir()
        .join("node.toml")
        .display()
        .to_string()
}

async fn json(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.pgctl_ok(words).await?)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_a_limit_leaves_a_hole_that_everybody_knows_of_and_a_backup_after_it() -> Result<()> {
    let lab = Lab::new()?;
    let far = ScriptedStore::start(lab.our_address()).await?;
    let near = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "queue")
        .data_nodes(1)
        .timing("lan-fast")
        .repository(&near)
        .bucket("far", &far.endpoint())
        .build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    cluster
        .pgctl_ok(&["config", "set", "wal_queue_max_bytes=268435456"])
        .await?;
    archived_up_to_now(&cluster, &primary).await?;
    far.script(|_| Act::Refuse(507));
    sql::query(address, "CREATE TABLE filler (n int)").await?;
    for n in 0..24 {
        sql::query(address, &format!("INSERT INTO filler VALUES ({n})")).await?;
        sql::query(address, "SELECT pg_switch_wal()").await?;
    }
    let metric = |page: &str, name: &str| -> u64 {
        let line = page.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.map_or(0, |value| value as u64)
    };
    wait_until("the oldest are given up", RECOVERY, || async {
        let page = cluster.node(&primary).http("/metrics").await?.body;
        ensure!(metric(&page, "pgctl_archive_given_up_segments") > 0, "none yet");
        ensure!(metric(&page, "pgctl_archive_ready_files") <= 17, "too many wait");
        Ok(())
    })
    .await?;
    wait_until("it is told", RECOVERY, || async {
        ensure!(!events(&cluster, "wal-given-up").await?.is_empty(), "not yet");
        Ok(())
    })
    .await?;
    let config = config_of(&cluster);
    // The other repository has got all of it all the same.
    wait_until("the near one has no hole", RECOVERY, || async {
        cluster
            .pgctl_ok(&["wal", "holes", "--config", &config])
            .await
            .map(drop)
    })
    .await?;
    far.behave();
    let done = wait_until("a full backup was taken, as ordered", RECOVERY, || async {
        let shown = cluster
            .pgctl_ok(&["backup", "schedule", "show", "-o", "json"])
            .await?;
        let shown: Value = serde_json::from_str(&shown)?;
        let done = shown["work"][0]["last_done"].clone();
        ensure!(done["id"].is_string(), "{shown}");
        Ok(done)
    })
    .await?;
    ensure!(!events(&cluster, "backup-ordered").await?.is_empty(), "{done}");
    let holes = cluster
        .pgctl(&[
            "wal",
            "holes",
            "--repository",
            "far",
            "--config",
            &config,
            "-o",
            "json",
        ])
        .await?;
    let holes: Value = serde_json::from_slice(&holes.stdout)?;
    let why = holes["holes"][0]["given_up"].as_str().unwrap_or_default();
    ensure!(why.contains("wal_queue_max_bytes"), "{holes}");
    // What was given up is known; what came after it is whole, and is restored from the new backup.
    let verified = cluster.pgctl(&["backup", "verify", "--config", &config]).await?;
    ensure!(verified.status.success(), "{verified:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_reading_and_dumps_are_done_by_schedule() -> Result<()> {
    let lab = Lab::new()?;
    let far = ScriptedStore::start(lab.our_address()).await?;
    let near = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "upkeep")
        .data_nodes(1)
        .timing("lan-fast")
        .repository(&near)
        .bucket("far", &far.endpoint())
        .build()?;
    let archive = &mut cluster.node_mut("n1").config.archive;
    let all = archive
        .get_mut("repositories")
        .and_then(toml::Value::as_array_mut);
    let retention: toml::Table = toml::from_str("last = 1\ngrace = \"0s\"")?;
    for entry in all.context("repositories")? {
        let entry = entry.as_table_mut().context("a table")?;
        entry.insert("retention".to_owned(), retention.clone().into());
    }
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    for _ in 0..2 {
        cluster.pgctl_ok(&["backup", "create"]).await?;
    }
    sql::query(address, "CREATE TABLE filler (n int)").await?;
    archived_up_to_now(&cluster, &primary).await?;
    // One segment is lost everywhere, and one that came later is damaged in one place.
    let lost = newest_segment(&near)?;
    let name = lost.file_name().and_then(|name| name.to_str());
    let name = name.context("a name")?.to_owned();
    for _ in 0..2 {
        sql::query(address, "INSERT INTO filler VALUES (1)").await?;
        archived_up_to_now(&cluster, &primary).await?;
    }
    wait_until("the other one has them", RECOVERY, || async {
        let waits = sql::value(
            address,
            "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
        );
        ensure!(waits.await? == "0", "some wait");
        Ok(())
    })
    .await?;
    let damaged = newest_segment(&near)?;
    let mut bytes = fs::read(&damaged)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes)?;
    fs::remove_file(&lost)?;
    far.change(|objects| objects.retain(|key, _| !key.ends_with(&name)));
    cluster
        .pgctl_ok(&[
            "config",
            "set",
            "expire_schedule=every 1m",
            "verify_schedule=every 1m",
            "dump_schedule=every 1m",
            "verify_share_percent=100",
            "dump_keep=1",
        ])
        .await?;
    let alarms = wait_until("each was done", DONE_WITHIN, || async {
        let shown = json(&cluster, &["backup", "schedule", "show", "-o", "json"]).await?;
        let work = shown["work"].as_array().context("a list")?;
        for kind in ["expire", "dump"] {
            let done = work
                .iter()
                .any(|work| work["kind"] == kind && work["last_done"].is_object());
            ensure!(done, "{kind}: {shown}");
        }
        let alarms = events(&cluster, "verify-alarm").await?;
        ensure!(!alarms.is_empty(), "no alarm: {shown}");
        Ok(alarms)
    })
    .await?;
    // What another one has is mended; what nobody has is told.
    ensure!(
        alarms[0].contains("1 mended") && alarms[0].contains("1 WRONG"),
        "{alarms:?}"
    );
    let page = cluster.node(&primary).http("/metrics").await?.body;
    ensure!(
        page.contains("pgctl_verify_alarm 1"),
        "the metric does not say so"
    );
    let config = config_of(&cluster);
    let listed = json(&cluster, &["backup", "list", "-o", "json", "--config", &config]).await?;
    ensure!(
        listed.as_array().is_some_and(|all| all.len() == 1),
        "the older one stays: {listed}"
    );
    let dumps = json(&cluster, &["dump", "list", "-o", "json", "--config", &config]).await?;
    ensure!(dumps.as_array().is_some_and(|all| all.len() >= 2), "{dumps}");
    Ok(())
}
