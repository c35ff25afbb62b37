//! `pgctl ddl`: schema changes.

mod files;
mod lint;

use crate::failure::Failure;
use crate::output::Format;
use clap::Subcommand;
use std::process::ExitCode;

/// Judges schema changes: which locks, rewrites and scans they mean, and how to do them more safely
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl lint migrations/
  pgctl ddl lint --schema schema.sql 0042_add_index.sql")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Lint(lint::Args),
}

pub fn run(format: Format, args: &Args) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Lint(args) => lint::run(format, args),
    }
}
