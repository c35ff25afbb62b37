//! `make bench-backup`: draining a backlog of WAL, a full backup, and a restore, by pgctl, pgBackRest and pg_basebackup, in turn
//! on the same machine. See bench/README.md for what is measured and how to read it.

#![allow(
    clippy::print_stdout,
    reason = "the table on standard output is what this program is for"
)]

mod archiver;
mod contestants;
mod measure;
mod report;
mod server;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use contestants::{Contestant, PgBackRest, Pgctl};
use measure::Samples;
use server::Ground;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compares archiving, backup and restore with pgBackRest.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// How many times everything is run; the report gives medians
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Segments that wait to be archived
    #[arg(long, default_value_t = 128)]
    segments: u64,
    /// pgbench's scale: 15 MB each
    #[arg(long, default_value_t = 60)]
    scale: u32,
    /// The folder of PostgreSQL's programs (default: the oldest that is found, which Debian's pgBackRest knows)
    #[arg(long)]
    postgres: Option<PathBuf>,
    /// Where everything is put: of the kind of disk that is of interest
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Where the figures go
    #[arg(long, default_value = "bench/results/backup.json")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum Role {
    /// What of the agent archives and backs up, as a program of its own (started by the comparison itself)
    #[command(hide = true)]
    Archiver(archiver::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Archiver(own)) => archiver::run(own),
        None => compare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-backup: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<()> {
    let postgres = match &args.postgres {
        Some(dir) => dir.clone(),
        None => lab::binaries::postgres_bin_dirs()?.remove(0),
    };
    if std::process::Command::new("pgbackrest")
        .arg("version")
        .output()
        .is_err()
    {
        bail!("pgbackrest is not installed: scripts/install-deps bench-backup");
    }
    measure::adopt_orphans()?;
    let conditions = report::Conditions::here(&postgres, args);
    let ground = Ground::prepare(&args.dir, &postgres, args.segments, args.scale)?;
    eprintln!(
        "{} segments wait, {} MB of data",
        ground.segments,
        ground.data_bytes >> 20
    );
    let mut samples = Samples::default();
    for round in 1..=args.rounds {
        eprintln!("== round {round} of {}, load {}", args.rounds, measure::load());
        ground.drain_nothing(&mut samples).context("an empty drain")?;
        ground.drain_floor(&mut samples).context("the archiver's floor")?;
        let contestants: [Box<dyn Contestant>; 2] = [
            Box::new(Pgctl::new(&ground)?),
            Box::new(PgBackRest::new(&ground)?),
        ];
        for contestant in &contestants {
            let name = contestant.name();
            eprintln!("   {name}: drain");
            ground
                .drain(contestant.as_ref(), &mut samples)
                .with_context(|| format!("{name}: drain"))?;
            eprintln!("   {name}: backup and restore");
            ground
                .back_up_and_restore(contestant.as_ref(), &mut samples)
                .with_context(|| format!("{name}: backup and restore"))?;
        }
        ground.plain_copy(&mut samples).context("pg_basebackup")?;
        // After each round, so that what was measured is not lost with what fails later.
        report::write(&args.out, &conditions, &ground, &samples)?;
    }
    report::print(&samples);
    Ok(())
}
