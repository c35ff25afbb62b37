//! The network breaks. Needs root, for network namespaces; says so and passes where it cannot have them.

use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{DEADLINE, Lab, Target, Writer, WriterOptions, verify, wait_until};

pub fn lab_with_network() -> Option<Lab> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stay_with_the_cut_off_primary_get_their_last_answer_before_the_new_one_gives_its_first()
-> Result<()> {
    let Some(lab) = lab_with_network() else {
        return Ok(());
    };
    let scene = Scene::start(&lab, "loyal", |cluster| cluster.timing("lan-fast")).await?;
    let old = scene.cluster.node(&scene.first).pg_address()?;
    let loyal = WriterOptions {
        first_client: 100,
        ..WriterOptions::default()
    };
    let loyal = Writer::start(Target::One(old), loyal);
    loyal.wait_for_acks(50, DEADLINE).await?;
    scene.cluster.isolate_from_peers(&scene.first)?;
    moved_away(&scene, &scene.first).await?;
    scene.writer.wait_for_acks(100, DEADLINE).await?;
    let loyal = loyal.stop().await;
    scene.cluster.heal()?;
    let primary = scene.cluster.wait_all_in_sync(RECOVERY).await?;
    let others = scene.writer.stop().await;
    let first_of_new = others
        .acks
        .iter()
        .find(|ack| ack.server != old)
        .context("the new primary acknowledged rows")?;
    let of_old = loyal
        .acks
        .iter()
        .chain(&others.acks)
        .filter(|ack| ack.server == old);
    let last_of_old = of_old
        .max_by_key(|ack| ack.acked)
        .context("the old one did, too")?;
    ensure!(
        last_of_old.acked < first_of_new.acked,
        "{last_of_old:?} was acknowledged after {first_of_new:?}"
    );
    // The rows of both are there: what was acknowledged by the old one, the new one has.
    let mut all = others;
    all.acks.extend(loyal.acks);
    all.unknown.extend(loyal.unknown);
    let verdict = verify(scene.cluster.node(&primary).pg_address()?, &all).await?;
    ensure!(verdict.is_clean(), "rows are not as they must be: {verdict:?}");
    Ok(())
}
