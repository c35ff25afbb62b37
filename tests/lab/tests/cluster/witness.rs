//! Two servers and an agent that only votes.

use crate::scene::{RECOVERY, Scene};
use anyhow::{Result, ensure};
use lab::Lab;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_data_nodes_and_a_witness_survive_the_loss_of_the_primary() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "witness", |cluster| {
        cluster.data_nodes(2).witnesses(1).timing("lan-fast")
    })
    .await?;
    let first = scene.first.clone();
    let off = scene.cluster.node_mut(&first).power_off()?;
    let second = scene.writable_after(off).await?;
    ensure!(second != first, "a node without power cannot be the primary");
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_in_sync(1, RECOVERY).await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_data_nodes_without_a_witness_none_takes_over_by_itself() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "two", |cluster| cluster.data_nodes(2).timing("lan-fast")).await?;
    let first = scene.first.clone();
    let second = scene.others[0].clone();
    let off = scene.cluster.node_mut(&first).power_off()?;
    // Many times what a majority would need.
    let waited = scene.writer.wait_for_ack_after(off, Duration::from_secs(10));
    ensure!(waited.await.is_err(), "one of two is no majority");
    let refused = scene
        .cluster
        .pgctl(&["failover", "--to", &second, "--yes"])
        .await?;
    ensure!(!refused.status.success(), "a failover without a majority");
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_mode_lets_commits_wait_for_the_last_standby() -> Result<()> {
    let lab = Lab::new()?;
    let shape = |cluster: lab::ClusterBuilder| {
        cluster
            .data_nodes(2)
            .witnesses(1)
            .sync_mode("strict")
            .timing("lan-fast")
    };
    let mut scene = Scene::start(&lab, "strict", shape).await?;
    let standby = scene.others[0].clone();
    let off = scene.cluster.node_mut(&standby).power_off()?;
    // Longer than quorum mode would take to go on without a standby.
    let waited = scene
        .writer
        .wait_for_ack_after(off.plus(Duration::from_millis(100)), Duration::from_secs(8));
    ensure!(
        waited.await.is_err(),
        "a commit was acknowledged although no standby could have it"
    );
    scene.cluster.node_mut(&standby).start().await?;
    scene.cluster.wait_in_sync(1, RECOVERY).await?;
    scene.writer.wait_for_acks(100, RECOVERY).await?;
    scene.end().await?;
    Ok(())
}
