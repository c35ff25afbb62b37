//! `pgctl backup`: base backups.

pub mod create;
mod drill;
mod expire;
mod list;
mod pin;
mod schedule;
mod verify;

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
  pgctl backup expire --preview           # what the policy lets go, and what can be restored then
  pgctl backup pin 20261121T074242Z-3f2a --until '2027-01-01 00:00+00'
  pgctl backup list --config repository.toml --cluster demo    # with no agent left
  pgctl config set backup_schedule='0 2 * * *'                 # each night at two, UTC
  pgctl backup schedule show")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Takes a backup of a running server into every repository
    ///
    /// It is done when the WAL that it needs is archived as well. If this command is broken off, the backup goes on.
    #[command(
        after_help = "Examples:\n  pgctl backup create\n  pgctl backup create --incremental\n  pgctl backup create --node n2 -o json"
    )]
    Create(create::Args),
    /// Lists the backups in a repository, read without any agent
    #[command(after_help = "Examples:\n  pgctl backup list\n  pgctl backup list --repository far -o json")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Deletes what the repositories' `retention` does not keep, after a grace; done without any agent, if need be
    ///
    /// What is to go is marked, and deleted by a run that comes a grace later (24h by default). Never goes: the newest complete
    /// backup, the newest one proven by a drill, what is pinned, and the WAL of all that stays. The setting expire_schedule has it
    /// done by itself; runs at once do no harm.
    #[command(after_help = "\
Examples:
  pgctl backup expire --preview
  pgctl backup expire
  pgctl backup expire --preview --last 3 --within 14d --monthly 12    # what another policy would do
  pgctl backup expire --repository far -o json | jq '.[].deleted'")]
    Expire(expire::Args),
    /// Reads repositories end to end: hashes, encryption, archives, manifests, page checksums, missing WAL
    ///
    /// Needs no agent and no server. Exit code 1 if anything is wrong and was not mended.
    #[command(after_help = "\
Examples:
  pgctl backup verify                                   # everything, in every repository of the file
  pgctl backup verify 20261121T074242Z-3f2a             # one backup with its WAL
  pgctl backup verify --share 5%                        # a part, another one each day: for every night
  pgctl backup verify --repair -o json | jq '.[].findings'")]
    Verify(verify::Args),
    /// Keeps a backup whatever the policy says
    #[command(after_help = "\
Examples:
  pgctl backup pin 20261121T074242Z-3f2a --reason 'before the release'
  pgctl backup pin 20261121T074242Z-3f2a --until '2027-01-01 00:00+00'
  pgctl backup pin 20261121T074242Z-3f2a --hold --reason 'case 4711'")]
    Pin(pin::PinArgs),
    /// Takes the pins off a backup; a legal hold only with --hold
    #[command(
        after_help = "Examples:\n  pgctl backup unpin 20261121T074242Z-3f2a\n  pgctl backup unpin 20261121T074242Z-3f2a --hold"
    )]
    Unpin(pin::UnpinArgs),
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
  pgctl config set expire_schedule='0 5 * * *' verify_schedule='0 4 * * *' dump_schedule='0 3 * * sun'
  pgctl config set backup_schedule=''                          # none any more")]
    Schedule {
        #[command(subcommand)]
        verb: ScheduleVerb,
    },
}

#[derive(Debug, Subcommand)]
enum ScheduleVerb {
    /// Shows it; the settings backup_schedule, drill_schedule, dump_schedule, expire_schedule and verify_schedule say when
    #[command(after_help = "Examples:\n  pgctl backup schedule show\n  pgctl backup schedule show -o json")]
    Show,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create(args) => create::run(globals, args).await,
        Verb::Expire(args) => expire::run(globals, args).await,
        Verb::Verify(args) => verify::run(globals.output, args).await,
        Verb::Pin(args) => pin::pin(globals.output, args).await,
        Verb::Unpin(args) => pin::unpin(globals.output, args).await,
        Verb::List { which } => list::list(globals.output, which).await,
        Verb::Drill(args) => drill::run(globals, args).await,
        Verb::Schedule {
            verb: ScheduleVerb::Show,
        } => schedule::show(globals).await,
        Verb::Show { id, which } => list::show(globals.output, which, id).await,
    }
}
