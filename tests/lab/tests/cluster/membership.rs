//! Nodes come and go for good.

use crate::orders::{events, member, refused};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, Mono, wait_until};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_is_added_streams_and_is_removed_again() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "member", |cluster| cluster.timing("lan-fast")).await?;
    let mut fourth = scene.cluster.spare("n4")?;
    let peer = fourth.peer_address().to_string();
    // An agent that nobody has announced is let in by nobody, and is told what to do.
    fourth.start().await?;
    wait_until("the stranger is told how to get in", RECOVERY, || async {
        let said = fourth.log_tail(20);
        ensure!(said.contains("pgctl member add n4"), "{said}");
        Ok(())
    })
    .await?;
    refused(
        &scene.cluster,
        &["member", "add", "n1", "--peer", &peer],
        1,
        &["there is a member n1 already", "remove it first"],
    )
    .await?;
    scene
        .cluster
        .pgctl_ok(&["member", "add", "n4", "--peer", &peer])
        .await?;
    scene.cluster.take_in(fourth);
    scene.cluster.wait_in_sync(3, RECOVERY).await?;
    wait_until("the new node votes", RECOVERY, || async {
        let shown = member(&scene.cluster, "n4").await?.context("n4 is a member")?;
        ensure!(shown["voter"] == true && shown["id"] == 4, "{shown}");
        Ok(())
    })
    .await?;

    let first = scene.first.clone();
    refused(
        &scene.cluster,
        &["member", "remove", &first, "--yes"],
        1,
        &[&first, "next: ", "switchover"],
    )
    .await?;
    refused(
        &scene.cluster,
        &["member", "remove", "n44", "--yes"],
        1,
        &["n44", "next: ", "did you mean n4"],
    )
    .await?;
    refused(
        &scene.cluster,
        &["member", "remove", "n4", "--yes"],
        1,
        &["synchronous set", "next: ", "member maintenance n4 on"],
    )
    .await?;
    // What the refusal says to do is enough.
    scene
        .cluster
        .pgctl_ok(&["member", "maintenance", "n4", "on"])
        .await?;
    wait_until("n4 can be removed", RECOVERY, || async {
        scene.cluster.pgctl_ok(&["member", "remove", "n4", "--yes"]).await
    })
    .await?;
    ensure!(
        member(&scene.cluster, "n4").await?.is_none(),
        "n4 is still a member"
    );
    scene.cluster.node_mut("n4").power_off()?;
    // Nothing of it is left on the primary, where a slot without a reader would keep WAL.
    wait_until("the slot of n4 is gone", RECOVERY, || async {
        let slots = scene
            .cluster
            .node(&first)
            .sql("SELECT slot_name FROM pg_replication_slots")
            .await?;
        ensure!(slots.len() == 2, "{slots:?}");
        Ok(())
    })
    .await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_everything_comes_back_as_a_new_one_and_a_second_of_its_name_does_not() -> Result<()>
{
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "wiped", |cluster| cluster.timing("lan-fast")).await?;
    let wiped = scene.others[0].clone();
    let state = scene.cluster.node(&wiped).config.node.state_dir.clone();
    let data = scene.cluster.node(&wiped).data_dir()?.to_owned();
    let number = async |cluster: &Cluster| {
        let shown = member(cluster, &wiped).await?.context("it is a member")?;
        shown["id"].as_u64().context("a number")
    };
    // Twice: what it brought the first time must not stand for the second.
    for time in 1..=2 {
        let before = number(&scene.cluster).await?;
        scene.cluster.node_mut(&wiped).power_off()?;
        std::fs::remove_dir_all(&state)?;
        std::fs::remove_dir_all(&data)?;
        scene.cluster.node_mut(&wiped).start().await?;
        scene.cluster.wait_all_in_sync(RECOVERY).await?;
        let after = number(&scene.cluster).await?;
        // A voter that has forgotten its votes must not vote again under its old number.
        ensure!(after > before, "node {before} came back as node {after}");
        let replaced = events(&scene.cluster, "member-removed").await?.len();
        ensure!(
            replaced == time,
            "it was replaced {replaced} times instead of {time}"
        );
    }
    let after = member(&scene.cluster, &wiped).await?.context("a member")?;

    let mut impostor = scene.cluster.spare("impostor")?;
    impostor.config.node.name.clone_from(&wiped);
    impostor.start().await?;
    wait_until(
        "the second agent is told that its name is taken",
        RECOVERY,
        || async {
            let said = impostor.log_tail(20);
            ensure!(said.contains("two agents must not have one name"), "{said}");
            Ok(())
        },
    )
    .await?;
    let still = member(&scene.cluster, &wiped).await?.context("a member still")?;
    ensure!(
        still["id"] == after["id"] && still["peer"] == after["peer"],
        "{after} became {still}"
    );
    ensure!(
        impostor.postmaster_pid().is_none(),
        "a node without a place in the cluster runs a server"
    );
    ensure!(
        scene.cluster.wait_all_in_sync(RECOVERY).await? == scene.first,
        "the impostor moved the primary"
    );
    drop(impostor);
    scene.end().await?;
    Ok(())
}

/// docs/operations.md, "The majority is lost for good".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_node_founds_a_cluster_of_its_own_with_its_data_and_takes_others_in() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "last", |cluster| cluster.timing("lan-fast")).await?;
    // Each commit on every node, so that none is lost with the others.
    let everywhere = ["config", "set", "sync_standbys=2"];
    scene.cluster.pgctl_ok(&everywhere).await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    scene.writer.wait_for_acks(100, RECOVERY).await?;
    let last = scene.others[0].clone();
    let lost = [scene.first.clone(), scene.others[1].clone()];
    for name in &lost {
        scene.cluster.node_mut(name).power_off()?;
    }
    let everybody = scene.cluster.node(&last).config.cluster.members.clone();

    let node = scene.cluster.node_mut(&last);
    node.signal_agent(Signal::SIGTERM)?;
    wait_until("the agent has ended", RECOVERY, || async {
        ensure!(node.agent_pid().is_none(), "it still runs");
        Ok(())
    })
    .await?;
    let state = node.config.node.state_dir.clone();
    std::fs::rename(&state, state.with_extension("of-the-lost-cluster"))?;
    node.config.cluster.members.retain(|member| member.name == last);
    let founded = Mono::now();
    node.start().await?;
    let primary = scene.writable_after(founded).await?;
    ensure!(primary == last, "{primary} is not the node that is left");

    for name in &lost {
        let node = scene.cluster.node_mut(name);
        std::fs::remove_dir_all(&node.config.node.state_dir)?;
        std::fs::remove_dir_all(node.data_dir()?)?;
        node.config.cluster.members = everybody.clone();
        let peer = node.peer_address().to_string();
        scene
            .cluster
            .pgctl_ok(&["member", "add", name, "--peer", &peer])
            .await?;
        scene.cluster.node_mut(name).start().await?;
    }
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    scene.end().await?;
    Ok(())
}
