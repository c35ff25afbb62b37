//! Planned changes of primary, and orders that cannot be carried out.

use crate::scene::{RECOVERY, Scene};
use anyhow::{Result, ensure};
use lab::Lab;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_moves_the_primary_and_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "switch", |cluster| cluster).await?;
    let to = scene.others[0].clone();
    scene
        .cluster
        .pgctl_ok(&["switchover", "--to", &to, "--yes"])
        .await?;
    ensure!(
        scene.cluster.wait_for_primary(RECOVERY).await? == to,
        "{to} is not the primary"
    );
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    // Without a target the cluster chooses.
    scene.cluster.pgctl_ok(&["switchover", "--yes"]).await?;
    ensure!(
        scene.cluster.wait_for_primary(RECOVERY).await? != to,
        "{to} is still the primary"
    );
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_to_a_node_that_cannot_take_over_is_refused_or_ends_where_it_began() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "refuse", |cluster| cluster).await?;
    let first = scene.first.clone();
    for target in ["n9", first.as_str()] {
        let done = scene
            .cluster
            .pgctl(&["switchover", "--to", target, "--yes"])
            .await?;
        ensure!(!done.status.success(), "a switchover to {target} was accepted");
        ensure!(!done.stderr.is_empty(), "it was refused without a word");
    }
    let gone = scene.others[1].clone();
    scene.cluster.node_mut(&gone).power_off()?;
    scene.cluster.wait_in_sync(1, RECOVERY).await?;
    scene
        .cluster
        .pgctl_ok(&["config", "set", "switchover_deadline_ms=2000"])
        .await?;
    let done = scene
        .cluster
        .pgctl(&["switchover", "--to", &gone, "--yes"])
        .await?;
    ensure!(
        !done.status.success(),
        "a switchover to a node without power succeeded"
    );
    ensure!(
        scene.cluster.wait_for_primary(RECOVERY).await? == first,
        "{first} should serve on"
    );
    scene.cluster.node_mut(&gone).start().await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_cluster_changes_nothing_until_it_is_resumed() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "pause", |cluster| cluster.timing("lan-fast")).await?;
    scene.cluster.pgctl_ok(&["pause"]).await?;
    let first = scene.first.clone();
    let off = scene.cluster.node_mut(&first).power_off()?;
    let explained = lab::wait_until("explain names the pause", RECOVERY, || async {
        let said = scene.cluster.pgctl_ok(&["explain"]).await?;
        ensure!(said.contains("automation-is-on"), "{said}");
        Ok(())
    });
    explained.await?;
    ensure!(
        scene.cluster.primary().await.is_err(),
        "a paused cluster has failed over"
    );
    scene.cluster.pgctl_ok(&["resume"]).await?;
    scene.writable_after(off).await?;
    scene.cluster.node_mut(&first).start().await?;
    scene.end().await?;
    Ok(())
}
