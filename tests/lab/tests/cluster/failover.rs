//! Something dies.

use crate::disks::moved_from;
use crate::scene::{RECOVERY, Scene};
use anyhow::{Result, ensure};
use lab::{DEADLINE, Lab, Mono, binaries, wait_until};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primarys_node_loses_power_and_comes_back() -> Result<()> {
    for bin_dir in binaries::postgres_bin_dirs()? {
        // A lab of its own for each version: nodes of one name in one lab share their folders.
        let lab = Lab::new()?;
        let mut scene = Scene::start(&lab, "power", |cluster| {
            cluster.postgres(bin_dir).timing("lan-fast")
        })
        .await?;
        let first = scene.first.clone();
        let off = scene.cluster.node_mut(&first).power_off()?;
        let second = scene.writable_after(off).await?;
        ensure!(second != first, "a node without power cannot be the primary");
        scene.cluster.node_mut(&first).start().await?;
        scene.end().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postmaster_is_killed_and_another_node_takes_over() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "kill", |cluster| cluster).await?;
    scene
        .cluster
        .node(&scene.first)
        .signal_postmaster(Signal::SIGKILL)?;
    // Its backends outlive it for a moment, and may acknowledge: the next row says nothing yet.
    moved_from(&scene.cluster, &scene.first).await?;
    scene.writer.wait_for_ack_after(Mono::now(), RECOVERY).await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_lost_and_the_synchronous_set_shrinks_and_grows_again() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "shrink", |cluster| cluster).await?;
    let lost = scene.others[0].clone();
    let off = scene.cluster.node_mut(&lost).power_off()?;
    scene.cluster.wait_in_sync(1, RECOVERY).await?;
    let primary = scene.writable_after(off).await?;
    ensure!(
        primary == scene.first,
        "the loss of a standby must not move the primary"
    );
    // With the set shrunk, the loss of the primary, too, is survived.
    wait_until("the synchronous set is settled", DEADLINE, || async {
        let names = scene
            .cluster
            .node(&primary)
            .sql("SHOW synchronous_standby_names")
            .await?;
        let names = names.concat().concat_names();
        ensure!(!names.contains(&format!("{lost}_e")), "{names}");
        Ok(())
    })
    .await?;
    let off = scene.cluster.node_mut(&primary).power_off()?;
    scene.cluster.node_mut(&lost).start().await?;
    scene.writable_after(off).await?;
    scene.cluster.node_mut(&primary).start().await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_loses_power_and_the_cluster_comes_back_in_any_order() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "cold", |cluster| cluster.timing("lan-fast")).await?;
    for order in [["n3", "n1", "n2"], ["n2", "n3", "n1"]] {
        for name in ["n1", "n2", "n3"] {
            scene.cluster.node_mut(name).power_off()?;
        }
        let off = Mono::now();
        for name in order {
            scene.cluster.node_mut(name).start().await?;
        }
        scene.writable_after(off).await?;
        scene.cluster.wait_all_in_sync(RECOVERY).await?;
    }
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_over_by_itself_while_no_standby_is_in_sync() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "degrade", |cluster| cluster.timing("lan-fast")).await?;
    for name in scene.others.clone() {
        scene.cluster.node_mut(&name).power_off()?;
    }
    // A majority of the agents is gone, so the primary must stop by itself...
    let first = scene.first.clone();
    wait_until("the primary has stopped acknowledging", RECOVERY, || async {
        ensure!(
            !scene.cluster.node(&first).says("/primary").await,
            "/primary still answers 200"
        );
        Ok(())
    })
    .await?;
    // ...and with it gone the others must not make up a primary of what they have: one of them may lack rows.
    scene.cluster.node_mut(&first).power_off()?;
    let one = scene.others[0].clone();
    scene.cluster.node_mut(&one).start().await?;
    let back = Mono::now();
    scene.cluster.node_mut(&first).start().await?;
    scene.writable_after(back).await?;
    let other = scene.others[1].clone();
    scene.cluster.node_mut(&other).start().await?;
    scene.end().await?;
    Ok(())
}

/// Joins the only field of the only row.
trait ConcatNames {
    fn concat_names(self) -> String;
}

impl ConcatNames for Vec<Option<String>> {
    fn concat_names(self) -> String {
        self.into_iter().flatten().collect()
    }
}
