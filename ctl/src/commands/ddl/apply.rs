//! `pgctl ddl apply`: begins a rollout and tells of it.

use super::agents::{self, ask};
use super::planning::{self, Scripts};
use super::rollout;
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, confirm, plain};
use crate::session::{Intent, Session};
use ddl::plan::Step;
use proto::rollout::{Limits, Plan, StartRequest, Status};
use std::time::{Duration, Instant};

const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How long nobody may answer before the outcome counts as unknown; the rollout goes on all the same.
const SILENCE: Duration = Duration::from_secs(120);

/// Carries a change out step by step, through failovers and whatever else happens
///
/// Statements for which a safer form is known are replaced by it. Each step is taken up again where it was left, by whichever node is
/// the primary then; this command only looks on, and can be broken off. The agents need `rollout.role` in node.toml.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl apply --database app 0042_orders.sql
  pgctl ddl apply --database app --yes --detach migrations/
  pgctl ddl apply --database app --cancel-blockers-older-than 300 0043_drop.sql")]
pub struct Args {
    #[command(flatten)]
    scripts: Scripts,
    #[command(flatten)]
    manner: Manner,
}

/// How a rollout goes about it.
#[derive(Debug, clap::Args)]
pub struct Manner {
    /// How long a step may try to get its locks, seconds
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    lock_budget: u64,
    /// Cancel sessions whose transaction has held a lock in the way for so long, seconds; superusers, replication and backups never
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    cancel_blockers_older_than: Option<u64>,
    /// A backfill waits while a standby has more to replay, MB
    #[arg(long, value_name = "MB", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    max_lag_mb: u64,
    /// A backfill waits while a standby, or the commit of a batch, is later, milliseconds
    #[arg(long, value_name = "MS", default_value = "1500", value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    max_lag_ms: u64,
    /// How long one batch of a backfill shall take, milliseconds
    #[arg(long, value_name = "MS", default_value = "500", value_parser = clap::value_parser!(u64).range(5..=60_000))]
    batch_ms: u64,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let planned = planning::plan(globals, &args.scripts).await?;
    let (name, database) = (&planned.name, &args.scripts.database);
    begin(globals, name, database, &planned.steps, &args.manner).await
}

/// Shows the steps, asks, begins, and looks on.
pub async fn begin(
    globals: &Globals,
    name: &str,
    database: &str,
    steps: &[Step],
    manner: &Manner,
) -> Result<(), Failure> {
    planning::say(steps);
    let question = format!("Carry these {} steps out in {database}?", steps.len());
    confirm(&question, manner.yes)?;
    let request = StartRequest {
        request: Session::request_id(),
        plan: Some(Plan {
            name: name.to_owned(),
            database: database.to_owned(),
            steps: planning::sent(steps),
            limits: Some(Limits {
                lock_budget_s: manner.lock_budget,
                cancel_blockers_s: manner.cancel_blockers_older_than.unwrap_or(0),
                lag_bytes: manner.max_lag_mb << 20,
                lag_ms: manner.max_lag_ms,
                batch_ms: manner.batch_ms,
            }),
        }),
    };
    let session = globals.session()?;
    let start = async |mut client: agents::Client| client.start(request.clone()).await;
    let status = ask(&session, Intent::Write, start).await?;
    if manner.detach {
        return rollout::show(globals.output, &status);
    }
    let end = follow(&session, &request.request).await?;
    finish(globals.output, &end)
}

/// Looks on until the rollout ends or waits for an operator.
async fn follow(session: &Session, id: &str) -> Result<Status, Failure> {
    let mut last = String::new();
    let mut heard = Instant::now();
    loop {
        match agents::status(session).await {
            Ok(status) => {
                heard = Instant::now();
                let Some(rollout) = status.rollout.as_ref().filter(|rollout| rollout.id == id) else {
                    return Err(Failure::Unknown {
                        message: "another rollout has begun since".to_owned(),
                        next: "see `pgctl ddl history`".to_owned(),
                    });
                };
                let line = rollout::line(&status);
                if line != last {
                    eprintln!("{}", plain(&line));
                    last = line;
                }
                if matches!(rollout.phase.as_str(), "done" | "failed" | "aborted") {
                    return Ok(status);
                }
            }
            // An agent that dies, or a failover: the rollout goes on when there is a primary again.
            Err(failure) if heard.elapsed() > SILENCE => {
                return Err(Failure::Unknown {
                    message: format!(
                        "no agent has answered for {} s: {}",
                        SILENCE.as_secs(),
                        failure.message()
                    ),
                    next: "the rollout goes on by itself: see `pgctl ddl status`".to_owned(),
                });
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn finish(format: Format, status: &Status) -> Result<(), Failure> {
    let rollout = status.rollout.clone().unwrap_or_default();
    if format == Format::Json {
        output::json(status)?;
    }
    match rollout.phase.as_str() {
        "done" if format == Format::Json => Ok(()),
        "done" => output::line(format!(
            "{}: {} steps are done; the longest that anybody waited for them was {} ms; schema {}",
            rollout.name,
            rollout.steps.len(),
            rollout.longest_stall_ms,
            rollout.fingerprint
        )),
        phase => Err(Failure::Refused {
            id: format!("rollout-{phase}"),
            message: format!("{} is {phase}: {}", rollout.name, rollout.message),
            next: match phase {
                "failed" => "mend what it says and `pgctl ddl resume`, or `pgctl ddl abort`".to_owned(),
                _ => "see `pgctl ddl status`".to_owned(),
            },
        }),
    }
}
