//! Standbys that fetch WAL: one that fell behind comes back without a copy, and a store that hangs holds nobody up.

use crate::archive::{archived_up_to_now, newest_segment, place};
use crate::orders::events;
use crate::rejoin::{diverge, the_table_is_nowhere};
use crate::scene::{RECOVERY, Scene, check};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, Mono, sql, wait_until};
use scripted_store::ScriptedStore;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

/// More than a server keeps for a rewind (256 MiB) and for a slot (64 MiB here), in segments of 16 MiB.
const SEGMENTS: usize = 26;
/// `pgctl-wal` gives an agent that says nothing ten seconds for an answer to a standby: a failover that waited for the store
/// even once is longer.
const HELD_UP: Duration = Duration::from_secs(9);

async fn wal_status(cluster: &Cluster, node: &str) -> Result<Value> {
    let all: Value = serde_json::from_str(&cluster.pgctl_ok(&["wal", "status", "-o", "json"]).await?)?;
    let all = all.as_array().context("a list")?;
    let of_node = all.iter().find(|status| status["node"] == node);
    of_node
        .cloned()
        .with_context(|| format!("no answer of {node}: {all:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_whose_wal_is_gone_on_the_primary_comes_back_by_the_archive() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let far = ScriptedStore::start(lab.our_address()).await?;
    let cluster = Cluster::builder(&lab, "behind")
        .timing("lan-fast")
        .repository(&repository)
        .bucket("far", &far.endpoint())
        .parameter("max_wal_size", "64MB")
        .parameter("min_wal_size", "32MB")
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    scene
        .cluster
        .pgctl_ok(&["config", "set", "slot_budget_bytes=67108864"])
        .await?;
    let late = scene.others[1].clone();
    scene.cluster.node_mut(&late).power_off()?;
    let primary = scene.cluster.node(&scene.first).pg_address()?;
    let begun_at = sql::value(primary, "SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    for _ in 0..SEGMENTS {
        sql::query(primary, "SELECT pg_logical_emit_message(true, 'lab', 'x')").await?;
        sql::query(primary, "SELECT pg_switch_wal()").await?;
    }
    // Those that still run let go of it.
    for name in [&scene.first, &scene.others[0]] {
        let address = scene.cluster.node(name).pg_address()?;
        let folder = scene.cluster.node(name).data_dir()?.join("pg_wal");
        wait_until(&format!("{name} has removed {begun_at}"), RECOVERY, || async {
            sql::query(address, "CHECKPOINT").await?;
            ensure!(!folder.join(&begun_at).exists(), "it is still there");
            Ok(())
        })
        .await?;
    }
    // One that it will need is damaged in the repository that is asked first.
    let folder = newest_segment(&repository)?
        .parent()
        .context("a folder")?
        .to_owned();
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)?
        .map(|it| Ok(it?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    let begun = names
        .iter()
        .position(|name| name.ends_with(&begun_at))
        .context("it is archived")?;
    let needed = &names[begun + 3];
    let mut damaged = fs::read(needed)?;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(needed, &damaged)?;
    scene.cluster.node_mut(&late).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    wait_until("whoever found it damaged has mended it", RECOVERY, || async {
        ensure!(
            fs::read(needed).is_ok_and(|now| now != damaged),
            "it is as it was"
        );
        Ok(())
    })
    .await?;
    let config = scene
        .cluster
        .node("n1")
        .host()
        .dir()
        .join("node.toml")
        .display()
        .to_string();
    let verify = ["backup", "verify", "--repository", "main", "--config", &config];
    scene.cluster.pgctl_ok(&verify).await?;
    let status = wal_status(&scene.cluster, &late).await?;
    let fetched = |field: &str| status[field].as_u64().unwrap_or(0);
    ensure!(
        fetched("fetched_from_repositories") >= 5,
        "it did not come back by the archive: {status}"
    );
    let log = fs::read_to_string(scene.cluster.node(&late).log_path())?;
    let copies = log.matches("started job=\"base backup\"").count();
    ensure!(copies == 1, "it was copied anew: {copies} copies in all");
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_does_not_hold_a_failover_up() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    // It takes every connection and never says a word.
    let hung = TcpListener::bind((lab.our_address(), 0))?;
    let cluster = Cluster::builder(&lab, "hungstore")
        .timing("lan-fast")
        .repository(&repository)
        .bucket("far", &format!("http://{}", hung.local_addr()?))
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    let first = scene.first.clone();
    let off: Mono = scene.cluster.node_mut(&first).power_off()?;
    let second = scene.writable_after(off).await?;
    ensure!(second != first, "a node without power cannot be the primary");
    // The other standby follows the new primary: two of three are enough for commits to go on.
    scene.writer.wait_for_acks(50, RECOVERY).await?;
    let history = scene.writer.stop().await;
    let gap = history.longest_gap(off).length();
    println!("clients waited for {gap:?} at most");
    ensure!(gap < HELD_UP, "clients waited for {gap:?}");
    check(&scene.cluster, &second, &history).await?;
    drop(hung);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_data_is_restored_from_a_backup() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let cluster = Cluster::builder(&lab, "lostdata")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    scene.cluster.pgctl_ok(&["backup", "create"]).await?;
    scene.writer.wait_for_acks(50, RECOVERY).await?;
    let lost = scene.others[1].clone();
    scene.cluster.node_mut(&lost).power_off()?;
    fs::remove_dir_all(scene.cluster.node(&lost).data_dir()?)?;
    scene.cluster.node_mut(&lost).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    let told = events(&scene.cluster, "restored-from-backup").await?;
    ensure!(told.len() == 1 && told[0].starts_with(&lost), "{told:?}");
    // Without a repository that can be read it is another standby's turn.
    scene.cluster.node_mut(&lost).power_off()?;
    fs::remove_dir_all(scene.cluster.node(&lost).data_dir()?)?;
    fs::rename(&repository, repository.with_extension("away"))?;
    scene.cluster.node_mut(&lost).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    let log = fs::read_to_string(scene.cluster.node(&lost).log_path())?;
    let from = log
        .lines()
        .rfind(|line| line.contains("copying a running server"));
    let from = from.context("it was not copied")?;
    let other = scene.cluster.node(&scene.others[0]).pg_address()?;
    ensure!(
        from.contains(&other.port().to_string()),
        "it was copied from the primary: {from}"
    );
    fs::rename(repository.with_extension("away"), &repository)?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_fetches_wal_that_its_node_has_recycled() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let cluster = Cluster::builder(&lab, "recycled")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    let first = scene.first.clone();
    let address = scene.cluster.node(&first).pg_address()?;
    let newest = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    // The last checkpoint that both lines have is a few segments before the fork.
    sql::query(address, "CHECKPOINT").await?;
    let from = sql::value(address, newest).await?;
    for _ in 0..3 {
        scene.writer.wait_for_acks(20, RECOVERY).await?;
        sql::query(address, "SELECT pg_switch_wal()").await?;
    }
    archived_up_to_now(&scene.cluster, &first).await?;
    let to = sql::value(address, newest).await?;
    diverge(&scene).await?;
    // So that its own recovery begins behind the fork, and needs none of what is taken away.
    sql::query(address, "CHECKPOINT").await?;
    let folder = scene.cluster.node(&first).data_dir()?.join("pg_wal");
    let mut removed = 0;
    for entry in fs::read_dir(&folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 24 && name >= from && name < to {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    ensure!(removed >= 3, "{removed} segments from {from} to {to}");
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    the_table_is_nowhere(&scene).await?;
    let kept = events(&scene.cluster, "diverged-wal-kept").await?;
    ensure!(kept.len() == 1 && kept[0].starts_with(&first), "{kept:?}");
    let aside = events(&scene.cluster, "data-set-aside").await?;
    ensure!(aside.is_empty(), "the rewind did not come off: {aside:?}");
    let status = wal_status(&scene.cluster, &first).await?;
    let fetched = |field: &str| status[field].as_u64().unwrap_or(0);
    ensure!(
        fetched("fetched_from_repositories") + fetched("fetched_from_peers") > 0,
        "nothing was fetched: {status}"
    );
    scene.end().await?;
    Ok(())
}
