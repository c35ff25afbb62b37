//! One run: a cluster, clients, faults, and the verdict.

mod clients;
mod evidence;
mod options;
mod picture;
mod report;
mod summary;
mod verdict;

pub use clients::{Clients, History};
pub use options::Options;
pub use report::print;
pub use summary::Summary;

use crate::checker::Nanos;
use crate::nemesis::{Clocks, Disks, Fault, Machine, Made, Nemesis, Rest, Step, schedule};
use crate::rng::Rng;
use crate::workload::{Kind, Last, Live, Route, prepare, read_last};
use anyhow::{Context, Result, bail, ensure};
use lab::{Backend, Cluster, DEADLINE, Haproxy, Lab, Mono, wait_until};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What happened, before it is judged.
pub struct Story {
    /// When the clients began and ended.
    pub run: (Nanos, Nanos),
    /// When the last fault was undone.
    pub healed: Nanos,
    /// The faults.
    pub made: Vec<Made>,
    /// What could not be made here, and what it lacks.
    pub skipped: Vec<(String, String)>,
    /// What the clients saw.
    pub history: History,
    /// What was there in the end; `None` if the cluster did not come back.
    pub last: Option<Last>,
    /// Why the cluster did not come back.
    pub not_back: Option<String>,
    /// What went wrong that no client can see.
    pub complaints: Vec<String>,
    /// Agents that ended although nobody ended them.
    pub ended_by_themselves: Vec<String>,
    /// The epochs, as `pgctl history` tells them.
    pub epochs: serde_json::Value,
    /// How much each failover may lose in async mode, bytes.
    pub max_lag_bytes: u64,
}

/// Runs, judges, writes the summary, and keeps the evidence if there is a violation.
///
/// # Errors
/// The run could not be made: that says nothing about the cluster, or the cluster does not even start.
pub async fn run(options: &Options) -> Result<Summary> {
    let began = Instant::now();
    let seed = options
        .seed
        .unwrap_or_else(|| Rng::new(Mono::now().nanos()).below(1_000_000));
    say(&format!("seed {seed}; repeat with: {}", options.again(seed)));
    let (kinds, mut skipped) = (options.kinds()?, Vec::new());
    let (mut nemesis, faults) = set_up(options, &mut skipped).await?;
    let (routes, _haproxy) = routes(&nemesis.cluster, &mut skipped).await?;
    let mut rng = Rng::new(seed);
    let steps = schedule(rng.fork(), faults);
    let run_from = Mono::now().nanos();
    let clients = Clients::start(&kinds, &routes, options.time, rng);
    first_traffic(&clients).await?;
    let made = torment(options, &mut nemesis, &clients.live, steps, run_from).await?;
    let healed = Mono::now().nanos();
    let budget = Duration::from_secs(options.budget);
    if !nemesis.wait_for_write(&clients.live, budget).await? {
        nemesis
            .complaints
            .push(format!("no write {budget:?} after the last fault"));
    }
    let back = nemesis.wait_in_sync(2 * budget).await;
    // A little more traffic on what is whole again.
    sleep(Duration::from_secs(2)).await;
    let history = clients.stop().await?;
    let run_to = Mono::now().nanos();
    let (last, not_back) = match back {
        Ok(primary) => (look(&mut nemesis, &primary).await, None),
        Err(why) => (None, Some(format!("{why:#}"))),
    };
    let panics = nemesis.panics();
    nemesis.complaints.extend(panics);
    let story = Story {
        run: (run_from, run_to),
        healed,
        made,
        skipped,
        history,
        last,
        not_back,
        complaints: std::mem::take(&mut nemesis.complaints),
        ended_by_themselves: std::mem::take(&mut nemesis.ended_by_themselves),
        epochs: told(&nemesis.cluster, &["history", "-o", "json"]).await,
        max_lag_bytes: max_lag_bytes(&nemesis.cluster).await,
    };
    let findings = verdict::judge(options, &kinds, &story);
    let mut summary = summary::make(options, seed, &story, findings, began.elapsed());
    if !summary.held || options.keep {
        let kept = evidence::keep(options, seed, &nemesis.cluster, &story, &summary).await?;
        summary.evidence = Some(kept.display().to_string());
    }
    summary.write(&options.out)?;
    let acked: Vec<Nanos> = story.history.acks.iter().map(|ack| ack.acked).collect();
    picture::write(&options.out, &summary, story.run, &acked)?;
    if let Some(kept) = &summary.evidence {
        picture::write(Path::new(kept), &summary, story.run, &acked)?;
    }
    Ok(summary)
}

