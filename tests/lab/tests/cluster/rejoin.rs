//! An old primary comes back, by the cheapest way that is right.

use crate::orders::events;
use crate::partition::lab_with_network;
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, OsUser, wait_until};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_clean_shutdown_it_follows_without_a_rewind() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "clean", |cluster| cluster.timing("lan-fast")).await?;
    let copied = copies_and_rewinds(&scene)?;
    for _ in 0..2 {
        scene.cluster.pgctl_ok(&["switchover", "--yes"]).await?;
        scene.cluster.wait_all_in_sync(RECOVERY).await?;
    }
    let again = copies_and_rewinds(&scene)?;
    ensure!(
        again == copied,
        "copies and rewinds before {copied:?}, after {again:?}"
    );
    scene.end().await?;
    Ok(())
}

/// How often each node's log speaks of a copy, and of a rewind.
fn copies_and_rewinds(scene: &Scene) -> Result<Vec<(usize, usize)>> {
    let count = |node: &lab::Node| {
        let log = std::fs::read_to_string(node.log_path())?;
        Ok((log.matches("base backup").count(), log.matches("rewind").count()))
    };
    scene.cluster.nodes().iter().map(count).collect()
}

/// Lets the primary write what no standby has, while another one is promoted. It is left without its agent and its
/// guard: either would end it.
pub async fn diverge(scene: &Scene) -> Result<()> {
    let first = scene.cluster.node(&scene.first);
    let guard = first.guard_pid().context("a primary has a guard")?;
    // An agent that runs would start another guard.
    first.signal_agent(Signal::SIGSTOP)?;
    lab::processes::signal(guard, Signal::SIGKILL)?;
    first.signal_agent(Signal::SIGKILL)?;
    wait_until("another node is primary", RECOVERY, || async {
        for name in &scene.others {
            if scene.cluster.node(name).says("/primary").await {
                return Ok(());
            }
        }
        anyhow::bail!("none is")
    })
    .await?;
    // Nobody acknowledges anything of it, but a session that does not want that is not stopped.
    first
        .sql("SET synchronous_commit = local; CREATE TABLE only_here AS SELECT generate_series(1, 1000) AS i")
        .await?;
    Ok(())
}

/// The folder that an event's text ends with.
fn named_folder(text: &str) -> Result<PathBuf> {
    let path = text.rsplit(' ').next().map(PathBuf::from);
    path.filter(|path| path.is_absolute())
        .with_context(|| format!("no folder is named in: {text}"))
}

