//! `pgctl ddl`: schema changes.

mod agents;
mod apply;
mod contract;
mod expand;
mod files;
mod forecast;
mod janitor;
mod lint;
mod plan;
mod planning;
mod rollout;
mod versions;

use crate::cli::Globals;
use crate::failure::Failure;
use clap::Subcommand;
use std::process::ExitCode;

/// Judges schema changes, plans them on the cluster's own schema, and carries them out step by step
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl lint migrations/
  pgctl ddl plan --database app 0042_orders.sql
  pgctl ddl apply --database app 0042_orders.sql
  pgctl ddl expand --database app --version app_v2 0043_amount.sql
  pgctl ddl versions --database app
  pgctl ddl contract --database app --version app_v2
  pgctl ddl status
  pgctl ddl janitor --database app")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Lint(lint::Args),
    Plan(plan::Args),
    Apply(apply::Args),
    Expand(expand::Args),
    Contract(contract::Args),
    Versions(versions::Args),
    Status(rollout::StatusArgs),
    Pause(rollout::PauseArgs),
    Resume(rollout::ResumeArgs),
    Abort(rollout::AbortArgs),
    History(rollout::HistoryArgs),
    Janitor(janitor::Args),
}

pub async fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let done = match &args.verb {
        Verb::Lint(args) => return lint::run(globals.output, args),
        Verb::Plan(args) => plan::run(globals, args).await,
        Verb::Apply(args) => apply::run(globals, args).await,
        Verb::Expand(args) => expand::run(globals, args).await,
        Verb::Contract(args) => contract::run(globals, args).await,
        Verb::Versions(args) => versions::run(globals, args).await,
        Verb::Status(_) => rollout::status(globals).await,
        Verb::Pause(_) => rollout::direct(globals, "pause", false).await,
        Verb::Resume(_) => rollout::direct(globals, "resume", false).await,
        Verb::Abort(args) => rollout::abort(globals, args).await,
        Verb::History(_) => rollout::history(globals).await,
        Verb::Janitor(args) => janitor::run(globals, args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
