//! `pgctl list`: the members in a table.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format, bytes, or_dash, text_or_dash};
use crate::wall_time::span;
use proto::control::{Cluster, Member};
use std::io::IsTerminal;
use std::time::Duration;

/// Lists the members: role, state, timeline, WAL position, lag
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl list
  pgctl list --watch          # again every 2 seconds, until Ctrl-C
  pgctl list -o json | jq '.members[] | select(.holder).postgres'")]
pub struct Args {
    /// Repeat, every 2 seconds or as many as given
    #[arg(long, short = 'w', value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let Some(seconds) = args.watch else {
        return show(frame).await;
    };
    loop {
        if frame.format == Format::Table && std::io::stdout().is_terminal() {
            output::clear_screen()?;
        }
        match show(frame).await {
            // The cluster may be back the next time.
            Err(failure @ (Failure::Unreachable { .. } | Failure::Refused { .. })) => {
                failure.report();
            }
            other => other?,
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn show(frame: &Frame) -> Result<(), Failure> {
    let cluster = frame.session.cluster().await?;
    if frame.format == Format::Json {
        return output::json(&cluster);
    }
    output::line(headline(&cluster))?;
    output::table(
        &[
            "NODE",
            "ROLE",
            "STATE",
            "TL",
            "LSN",
            "LAG",
            "REPLAY LAG",
            "SYNC",
            "POSTGRES",
            "NOTES",
        ],
        cluster.members.iter().map(row),
    )
}

/// One line that says how the cluster is.
pub fn headline(cluster: &Cluster) -> String {
    let holder = if cluster.holder.is_empty() {
        "no primary yet"
    } else {
        &cluster.holder
    };
    let writable = if cluster.writable {
        "writable"
    } else {
        "NOT WRITABLE: see `pgctl explain`"
    };
    let sync = cluster.sync.clone().unwrap_or_default();
    let sync = match (sync.required, sync.members.is_empty()) {
        _ if sync.mode == "async" => "commits wait for no standby (async)".to_owned(),
        (0, _) => "NO STANDBY IN SYNC, no failover by itself".to_owned(),
        (required, _) => format!("commits wait for any {required} of {}", sync.members.join(", ")),
    };
    let paused = cluster
        .pause
        .as_ref()
        .map(|pause| format!(", PAUSED ({})", pause.reason))
        .unwrap_or_default();
    format!(
        "{}: epoch {} of {holder}, {writable}, {sync}{paused}",
        cluster.name, cluster.epoch
    )
}

pub(super) fn row(member: &Member) -> Vec<String> {
    vec![
        member.name.clone(),
        member.role.clone(),
        member.state.clone(),
        or_dash(member.timeline),
        or_dash(member.lsn.as_deref()),
        or_dash(member.lag_bytes.map(bytes)),
        or_dash(member.replay_lag_bytes.map(bytes)),
        if member.in_sync_set {
            "yes".to_owned()
        } else {
            "-".to_owned()
        },
        text_or_dash(if member.kind == "witness" {
            ""
        } else {
            &member.postgres
        }),
        text_or_dash(&notes(member).join(", ")),
    ]
}

/// What is out of the ordinary with a member.
pub fn notes(member: &Member) -> Vec<String> {
    let mut notes = Vec::new();
    if member.state == "silent"
        && let Some(age) = member.report_age_ms
    {
        notes.push(format!("last heard of {} ago", span(age)));
    }
    if !member.trouble.is_empty() {
        notes.push(member.trouble.clone());
    }
    notes.extend(member.ailments.iter().cloned());
    if let Some(fence) = &member.fenced {
        notes.push(format!("FENCED by hand ({})", fence.reason));
    }
    for (name, layer) in [("guard", &member.guard), ("kernel lease", &member.kernel_lease)] {
        if let Some(layer) = layer.as_ref().filter(|layer| layer.state == "missing") {
            notes.push(format!("no {name} ({})", layer.detail));
        }
    }
    if let Some(watchdog) = member
        .watchdog
        .as_ref()
        .filter(|watchdog| watchdog.state == "absent")
    {
        notes.push(format!("watchdog absent ({})", watchdog.detail));
    }
    if member.maintenance {
        notes.push("maintenance".to_owned());
    }
    if member.nofailover {
        notes.push("nofailover".to_owned());
    }
    if !member.pending_restart.is_empty() {
        notes.push(format!(
            "restart pending for {}",
            member.pending_restart.join(" ")
        ));
    }
    if !member.voter {
        notes.push("does not vote yet".to_owned());
    }
    notes
}
