//! `pgctl ddl contract`: leaves one version of a schema.

use super::apply::{self, Manner};
use super::{agents, expand, versions};
use crate::cli::Globals;
use crate::failure::Failure;
use ddl::expand::{Contraction, Keep, contract};

/// Ends a version that `pgctl ddl expand` has opened: the tables become as it has them, or with --back it is given up
///
/// First it is looked whether anybody uses what goes, for as long as --unused-for says; who does is named, and nothing is changed.
/// From the first table on there is no way back.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl contract --database app --version app_v2
  pgctl ddl contract --database app --version app_v2 --unused-for 3600
  pgctl ddl contract --database app --version app_v2 --force --reason 'the old program is switched off'
  pgctl ddl contract --database app --version app_v2 --back          # the old version stays
  pgctl ddl contract --database app --version app_v2 --drop-views    # once programs use the tables again")]
pub struct Args {
    /// The database that is changed
    #[arg(long, short = 'd', value_name = "NAME", default_value = "postgres")]
    database: String,
    /// The version that ends
    #[arg(long, value_name = "NAME")]
    version: String,
    /// Give the new version up: the tables stay as the old one has them, with all that was written
    #[arg(long)]
    back: bool,
    /// Remove the views of a version that is contracted
    #[arg(long, conflicts_with = "back")]
    drop_views: bool,
    /// For how long nobody may have used what goes, seconds
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    unused_for: u64,
    /// Do not look whether anybody uses what goes
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why that is right; kept with the rollout
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    manner: Manner,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let session = versions::primary(&agents::patient(globals)?).await?;
    let (_, known) = versions::look(&session, &args.database, &[]).await?;
    let Some(version) = known.iter().find(|version| version.version == args.version) else {
        let names: Vec<&str> = known.iter().map(|version| version.version.as_str()).collect();
        return Err(Failure::usage(if names.is_empty() {
            format!(
                "{} has no version beside its tables: see `pgctl ddl expand`",
                args.database
            )
        } else {
            format!(
                "there is no version {}; there is {}",
                args.version,
                names.join(", ")
            )
        }));
    };
    let tables: Vec<String> = version
        .expansion
        .tables
        .iter()
        .map(ddl::expand::Table::sql)
        .collect();
    let (facts, _) = versions::look(&session, &args.database, &tables).await?;
    let how = Contraction {
        keep: match (args.back, args.drop_views) {
            (true, _) => Keep::Old,
            (_, true) => Keep::Tables,
            _ => Keep::New,
        },
        unused_for_s: (!args.force).then_some(args.unused_for),
    };
    let steps = contract(version, &facts, &known, how).map_err(expand::refused)?;
    let what = match how.keep {
        Keep::New => "contract",
        Keep::Old => "contract back",
        Keep::Tables => "drop the views of",
    };
    let mut name = format!("{what} {}", args.version);
    if let Some(reason) = args.reason.as_ref().filter(|_| args.force) {
        name.push_str(&format!(" (forced: {reason})"));
    }
    apply::begin(globals, &name, &args.database, &steps, &args.manner).await
}