/// A cluster in sync with the clients' tables, and the faults that can be made of it. What cannot is added to `skipped`.
async fn set_up(options: &Options, skipped: &mut Vec<(String, String)>) -> Result<(Nemesis, Vec<Fault>)> {
    let (data_nodes, witnesses) = options.shape()?;
    let faults = options.faults()?;
    let lab = match Lab::with_hosts() {
        Ok(lab) => lab,
        Err(why) => {
            skipped.push(("networks of their own".to_owned(), format!("{why:#}")));
            Lab::new()?
        }
    };
    let mut cluster = Cluster::builder(&lab, "jepsen")
        .data_nodes(data_nodes)
        .witnesses(witnesses)
        .timing(&options.profile)
        .sync_mode(&options.mode)
        // Sessions that wait for standbys are left behind by clients that gave up.
        .parameter("max_connections", "300")
        .build()?;
    let disks = disks(&mut cluster, skipped);
    let clocks = Clocks::prepare(&mut cluster).unwrap_or_else(|why| {
        skipped.push(("shifted clocks".to_owned(), format!("{why:#}")));
        Clocks::default()
    });
    if let Some(rules) = &options.sabotage {
        sabotage(&mut cluster, rules);
    }
    let primary = Nemesis::first_sync(&mut cluster).await?;
    // Faults come faster here than anything that the pause is for.
    cluster
        .pgctl_ok(&["config", "set", "failover_pause_ms=0"])
        .await?;
    let machine = Machine::of(&cluster, &disks, clocks.are_there(), &options.mode);
    let chosen = faults.into_iter().filter(|fault| match fault.lacks(&machine) {
        Some(what) => {
            skipped.push((fault.name().to_owned(), format!("needs {what}")));
            false
        }
        None => true,
    });
    let chosen: Vec<Fault> = chosen.collect();
    ensure!(!chosen.is_empty(), "no fault is left to be made: {skipped:?}");
    let primary = cluster.node(&primary).pg_address()?;
    prepare(primary, clients::keys(options.time), options.local_commits).await?;
    let nemesis = Nemesis::new(cluster, machine, disks, clocks, &options.profile);
    Ok((nemesis, chosen))
}

/// Plays the steps until the time is up, and mends everything.
async fn torment(
    options: &Options,
    nemesis: &mut Nemesis,
    live: &Live,
    steps: impl Iterator<Item = Step>,
    run_from: Nanos,
) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    let budget = Duration::from_secs(options.budget);
    let end = Instant::now() + Duration::from_secs(options.time);
    for (number, step) in (1..).zip(steps) {
        if Instant::now() >= end {
            break;
        }
        let of_step = match nemesis.play(number, &step).await {
            Ok(of_step) => of_step,
            // What was seen up to now is judged all the same.
            Err(why) => {
                nemesis.complaints.push(format!("step {number}: {why:#}"));
                break;
            }
        };
        report::tell(run_from, &of_step);
        made.extend(of_step);
        if !nemesis.wait_for_write(live, budget).await? {
            nemesis
                .complaints
                .push(format!("no write {budget:?} after step {number}"));
        }
        match step.rest {
            Rest::For(pause) => sleep(pause).await,
            // Not in time is no complaint here: the next fault may come before a standby is back. In the end it is.
            Rest::InSync => drop(nemesis.wait_in_sync(budget).await),
        }
    }
    nemesis.mend().await?;
    Ok(made)
}

