//! The agent dies, and its server does not.

use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Lab, wait_until};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_adopts_the_running_primary() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "adopt", |cluster| cluster).await?;
    let first = scene.first.clone();
    let before = scene
        .cluster
        .node(&first)
        .postmaster_pid()
        .context("a running server")?;
    scene.cluster.node(&first).signal_agent(Signal::SIGKILL)?;
    wait_until("the agent is gone", RECOVERY, || async {
        ensure!(scene.cluster.node(&first).agent_pid().is_none(), "it still runs");
        Ok(())
    })
    .await?;
    scene.cluster.node_mut(&first).start().await?;
    let primary = scene.cluster.wait_for_primary(RECOVERY).await?;
    if primary == first {
        let after = scene.cluster.node(&first).postmaster_pid();
        ensure!(
            after == Some(before),
            "the server was restarted: {before} became {after:?}"
        );
    }
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_a_dead_agent_acknowledges_nothing_once_another_is_primary() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "orphan", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    let killed = scene.cluster.node(&first).signal_agent(Signal::SIGKILL)?;
    wait_until("another node is primary", RECOVERY, || async {
        let primary = scene.cluster.primary().await?;
        ensure!(primary != first, "{primary} still is");
        Ok(())
    })
    .await?;
    // Its clients hang: the standbys have pledged to take nothing from it. Those who look elsewhere can write.
    let address = scene.cluster.node(&first).pg_address()?;
    let new = scene.cluster.wait_for_primary(RECOVERY).await?;
    scene.writer.wait_for_ack_after(killed, RECOVERY).await?;
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    let new = scene.cluster.node(&new).pg_address()?;
    let history = scene.end().await?;
    let taken_over = history
        .first_ack_after(killed, Some(new))
        .context("the new primary acknowledged rows")?
        .acked;
    let last_of_old = history
        .acks
        .iter()
        .rev()
        .find(|ack| ack.server == address && ack.sent > taken_over);
    ensure!(
        last_of_old.is_none_or(|ack| history.acks.iter().all(|other| other.timeline <= ack.timeline)),
        "the old primary acknowledged a row sent after another one had: {last_of_old:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agents_server_acknowledges_nothing_once_another_is_primary() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "frozen", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    scene.cluster.node(&first).signal_agent(Signal::SIGSTOP)?;
    wait_until("another node is primary", RECOVERY, || async {
        for name in &scene.others {
            if scene.cluster.node(name).says("/primary").await {
                return Ok(());
            }
        }
        anyhow::bail!("none is")
    })
    .await?;
    scene.cluster.node(&first).signal_agent(Signal::SIGCONT)?;
    // `end` finds any row that the frozen agent's server acknowledged beside the new primary's.
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agent_is_killed_at_once_and_no_decision_is_lost() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "allkilled", |cluster| cluster).await?;
    let epoch = epoch(&scene).await?;
    for name in ["n1", "n2", "n3"] {
        scene.cluster.node(name).signal_agent(Signal::SIGKILL)?;
    }
    for name in ["n1", "n2", "n3"] {
        let cluster = &scene.cluster;
        wait_until("the agent is gone", RECOVERY, || async move {
            ensure!(cluster.node(name).agent_pid().is_none(), "it still runs");
            Ok(())
        })
        .await?;
        scene.cluster.node_mut(name).start().await?;
    }
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    ensure!(self::epoch(&scene).await? >= epoch, "the epoch went back");
    scene.end().await?;
    Ok(())
}

async fn epoch(scene: &Scene) -> Result<u64> {
    let status = scene.cluster.node(&scene.first).http("/cluster").await?;
    let body: serde_json::Value = status.json()?;
    body["epoch"]
        .as_u64()
        .with_context(|| format!("an epoch in {body}"))
}
