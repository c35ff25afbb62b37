//! `pgctl backup`: base backups.

pub mod create;
mod drill;
mod list;
mod schedule;

use crate::cli::Globals;
use crate::failure::Failure;
use crate::repositories::Which;
use clap::Subcommand;

/// Takes base backups, shows them, and tries whether they can be restored
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl backup create                     # on the best standby, or the primary if there is none
  pgctl backup create --node n3 --max-rate-mb 50
  pgctl backup list
  pgctl backup show 20261121T074242Z-3f2a
  pgctl backup list --config repository.toml --cluster demo    # with no agent left
  pgctl config set backup_schedule='0 2 * * *'                 # each night at two, UTC
  pgctl backup schedule show")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Takes a full backup of a running server into every repository
    ///
    /// It is done when the WAL that it needs is archived as well. If this command is broken off, the backup goes on.
    #[command(after_help = "Examples:\n  pgctl backup create\n  pgctl backup create --node n2 -o json")]
    Create(create::Args),
    /// Lists the backups in a repository, read without any agent
    #[command(after_help = "Examples:\n  pgctl backup list\n  pgctl backup list --repository far -o json")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Shows one backup, and what of its WAL is missing
    #[command(after_help = "Examples:\n  pgctl backup show 20261121T074242Z-3f2a")]
    Show {
        #[arg(value_name = "BACKUP")]
        id: String,
        #[command(flatten)]
        which: Which,
    },
    /// Restores a backup into scratch space, recovers it, looks at it, and throws it away
    ///
    /// On a standby's node, at the lowest priority, without a network. What it found is kept in the repository, below drills/.
    /// Exit code 1 if the backup could not be restored.
    #[command(after_help = "\
Examples:
  pgctl backup drill                      # the newest, to the end of the archive
  pgctl backup drill --random             # any other, to a point on the way
  pgctl backup drill --node n3 -o json
  pgctl config set drill_sql='SELECT count(*) FROM orders' drill_database=shop")]
    Drill(drill::Args),
    /// What is done by itself: when it is due, who is at it, and how it ended
    #[command(after_help = "\
Examples:
  pgctl backup schedule show
  pgctl config set backup_schedule='every 6h' backup_window_minutes=120
  pgctl config set backup_schedule='0 2 * * sun' drill_schedule='0 6 * * sun'
  pgctl config set backup_schedule=''                          # none any more")]
    Schedule {
        #[command(subcommand)]
        verb: ScheduleVerb,
    },
}

#[derive(Debug, Subcommand)]
enum ScheduleVerb {
    /// Shows it; the settings backup_schedule and drill_schedule say when
    #[command(after_help = "Examples:\n  pgctl backup schedule show\n  pgctl backup schedule show -o json")]
    Show,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create(args) => create::run(globals, args).await,
        Verb::List { which } => list::list(globals.output, which).await,
        Verb::Drill(args) => drill::run(globals, args).await,
        Verb::Schedule {
            verb: ScheduleVerb::Show,
        } => schedule::show(globals).await,
        Verb::Show { id, which } => list::show(globals.output, which, id).await,
    }
}
