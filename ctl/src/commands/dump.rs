//! `pgctl dump`: logical dumps.

mod create;
mod list;
mod restore;

use crate::cli::Globals;
use crate::failure::Failure;
use crate::repositories::Which;
use clap::Subcommand;

/// Takes logical dumps of databases into the repositories, and restores them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl dump create                                  # every database, and the globals, from the best standby
  pgctl dump create --database shop
  pgctl dump list
  pgctl dump restore DUMP --file shop.dump           # for pg_restore, or psql for globals
  pgctl dump restore DUMP --dbname 'host=10.0.0.9 dbname=rescue' --table orders")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Has a node dump databases into every repository, in pg_dump's custom format
    #[command(
        after_help = "Examples:\n  pgctl dump create\n  pgctl dump create --database shop --database crm -o json"
    )]
    Create(create::Args),
    /// Lists the dumps in a repository, read without any agent
    #[command(after_help = "Examples:\n  pgctl dump list\n  pgctl dump list --repository far -o json")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Writes a dump into a file, or has pg_restore load it into a database; needs no agent
    #[command(after_help = "\
Examples:
  pgctl dump restore 20261121T074242Z-3f2a-shop-0 --file shop.dump
  pgctl dump restore 20261121T074242Z-3f2a-shop-0 --dbname 'host=10.0.0.9 dbname=rescue' --table orders
  pgctl dump restore 20261121T074242Z-3f2a-globals-2 --file globals.sql")]
    Restore(restore::Args),
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create(args) => create::run(globals, args).await,
        Verb::List { which } => list::run(globals.output, which).await,
        Verb::Restore(args) => restore::run(args).await,
    }
}
