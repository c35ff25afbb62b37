//! Work by a schedule: done once, whoever dies.

use crate::archive::{archived_up_to_now, newest_segment, place};
use crate::orders::events;
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, sql, wait_until};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Until the schedule comes round, a node is given up, and another one has copied everything.
const DONE_WITHIN: Duration = Duration::from_secs(300);

async fn schedule(cluster: &Cluster) -> Result<Value> {
    let shown = cluster
        .pgctl_ok(&["backup", "schedule", "show", "-o", "json"])
        .await?;
    Ok(serde_json::from_str(&shown)?)
}

async fn backups(cluster: &Cluster, node: &str) -> Result<Vec<Value>> {
    let config = cluster.node(node).host().dir().join("node.toml");
    let config = config.display().to_string();
    let listed = cluster
        .pgctl_ok(&["backup", "list", "-o", "json", "--config", &config])
        .await?;
    Ok(serde_json::from_str(&listed)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_whose_node_dies_is_taken_by_another_one_and_once() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "duty")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    // Within the next minute, but not at once.
    let minute =
        "SELECT to_char(date_trunc('minute', now() + interval '70 s') AT TIME ZONE 'UTC', 'MI HH24')";
    let due = sql::value(address, minute).await?;
    let setting = format!("backup_schedule={due} * * *");
    cluster
        .pgctl_ok(&["config", "set", &setting, "backup_rate_mb=1"])
        .await?;
    let first = wait_until("a standby has begun", DONE_WITHIN, || async {
        let shown = schedule(&cluster).await?;
        let running = shown["work"][0]["running"]["node"].as_str();
        running.map(str::to_owned).with_context(|| shown.to_string())
    })
    .await?;
    ensure!(
        first != primary,
        "the primary is copied although there are standbys"
    );
    // So that it is in the middle of it.
    wait_until("something is in the repository", RECOVERY, || async {
        let copying = std::process::Command::new("find")
            .args([
                repository.as_os_str(),
                "-path".as_ref(),
                "*/backups/*/parts/*".as_ref(),
            ])
            .output()?;
        ensure!(!copying.stdout.is_empty(), "nothing yet");
        Ok(())
    })
    .await?;
    cluster.node_mut(&first).power_off()?;
    cluster.pgctl_ok(&["config", "set", "backup_rate_mb=0"]).await?;
    let done = wait_until("another one has taken it", DONE_WITHIN, || async {
        let shown = schedule(&cluster).await?;
        let done = &shown["work"][0]["last_done"];
        ensure!(done.is_object(), "{shown}");
        Ok(done.clone())
    })
    .await?;
    ensure!(done["attempt"] == 2 && done["node"] != first.as_str(), "{done}");
    cluster.node_mut(&first).start().await?;
    cluster.wait_all_in_sync(RECOVERY).await?;
    let shown = schedule(&cluster).await?;
    ensure!(shown["work"][0]["running"].is_null(), "{shown}");
    let listed = backups(&cluster, &primary).await?;
    ensure!(
        listed.len() == 1 && listed[0]["state"] == "complete" && listed[0]["id"] == done["id"],
        "exactly one: {listed:?}"
    );
    ensure!(
        events(&cluster, "backup-lost").await?.len() == 1,
        "the loss is told"
    );
    ensure!(
        events(&cluster, "backup-complete").await?.len() == 1,
        "the end is told"
    );
    let metrics = cluster.node(&primary).http("/metrics").await?.body;
    ensure!(
        metrics.contains("pgctl_backup_last_success_timestamp_seconds"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_restores_what_was_backed_up_and_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "drill")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    sql::query(
        address,
        "CREATE TABLE goods AS SELECT g AS id FROM generate_series(1, 1000) g",
    )
    .await?;
    cluster.pgctl_ok(&["backup", "create"]).await?;
    sql::query(
        address,
        "INSERT INTO goods SELECT g FROM generate_series(1001, 2000) g",
    )
    .await?;
    archived_up_to_now(&cluster, &primary).await?;
    cluster
        .pgctl_ok(&["config", "set", "drill_sql=SELECT count(*) FROM goods"])
        .await?;
    let found: Value = serde_json::from_str(&cluster.pgctl_ok(&["backup", "drill", "-o", "json"]).await?)?;
    ensure!(found["query_rows"][0] == "2000", "{found}");
    ensure!(found["verified"] == "ok", "{found}");
    ensure!(found["newest_epoch"] == "1", "{found}");
    let node = found["node"].as_str().context("a node")?.to_owned();
    ensure!(node != primary, "a standby's node does it: {found}");
    let scratch = cluster.node(&node).data_dir()?.with_extension("pgctl-drill");
    wait_until("the scratch space is gone", RECOVERY, || async {
        ensure!(!scratch.exists(), "{} is there", scratch.display());
        Ok(())
    })
    .await?;
    ensure!(events(&cluster, "drill-complete").await?.len() == 1, "it is told");
    let kept = std::process::Command::new("find")
        .args([repository.as_os_str(), "-path".as_ref(), "*/drills/*".as_ref()])
        .output()?;
    ensure!(!kept.stdout.is_empty(), "what it found is kept");
    // A check that fails, and a segment that is damaged, fail the drill.
    cluster
        .pgctl_ok(&["config", "set", "drill_sql=SELECT count(*) FROM nowhere"])
        .await?;
    let failed = cluster.pgctl(&["backup", "drill"]).await?;
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(
        failed.status.code() == Some(1) && said.contains("nowhere"),
        "{said}"
    );
    cluster.pgctl_ok(&["config", "set", "drill_sql="]).await?;
    let path = newest_segment(&repository)?;
    let mut damaged = fs::read(&path)?;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, damaged)?;
    let failed = cluster.pgctl(&["backup", "drill"]).await?;
    ensure!(
        failed.status.code() == Some(1),
        "a damaged segment was not noticed"
    );
    Ok(())
}
