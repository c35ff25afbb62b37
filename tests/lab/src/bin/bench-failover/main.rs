//! `make bench-failover`: pgctl and Patroni through the same faults, on the same machine, with the same servers and the
//! same clients, in turn. See bench/README.md for what is measured and how to read it.

#![allow(
    clippy::print_stdout,
    reason = "the table on standard output is what this program is for"
)]

mod conditions;
mod footprint;
mod health_load;
mod ours;
mod patroni;
mod pgbench;
mod report;
mod sample;
mod scenarios;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use lab::{Lab, binaries};

use crate::ours::Ours;
use crate::patroni::Patroni;
use crate::pgbench::Pgbench;
use crate::sample::Samples;
use crate::scenarios::Plan;
use crate::system::System;

/// Compares failover and switchover with Patroni.
#[derive(Parser)]
struct Args {
    /// How many times everything is run; the report gives medians.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Which systems take part, in this order in each run.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Contestant::value_variants().to_vec())]
    systems: Vec<Contestant>,
    /// Which scenarios are run.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = scenarios::Scenario::value_variants().to_vec())]
    scenarios: Vec<scenarios::Scenario>,
    /// The folder of Patroni's programs (scripts/patroni-venv makes it).
    #[arg(long, default_value = "target/patroni/bin")]
    patroni: PathBuf,
    /// The folder of PostgreSQL's programs, for all systems (default: the newest that is found).
    #[arg(long)]
    postgres: Option<PathBuf>,
    /// How long a frozen agent is watched, in seconds.
    #[arg(long, default_value_t = 60)]
    frozen_for: u64,
    /// How long a whole cluster is left alone before each fault, in seconds.
    #[arg(long, default_value_t = 35)]
    settle: u64,
    /// How often each scenario is run in each cluster, one after the other.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Runs pgbench beside the measured clients, at this many transactions per second.
    #[arg(long)]
    pgbench: Option<u32>,
    /// Where the figures go.
    #[arg(long, default_value = "bench/results/failover.json")]
    out: PathBuf,
}

/// A system with settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Contestant {
    /// pgctl as it comes.
    Pgctl,
    /// Patroni as it comes.
    Patroni,
    /// pgctl with its fastest profile, `lan-fast`.
    PgctlFast,
    /// pgctl with the profile for distant nodes, `wan`.
    PgctlWan,
    /// Patroni with the smallest values that it accepts: ttl 20, loop_wait 1, retry_timeout 3.
    PatroniTight,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = tokio::select! {
        done = compare(&args) => done,
        why = lab::interrupted() => Err(why),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-failover: {e:?}");
            ExitCode::FAILURE
        }
    }
}

async fn compare(args: &Args) -> Result<()> {
    let postgres = match &args.postgres {
        Some(dir) => dir
            .canonicalize()
            .with_context(|| format!("cannot find {}", dir.display()))?,
        None => binaries::newest_postgres()?,
    };
    let patroni = if args.systems.iter().any(|system| system.is_patroni()) {
        Some(args.patroni.canonicalize().with_context(|| {
            format!(
                "Patroni is not in {}; make it with scripts/patroni-venv target/patroni",
                args.patroni.display()
            )
        })?)
    } else {
        None
    };
    let plan = Plan {
        scenarios: args.scenarios.clone(),
        frozen_for: Duration::from_secs(args.frozen_for),
        settle: Duration::from_secs(args.settle),
        rounds: args.rounds,
        pgbench: args.pgbench.map(|rate| Pgbench::beside(&postgres, rate)),
    };
    let mut conditions = conditions::Conditions::here(&postgres, patroni.as_deref(), args.runs);
    conditions.rounds = args.rounds;
    conditions.pgbench_per_second = args.pgbench;
    let mut samples = Samples::default();
    for run in 1..=args.runs {
        for contestant in &args.systems {
            eprintln!("== run {run} of {}: {}", args.runs, contestant.label());
            let lab = Lab::new()?;
            match contestant {
                Contestant::Pgctl | Contestant::PgctlFast | Contestant::PgctlWan => {
                    let timing = match contestant {
                        Contestant::PgctlFast => "lan-fast",
                        Contestant::PgctlWan => "wan",
                        _ => "default",
                    };
                    one(
                        Ours::new(&lab, &postgres, timing)?,
                        *contestant,
                        &plan,
                        &mut samples,
                    )
                    .await;
                }
                Contestant::Patroni | Contestant::PatroniTight => {
                    let programs = patroni
                        .as_deref()
                        .context("Patroni's programs were looked for above")?;
                    let timing = if *contestant == Contestant::Patroni {
                        patroni::Timing::Default
                    } else {
                        patroni::Timing::Tightest
                    };
                    one(
                        Patroni::new(&lab, &postgres, programs, timing)?,
                        *contestant,
                        &plan,
                        &mut samples,
                    )
                    .await;
                }
            }
            // After each, so that a long comparison that is interrupted has still measured something.
            report::write(&args.out, &conditions, &samples)?;
        }
    }
    report::print(&samples);
    println!("\nThe figures are in {}.", args.out.display());
    Ok(())
}

/// One run of one system. A scenario that fails is part of the result, not the end of the comparison.
async fn one<S: System>(system: S, contestant: Contestant, plan: &Plan, samples: &mut Samples) {
    samples.of(contestant.label());
    if let Err(e) = scenarios::run(system, plan, samples).await {
        eprintln!("   given up: {e:?}");
        samples.failed(&format!("{e:#}"));
    }
}

impl Contestant {
    fn label(self) -> &'static str {
        match self {
            Contestant::Pgctl => "pgctl",
            Contestant::Patroni => "Patroni",
            Contestant::PgctlFast => "pgctl lan-fast",
            Contestant::PgctlWan => "pgctl wan",
            Contestant::PatroniTight => "Patroni 20/1/3",
        }
    }

    fn is_patroni(self) -> bool {
        matches!(self, Contestant::Patroni | Contestant::PatroniTight)
    }
}
