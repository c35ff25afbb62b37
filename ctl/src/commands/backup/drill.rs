//! `pgctl backup drill`

use super::create::{best, id, named};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, bytes, text_or_dash};
use crate::wall_time::span;
use clap::ArgGroup;
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{DrillOutcome, DrillRequest};
use std::io::IsTerminal;
use std::time::Duration;
use tonic::transport::Endpoint;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").args(["latest", "random"]))]
pub struct Args {
    /// The newest backup, to the end of the archive (the default)
    #[arg(long)]
    latest: bool,
    /// Any backup, to a point on the way
    #[arg(long)]
    random: bool,
    /// The node that does it, instead of the best standby's
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
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
    let request = DrillRequest {
        id: format!("drill-{}", id()),
        random: args.random,
    };
    let of = |status: tonic::Status| {
        Failure::of_agent(&status)
            .unwrap_or_else(|| Failure::local(format!("{}: {}", member.name, status.message())))
    };
    let mut stream = ArchiveClient::new(channel)
        .drill(request)
        .await
        .map_err(of)?
        .into_inner();
    eprintln!("drill on {}", member.name);
    while let Some(progress) = stream.message().await.map_err(of)? {
        if std::io::stderr().is_terminal() && progress.outcome.is_none() {
            eprintln!("{} ({})", progress.phase, span(progress.elapsed_ms));
        }
        if let Some(outcome) = &progress.outcome {
            return end(globals.output, outcome);
        }
    }
    Err(Failure::local(format!(
        "the agent of {} stopped telling",
        member.name
    )))
}

fn end(format: Format, outcome: &DrillOutcome) -> Result<(), Failure> {
    if !outcome.succeeded {
        return Err(Failure::refused(
            "drill-failed",
            format!("{}: {}", text_or_dash(&outcome.backup), outcome.error),
        ));
    }
    if format == Format::Json {
        return output::json(outcome);
    }
    let lines = [
        ("drill", outcome.id.clone()),
        ("backup", outcome.backup.clone()),
        (
            "reached",
            format!("{} on timeline {}", outcome.reached_lsn, outcome.timeline),
        ),
        ("had to reach", outcome.expected_lsn.clone()),
        (
            "restored",
            format!("{} in {}", bytes(outcome.bytes), span(outcome.restore_ms)),
        ),
        (
            "recovered",
            format!(
                "{} segments in {}",
                outcome.wal_segments,
                span(outcome.recovery_ms)
            ),
        ),
        ("pg_verifybackup", outcome.verified.clone()),
        ("pg_amcheck", outcome.amcheck.clone()),
        (
            "newest epoch",
            format!(
                "{} of {}",
                text_or_dash(&outcome.newest_epoch),
                text_or_dash(&outcome.newest_epoch_at)
            ),
        ),
    ];
    for (name, value) in lines {
        output::line(format!("{name:<16} {value}"))?;
    }
    outcome
        .query_rows
        .iter()
        .try_for_each(|row| output::line(format!("{:<16} {row}", "drill_sql")))
}
