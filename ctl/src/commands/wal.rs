//! `pgctl wal`: the archived WAL.

mod get;
mod holes;
mod status;

use crate::cli::Globals;
use crate::failure::Failure;
use crate::repositories::Which;
use clap::Subcommand;
use std::path::PathBuf;

/// Shows what is archived and what is missing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl wal status            # of every node: what waits, what was archived, what failed
  pgctl wal holes             # segments that a repository should have and has not; exit code 1 if there are any")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Asks every node what it has archived, and what waits
    #[command(after_help = "Examples:\n  pgctl wal status\n  pgctl wal status -o json | jq '.[].ready'")]
    Status,
    /// Lists what is archived and what is missing, read without any agent
    ///
    /// Exit code 1 if anything is missing.
    #[command(after_help = "Examples:\n  pgctl wal holes\n  pgctl wal holes --repository far -o json")]
    Holes {
        #[command(flatten)]
        which: Which,
    },
    /// Fetches a file for the recovery of a restored server; its restore_command calls this
    ///
    /// Ends with 0 when the file is in place, with 1 when there is none by the restore's plan, and otherwise with 200, which
    /// stops the server instead of ending its recovery early.
    #[command(after_help = "Examples:\n  pgctl wal get --order /data/pgctl.recovery.json %f %p")]
    Get {
        /// The plan that `pgctl restore` left in the data directory
        #[arg(long, value_name = "FILE")]
        order: PathBuf,
        /// %f
        #[arg(value_name = "NAME")]
        name: String,
        /// %p
        #[arg(value_name = "PATH")]
        path: PathBuf,
        #[command(flatten)]
        which: Which,
    },
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Status => status::run(globals).await,
        Verb::Holes { which } => holes::run(globals.output, which).await,
        Verb::Get {
            order,
            name,
            path,
            which,
        } => get::run(which, order, name, path).await,
    }
}
