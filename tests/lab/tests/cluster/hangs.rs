//! A server that lives and does not work.

use crate::disks::moved_from;
use crate::orders::{epoch, wait_explained};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{DEADLINE, Lab, Mono, sql, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio_postgres::NoTls;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_postmaster_is_ended_and_another_node_takes_over() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "hang", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    scene.cluster.node(&first).signal_postmaster(Signal::SIGSTOP)?;
    // Sessions that are open go on and commit: only whoever connects anew sees that it hangs.
    scene.writer.wait_for_acks(20, DEADLINE).await?;
    wait_explained(
        &scene.cluster,
        &first,
        &["server-works", "a new session"],
        RECOVERY,
    )
    .await?;
    let second = wait_until("another node is primary", RECOVERY, || async {
        let primary = scene.cluster.primary().await?;
        ensure!(primary != first, "{first} still is");
        Ok(primary)
    })
    .await?;
    let history = scene.cluster.pgctl_ok(&["history"]).await?;
    ensure!(
        history.contains(&format!("the server of {first} was ended")),
        "it went by its receipt, not by the end of its lease: {history}"
    );
    ensure!(second != first, "a hung server serves nobody");
    // That all are in sync again shows that the old one is back as a standby.
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_without_a_free_connection_is_left_alone() -> Result<()> {
    // Longer than it takes to count as hung, several times.
    const LONG_ENOUGH: Duration = Duration::from_secs(4);
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "crowd", |cluster| cluster.timing("lan-fast")).await?;
    scene
        .cluster
        .pgctl_ok(&["config", "set", "hang_after_ms=1000"])
        .await?;
    let before = epoch(&scene.cluster).await?;
    let address = scene.cluster.node(&scene.first).pg_address()?;
    let mut crowd = Vec::new();
    // The reserved ones too: they are superusers.
    while let Ok((client, connection)) = sql::config(address).connect(NoTls).await {
        crowd.push((client, tokio::spawn(connection)));
        ensure!(crowd.len() < 200, "the server never turns anybody away");
    }
    wait_explained(&scene.cluster, &scene.first, &["connections-are-free"], RECOVERY).await?;
    tokio::time::sleep(LONG_ENOUGH).await;
    ensure!(
        sql::config(address).connect(NoTls).await.is_err(),
        "there was room for one more: this shows nothing"
    );
    scene.writer.wait_for_acks(20, DEADLINE).await?;
    ensure!(scene.cluster.primary().await? == scene.first, "the primary moved");
    ensure!(
        epoch(&scene.cluster).await? == before,
        "a crowd is no reason for a new epoch"
    );
    let said = scene
        .cluster
        .pgctl_ok(&["explain", "--node", &scene.first])
        .await?;
    ensure!(
        !said.contains("server-works"),
        "the server counts as hung: {said}"
    );
    drop(crowd);
    wait_until("the crowd is gone", RECOVERY, || async {
        let said = scene
            .cluster
            .pgctl_ok(&["explain", "--node", &scene.first])
            .await?;
        ensure!(!said.contains("connections-are-free"), "{said}");
        Ok(())
    })
    .await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_killed_takes_no_commit_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "backend", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.cluster.node(&scene.first);
    let clients = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                   AND application_name NOT LIKE 'pgctl%'";
    let rows = first.sql(clients).await?;
    let backend = rows.into_iter().flatten().flatten().next();
    let backend: i32 = backend.context("a client is connected")?.parse()?;
    let backend = first.host().outer_pid(backend).context("it runs")?;
    let killed = Mono::now();
    lab::processes::signal(backend, Signal::SIGKILL)?;
    scene.writable_after(killed).await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_does_not_stay_up_is_replaced_and_started_with_pauses() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "loop", |cluster| cluster.timing("lan-fast")).await?;
    let victim = scene.others[0].clone();
    // Its server runs on; the next start is the one that fails.
    let library = "shared_preload_libraries".to_owned();
    let node = scene.cluster.node_mut(&victim);
    if let Some(postgres) = &mut node.config.postgres {
        postgres
            .parameters
            .insert(library.clone(), "no_such_library".to_owned());
    }
    restart_agent(&mut scene, &victim).await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    // It is refused until the agent's first look at its server has reached the Raft leader.
    wait_until("it takes over", RECOVERY, || async {
        let asked = ["switchover", "--to", &victim, "--yes"];
        scene.cluster.pgctl_ok(&asked).await.map(drop)
    })
    .await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    scene.cluster.node(&victim).signal_postmaster(Signal::SIGKILL)?;
    // Its backends outlive it for a moment, and may acknowledge: the next row says nothing yet.
    moved_from(&scene.cluster, &victim).await?;
    scene.writer.wait_for_ack_after(Mono::now(), RECOVERY).await?;
    wait_explained(&scene.cluster, &victim, &["server-stays-up"], RECOVERY).await?;
    let starts = |scene: &Scene| {
        let log = scene.cluster.node(&victim).log_tail(100_000);
        log.matches("started the server program").count()
    };
    let before = starts(&scene);
    // Without the pauses there would be several a second.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let meanwhile = starts(&scene) - before;
    ensure!(meanwhile <= 2, "{meanwhile} starts within five seconds");
    if let Some(postgres) = &mut scene.cluster.node_mut(&victim).config.postgres {
        postgres.parameters.remove(&library);
    }
    restart_agent(&mut scene, &victim).await?;
    scene.end().await?;
    Ok(())
}

async fn restart_agent(scene: &mut Scene, name: &str) -> Result<()> {
    scene.cluster.node(name).signal_agent(Signal::SIGTERM)?;
    wait_until("the agent has ended", RECOVERY, || async {
        ensure!(scene.cluster.node(name).agent_pid().is_none(), "it still runs");
        Ok(())
    })
    .await?;
    scene.cluster.node_mut(name).start().await
}