pub async fn the_table_is_nowhere(scene: &Scene) -> Result<()> {
    for node in scene.cluster.data_nodes() {
        let found = node
            .sql("SELECT 1 FROM pg_class WHERE relname = 'only_here'")
            .await?;
        ensure!(found.is_empty(), "{} has a table of the old line", node.name());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_wrote_alone_is_rewound_and_kept() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "rewind", |cluster| cluster.timing("lan-fast")).await?;
    diverge(&scene).await?;
    let first = scene.first.clone();
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    the_table_is_nowhere(&scene).await?;
    let kept = events(&scene.cluster, "diverged-wal-kept").await?;
    ensure!(kept.len() == 1 && kept[0].starts_with(&first), "{kept:?}");
    let segments = std::fs::read_dir(named_folder(&kept[0])?)?;
    let segments: Vec<_> = segments.flatten().map(|entry| entry.file_name()).collect();
    ensure!(
        segments.iter().any(|name| name.len() == 24),
        "no WAL segment is among what was kept: {segments:?}"
    );
    ensure!(
        events(&scene.cluster, "data-set-aside").await?.is_empty(),
        "a rewind was enough"
    );
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rewind_that_broke_off_half_way_it_is_copied() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "halfway", |cluster| cluster.timing("lan-fast")).await?;
    diverge(&scene).await?;
    let first = scene.first.clone();
    scene.cluster.node_mut(&first).start().await?;
    let output = scene
        .cluster
        .node(&first)
        .config
        .node
        .state_dir
        .join("pg_rewind.log");
    wait_until("the rewind is killed while it copies", RECOVERY, || async {
        let said = std::fs::read_to_string(&output)?;
        ensure!(said.contains("need to copy"), "it has not begun to copy");
        let processes = scene.cluster.node(&first).host().processes();
        let rewind = processes.iter().find(|process| process.name == "pg_rewind");
        lab::processes::signal(rewind.context("it has ended")?.pid, Signal::SIGKILL)?;
        Ok(())
    })
    .await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    the_table_is_nowhere(&scene).await?;
    let aside = events(&scene.cluster, "data-set-aside").await?;
    ensure!(aside.len() == 1 && aside[0].starts_with(&first), "{aside:?}");
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_cannot_be_replaced_now_are_not_given_up() -> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let mut cluster = Cluster::builder(&lab, "nosource").timing("lan-fast").build()?;
    let names: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    for name in &names {
        // The server that is left alone has to take what it is given.
        let fencing = &mut cluster.node_mut(name).config.fencing;
        fencing.insert("kernel_lease".to_owned(), "off".into());
    }
    let mut scene = Scene::of(cluster).await?;
    diverge(&scene).await?;
    let first = scene.first.clone();
    // The agents hear each other, and no server hears another.
    for other in &scene.others {
        let server = scene.cluster.node(other).pg_address()?;
        let (ip, port) = (server.ip().to_string(), server.port().to_string());
        let table = format!("cut_{other}");
        let rules = format!(
            "table inet {table} {{ chain out {{ type filter hook output priority 0; ip daddr {ip} tcp dport {port} \
             reject with tcp reset; }}; }}"
        );
        nft(scene.cluster.node(&first), &[&rules])?;
    }
    scene.cluster.node_mut(&first).start().await?;
    wait_until("it says what it waits for", RECOVERY, || async {
        let said = scene.cluster.pgctl_ok(&["list"]).await?;
        ensure!(said.contains("could not connect to the server at"), "{said}");
        Ok(())
    })
    .await?;
    // More often than a rewind is tried before the next rung of the ladder.
    wait_until("it has tried several times", RECOVERY, || async {
        let log = scene.cluster.node(&first).log_tail(100_000);
        let tried = log.matches("an action failed").count() + log.matches("failed job=\"rewind\"").count();
        ensure!(tried >= 5, "{tried} times so far");
        Ok(())
    })
    .await?;
    ensure!(
        events(&scene.cluster, "data-set-aside").await?.is_empty(),
        "the only copy on this node was given up"
    );
    for other in &scene.others {
        nft(
            scene.cluster.node(&first),
            &["delete", "table", "inet", &format!("cut_{other}")],
        )?;
    }
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    the_table_is_nowhere(&scene).await?;
    ensure!(
        events(&scene.cluster, "data-set-aside").await?.is_empty(),
        "a rewind was enough"
    );
    scene.end().await?;
    Ok(())
}

/// Changes the packet rules of a node's own network.
fn nft(node: &lab::Node, words: &[&str]) -> Result<()> {
    let root = OsUser::current()?;
    node.host().output(&root, Path::new("nft"), words).map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_rewind_is_impossible_it_is_copied_and_the_old_data_are_set_aside() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "aside", |cluster| cluster.timing("lan-fast")).await?;
    // Roles are put right at each promotion. This stays, and only keeps out those that are no superusers.
    let first = scene.first.clone();
    scene
        .cluster
        .node(&first)
        .sql("ALTER DATABASE postgres CONNECTION LIMIT 0")
        .await?;
    diverge(&scene).await?;
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    the_table_is_nowhere(&scene).await?;
    let aside = events(&scene.cluster, "data-set-aside").await?;
    ensure!(aside.len() == 1 && aside[0].starts_with(&first), "{aside:?}");
    let folder = named_folder(&aside[0])?;
    ensure!(
        folder.join("PG_VERSION").is_file() && folder.join("pgctl-set-aside.txt").is_file(),
        "{} is not the old data directory",
        folder.display()
    );
    scene.end().await?;
    Ok(())
}
