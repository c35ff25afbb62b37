//! What is done to a system, and what is measured meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::{History, Mono, Target, Verdict, Writer, WriterOptions, verify, wait_until};
use nix::sys::signal::Signal;

use crate::pgbench::Pgbench;
use crate::sample::Samples;
use crate::system::System;
use crate::{footprint, health_load};

/// How long anything may take before a run is given up: the slowest known takes well below a minute.
const PATIENCE: Duration = Duration::from_secs(180);
/// Rows acknowledged before and after a fault, so that it hits clients in full swing.
const SWING: u64 = 200;

/// One thing to do to a system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// Memory and processor time of the agents while nothing happens.
    Footprint,
    /// Requests per second and latency of the health endpoint.
    Health,
    /// A planned change of primary.
    Switchover,
    /// SIGKILL to the server's main process.
    PostmasterKill,
    /// The primary's whole machine loses power; later it comes back.
    NodeKill,
    /// SIGSTOP to the primary's agent, while its server goes on.
    AgentFrozen,
}

/// What is to be run.
pub struct Plan {
    /// In this order, after the cluster has started from nothing.
    pub scenarios: Vec<Scenario>,
    /// How long a frozen agent is watched.
    pub frozen_for: Duration,
    /// How long a whole cluster is left alone before each fault: a manager may put off a failover that follows too soon
    /// on another change, and that is not what is measured here.
    pub settle: Duration,
    /// How often each scenario is run.
    pub rounds: u32,
    /// A load beside the measured clients.
    pub pgbench: Option<Pgbench>,
}

/// Starts the system from nothing and runs the plan.
///
/// # Errors
/// A step took longer than [`PATIENCE`]; the error holds the ends of the system's logs.
pub async fn run<S: System>(mut system: S, plan: &Plan, samples: &mut Samples) -> Result<()> {
    let done = run_all(&mut system, plan, samples).await;
    done.with_context(|| format!("the logs end with:\n{}", system.logs()))
}

async fn run_all<S: System>(system: &mut S, plan: &Plan, samples: &mut Samples) -> Result<()> {
    let began = Mono::now();
    system.start().await?;
    let primary = in_sync(system).await?;
    samples.add(
        "nothing to three nodes in sync",
        "ms",
        ms(Mono::now().since(began)),
    );
    Writer::prepare(system.servers()[primary]).await?;
    let _load = match &plan.pgbench {
        Some(pgbench) => Some(
            pgbench
                .start(&system.servers(), system.servers()[primary])
                .await?,
        ),
        None => None,
    };
    let rounds = plan
        .scenarios
        .iter()
        .flat_map(|scenario| (0..plan.rounds).map(move |_| scenario));
    for scenario in rounds {
        if let Err(e) = one(*scenario, system, plan, samples).await {
            eprintln!("   {scenario:?} failed: {e:#}");
            samples.failed(&format!("{scenario:?}: {e:#}"));
            // The next scenario is measured all the same, if the system comes back by itself.
            in_sync(system)
                .await
                .with_context(|| format!("after {scenario:?}"))?;
        }
    }
    Ok(())
}

async fn one<S: System>(
    scenario: Scenario,
    system: &mut S,
    plan: &Plan,
    samples: &mut Samples,
) -> Result<()> {
    match scenario {
        Scenario::Footprint => footprint::measure(system, samples).await,
        Scenario::Health => {
            health_load::measure(system.health()[in_sync(system).await?], system, samples).await
        }
        Scenario::Switchover => switchover(system, samples).await,
        Scenario::PostmasterKill => {
            settle(system, plan).await?;
            postmaster_kill(system, samples).await
        }
        Scenario::NodeKill => {
            settle(system, plan).await?;
            node_kill(system, samples).await
        }
        Scenario::AgentFrozen => {
            settle(system, plan).await?;
            agent_frozen(system, plan.frozen_for, samples).await
        }
    }
}

async fn in_sync<S: System>(system: &S) -> Result<usize> {
    wait_until("all three are in sync", PATIENCE, || system.in_sync()).await
}

async fn settle<S: System>(system: &S, plan: &Plan) -> Result<()> {
    in_sync(system).await?;
    tokio::time::sleep(plan.settle).await;
    in_sync(system).await.map(drop)
}

async fn switchover<S: System>(system: &mut S, samples: &mut Samples) -> Result<()> {
    let old = in_sync(system).await?;
    let writer = in_full_swing(system).await?;
    let ordered = Mono::now();
    system.switchover(old).await?;
    let ended = Mono::now();
    let new = wait_until("another one is primary, all in sync", PATIENCE, || async {
        match system.in_sync().await? {
            same if same == old => bail!("the old one still is"),
            new => Ok(new),
        }
    })
    .await?;
    writer.wait_for_acks(SWING, PATIENCE).await?;
    let history = writer.stop().await;
    samples.add(
        "switchover: write gap",
        "ms",
        ms(history.longest_gap(ordered).length()),
    );
    samples.add("switchover: command", "ms", ms(ended.since(ordered)));
    judge("switchover", system, new, &history, samples).await
}

async fn postmaster_kill<S: System>(system: &mut S, samples: &mut Samples) -> Result<()> {
    let old = in_sync(system).await?;
    let writer = in_full_swing(system).await?;
    let killed = system.kill_postmaster(old)?;
    // Backends outlive their postmaster for a moment, so the first row after the kill may still be the old server's.
    let new = in_sync(system).await?;
    writer.wait_for_acks(SWING, PATIENCE).await?;
    let history = writer.stop().await;
    samples.add(
        "postmaster kill: write gap",
        "ms",
        ms(history.longest_gap(killed).length()),
    );
    judge("postmaster kill", system, new, &history, samples).await
}

