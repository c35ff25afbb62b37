//! Requests that come twice, to the wrong agent, or at the wrong time: each gets a clear answer.

use crate::orders::{epoch, json, member, refused, tell};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, wait_until};
use proto::control::control_client::ControlClient;
use proto::control::{Progress, SwitchoverRequest};
use std::net::SocketAddr;

/// Sends a switchover to one agent and listens until its outcome.
async fn switch(agent: SocketAddr, request: &str, to: &str) -> Result<Progress> {
    let mut client = ControlClient::connect(format!("http://{agent}")).await?;
    let request = SwitchoverRequest {
        request: request.to_owned(),
        to: to.to_owned(),
    };
    let mut told = client.switchover(request).await?.into_inner();
    while let Some(progress) = told.message().await? {
        if progress.outcome.is_some() {
            return Ok(progress);
        }
    }
    anyhow::bail!("the agent stopped telling before the outcome")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_sent_to_two_agents_is_one_switchover() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "twice", |cluster| cluster.timing("lan-fast")).await?;
    let before = epoch(&scene.cluster).await?;
    let to = scene.others[0].clone();
    let address = |name: &str| scene.cluster.node(name).peer_address();
    let (one, other) = tokio::join!(
        switch(address(&scene.first), "the-same", &to),
        switch(address(&scene.others[1]), "the-same", &to),
    );
    // And again when it is over, as after a lost answer.
    let later = switch(address(&to), "the-same", &to).await?;
    for told in [one?, other?, later] {
        let outcome = told.outcome.context("an outcome")?;
        ensure!(outcome.succeeded && outcome.to == to, "{outcome:?}");
    }
    ensure!(
        epoch(&scene.cluster).await? == before + 1,
        "one switchover is one epoch"
    );
    ensure!(
        scene.cluster.wait_for_primary(RECOVERY).await? == to,
        "{to} is not the primary"
    );
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_agent_takes_a_request_and_those_that_cannot_say_why() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "orders").timing("lan-fast").build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    every_answer_is_json(&cluster).await?;
    let address = |cluster: &Cluster, name: &str| cluster.node(name).peer_address().to_string();
    for name in ["n1", "n2", "n3"] {
        // Two of the three are not the Raft leader.
        let at = address(&cluster, name);
        cluster
            .pgctl_ok(&["--endpoint", &at, "pause", "--reason", "a test"])
            .await?;
        let status = json(&cluster, &["--endpoint", &at, "status"]).await?;
        ensure!(
            status["pause"]["reason"] == "a test",
            "{name} does not know: {status}"
        );
        cluster.pgctl_ok(&["--endpoint", &at, "resume"]).await?;
    }
    let others: Vec<&str> = ["n1", "n2", "n3"]
        .into_iter()
        .filter(|name| *name != primary)
        .collect();
    cluster.node_mut(others[0]).power_off()?;
    let dead = address(&cluster, others[0]);
    refused(
        &cluster,
        &["--endpoint", &dead, "status"],
        4,
        &["no agent could be reached", &dead, "next: "],
    )
    .await?;
    let both = format!("{dead},{}", address(&cluster, others[1]));
    cluster.pgctl_ok(&["--endpoint", &both, "status"]).await?;
    cluster.node_mut(&primary).power_off()?;
    let left = address(&cluster, others[1]);
    refused(
        &cluster,
        &["--endpoint", &left, "pause"],
        1,
        &["Raft leader", "nothing was changed", "next: ", "majority"],
    )
    .await?;
    let told = tell(&cluster, &["--endpoint", &left, "switchover", "--yes"]).await?;
    ensure!(
        matches!(told.code, 1 | 3) && told.complaint.contains("next: "),
        "a switchover in a minority: {told:?}"
    );
    // It still shows what it knows, and says that nobody can write.
    cluster.pgctl_ok(&["--endpoint", &left, "list"]).await?;
    wait_until("status says that there are no writes", RECOVERY, || async {
        let told = tell(&cluster, &["--endpoint", &left, "status", "--check"]).await?;
        ensure!(told.code == 1, "{told:?}");
        Ok(())
    })
    .await
}

