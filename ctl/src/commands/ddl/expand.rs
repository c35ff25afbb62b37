//! `pgctl ddl expand`: opens a new version of a schema beside the old one.

use super::apply::{self, Manner};
use super::{agents, files, planning, versions};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, plain};
use ddl::expand::{self, Permits, Survey};
use ddl::plan::Step;
use serde::Serialize;
use std::path::PathBuf;

/// Changes types and names of columns, and names of tables, with the old and the new program side by side
///
/// The scripts are plain ALTER TABLE statements. The old program goes on with the tables; the new one uses the views in the schema
/// that --version names, by its search_path. What either writes, the other sees, converted. `pgctl ddl contract` ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl expand --database app --version app_v2 0043_amount.sql
  pgctl ddl expand --database app --version app_v2 --plan -o json 0043_amount.sql

A script:
  -- pgctl:down amount = round(amount * 100)
  ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12,2) USING amount / 100.0;
  ALTER TABLE orders RENAME COLUMN note TO remark;

Then, for the new program:
  ALTER ROLE app_new SET search_path = app_v2, public;")]
pub struct Args {
    /// Scripts, directories of scripts, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// The database that is changed
    #[arg(long, short = 'd', value_name = "NAME", default_value = "postgres")]
    database: String,
    /// The new version's name: the schema that its views are in
    #[arg(long, value_name = "NAME")]
    version: String,
    /// Show the steps and what is to be known, and do nothing
    #[arg(long)]
    plan: bool,
    /// Every subscriber of a published table has the shadow columns already
    #[arg(long)]
    subscribers_ready: bool,
    /// No new program inserts NULL explicitly where the old column has a default
    #[arg(long)]
    null_becomes_default: bool,
    #[command(flatten)]
    manner: Manner,
}

#[derive(Serialize)]
struct Shown<'a> {
    version: &'a str,
    database: &'a str,
    notes: &'a [String],
    steps: Vec<ShownStep<'a>>,
}

/// A step as it is shown before it is carried out.
#[derive(Serialize)]
pub struct ShownStep<'a> {
    sql: &'a [String],
    class: &'static str,
    locks: &'a [(String, String)],
    undo: &'a [String],
}

pub fn shown(steps: &[Step]) -> Vec<ShownStep<'_>> {
    let steps = steps.iter().map(|step| ShownStep {
        sql: &step.sql,
        class: step.class.name(),
        locks: &step.locks,
        undo: &step.undo,
    });
    steps.collect()
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let mut texts = Vec::new();
    for files::Source { path, text } in files::read(&args.paths) {
        texts.push((
            path.clone(),
            text.map_err(|why| Failure::usage(format!("{path}: {why}")))?,
        ));
    }
    let change = planning::with_stack(move || expand::changes(&texts))?.map_err(refused)?;
    let tables: Vec<String> = change.tables.keys().map(ToString::to_string).collect();
    let session = versions::primary(&agents::patient(globals)?).await?;
    let (facts, known) = versions::look(&session, &args.database, &tables).await?;
    let permits = Permits {
        published: args.subscribers_ready,
        null_becomes_default: args.null_becomes_default,
    };
    let Survey { expansion, notes } =
        expand::survey(&args.version, &change, &facts, &known, permits).map_err(refused)?;
    let steps = expand::steps(&expansion)
        .map_err(|error| Failure::local(format!("the version cannot be written down: {error}")))?;
    if args.plan {
        return match globals.output {
            Format::Json => output::json(&Shown {
                version: &args.version,
                database: &args.database,
                notes: &notes,
                steps: shown(&steps),
            }),
            Format::Table => {
                for note in &notes {
                    output::line(format!("note: {note}"))?;
                }
                for (number, step) in steps.iter().enumerate() {
                    output::line(format!("{:>3}. {}", number + 1, step.sql.join(";\n     ")))?;
                }
                Ok(())
            }
        };
    }
    for note in &notes {
        eprintln!("note: {}", plain(note));
    }
    let name = format!("expand {}", args.version);
    apply::begin(globals, &name, &args.database, &steps, &args.manner).await
}

/// Says all that stands in the way.
pub fn refused(refusals: Vec<String>) -> Failure {
    for refusal in &refusals {
        eprintln!("pgctl: {}", plain(refusal));
    }
    Failure::usage(match refusals.len() {
        1 => "it cannot be done so".to_owned(),
        count => format!("it cannot be done so, for {count} reasons"),
    })
}
