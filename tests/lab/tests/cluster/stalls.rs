//! A machine that stands still from outside, and a disk that is slow but works.

use crate::disks::{in_host, own_file_system};
use crate::orders::epoch;
use crate::scene::{RECOVERY, Scene, check};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, DEADLINE, Lab, Node, Target, Writer, WriterOptions, wait_until};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_stood_still_acknowledges_nothing_that_is_lost_when_it_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "standstill", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.first.clone();
    let address = scene.cluster.node(&first).pg_address()?;
    // They stay, wait long, and send their next row the moment that the machine goes on.
    let staying = Writer::start(
        Target::One(address),
        WriterOptions {
            first_client: 100,
            statement: 2 * RECOVERY,
            ..WriterOptions::default()
        },
    );
    staying.wait_for_acks(50, DEADLINE).await?;
    let frozen = scene.cluster.node(&first).host().freeze()?;
    let second = wait_until("another node is primary", RECOVERY, || async {
        for name in &scene.others {
            if scene.cluster.node(name).says("/primary").await {
                return Ok(name.clone());
            }
        }
        anyhow::bail!("none is")
    })
    .await?;
    scene.writer.wait_for_ack_after(frozen, RECOVERY).await?;
    scene.cluster.node(&first).host().thaw()?;
    let primary = scene.cluster.wait_all_in_sync(RECOVERY).await?;
    ensure!(second != first, "a machine that stands still is no primary");
    let mut history = scene.writer.stop().await;
    let staying = staying.stop().await;
    history.acks.extend(staying.acks);
    history.unknown.extend(staying.unknown);
    history.acks.sort_by_key(|ack| ack.acked);
    check(&scene.cluster, &primary, &history).await
}

/// Makes a node's disk slow until it is dropped: most of the time nothing can be written.
struct Slow(Child);

impl Slow {
    /// In a session of its own, and for no longer than a test lasts: what waits for a disk that stands still cannot be ended.
    fn disk(node: &Node, disk: &Path) -> Result<Slow> {
        const SCRIPT: &str = "trap '' HUP INT; trap 'fsfreeze -u \"$1\"; exit' TERM; i=0; \
            while [ $i -lt 600 ]; do fsfreeze -f \"$1\"; sleep 0.2; fsfreeze -u \"$1\"; sleep 0.05; i=$((i + 1)); done";
        let init = node.host().power_button().context("the node is on")?;
        let init = lab::processes::children_of(init as i32)
            .first()
            .context("its first process")?
            .pid;
        let child = Command::new("setsid")
            .args([
                "--wait",
                "nsenter",
                "--mount",
                "--target",
                &init.to_string(),
                "sh",
                "-c",
                SCRIPT,
                "slow",
            ])
            .arg(disk)
            .spawn()
            .context("cannot run setsid")?;
        Ok(Slow(child))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = lab::processes::signal(self.0.id() as i32, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_costs_neither_the_lease_nor_a_row_and_is_measured() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "slowdisk").timing("lan-fast").build()?;
    let node = cluster.node_mut("n1");
    let disk = node.config.node.state_dir.with_file_name("disk");
    node.config.node.state_dir = disk.join("state");
    if let Some(postgres) = &mut node.config.postgres {
        postgres.data_dir = disk.join("data");
    }
    if !own_file_system(node, &disk, "600M").await? {
        return Ok(());
    }
    let scene = Scene::of(cluster).await?;
    ensure!(scene.first == "n1", "the first node creates the database");
    let before = epoch(&scene.cluster).await?;
    let node = scene.cluster.node("n1");
    let slow = Slow::disk(node, &disk)?;
    wait_until("the agent has measured it", RECOVERY, || async {
        // Each is an entry of the log.
        for order in ["pause", "resume"] {
            scene.cluster.pgctl_ok(&[order]).await?;
        }
        let page = node.http("/metrics").await?.body;
        let line = page
            .lines()
            .find(|line| line.starts_with("pgctl_raft_log_fsync_p99_seconds"))
            .context("a metric")?;
        let seconds: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
        ensure!(seconds > 0.1, "{line}");
        Ok(())
    })
    .await?;
    // Many times its lease.
    tokio::time::sleep(Duration::from_secs(8)).await;
    scene.writer.wait_for_acks(100, DEADLINE).await?;
    drop(slow);
    in_host(
        scene.cluster.node("n1"),
        "touch",
        &[&disk.join("works").display().to_string()],
    )?;
    ensure!(
        epoch(&scene.cluster).await? == before,
        "the primary changed: {}",
        scene.cluster.pgctl_ok(&["history"]).await?
    );
    scene.end().await?;
    Ok(())
}