async fn node_kill<S: System>(system: &mut S, samples: &mut Samples) -> Result<()> {
    let old = in_sync(system).await?;
    let writer = in_full_swing(system).await?;
    let cut = system.power_off(old)?;
    let gap_end = writer.wait_for_ack_after(cut, PATIENCE).await?.acked;
    writer.wait_for_acks(SWING, PATIENCE).await?;
    let restored = Mono::now();
    system.power_on(old).await?;
    let new = in_sync(system).await?;
    samples.add(
        "node kill: back in sync after power-on",
        "ms",
        ms(Mono::now().since(restored)),
    );
    let history = writer.stop().await;
    samples.add(
        "node kill: write gap",
        "ms",
        ms(history.longest_gap_between(cut, gap_end).length()),
    );
    judge("node kill", system, new, &history, samples).await
}

/// Some clients stay with the old primary whatever happens, others look for a writable server as usual.
async fn agent_frozen<S: System>(system: &mut S, watch: Duration, samples: &mut Samples) -> Result<()> {
    const STAYING: u32 = 100;
    let old = in_sync(system).await?;
    let servers = system.servers();
    let elsewhere = Target::Hosts(
        (0..servers.len())
            .filter(|i| *i != old)
            .map(|i| servers[i])
            .collect(),
    );
    empty_table(system, old).await?;
    let staying = Writer::start(
        Target::One(servers[old]),
        WriterOptions {
            clients: 2,
            first_client: STAYING,
            ..WriterOptions::default()
        },
    );
    staying.wait_for_acks(SWING, PATIENCE).await?;
    let looking = Writer::start(
        elsewhere,
        WriterOptions {
            clients: 2,
            ..WriterOptions::default()
        },
    );

    let frozen = system.signal_agent(old, Signal::SIGSTOP)?;
    let end = tokio::time::Instant::now() + watch;
    // Watched to the end, even if somebody else is primary soon: the question is what the old one still does.
    tokio::time::sleep_until(end).await;
    system.signal_agent(old, Signal::SIGCONT)?;
    let thawed = Mono::now();
    let new = in_sync(system).await?;
    let (staying, looking) = (staying.stop().await, looking.stop().await);

    let while_frozen = |history: &History| {
        let acks = history
            .acks
            .iter()
            .filter(|ack| ack.acked > frozen && ack.acked < thawed);
        acks.map(|ack| ack.acked).collect::<Vec<_>>()
    };
    let (old_acks, new_acks) = (while_frozen(&staying), while_frozen(&looking));
    let last_of_old = old_acks.last().copied().unwrap_or(frozen);
    let measure = "agent frozen: old primary acknowledged for";
    // It still did at the end of the watch: nobody knows for how long it would have.
    if thawed.since(last_of_old) < Duration::from_secs(2) {
        samples.add_at_least(measure, "ms", ms(last_of_old.since(frozen)));
    } else {
        samples.add(measure, "ms", ms(last_of_old.since(frozen)));
    }
    let measure = "agent frozen: first row on another primary after";
    match new_acks.first() {
        Some(first) => samples.add(measure, "ms", ms(first.since(frozen))),
        None => samples.add_at_least(measure, "ms", ms(watch)),
    }
    let both = new_acks
        .first()
        .map_or(Duration::ZERO, |first| last_of_old.since(*first));
    samples.add("agent frozen: two primaries acknowledged for", "ms", ms(both));

    let mut all = looking;
    all.acks.extend(staying.acks);
    all.unknown.extend(staying.unknown);
    let verdict = verify(system.servers()[new], &all).await?;
    count_lost("agent frozen", &verdict, samples);
    empty_table(system, new).await
}

/// Clients that have just written a few hundred rows to an empty table.
async fn in_full_swing<S: System>(system: &S) -> Result<Writer> {
    empty_table(system, in_sync(system).await?).await?;
    let writer = Writer::start(Target::Hosts(system.servers()), WriterOptions::default());
    writer.wait_for_acks(SWING, PATIENCE).await?;
    Ok(writer)
}

async fn empty_table<S: System>(system: &S, primary: usize) -> Result<()> {
    lab::sql::query(system.servers()[primary], "TRUNCATE lab_writes")
        .await
        .map(drop)
}

async fn judge<S: System>(
    what: &str,
    system: &S,
    primary: usize,
    history: &History,
    samples: &mut Samples,
) -> Result<()> {
    let verdict = verify(system.servers()[primary], history).await?;
    count_lost(what, &verdict, samples);
    let two = history.two_writers().is_some();
    samples.add(&format!("{what}: two writers seen"), "", f64::from(u8::from(two)));
    Ok(())
}

fn count_lost(what: &str, verdict: &Verdict, samples: &mut Samples) {
    samples.add(
        &format!("{what}: acknowledged rows lost"),
        "rows",
        verdict.lost.len() as f64,
    );
    if !verdict.duplicates.is_empty() || !verdict.never_sent.is_empty() {
        let (doubled, made_up) = (verdict.duplicates.len(), verdict.never_sent.len());
        samples.failed(&format!(
            "{what}: {doubled} rows were doubled, {made_up} rows were made up"
        ));
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
