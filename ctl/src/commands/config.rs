//! `pgctl config`: the cluster's settings.

mod check;
mod edit;

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Client, Intent, Session};
use clap::Subcommand;
use proto::control::{Assignment, ChangeSettingsRequest, GetSettingsRequest, Settings};

/// Shows, checks and changes the settings of the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl config show
  pgctl config set sync_standbys=2 max_lag_bytes=4194304
  pgctl config edit
  pgctl config check --profile lan-fast     # the arithmetic of a profile, without any agent")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prints the settings, with their defaults
    #[command(after_help = "Examples:\n  pgctl config show\n  pgctl config show --doc")]
    Show {
        /// Also what each is for, and what may be given
        #[arg(long)]
        doc: bool,
    },
    /// Changes settings, all of the given ones or none
    #[command(
        after_help = "Examples:\n  pgctl config set timing=lan-fast\n  pgctl config set sync_mode=strict sync_standbys=2"
    )]
    Set {
        #[arg(required = true, value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
    /// Opens the settings in $VISUAL or $EDITOR
    #[command(after_help = "Examples:\n  EDITOR=nano pgctl config edit")]
    Edit {
        /// Do not ask before the change
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Prints the arithmetic of the timing, and what is wrong with values before they are set
    #[command(after_help = "\
Examples:
  pgctl config check                                     # the cluster's settings as they are
  pgctl config check timing.promise_ms=2100              # as they would be
  pgctl config check --profile wan                       # of a profile, without any agent
  pgctl config check --profile default timing.fence_ms=100")]
    Check {
        /// Start from a profile's terms and the defaults, and ask no agent
        #[arg(long, value_name = "PROFILE")]
        profile: Option<String>,
        #[arg(value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
}

pub async fn run(
    frame: impl Fn() -> Result<Frame, Failure>,
    format: Format,
    args: &Args,
) -> Result<(), Failure> {
    match &args.verb {
        Verb::Show { doc } => show(&frame()?, *doc).await,
        Verb::Set { assignments } => {
            let assignments = parse(assignments)?;
            let frame = frame()?;
            let settings = read(&frame).await?;
            let changed = change(&frame, settings.version, assignments).await?;
            report(&frame, &changed)
        }
        Verb::Edit { yes } => edit::run(&frame()?, *yes).await,
        Verb::Check {
            profile: Some(profile),
            assignments,
        } => check::offline(format, profile, &parse(assignments)?),
        Verb::Check {
            profile: None,
            assignments,
        } => check::online(&frame()?, parse(assignments)?).await,
    }
}

async fn read(frame: &Frame) -> Result<Settings, Failure> {
    let ask = async |mut client: Client| client.get_settings(GetSettingsRequest {}).await;
    frame.session.call(Intent::Read, ask).await
}

async fn change(frame: &Frame, version: u64, assignments: Vec<Assignment>) -> Result<Settings, Failure> {
    let request = ChangeSettingsRequest {
        request: Session::request_id(),
        version,
        assignments,
    };
    let ask = async |mut client: Client| client.change_settings(request.clone()).await;
    frame.session.call(Intent::Write, ask).await
}

fn report(frame: &Frame, changed: &Settings) -> Result<(), Failure> {
    match frame.format {
        Format::Json => output::json(changed),
        Format::Table => output::line(format!("the settings have version {} now", changed.version)),
    }
}

async fn show(frame: &Frame, doc: bool) -> Result<(), Failure> {
    let settings = read(frame).await?;
    if frame.format == Format::Json {
        return output::json(&settings);
    }
    output::line(format!("version {}", settings.version))?;
    let rows = settings.settings.iter().map(|setting| {
        let mut row = vec![
            setting.key.clone(),
            setting.value.clone(),
            setting.default.clone(),
        ];
        if doc {
            row.extend([setting.allowed.clone(), setting.doc.clone()]);
        }
        row
    });
    let headings = ["KEY", "VALUE", "DEFAULT", "ALLOWED", "FOR"];
    output::table(if doc { &headings } else { &headings[..3] }, rows)
}

fn parse(given: &[String]) -> Result<Vec<Assignment>, Failure> {
    let assignment = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok(Assignment {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        }),
        _ => Err(Failure::usage(format!(
            "{text:?} is no assignment: give KEY=VALUE, such as sync_standbys=2"
        ))),
    };
    given.iter().map(assignment).collect()
}
