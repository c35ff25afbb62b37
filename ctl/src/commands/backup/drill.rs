//! `pgctl backup drill`

use super::create::id;
use crate::cli::Globals;
use crate::commands::through::Through;
use crate::failure::Failure;
use crate::output::{self, Format, bytes, text_or_dash};
use crate::wall_time::span;
use clap::ArgGroup;
use proto::archive::{DrillOutcome, DrillRequest};
use std::io::IsTerminal;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").args(["latest", "random"]))]
pub struct Args {
    /// The newest backup, to the end of the archive (the default)
    #[arg(long)]
    latest: bool,
    /// Any backup, to a point on the way
    #[arg(long)]
    random: bool,
    #[command(flatten)]
    through: Through,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let mut chosen = args.through.connect(globals).await?;
    let request = DrillRequest {
        id: format!("drill-{}", id()),
        random: args.random,
    };
    let asked = chosen.client.drill(request).await;
    let mut stream = asked.map_err(|status| chosen.failed(&status))?.into_inner();
    eprintln!("drill on {}", chosen.member.name);
    while let Some(progress) = stream.message().await.map_err(|status| chosen.failed(&status))? {
        if std::io::stderr().is_terminal() && progress.outcome.is_none() {
            eprintln!("{} ({})", progress.phase, span(progress.elapsed_ms));
        }
        if let Some(outcome) = &progress.outcome {
            return end(globals.output, outcome);
        }
    }
    Err(chosen.fell_silent())
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
