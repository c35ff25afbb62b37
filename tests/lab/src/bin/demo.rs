//! `make demo`: a cluster of three, its primary's machine loses power under load, and comes back; then a switchover.
//! Told as a story for a person; the figures go to `target/demo/summary.json`.

#![allow(
    clippy::print_stdout,
    reason = "telling the story on standard output is all that this program is for"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use lab::{
    Backend, Cluster, DEADLINE, Haproxy, History, Lab, Mono, Target, Verdict, Writer, WriterOptions, verify,
};
use serde::Serialize;

/// Shows a failover and a switchover of a real cluster on this machine.
#[derive(Parser)]
struct Args {
    /// Leave the cluster running, and say how to look around and how to stop it.
    #[arg(long)]
    keep: bool,
    /// Where the figures (summary.json) and, with --keep, the script that stops the cluster go.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
}

/// summary.json. Gaps: the longest time in which no client got an acknowledgement.
#[derive(Serialize)]
struct Summary {
    failover_gap_ms: u64,
    switchover_gap_ms: u64,
    acked_rows: u64,
    lost_rows: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Ctrl-C ends the story early, with everything cleaned up on the way out as after a failure.
    let told = tokio::select! {
        told = tell(&args) => told,
        why = lab::interrupted() => Err(why),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e:?}");
            if args.keep {
                eprintln!(
                    "demo: what was started is stopped by {}",
                    args.out.join("stop").display()
                );
            }
            ExitCode::FAILURE
        }
    }
}

