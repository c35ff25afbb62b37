//! The guard: what happens to a server whose agent cannot end it, and to a node that loses its guard.

use crate::partition::lab_with_network;
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{DEADLINE, Lab, Node, wait_until};
use nix::sys::signal::Signal;

async fn server_ends(node: &Node) -> Result<()> {
    wait_until("the server has ended", RECOVERY, || async {
        let left: Vec<String> = node
            .host()
            .processes()
            .into_iter()
            .filter(|process| process.alive() && process.name.starts_with("postgres"))
            .map(|process| format!("{} {}", process.pid, process.name))
            .collect();
        ensure!(left.is_empty(), "these processes of it run: {left:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_a_frozen_agent_is_ended() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "guardfrozen", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    let frozen = scene.cluster.node(&first).signal_agent(Signal::SIGSTOP)?;
    server_ends(scene.cluster.node(&first)).await?;
    scene.writer.wait_for_ack_after(frozen, RECOVERY).await?;
    scene.cluster.node(&first).signal_agent(Signal::SIGCONT)?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_a_dead_agent_is_ended() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "guarddead", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    let killed = scene.cluster.node(&first).signal_agent(Signal::SIGKILL)?;
    server_ends(scene.cluster.node(&first)).await?;
    scene.writer.wait_for_ack_after(killed, RECOVERY).await?;
    scene.cluster.node_mut(&first).start().await?;
    scene.end().await?;
    Ok(())
}

/// The guard is hit by `signal` while the primary writes.
async fn guard_is_replaced(name: &str, signal: Signal) -> Result<()> {
    let lab = Lab::new()?;
    // A lease that is long beside what a busy machine needs to start a process.
    let scene = Scene::start(&lab, name, |cluster| cluster).await?;
    let first = scene.first.clone();
    let node = scene.cluster.node(&first);
    let guard = node
        .guard_pid()
        .context("a node that holds a lease has a guard")?;
    let server = node.postmaster_pid().context("a running server")?;
    lab::processes::signal(guard, signal)?;
    wait_until("another guard is there", RECOVERY, || async {
        let now = node.guard_pid().context("no guard runs")?;
        ensure!(now != guard, "it is the same one");
        Ok(())
    })
    .await?;
    scene.writer.wait_for_acks(100, DEADLINE).await?;
    ensure!(
        node.postmaster_pid() == Some(server),
        "the server was ended although the agent was well"
    );
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_killed_is_replaced_within_the_lease() -> Result<()> {
    guard_is_replaced("guardkilled", Signal::SIGKILL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_stopped_is_replaced_within_the_lease() -> Result<()> {
    guard_is_replaced("guardstopped", Signal::SIGSTOP).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_keeps_clients_from_a_server_whose_agent_and_guard_are_frozen() -> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let scene = Scene::start(&lab, "kernel", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    let node = scene.cluster.node(&first);
    node.sql("SELECT 1")
        .await
        .context("a primary serves its clients")?;
    let server = node.postmaster_pid().context("a running server")?;
    let guard = node.guard_pid().context("a guard")?;
    lab::processes::signal(guard, Signal::SIGSTOP)?;
    let frozen = node.signal_agent(Signal::SIGSTOP)?;
    wait_until("the old primary answers nobody", RECOVERY, || async {
        ensure!(node.sql("SELECT 1").await.is_err(), "it still does");
        Ok(())
    })
    .await?;
    ensure!(
        node.postmaster_pid() == Some(server),
        "the server has ended: this shows nothing about the kernel"
    );
    scene.writer.wait_for_ack_after(frozen, RECOVERY).await?;
    lab::processes::signal(guard, Signal::SIGCONT)?;
    scene.cluster.node(&first).signal_agent(Signal::SIGCONT)?;
    scene.end().await?;
    Ok(())
}
