//! The archive while anything is killed at any moment: no hole, nothing half, and what comes back is what was there.
//!
//! Each test does a few rounds; PGCTL_TEST_ROUNDS and PGCTL_TEST_FAILOVERS ask for more, PGCTL_TEST_SEED for others.

use crate::archive::{Rescue, place};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, bail, ensure};
use lab::{Cluster, DEADLINE, Lab, Mono, sql, wait_until};
use nix::sys::signal::Signal;
use scripted_store::{Act, ScriptedStore};
use serde_json::Value;
use std::process::Output;
use std::time::Duration;

/// What is written under load, as it was at one moment: a table of its own, that is restored with the rest.
const KEEP: &str = "BEGIN; DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT w::text AS line FROM public.lab_writes w; COMMIT";
const KEPT: &str =
    "SELECT count(*) || ' ' || coalesce(md5(string_agg(line, ',' ORDER BY line)), '') FROM kept";
const LOST: &str =
    "SELECT count(*) FROM (SELECT line FROM kept EXCEPT SELECT w::text FROM public.lab_writes w) lost";

fn number(variable: &str, usual: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Numbers that a seed makes.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn pause(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(self.throw(most_ms))
    }
}

fn config_of(cluster: &Cluster) -> String {
    cluster
        .node("n1")
        .host()
        .dir()
        .join("node.toml")
        .display()
        .to_string()
}

/// Nothing in any repository is damaged or half, and nothing is missing.
async fn is_whole(cluster: &Cluster) -> Result<()> {
    let config = config_of(cluster);
    cluster
        .pgctl_ok(&["backup", "verify", "--config", &config])
        .await?;
    Ok(())
}

/// Restores the newest backup and all WAL, and compares what comes out with `kept`.
async fn comes_back(rescue: &Rescue, repository: &str, kept: &str) -> Result<()> {
    rescue.restore(&["--repository", repository])?;
    rescue.start().await?;
    let same = wait_until("all that was archived is replayed", DEADLINE, || async {
        let found = sql::value(rescue.address, KEPT).await?;
        ensure!(found == kept, "{found} instead of {kept}");
        let lost = sql::value(rescue.address, LOST).await?;
        ensure!(lost == "0", "{lost} rows of it are lost");
        Ok(())
    })
    .await;
    same.with_context(|| rescue.said())?;
    rescue.stop()
}

/// Notes what is there, and waits until these repositories have it, without a hole.
async fn keep(cluster: &Cluster, repositories: &[&str]) -> Result<String> {
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    sql::query(address, KEEP).await?;
    let kept = sql::value(address, KEPT).await?;
    let segment = sql::value(address, "SELECT pg_walfile_name(pg_switch_wal())").await?;
    let config = config_of(cluster);
    for repository in repositories {
        let words = [
            "wal",
            "holes",
            "-o",
            "json",
            "--repository",
            repository,
            "--config",
            &config,
        ];
        wait_until(&format!("{segment} is in {repository}"), RECOVERY, || async {
            // It fails where anything is missing.
            let found: Value = serde_json::from_str(&cluster.pgctl_ok(&words).await?)?;
            let last = found["timelines"]
                .as_array()
                .and_then(|all| all.last()?["last"].as_str());
            ensure!(last.is_some_and(|last| last >= segment.as_str()), "{found}");
            Ok(())
        })
        .await?;
    }
    Ok(kept)
}

/// What is under way when something is killed.
#[derive(Debug, Clone, Copy)]
enum Job {
    Push,
    Backup,
    Expire,
    Restore,
}

/// What is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Helper,
    Agent,
    Server,
    Machine,
    Store,
    /// The command itself.
    Command,
}

struct Round<'a> {
    scene: &'a mut Scene,
    rescue: &'a Rescue,
    far: &'a ScriptedStore,
    dice: &'a mut Dice,
}

impl Round<'_> {
    async fn play(&mut self, job: Job, victim: Victim) -> Result<()> {
        let primary = self.scene.cluster.wait_for_primary(RECOVERY).await?;
        let names: Vec<String> = self
            .scene
            .cluster
            .data_nodes()
            .map(|node| node.name().to_owned())
            .collect();
        // The primary as often as all the others together.
        let whom = match self.dice.throw(2) {
            0 => primary.clone(),
            _ => names[usize::try_from(self.dice.throw(names.len() as u64))?].clone(),
        };
        let pause = self.dice.pause(1_500);
        let config = config_of(&self.scene.cluster);
        let command: Vec<&str> = match job {
            Job::Push => vec!["wal", "status"],
            Job::Backup => vec!["backup", "create"],
            Job::Expire => vec![
                "backup", "expire", "--last", "2", "--grace", "0s", "--config", &config,
            ],
            Job::Restore => vec!["backup", "verify", "--config", &config],
        };
        let at = Mono::now();
        {
            let cluster = &self.scene.cluster;
            let working = async {
                match job {
                    Job::Push => push(cluster, &primary).await,
                    _ => cluster.pgctl(&command).await.map(Some),
                }
            };
            let mut working = std::pin::pin!(working);
            let early = tokio::time::timeout(pause, &mut working).await;
            if let Victim::Store = victim {
                let hangs = self.dice.throw(2) == 0;
                self.far
                    .script(move |_| if hangs { Act::Hang } else { Act::Refuse(503) });
            }
            if !matches!(victim, Victim::Machine | Victim::Store | Victim::Command) {
                kill_in(cluster, &whom, victim).await?;
            }
            // Dropping the command kills it.
            if early.is_err() && !matches!(victim, Victim::Command | Victim::Machine) {
                // It may fail, or wait for what was killed; what it leaves behind is looked at below.
                let _ = tokio::time::timeout(Duration::from_secs(5), &mut working).await;
            }
        }
        if let Victim::Machine = victim {
            self.scene.cluster.node_mut(&whom).power_off()?;
        }
        self.scene.writable_after(at).await?;
        self.far.behave();
        for name in names {
            if self.scene.cluster.node(&name).agent_pid().is_none() {
                self.scene.cluster.node_mut(&name).start().await?;
            }
        }
        let kept = keep(&self.scene.cluster, &["main", "far"]).await?;
        is_whole(&self.scene.cluster).await?;
        if let Job::Restore = job {
            let starts = self.rescue.restore_killed_after(self.dice.pause(800))?;
            ensure!(
                !starts,
                "a restore that was killed leaves a server that starts without its WAL"
            );
            let repository = if self.dice.throw(2) == 0 { "main" } else { "far" };
            comes_back(self.rescue, repository, &kept).await?;
        }
        Ok(())
    }
}

