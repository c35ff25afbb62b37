//! `pgctl backup create`

use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::wall_time::span;
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{BackupOutcome, BackupProgress, CreateBackupRequest};
use proto::control::{Cluster, Member};
use std::io::IsTerminal;
use std::time::Duration;
use tonic::transport::Endpoint;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node whose server is copied, instead of the best standby
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Read at most so many MB a second from the server
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_rate_mb: Option<u32>,
    /// Copy only what has changed since the newest backup (PostgreSQL 17 or newer); a full one is taken where that cannot be told:
    /// on an older server, and after each change of timeline
    #[arg(long)]
    incremental: bool,
}

impl Args {
    /// A full one, from the best standby.
    pub fn full() -> Args {
        Args {
            node: None,
            max_rate_mb: None,
            incremental: false,
        }
    }
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let cluster = globals.session()?.cluster().await?;
    let member = match &args.node {
        Some(name) => named(&cluster, name)?,
        None => best(&cluster)?,
    };
    let unreachable = |error: String| Failure::Unreachable {
        tried: vec![format!("{} ({}): {error}", member.name, member.peer)],
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", member.peer))
        .map_err(|error| unreachable(error.to_string()))?
        .connect_timeout(Duration::from_secs(3));
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let request = CreateBackupRequest {
        id: id(),
        max_rate_kb: args.max_rate_mb.map_or(0, |mb| mb * 1024),
        incremental: args.incremental,
    };
    let of = |status: tonic::Status| {
        Failure::of_agent(&status).unwrap_or_else(|| Failure::Unknown {
            message: format!("{}: {}", member.name, status.message()),
            next: "the backup goes on without this command: see `pgctl backup list`".to_owned(),
        })
    };
    let mut stream = ArchiveClient::new(channel)
        .create_backup(request)
        .await
        .map_err(of)?
        .into_inner();
    eprintln!("backup of {} ({})", member.name, member.role);
    while let Some(progress) = stream.message().await.map_err(of)? {
        tell(&progress);
        if let Some(outcome) = &progress.outcome {
            return end(globals.output, &progress, outcome);
        }
    }
    Err(Failure::Unknown {
        message: format!("the agent of {} stopped telling", member.name),
        next: "see `pgctl backup list`".to_owned(),
    })
}

pub fn named<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Member, Failure> {
    let found = cluster.members.iter().find(|member| member.name == name);
    found.ok_or_else(|| Failure::usage(format!("there is no node {name}: see `pgctl list`")))
}

/// The standby that is least behind; the primary if there is none.
pub fn best(cluster: &Cluster) -> Result<&Member, Failure> {
    let standbys = cluster
        .members
        .iter()
        .filter(|member| member.role == "standby" && member.state == "streaming" && !member.maintenance);
    let standby = standbys.min_by_key(|member| (member.replay_lag_bytes.unwrap_or(u64::MAX), member.id));
    let primary = cluster.members.iter().find(|member| member.role == "primary");
    standby.or(primary).ok_or_else(|| {
        Failure::refused(
            "no-server",
            "there is neither a standby that streams nor a primary: see `pgctl list`",
        )
    })
}

/// Names in the order of time, and never two the same.
pub fn id() -> String {
    let now = repository::show_time(crate::wall_time::now_ms());
    let digits: String = now.chars().filter(char::is_ascii_digit).take(14).collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    let (date, clock) = digits.split_at(8);
    format!("{date}T{clock}Z-{}", &random[..4])
}

fn tell(progress: &BackupProgress) {
    if !std::io::stderr().is_terminal() || progress.outcome.is_some() {
        return;
    }
    eprint!(
        "\r\x1b[K{} {} ({} stored), {} {}",
        progress.phase,
        bytes(progress.bytes),
        bytes(progress.stored_bytes),
        span(progress.elapsed_ms),
        progress.message
    );
}

fn end(format: Format, progress: &BackupProgress, outcome: &BackupOutcome) -> Result<(), Failure> {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    if !outcome.succeeded {
        return Err(Failure::refused(
            "backup-failed",
            format!("backup {}: {}", outcome.id, progress.message),
        ));
    }
    match format {
        Format::Json => output::json(outcome),
        Format::Table => output::line(format!(
            "{}: {}{} in {} stored, {} to {} on timeline {}, in {}",
            outcome.id,
            if outcome.parent.is_empty() {
                String::new()
            } else {
                format!("increment of {}, ", outcome.parent)
            },
            bytes(outcome.bytes),
            bytes(outcome.stored_bytes),
            outcome.start_lsn,
            outcome.stop_lsn,
            outcome.timeline,
            span(progress.elapsed_ms)
        )),
    }
}