async fn every_answer_is_json(cluster: &Cluster) -> Result<()> {
    for args in [
        &["list"][..],
        &["topology"],
        &["status"],
        &["explain"],
        &["history"],
        &["history", "--proof"],
        &["config", "show"],
        &["config", "check"],
        &["config", "check", "--profile", "wan"],
        &["member", "list"],
        &["dsn"],
        &["version"],
        &["failover", "--to", "n2", "--preview"],
    ] {
        json(cluster, args).await?;
    }
    let events = cluster.pgctl_ok(&["events", "-o", "json"]).await?;
    ensure!(!events.is_empty(), "a new cluster has a history");
    for line in events.lines() {
        serde_json::from_str::<serde_json::Value>(line).with_context(|| format!("no JSON: {line}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_may_lose_rows_is_done_only_when_that_is_accepted() -> Result<()> {
    let lab = Lab::new()?;
    let shape = |cluster: lab::ClusterBuilder| cluster.witnesses(2).timing("lan-fast");
    let mut scene = Scene::start(&lab, "accept", shape).await?;
    let (first, last, behind) = (
        scene.first.clone(),
        scene.others[0].clone(),
        scene.others[1].clone(),
    );
    // One standby goes, the clients write on with the other, and then both of these go.
    let off = scene.cluster.node_mut(&behind).power_off()?;
    scene.cluster.wait_in_sync(1, RECOVERY).await?;
    scene.writer.wait_for_ack_after(off, RECOVERY).await?;
    scene.writer.wait_for_acks(100, RECOVERY).await?;
    wait_until("the cluster has noticed", RECOVERY, || async {
        let shown = member(&scene.cluster, &behind).await?.context("it is a member")?;
        ensure!(shown["state"] == "silent", "{shown}");
        Ok(())
    })
    .await?;
    refused(
        &scene.cluster,
        &["failover", "--to", &behind, "--accept-data-loss", "--yes"],
        1,
        &[&behind, "next: ", "start it"],
    )
    .await?;
    scene.cluster.node_mut(&first).power_off()?;
    scene.cluster.node_mut(&last).power_off()?;
    scene.cluster.node_mut(&behind).start().await?;
    let preview = ["failover", "--to", &behind, "--preview"];
    wait_until("the preview knows the target", RECOVERY, || async {
        let risk = json(&scene.cluster, &preview).await?;
        ensure!(risk["target_ready"] == true, "{risk}");
        ensure!(risk["acknowledged_is_safe"] == false, "{risk}");
        Ok(())
    })
    .await?;
    let said = scene.cluster.pgctl_ok(&preview).await?;
    ensure!(said.contains("at risk: "), "{said}");
    refused(
        &scene.cluster,
        &["failover", "--to", &behind, "--yes"],
        1,
        &[
            "at risk: ",
            "may lack acknowledged commits",
            "next: ",
            "--accept-data-loss",
        ],
    )
    .await?;
    ensure!(
        scene.cluster.primary().await.is_err(),
        "a refused order was carried out"
    );
    scene
        .cluster
        .pgctl_ok(&["failover", "--to", &behind, "--accept-data-loss", "--yes"])
        .await?;
    ensure!(
        scene.cluster.wait_for_primary(RECOVERY).await? == behind,
        "{behind} is not the primary"
    );
    let history = json(&scene.cluster, &["history"]).await?;
    let newest = history
        .as_array()
        .and_then(|all| all.iter().max_by_key(|one| one["epoch"].as_u64()));
    let newest = newest.context("an epoch")?;
    ensure!(
        newest["cause"] == "manual-failover" && newest["may_have_lost_bytes"].is_u64(),
        "the loss is written down: {newest}"
    );
    // The others come back to the new line, and what they had beyond it is kept somewhere.
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.node_mut(&last).start().await?;
    ensure!(
        scene.cluster.wait_all_in_sync(RECOVERY).await? == behind,
        "{behind} did not stay the primary"
    );
    let kept = crate::orders::events(&scene.cluster, "diverged-wal-kept").await?;
    let aside = crate::orders::events(&scene.cluster, "data-set-aside").await?;
    ensure!(
        kept.len() + aside.len() >= 2,
        "what {first} and {last} had alone is not to be found: {kept:?} {aside:?}"
    );
    Ok(())
}
