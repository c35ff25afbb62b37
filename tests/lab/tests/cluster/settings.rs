//! Settings of the cluster change while it serves.

use crate::orders::{epoch, json, refused};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{DEADLINE, Lab, verify, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_lives_through_a_change_of_its_own_terms() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "terms", |cluster| cluster.timing("lan-fast")).await?;
    let before = epoch(&scene.cluster).await?;
    for profile in ["default", "wan", "lan-fast"] {
        scene
            .cluster
            .pgctl_ok(&["config", "set", &format!("timing={profile}")])
            .await?;
        let shown = scene.cluster.pgctl_ok(&["config", "show"]).await?;
        ensure!(shown.contains(profile), "{shown}");
        scene.writer.wait_for_acks(100, DEADLINE).await?;
    }
    ensure!(
        epoch(&scene.cluster).await? == before,
        "a change of the terms ended the epoch"
    );
    // L_w below L_h + F: refused, with both sides worked out.
    let set = ["config", "set", "timing.promise_ms=900"];
    refused(
        &scene.cluster,
        &set,
        1,
        &["899.100 ms >= 800.801 ms + 150.000 ms = 950.801 ms"],
    )
    .await?;
    refused(
        &scene.cluster,
        &["config", "set", "timing.renew_ms=201"],
        1,
        &["201 ms <= 800 ms / 4"],
    )
    .await?;
    refused(
        &scene.cluster,
        &["config", "set", "sync_standby=2"],
        1,
        &["did you mean sync_standbys"],
    )
    .await?;
    refused(
        &scene.cluster,
        &["config", "set", "max_lag_bytes=much"],
        1,
        &["max_lag_bytes", "bytes"],
    )
    .await?;
    ensure!(
        scene.cluster.wait_for_primary(RECOVERY).await? == scene.first,
        "refused settings moved the primary"
    );
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_in_async_mode_stays_within_its_bound_and_quorum_mode_comes_back() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "async", |cluster| cluster.timing("lan-fast")).await?;
    scene
        .cluster
        .pgctl_ok(&["config", "set", "sync_mode=async", "failover_pause_ms=0"])
        .await?;
    wait_until("commits wait for nobody", RECOVERY, || async {
        let status = json(&scene.cluster, &["status"]).await?;
        ensure!(
            status["sync"]["required"] == 0 && status["sync"]["changing"] == false,
            "{status}"
        );
        let names = scene
            .cluster
            .node(&scene.first)
            .sql("SHOW synchronous_standby_names")
            .await?;
        ensure!(names == [[Some(String::new())]], "{names:?}");
        Ok(())
    })
    .await?;
    scene.writer.wait_for_acks(100, DEADLINE).await?;
    let first = scene.first.clone();
    let off = scene.cluster.node_mut(&first).power_off()?;
    let second = scene.writable_after(off).await?;
    ensure!(second != first, "a node without power cannot be the primary");
    let shown = json(&scene.cluster, &["config", "show"]).await?;
    let bound = bound(&shown)?;
    let history = json(&scene.cluster, &["history"]).await?;
    let risks = history.as_array().context("a list of epochs")?;
    let risked = risks
        .iter()
        .filter_map(|one| one["may_have_lost_bytes"].as_u64())
        .max();
    ensure!(risked.unwrap_or(0) <= bound, "{history}");

    scene.cluster.node_mut(&first).start().await?;
    scene
        .cluster
        .pgctl_ok(&["config", "set", "sync_mode=quorum"])
        .await?;
    let primary = scene.cluster.wait_all_in_sync(RECOVERY).await?;
    scene.writer.wait_for_acks(100, DEADLINE).await?;
    let history = scene.writer.stop().await;
    let verdict = verify(scene.cluster.node(&primary).pg_address()?, &history).await?;
    ensure!(
        verdict.duplicates.is_empty() && verdict.never_sent.is_empty(),
        "{verdict:?}"
    );
    // A committed row of two numbers takes more than 64 bytes of WAL.
    ensure!(
        verdict.lost.len() as u64 * 64 <= bound,
        "{} acknowledged rows are lost, more than fit into {bound} bytes",
        verdict.lost.len()
    );
    // In quorum mode nothing is lost any more.
    let settled = history.acks.iter().filter(|ack| ack.sent >= off);
    let lost: Vec<_> = settled.filter(|ack| verdict.lost.contains(&ack.id)).collect();
    ensure!(lost.is_empty(), "rows of the new primary are lost: {lost:?}");
    Ok(())
}

fn bound(settings: &serde_json::Value) -> Result<u64> {
    let all = settings["settings"].as_array().context("a list of settings")?;
    let bound = all.iter().find(|one| one["key"] == "max_lag_bytes");
    let bound = bound.and_then(|one| one["value"].as_str()?.parse().ok());
    bound.with_context(|| format!("max_lag_bytes in {settings}"))
}
