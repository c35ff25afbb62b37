//! Disks that are full, and WAL that may not be kept for ever.

use crate::orders::{events, member, wait_explained};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, Mono, Node, OsUser, wait_until};
use std::path::Path;

/// A filesystem of its own at `folder` of a node that is off; it goes with the node's power. False, with a word about
/// it, where none can be had.
async fn small_disk(node: &mut Node, folder: &Path, size: &str) -> Result<bool> {
    node.power_on().await?;
    std::fs::create_dir_all(folder)?;
    let owner = OsUser::for_servers()?;
    let options = format!("size={size},mode=755,uid={},gid={}", owner.uid, owner.gid);
    let folder = folder.to_str().context("a path of ours")?;
    let mounted = in_host(node, "mount", &["-t", "tmpfs", "-o", &options, "tmpfs", folder]);
    if let Err(why) = &mounted {
        eprintln!("skipped: no small disk can be made here: {why:#}");
    }
    Ok(mounted.is_ok())
}

pub fn in_host(node: &Node, program: &str, args: &[&str]) -> Result<String> {
    node.host().output(&OsUser::current()?, Path::new(program), args)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_for_which_there_is_no_space_is_told_and_made_when_there_is() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "small").timing("lan-fast").build()?;
    let disk = cluster.node("n3").data_dir()?.with_file_name("disk");
    if let Some(postgres) = &mut cluster.node_mut("n3").config.postgres {
        postgres.data_dir = disk.join("data");
    }
    if !small_disk(cluster.node_mut("n3"), &disk, "8m").await? {
        return Ok(());
    }
    cluster.start().await?;
    cluster.wait_in_sync(1, RECOVERY).await?;
    wait_until("the full disk is told", RECOVERY, || async {
        let shown = member(&cluster, "n3").await?.context("n3 is a member")?;
        let trouble = shown["trouble"].as_str().unwrap_or_default();
        ensure!(trouble.contains("No space left on device"), "{shown}");
        Ok(())
    })
    .await?;
    let folder = disk.to_str().context("a path of ours")?;
    in_host(cluster.node("n3"), "mount", &["-o", "remount,size=1g", folder])?;
    cluster.wait_in_sync(2, RECOVERY).await?;
    let shown = member(&cluster, "n3").await?.context("n3 is a member")?;
    ensure!(shown["trouble"] == "", "the trouble is over: {shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_cannot_write_its_log_gives_way_and_comes_back_when_it_can() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "logfull").timing("lan-fast").build()?;
    let state = cluster.node("n1").config.node.state_dir.clone();
    if !small_disk(cluster.node_mut("n1"), &state, "64m").await? {
        return Ok(());
    }
    let mut scene = Scene::of(cluster).await?;
    ensure!(scene.first == "n1", "the first node creates the database");
    let filler = state.join("filler");
    let filler = filler.to_str().context("a path of ours")?;
    let full = Mono::now();
    // It fails, for it is to take what there is.
    let _ = in_host(
        scene.cluster.node("n1"),
        "dd",
        &["if=/dev/zero", &format!("of={filler}"), "bs=64k"],
    );
    let elsewhere = scene.cluster.node("n2").peer_address().to_string();
    wait_until("the agent has given up", RECOVERY, || async {
        // Each is an entry of the log, for whoever can write it.
        for order in ["pause", "resume"] {
            scene.cluster.pgctl(&["--endpoint", &elsewhere, order]).await?;
        }
        ensure!(scene.cluster.node("n1").agent_pid().is_none(), "it still runs");
        Ok(())
    })
    .await?;
    let said = scene.cluster.node("n1").log_tail(20);
    ensure!(
        said.contains("No space left on device") && !said.contains("panicked"),
        "{said}"
    );
    scene
        .cluster
        .pgctl_ok(&["--endpoint", &elsewhere, "resume"])
        .await?;
    let second = scene.writable_after(full).await?;
    ensure!(second != "n1", "a node without an agent says that it is primary");
    in_host(scene.cluster.node("n1"), "rm", &[filler])?;
    scene.cluster.node_mut("n1").start().await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_a_standby_that_is_gone_keeps_no_more_than_its_budget() -> Result<()> {
    const BUDGET: u64 = 64 << 20;
    // For the sake of rewinds the agents let every server keep so much, slots or not.
    const KEPT_ANYHOW: u64 = 256 << 20;
    const SEGMENT: u64 = 16 << 20;
    let lab = Lab::new()?;
    let shape = |cluster: lab::ClusterBuilder| {
        cluster
            .timing("lan-fast")
            .parameter("max_wal_size", "64MB")
            .parameter("min_wal_size", "32MB")
    };
    let mut scene = Scene::start(&lab, "budget", shape).await?;
    scene
        .cluster
        .pgctl_ok(&["config", "set", &format!("slot_budget_bytes={BUDGET}")])
        .await?;
    let gone = scene.others[0].clone();
    scene.cluster.node_mut(&gone).power_off()?;
    scene.cluster.wait_in_sync(1, RECOVERY).await?;
    let primary = scene.cluster.node(&scene.first);
    for _ in 0..24 {
        primary
            .sql("SELECT pg_logical_emit_message(false, 'filler', ''), pg_switch_wal()")
            .await?;
    }
    wait_until("WAL beyond the budget is removed", RECOVERY, || async {
        primary.sql("CHECKPOINT").await?;
        let kept = lab::sql::value(
            primary.pg_address()?,
            "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::bigint \
             FROM pg_replication_slots WHERE wal_status <> 'lost'",
        )
        .await?;
        ensure!(
            kept.parse::<u64>()? <= KEPT_ANYHOW + SEGMENT,
            "a slot keeps {kept} bytes"
        );
        let held = lab::sql::value(primary.pg_address()?, "SELECT sum(size) FROM pg_ls_waldir()").await?;
        // What is recycled for the next checkpoint comes on top: up to `max_wal_size`.
        ensure!(
            held.parse::<u64>()? <= KEPT_ANYHOW + 4 * SEGMENT + SEGMENT,
            "pg_wal holds {held} bytes"
        );
        Ok(())
    })
    .await?;
    // What it lacks is nowhere any more, so it is copied anew, and its old data are set aside.
    scene.cluster.node_mut(&gone).start().await?;
    scene.cluster.wait_all_in_sync(2 * RECOVERY).await?;
    let aside = events(&scene.cluster, "data-set-aside").await?;
    ensure!(aside.len() == 1 && aside[0].starts_with(&gone), "{aside:?}");
    scene.end().await?;
    Ok(())
}

/// How much room there is at `folder` of a node, bytes.
fn free(node: &Node, folder: &str) -> Result<u64> {
    let told = in_host(node, "stat", &["-f", "-c", "%a %S", folder])?;
    let numbers: Vec<u64> = told
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(numbers.iter().product())
}

/// Waits until a node other than `first` is primary.
pub async fn moved_from(cluster: &Cluster, first: &str) -> Result<String> {
    wait_until("another node is primary", RECOVERY, || async {
        let primary = cluster.primary().await?;
        ensure!(primary != first, "{first} still is");
        Ok(primary)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_wal_volume_is_full_moves_to_a_node_with_room_and_gives_its_ballast_up() -> Result<()>
{
    const LEFT: u64 = 30 << 20;
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "walfull").timing("lan-fast").build()?;
    let disk = cluster.node("n1").data_dir()?.with_file_name("disk");
    if let Some(postgres) = &mut cluster.node_mut("n1").config.postgres {
        postgres.data_dir = disk.join("data");
    }
    if !small_disk(cluster.node_mut("n1"), &disk, "800m").await? {
        return Ok(());
    }
    let scene = Scene::of(cluster).await?;
    ensure!(scene.first == "n1", "the first node creates the database");
    let folder = disk.to_str().context("a path of ours")?;
    let ballast = disk.join("data.pgctl-ballast");
    let ballast = ballast.to_str().context("a path of ours")?;
    in_host(scene.cluster.node("n1"), "test", &["-s", ballast]).context("a ballast is made")?;
    // Less than is kept in reserve, more than a server dies of.
    let filler = format!("{folder}/filler");
    let size = free(scene.cluster.node("n1"), folder)? - LEFT;
    in_host(
        scene.cluster.node("n1"),
        "fallocate",
        &["-l", &size.to_string(), &filler],
    )?;
    moved_from(&scene.cluster, "n1").await?;
    wait_explained(&scene.cluster, "n1", &["disk-has-room", "make room"], RECOVERY).await?;
    let history = scene.cluster.pgctl_ok(&["history"]).await?;
    ensure!(
        history.contains("switchover"),
        "it was handed over in good order: {history}"
    );
    // Nothing at all: what was kept for this is given up.
    let rest = format!("{folder}/rest");
    let _ = in_host(
        scene.cluster.node("n1"),
        "dd",
        &["if=/dev/zero", &format!("of={rest}"), "bs=64k"],
    );
    wait_until("the ballast is given up", RECOVERY, || async {
        ensure!(
            in_host(scene.cluster.node("n1"), "test", &["-e", ballast]).is_err(),
            "it is still there"
        );
        Ok(())
    })
    .await?;
    in_host(scene.cluster.node("n1"), "rm", &[&filler, &rest])?;
    wait_until("the ballast is made again", RECOVERY, || async {
        in_host(scene.cluster.node("n1"), "test", &["-s", ballast]).map(drop)
    })
    .await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    let shown = member(&scene.cluster, "n1").await?.context("n1 is a member")?;
    ensure!(shown["disks"][0]["ballast_bytes"] != "0", "{shown}");
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_disk_stands_still_loses_its_lease_and_comes_back_when_it_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "frozen").timing("lan-fast").build()?;
    let disk = cluster.node("n1").data_dir()?.with_file_name("disk");
    if let Some(postgres) = &mut cluster.node_mut("n1").config.postgres {
        postgres.data_dir = disk.join("data");
    }
    if !own_file_system(cluster.node_mut("n1"), &disk, "600M").await? {
        return Ok(());
    }
    let scene = Scene::of(cluster).await?;
    ensure!(scene.first == "n1", "the first node creates the database");
    let folder = disk.to_str().context("a path of ours")?;
    in_host(scene.cluster.node("n1"), "fsfreeze", &["-f", folder])?;
    let frozen = Mono::now();
    let outcome = async {
        let second = moved_from(&scene.cluster, "n1").await?;
        scene.writer.wait_for_ack_after(frozen, RECOVERY).await?;
        wait_explained(&scene.cluster, "n1", &["disk-takes-writes"], RECOVERY).await?;
        anyhow::Ok(second)
    }
    .await;
    // First of all: what waits for a frozen file system cannot be ended.
    in_host(scene.cluster.node("n1"), "fsfreeze", &["-u", folder])?;
    ensure!(
        outcome? != "n1",
        "the node with the frozen disk cannot be the primary"
    );
    scene.end().await?;
    Ok(())
}

/// An ext4 of its own at `folder` of a node that is off, which can be frozen. False, with a word about it, where none
/// can be had.
pub async fn own_file_system(node: &mut Node, folder: &Path, size: &str) -> Result<bool> {
    node.power_on().await?;
    std::fs::create_dir_all(folder)?;
    let image = folder.with_extension("img");
    let (image, path) = (
        image.to_str().context("a path of ours")?,
        folder.to_str().context("a path of ours")?,
    );
    let owner = OsUser::for_servers()?;
    let made = in_host(node, "truncate", &["-s", size, image])
        .and_then(|_| in_host(node, "mkfs.ext4", &["-q", "-F", image]))
        .and_then(|_| in_host(node, "mount", &["-o", "loop", image, path]))
        .and_then(|_| in_host(node, "chown", &[&format!("{}:{}", owner.uid, owner.gid), path]))
        // Where it cannot be frozen there is nothing to test.
        .and_then(|_| in_host(node, "fsfreeze", &["-f", path]))
        .and_then(|_| in_host(node, "fsfreeze", &["-u", path]));
    if let Err(why) = &made {
        eprintln!("skipped: no file system that freezes can be made here: {why:#}");
    }
    Ok(made.is_ok())
}
