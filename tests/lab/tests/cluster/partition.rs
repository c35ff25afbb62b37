//! The network breaks. Needs root, for network namespaces; says so and passes where it cannot have them.

use crate::scene::{RECOVERY, Scene};
use anyhow::{Result, ensure};
use lab::{Lab, wait_until};

fn lab_with_network() -> Option<Lab> {
    match Lab::with_hosts() {
        Ok(lab) => Some(lab),
        Err(error) => {
            eprintln!("skipped: no network namespaces here: {error:#}");
            None
        }
    }
}

/// Waits until `old` serves no clients any more and another node does.
async fn moved_away(scene: &Scene, old: &str) -> Result<()> {
    wait_until("another node is primary", RECOVERY, || async {
        let primary = scene.cluster.primary().await?;
        ensure!(primary != old, "{primary} still is");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_cut_off_from_everybody() -> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let scene = Scene::start(&lab, "isolated", |cluster| cluster.timing("lan-fast")).await?;
    scene.cluster.isolate(&scene.first)?;
    moved_away(&scene, &scene.first).await?;
    scene.cluster.heal()?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_cut_off_from_its_peers_but_not_from_its_clients() -> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let scene = Scene::start(&lab, "peers", |cluster| cluster.timing("lan-fast")).await?;
    scene.cluster.isolate_from_peers(&scene.first)?;
    moved_away(&scene, &scene.first).await?;
    scene.cluster.heal()?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_heard_but_hears_nothing() -> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let scene = Scene::start(&lab, "deaf", |cluster| cluster.timing("lan-fast")).await?;
    scene.cluster.deafen(&scene.first)?;
    moved_away(&scene, &scene.first).await?;
    scene.cluster.heal()?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_hears_but_is_not_heard() -> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let scene = Scene::start(&lab, "mute", |cluster| cluster.timing("lan-fast")).await?;
    scene.cluster.mute(&scene.first)?;
    moved_away(&scene, &scene.first).await?;
    scene.cluster.heal()?;
    scene.end().await?;
    Ok(())
}
