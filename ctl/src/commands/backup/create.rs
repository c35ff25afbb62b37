//! `pgctl backup create`

use crate::cli::Globals;
use crate::commands::through::Through;
use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::wall_time::span;
use proto::archive::{BackupOutcome, BackupProgress, CreateBackupRequest};
use std::io::IsTerminal;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    through: Through,
    /// Read at most so many MB a second from the server
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_rate_mb: Option<u32>,
    /// Copy only what has changed since the newest backup (PostgreSQL 17 or newer); a full one is taken where that cannot be told:
    /// on an older server, and after each change of timeline
    #[arg(long)]
    incremental: bool,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let mut chosen = args.through.connect(globals).await?;
    let member = chosen.member.clone();
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
    let mut stream = chosen
        .client
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