async fn tell(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let stop_script = args.out.join("stop");
    stop_earlier(&stop_script)?;

    let began = Instant::now();
    let lab = if args.keep {
        Lab::that_stays()?
    } else {
        Lab::new()?
    };
    let mut cluster = Cluster::builder(&lab, "demo").build()?;
    say("Three agents start, each with an empty disk.");
    cluster.start().await?;
    // Written again whenever processes change, so that a demo that fails half-way can be stopped too.
    let stoppable = |cluster: &Cluster, haproxy: Option<&Haproxy>| match args.keep {
        true => write_stop_script(&stop_script, cluster, haproxy),
        false => Ok(()),
    };
    stoppable(&cluster, None)?;
    let primary = cluster.wait_all_in_sync(2 * DEADLINE).await?;
    detail(&format!(
        "{primary} is primary, the other two stream and are in sync: {}",
        seconds(began.elapsed())
    ));

    let backends: Result<Vec<Backend>> = cluster.data_nodes().map(backend).collect();
    let haproxy = Haproxy::start(&lab, &backends?).await?;
    stoppable(&cluster, Some(&haproxy))?;
    Writer::prepare(cluster.node(&primary).pg_address()?).await?;
    let writer = Writer::start(Target::One(haproxy.read_write), WriterOptions::default());
    writer.wait_for_acks(500, DEADLINE).await?;
    say("Four clients insert rows through HAProxy, one row per transaction.");

    say(&format!(
        "{primary}'s machine loses its power: agent and server are gone at once."
    ));
    let cut = cluster.node_mut(&primary).power_off()?;
    let back = writer.wait_for_ack_after(cut, DEADLINE).await?;
    let successor = cluster.wait_for_primary(DEADLINE).await?;
    detail(&format!(
        "{successor} is primary; the first row was acknowledged {} later",
        ms(back.acked.since(cut))
    ));
    writer.wait_for_acks(500, DEADLINE).await?;

    let restarted = Instant::now();
    say(&format!("The power of {primary} comes back."));
    cluster.node_mut(&primary).start().await?;
    stoppable(&cluster, Some(&haproxy))?;
    let successor = cluster.wait_all_in_sync(2 * DEADLINE).await?;
    detail(&format!(
        "{primary} follows {successor} and is in sync: {}",
        seconds(restarted.elapsed())
    ));

    say(&format!("A planned change: pgctl switchover --to {primary}"));
    let ordered = Mono::now();
    let answer = cluster
        .pgctl_ok(&["switchover", "--to", &primary, "--yes"])
        .await?;
    let switched = writer.wait_for_ack_after(Mono::now(), DEADLINE).await?;
    quote(&answer);
    writer.wait_for_acks(500, DEADLINE).await?;
    let now_primary = cluster.wait_all_in_sync(2 * DEADLINE).await?;
    if now_primary != primary {
        bail!("{now_primary} is primary after the switchover, not {primary}");
    }

    let history = writer.stop().await;
    let failover = history.longest_gap_between(cut, back.acked).length();
    let switchover = history.longest_gap_between(ordered, switched.acked).length();
    let verdict = verify(cluster.node(&primary).pg_address()?, &history).await?;
    say("What the cluster says of it:");
    for command in ["list", "history", "explain"] {
        detail(&format!("$ pgctl {command}"));
        quote(&cluster.pgctl_ok(&[command]).await?);
    }
    say("What the clients saw:");
    detail(&format!("failover:   no write for {}", ms(failover)));
    detail(&format!("switchover: no write for {}", ms(switchover)));
    report(&history, &verdict);

    let summary = Summary {
        failover_gap_ms: failover.as_millis() as u64,
        switchover_gap_ms: switchover.as_millis() as u64,
        acked_rows: history.acked(),
        lost_rows: verdict.lost.len() as u64,
    };
    let file = args.out.join("summary.json");
    fs::write(&file, serde_json::to_string_pretty(&summary)? + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    detail(&format!("the figures are in {}", file.display()));
    if args.keep {
        look_around(&cluster, &haproxy, &stop_script);
    }
    if !verdict.is_clean() {
        bail!("rows were lost, doubled or made up: {verdict:?}");
    }
    if let Some((newer, late)) = history.two_writers() {
        bail!("two writers at once: {late:?} was acknowledged after {newer:?}");
    }
    Ok(())
}

fn backend(node: &lab::Node) -> Result<Backend> {
    Ok(Backend {
        name: node.name().to_owned(),
        postgres: node.pg_address()?,
        http: node.http_address(),
    })
}

fn report(history: &History, verdict: &Verdict) {
    detail(&format!("acknowledged rows: {}", history.acked()));
    detail(&format!("of these lost:     {}", verdict.lost.len()));
    detail(&format!(
        "cut off before an answer: {} (of these written: {})",
        history.unknown.len(),
        verdict.unknown_present
    ));
}

fn look_around(cluster: &Cluster, haproxy: &Haproxy, stop_script: &Path) {
    say("The cluster goes on running. To look around:");
    detail(&format!("export PGCTL_ENDPOINT={}", cluster.endpoints()));
    let pgctl = lab::binaries::ours("pgctl").map_or("pgctl".to_owned(), |path| path.display().to_string());
    for command in [
        "list --watch",
        "explain",
        "history",
        "events --follow",
        "switchover",
        "--help",
    ] {
        detail(&format!("{pgctl} {command}"));
    }
    let address = haproxy.read_write;
    detail(&format!(
        "psql -h {} -p {} -U postgres    # the primary, through HAProxy",
        address.ip(),
        address.port()
    ));
    detail(&format!(
        "logs, data and configuration: {}",
        cluster.lab().dir().display()
    ));
    say(&format!(
        "To stop it and remove all of it: {}",
        stop_script.display()
    ));
}

/// Ends what an earlier `make demo KEEP=1` left, so that demos do not pile up.
fn stop_earlier(script: &Path) -> Result<()> {
    if !script.exists() {
        return Ok(());
    }
    say("A demo from before still runs: it is stopped first.");
    let done = std::process::Command::new("sh").arg(script).status();
    let done = done.with_context(|| format!("cannot run {}", script.display()))?;
    if !done.success() {
        bail!(
            "{} failed ({done}); end that demo by hand, then remove the script",
            script.display()
        );
    }
    Ok(())
}

fn write_stop_script(script: &Path, cluster: &Cluster, haproxy: Option<&Haproxy>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let hosts = cluster
        .nodes()
        .iter()
        .filter_map(|node| node.host().power_button());
    let pids: Vec<String> = hosts
        .chain(haproxy.map(Haproxy::pid))
        .map(|pid| pid.to_string())
        .collect();
    let lab = cluster.lab();
    let groups: Vec<String> = lab::CONTROL_GROUPS
        .iter()
        .map(|dir| format!("{dir}/*{}*", lab.run()))
        .collect();
    // A number may belong to another process by the time this runs: each command line must name our folder.
    let text = format!(
        "#!/bin/sh\n\
         # Stops the demo that was left running, and removes it.\n\
         for pid in {pids}; do\n  \
         tr '\\0' ' ' 2>/dev/null </proc/$pid/cmdline | grep -qF '{dir}' || continue\n  \
         kill -9 $pid\n  \
         while [ -e /proc/$pid ]; do sleep 0.05; done\n\
         done\n\
         rmdir {groups} 2>/dev/null\n\
         rm -rf '{dir}' \"$0\"\n\
         echo 'The demo is stopped.'\n",
        pids = pids.join(" "),
        dir = lab.dir().display(),
        groups = groups.join(" "),
    );
    fs::write(script, text).with_context(|| format!("cannot write {}", script.display()))?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))
        .context("cannot make the script executable")
}

fn say(text: &str) {
    println!("\n{text}");
}

fn detail(text: &str) {
    println!("    {text}");
}

fn quote(text: &str) {
    for line in text.lines() {
        println!("    | {line}");
    }
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
