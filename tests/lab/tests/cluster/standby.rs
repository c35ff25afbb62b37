//! Something happens to one server or one agent, and nobody else is disturbed.

use crate::orders::epoch;
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{DEADLINE, Lab, wait_until};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standbys_server_and_agent_die_and_come_back_and_the_primary_stays() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::start(&lab, "standby", |cluster| cluster.timing("lan-fast")).await?;
    let before = epoch(&scene.cluster).await?;
    let standby = scene.others[0].clone();
    let postmaster = |scene: &Scene| scene.cluster.node(&standby).postmaster_pid();
    let old = postmaster(&scene).context("a running standby")?;
    scene.cluster.node(&standby).signal_postmaster(Signal::SIGKILL)?;
    wait_until("the server runs again", RECOVERY, || async {
        let new = postmaster(&scene).context("no server")?;
        ensure!(new != old, "it is still the old one");
        Ok(())
    })
    .await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;

    let running = postmaster(&scene).context("a running standby")?;
    scene.cluster.node(&standby).signal_agent(Signal::SIGTERM)?;
    wait_until("the agent has ended", RECOVERY, || async {
        ensure!(
            scene.cluster.node(&standby).agent_pid().is_none(),
            "it still runs"
        );
        Ok(())
    })
    .await?;
    ensure!(
        postmaster(&scene) == Some(running),
        "the server went with its agent"
    );
    scene.cluster.node_mut(&standby).start().await?;
    wait_until("the agent is back", RECOVERY, || async {
        ensure!(
            scene.cluster.node(&standby).says("/replica").await,
            "/replica is not 200"
        );
        Ok(())
    })
    .await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    ensure!(
        postmaster(&scene) == Some(running),
        "the server of the standby was restarted"
    );
    ensure!(
        epoch(&scene.cluster).await? == before,
        "trouble on a standby changed the epoch"
    );
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_postmaster_is_seen_although_open_sessions_still_work() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::start(&lab, "hung", |cluster| cluster.timing("lan-fast")).await?;
    let first = scene.cluster.node(&scene.first);
    first.signal_postmaster(Signal::SIGSTOP)?;
    wait_until("/primary is shut where nobody can connect", DEADLINE, || async {
        let answer = first.http("/primary").await?;
        ensure!(answer.status == 503, "{answer:?}");
        Ok(())
    })
    .await?;
    // It may have been ended meanwhile, if another node has taken over.
    let _ = first.signal_postmaster(Signal::SIGCONT);
    scene.end().await?;
    Ok(())
}
