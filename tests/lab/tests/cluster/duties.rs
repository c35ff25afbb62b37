//! Work by a schedule: done once, whoever dies.

use crate::archive::place;
use crate::orders::events;
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, sql, wait_until};
use serde_json::Value;
use std::time::Duration;

/// Until the schedule comes round, a node is given up, and another one has copied everything.
const DONE_WITHIN: Duration = Duration::from_secs(300);

async fn schedule(cluster: &Cluster) -> Result<Value> {
    let shown = cluster.pgctl_ok(&["backup", "schedule", "show", "-o", "json"]).await?;
    Ok(serde_json::from_str(&shown)?)
}

async fn backups(cluster: &Cluster, node: &str) -> Result<Vec<Value>> {
    let config = cluster.node(node).host().dir().join("node.toml");
    let config = config.display().to_string();
    let listed = cluster.pgctl_ok(&["backup", "list", "-o", "json", "--config", &config]).await?;
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
    let minute = "SELECT to_char(date_trunc('minute', now() + interval '70 s') AT TIME ZONE 'UTC', 'MI HH24')";
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
    ensure!(first != primary, "the primary is copied although there are standbys");
    // So that it is in the middle of it.
    wait_until("something is in the repository", RECOVERY, || async {
        let copying = std::process::Command::new("find")
            .args([repository.as_os_str(), "-path".as_ref(), "*/backups/*/parts/*".as_ref()])
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
    ensure!(events(&cluster, "backup-lost").await?.len() == 1, "the loss is told");
    ensure!(events(&cluster, "backup-complete").await?.len() == 1, "the end is told");
    let metrics = cluster.node(&primary).http("/metrics").await?.body;
    ensure!(
        metrics.contains("pgctl_backup_last_success_timestamp_seconds"),
        "{metrics}"
    );
    Ok(())
}
