//! `make bench-ddl`: what a schema change does to those who read and write meanwhile, run by hand and by a rollout; and how well
//! linters foresee it, against what a server shows. See bench/README.md.

#![allow(
    clippy::print_stdout,
    reason = "the table on standard output is what this program is for"
)]

mod labelled;
mod linters;
mod load;
mod stalls;

use anyhow::{Context, Result};
use clap::Parser;
use lab::binaries;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures schema changes and linters.
#[derive(Parser)]
struct Args {
    /// Rows of the table that is changed.
    #[arg(long, default_value_t = 500_000)]
    rows: u64,
    /// squawk's program (scripts/squawk-venv fetches it); left out without it.
    #[arg(long)]
    squawk: Option<PathBuf>,
    /// The folder of PostgreSQL's programs (default: the newest that is found).
    #[arg(long)]
    postgres: Option<PathBuf>,
    /// Measure the linters only.
    #[arg(long)]
    linters_only: bool,
    /// Where the figures go.
    #[arg(long, default_value = "bench/results/ddl.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    conditions: Conditions,
    linters: linters::Comparison,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stalls: Vec<stalls::Measured>,
}

#[derive(Serialize)]
struct Conditions {
    cores: usize,
    load_at_start: String,
    load_at_end: String,
    postgres: String,
    rows: u64,
    build: &'static str,
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = tokio::select! {
        done = measure(&args) => done,
        why = lab::interrupted() => Err(why),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-ddl: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> Result<()> {
    let postgres = match &args.postgres {
        Some(dir) => dir
            .canonicalize()
            .with_context(|| format!("cannot find {}", dir.display()))?,
        None => binaries::newest_postgres()?,
    };
    let load_at_start = load_average();
    let mut cluster = stalls::cluster(&postgres).await?;
    let primary = cluster.wait_all_in_sync(stalls::PATIENCE).await?;
    let address = cluster.node(&primary).pg_address()?;
    let version = lab::sql::value(address, "SHOW server_version").await?;
    let labelled = labelled::by_the_server(address).await?;
    let linters = linters::compare(&labelled, args.squawk.as_deref())?;
    print!("{}", linters.table());
    let stalls = if args.linters_only {
        Vec::new()
    } else {
        stalls::measure(&mut cluster, args.rows).await?
    };
    print!("{}", stalls::table(&stalls));
    let report = Report {
        conditions: Conditions {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_at_start,
            load_at_end: load_average(),
            postgres: version,
            rows: args.rows,
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        },
        linters,
        stalls,
    };
    let mut text = serde_json::to_string_pretty(&report)?;
    text.push('\n');
    std::fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))?;
    eprintln!("written to {}", args.out.display());
    Ok(())
}