/// Has a few segments closed and archived.
async fn push(cluster: &Cluster, primary: &str) -> Result<Option<Output>> {
    for _ in 0..6 {
        // The primary may be the one that is killed.
        let address = cluster.node(primary).pg_address()?;
        let _ = sql::query(address, "SELECT pg_switch_wal()").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(None)
}

async fn kill_in(cluster: &Cluster, whom: &str, victim: Victim) -> Result<()> {
    let node = cluster.node(whom);
    match victim {
        Victim::Agent => node.signal_agent(Signal::SIGKILL).map(drop),
        Victim::Server => {
            // It may be on its way down or up.
            let _ = node.signal_postmaster(Signal::SIGKILL);
            Ok(())
        }
        Victim::Helper => {
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_secs(2) {
                let helper = node
                    .host()
                    .processes()
                    .into_iter()
                    .find(|it| it.name == "pgctl-wal" && it.alive());
                if let Some(helper) = helper {
                    // It lives for milliseconds.
                    let _ = lab::processes::signal(helper.pid, Signal::SIGKILL);
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        }
        Victim::Machine | Victim::Store | Victim::Command => bail!("that is no process of a node"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_at_whatever_moment_the_archive_is_whole() -> Result<()> {
    let lab = Lab::new()?;
    let far = ScriptedStore::start(lab.our_address()).await?;
    let near = place(&lab)?;
    let cluster = Cluster::builder(&lab, "brutal")
        .timing("lan-fast")
        .repository(&near)
        .bucket("far", &far.endpoint())
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    scene.cluster.pgctl_ok(&["backup", "create"]).await?;
    let rescue = Rescue::new(&lab, &scene.cluster, "bare").await?;
    let seed = number("PGCTL_TEST_SEED", 1);
    let mut dice = Dice(seed);
    for round in 0..number("PGCTL_TEST_ROUNDS", 4) {
        let jobs = [Job::Push, Job::Backup, Job::Expire, Job::Restore];
        let victims = [
            Victim::Helper,
            Victim::Agent,
            Victim::Server,
            Victim::Machine,
            Victim::Store,
            Victim::Command,
        ];
        // Each of the jobs comes round; whom it hits is thrown.
        let job = jobs[usize::try_from(round)? % jobs.len()];
        let victim = victims[usize::try_from(dice.throw(victims.len() as u64))?];
        let mut playing = Round {
            scene: &mut scene,
            rescue: &rescue,
            far: &far,
            dice: &mut dice,
        };
        let played = playing.play(job, victim).await;
        played.with_context(|| format!("seed {seed}, round {round}: {victim:?} killed during {job:?}"))?;
        eprintln!("seed {seed}, round {round}: {victim:?} killed during {job:?}: whole");
    }
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_failover_everything_comes_back() -> Result<()> {
    let lab = Lab::new()?;
    let near = place(&lab)?;
    let cluster = Cluster::builder(&lab, "failovers")
        .timing("lan-fast")
        .repository(&near)
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    scene.cluster.pgctl_ok(&["backup", "create"]).await?;
    let rescue = Rescue::new(&lab, &scene.cluster, "bare").await?;
    let seed = number("PGCTL_TEST_SEED", 1);
    let mut dice = Dice(seed);
    for round in 1..=number("PGCTL_TEST_FAILOVERS", 2) {
        let played = async {
            let primary = scene.cluster.wait_for_primary(RECOVERY).await?;
            let address = scene.cluster.node(&primary).pg_address()?;
            // Something that is not archived yet, and something that is on its way.
            sql::query(address, "SELECT pg_switch_wal()").await?;
            tokio::time::sleep(dice.pause(400)).await;
            let off = scene.cluster.node_mut(&primary).power_off()?;
            let second = scene.writable_after(off).await?;
            ensure!(second != primary, "a node without power cannot be the primary");
            scene.cluster.node_mut(&primary).start().await?;
            if round % 20 == 0 {
                // So that a restore does not replay all of it.
                scene.cluster.wait_all_in_sync(RECOVERY).await?;
                scene.cluster.pgctl_ok(&["backup", "create"]).await?;
            }
            let kept = keep(&scene.cluster, &["main"]).await?;
            comes_back(&rescue, "main", &kept).await
        };
        let played: Result<()> = played.await;
        played.with_context(|| format!("seed {seed}, failover {round}"))?;
        eprintln!("seed {seed}, failover {round}: everything came back");
    }
    scene.end().await?;
    Ok(())
}