/// What is there in the end; `None`, with a complaint, if it cannot be read.
async fn look(nemesis: &mut Nemesis, primary: &str) -> Option<Last> {
    let looked = async {
        let last = read_last(nemesis.cluster.node(primary).pg_address()?).await?;
        Ok::<_, anyhow::Error>((last, standbys_agree(&nemesis.cluster, primary).await))
    };
    match looked.await {
        Ok((last, agree)) => {
            let complaint = agree.err().map(|why| format!("{why:#}"));
            nemesis.complaints.extend(complaint);
            Some(last)
        }
        Err(why) => {
            let complaint = format!("what is there in the end cannot be read: {why:#}");
            nemesis.complaints.push(complaint);
            None
        }
    }
}

fn disks(cluster: &mut Cluster, skipped: &mut Vec<(String, String)>) -> Disks {
    let why = if std::env::var_os(crate::OWN_MOUNTS).is_none() {
        "this program has no mount namespace of its own".to_owned()
    } else {
        match Disks::mount(cluster) {
            Ok(disks) => return disks,
            Err(why) => format!("{why:#}"),
        }
    };
    skipped.push(("disks of their own".to_owned(), why));
    Disks::default()
}

/// Every way to the servers: any of several hosts, HAProxy, and each server by itself.
async fn routes(
    cluster: &Cluster,
    skipped: &mut Vec<(String, String)>,
) -> Result<(Vec<Route>, Option<Haproxy>)> {
    let mut routes = vec![
        Route::AnyOf(cluster.pg_addresses()),
        Route::AnyOf(cluster.pg_addresses()),
    ];
    let backends: Result<Vec<Backend>> = cluster
        .data_nodes()
        .map(|node| {
            Ok(Backend {
                name: node.name().to_owned(),
                postgres: node.pg_address()?,
                http: node.http_address(),
            })
        })
        .collect();
    let haproxy = match Haproxy::start(cluster.lab(), &backends?).await {
        Ok(haproxy) => {
            routes.push(Route::Proxy(haproxy.read_write));
            Some(haproxy)
        }
        Err(why) => {
            skipped.push(("clients through HAProxy".to_owned(), format!("{why:#}")));
            None
        }
    };
    for node in cluster.data_nodes() {
        routes.push(Route::Direct {
            name: node.name().to_owned(),
            server: node.pg_address()?,
        });
    }
    Ok((routes, haproxy))
}

async fn first_traffic(clients: &Clients) -> Result<()> {
    wait_until("every workload has writes acknowledged", DEADLINE, || async {
        for (kind, live) in &clients.live_of {
            if live.acked() < 10 {
                bail!("{} has {}", Kind::name(*kind), live.acked());
            }
        }
        Ok(())
    })
    .await
}

/// Every standby ends up with what the primary has.
async fn standbys_agree(cluster: &Cluster, primary: &str) -> Result<()> {
    let sum = "SELECT count(*), coalesce(sum(hashtextextended(client || '/' || seq, 0)), 0) FROM jepsen_set";
    let expected = cluster.node(primary).sql(sum).await?;
    for node in cluster.data_nodes() {
        wait_until(
            &format!("{} has what {primary} has", node.name()),
            DEADLINE,
            || async {
                let found = node.sql(sum).await?;
                ensure!(found == expected, "{found:?} instead of {expected:?}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

async fn told(cluster: &Cluster, words: &[&str]) -> serde_json::Value {
    let text = cluster.pgctl_ok(words).await.unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

async fn max_lag_bytes(cluster: &Cluster) -> u64 {
    let shown = told(cluster, &["config", "show", "-o", "json"]).await;
    let all = shown["settings"].as_array().cloned().unwrap_or_default();
    let one = all.iter().find(|one| one["key"] == "max_lag_bytes");
    one.and_then(|one| one["value"].as_str()?.parse().ok())
        .unwrap_or(0)
}

fn say(text: &str) {
    eprintln!("jepsen: {text}");
}

/// Makes a folder, and its parents.
fn make_dir(dir: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// Has every agent forget rules of safety. The layer that would hide it is turned off, too.
fn sabotage(cluster: &mut Cluster, rules: &str) {
    let names: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    for name in names {
        let node = cluster.node_mut(&name);
        node.agent_env
            .push(("SABOTAGE_PGCTL".to_owned(), rules.to_owned()));
        node.config
            .fencing
            .insert("kernel_lease".to_owned(), "off".into());
    }
}
