//! `pgctl repo`: what lies in repositories, read without any agent.

mod adopt;
mod inspect;
mod rekey;
mod take_over;

use crate::cli::Globals;
use crate::failure::Failure;
use crate::repositories::Which;
use clap::Subcommand;
use std::path::PathBuf;

/// Shows what lies in a repository, and mends what belongs to it as a whole
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl repo inspect
  pgctl repo inspect --config repository.toml -o json    # of one that was found: no cluster needs to be named
  pgctl repo adopt --repository near                     # its repository.json was lost
  pgctl repo rekey --old-key-file old.key                # the configuration has the new key")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists clusters, sizes, keys, and what does not belong there
    #[command(after_help = "Examples:\n  pgctl repo inspect\n  pgctl repo inspect --repository far -o json")]
    Inspect {
        #[command(flatten)]
        which: Which,
    },
    /// Writes a lost repository.json again, if what lies there is a repository
    ///
    /// With the id that the agents know (their error names it), they go on using it.
    #[command(after_help = "Examples:\n  pgctl repo adopt\n  pgctl repo adopt --id 0123456789abcdef")]
    Adopt {
        /// The id that it had; otherwise it is given a new one
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Lets another cluster archive into what a cluster has archived that is gone for good
    ///
    /// A copy that was restored beside its source and founded under the same name is refused by the repository. If no
    /// server of the source will ever run again, this gives what it has archived to the copy.
    #[command(
        after_help = "Examples:\n  pgctl repo take-over --cluster prod --by 59836c06-a2c1-4c48-b165-deb5d4924b26"
    )]
    TakeOver {
        /// The id of the cluster that shall archive from now on: its agents' log names it, and `pgctl status -o json`
        #[arg(long, value_name = "CLUSTER_ID")]
        by: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Has the key of the configuration open what an older key opened; no data is written again
    ///
    /// Put the new key into a copy of the configuration and run this with it; give the new key to all nodes and restart their
    /// agents; run this once more, for what was written meanwhile. It may be broken off and repeated.
    #[command(
        after_help = "Examples:\n  pgctl repo rekey --config new.toml --old-key-file /etc/pgctl/old.key"
    )]
    Rekey {
        /// A file with the key until now, 64 hexadecimal digits
        #[arg(long, value_name = "FILE")]
        old_key_file: PathBuf,
        #[command(flatten)]
        which: Which,
    },
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Inspect { which } => inspect::run(globals.output, which).await,
        Verb::Adopt { id, which } => adopt::run(globals.output, which, id.as_deref()).await,
        Verb::TakeOver { by, yes, which } => take_over::run(globals.output, which, by, *yes).await,
        Verb::Rekey { old_key_file, which } => rekey::run(globals.output, which, old_key_file).await,
    }
}
