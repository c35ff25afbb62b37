//! `pgctl status`: the cluster in a few lines.

use super::Frame;
use super::list::{headline, notes};
use crate::failure::Failure;
use crate::output::{self, Format, bytes, text_or_dash};
use crate::wall_time::{span, utc};
use proto::control::{Cluster, Disk, FenceLayer, Member};

/// Says how the cluster is, and what is out of the ordinary
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl status
  pgctl status --endpoint 10.0.0.2     # as that one agent sees it
  pgctl status --check || page-someone # exit code 1 unless the cluster is writable")]
pub struct Args {
    /// End with exit code 1 unless the cluster takes writes
    #[arg(long)]
    check: bool,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let cluster = frame.session.cluster().await?;
    if frame.format == Format::Json {
        output::json(&cluster)?;
    } else {
        output::line(lines(&cluster).join("\n"))?;
    }
    if args.check && !cluster.writable {
        let message = format!("{} takes no writes", cluster.name);
        let next = "pgctl explain".to_owned();
        return Err(Failure::Refused {
            id: "not-writable".to_owned(),
            message,
            next,
        });
    }
    Ok(())
}

fn room(disk: &Disk) -> String {
    let purpose = match (disk.data, disk.wal) {
        (true, true) => "data and WAL",
        (false, true) => "WAL",
        (true | false, false) => "data",
    };
    let free = disk.free_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    format!("{free} free of {} for {purpose}", bytes(disk.total_bytes))
}

/// What fences a member's server when its agent does not.
fn fencing(member: &Member) -> Option<String> {
    let layer = |name: &str, layer: &FenceLayer| match layer.detail.as_str() {
        "" => format!("{name} {}", layer.state),
        detail => format!("{name} {} ({detail})", layer.state),
    };
    let watchdog = match &member.watchdog {
        Some(watchdog) => format!("watchdog {} ({})", watchdog.state, watchdog.detail),
        None => "watchdog off".to_owned(),
    };
    Some(format!(
        "{}, {}, {watchdog}",
        layer("guard", member.guard.as_ref()?),
        layer("kernel lease", member.kernel_lease.as_ref()?)
    ))
}

pub(super) fn lines(cluster: &Cluster) -> Vec<String> {
    let mut lines = vec![headline(cluster)];
    let mut fact = |name: &str, value: String| lines.push(format!("  {name:<16} {value}"));
    let lease = cluster
        .members
        .iter()
        .find(|member| member.holder)
        .and_then(|member| member.lease_left_ms);
    if let Some(left) = lease {
        fact("lease", format!("{} left", span(left)));
    }
    fact("timeline", cluster.timeline.to_string());
    fact("system id", text_or_dash(&cluster.system_id));
    fact("Raft leader", text_or_dash(&cluster.raft_leader));
    fact(
        "answered by",
        format!(
            "{} ({}), log index {}",
            cluster.answered_by, cluster.agent_version, cluster.applied_index
        ),
    );
    let heard = cluster
        .members
        .iter()
        .filter(|member| !matches!(member.state.as_str(), "silent" | "unknown"))
        .count();
    fact(
        "members",
        format!("{heard} of {} are heard of", cluster.members.len()),
    );
    if let Some(last) = cluster.history.last() {
        fact(
            "last change",
            format!(
                "{} {} to {}: {}",
                utc(last.granted_at_unix_ms),
                last.cause,
                last.holder,
                last.why
            ),
        );
    }
    if let Some(pause) = &cluster.pause {
        fact(
            "paused",
            format!("since {}: {}", utc(pause.since_unix_ms), pause.reason),
        );
    }
    if !cluster.restore.is_empty() {
        fact("restore", format!("{}: pgctl restore --status", cluster.restore));
    }
    if let Some(running) = &cluster.switchover {
        fact(
            "switchover",
            format!("from {} to {}, {}", running.from, running.to, running.phase),
        );
    }
    if let Some(order) = &cluster.failover_order {
        fact(
            "failover order",
            format!("to {}, since {}", order.to, utc(order.since_unix_ms)),
        );
    }
    for member in &cluster.members {
        if let Some(layers) = fencing(member) {
            fact(&format!("fencing of {}", member.name), layers);
        }
    }
    for member in &cluster.members {
        for disk in &member.disks {
            fact(&format!("disk of {}", member.name), room(disk));
        }
    }
    for member in &cluster.members {
        let notes = notes(member);
        if !notes.is_empty() {
            fact(&member.name, notes.join(", "));
        }
    }
    lines
}
