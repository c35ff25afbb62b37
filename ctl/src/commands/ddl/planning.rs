//! Scripts, a schema and what is made of them: for `plan` and for `apply`.

use super::agents::{self, ask};
use super::files::{self, Source};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::plain;
use crate::session::Intent;
use ddl::lint::Options;
use ddl::plan::{Class, PlanOptions, Step};
use proto::rollout as wire;
use proto::rollout::{SchemaReply, SchemaRequest};
use std::path::PathBuf;

/// The parser calls itself for each level of nesting; this is enough for the longest statement that it is given.
const STACK_BYTES: usize = 512 << 20;

#[derive(Debug, clap::Args)]
pub struct Scripts {
    /// Scripts, directories of scripts, or - for standard input; one after the other
    #[arg(required = true, value_name = "FILE")]
    pub paths: Vec<PathBuf>,
    /// The database that is changed
    #[arg(long, short = 'd', value_name = "NAME", default_value = "postgres")]
    pub database: String,
    /// Keep every statement as it is, also where a safer form is known
    #[arg(long)]
    pub as_written: bool,
    /// Each file is one transaction
    #[arg(long)]
    pub transaction: bool,
}

/// What was made of scripts.
pub struct Planned {
    pub name: String,
    pub schema: SchemaReply,
    pub steps: Vec<Step>,
}

/// Reads the scripts and the schema, and cuts steps.
pub async fn plan(globals: &Globals, scripts: &Scripts) -> Result<Planned, Failure> {
    let mut texts = Vec::new();
    for Source { path, text } in files::read(&scripts.paths) {
        let text = text.map_err(|why| Failure::usage(format!("{path}: {why}")))?;
        texts.push((path, text));
    }
    let session = agents::patient(globals)?;
    let request = SchemaRequest {
        database: scripts.database.clone(),
    };
    let schema = ask(&session, Intent::Read, async |mut client| {
        client.schema(request.clone()).await
    })
    .await?;
    let name = texts
        .iter()
        .map(|(path, _)| path.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let options = PlanOptions {
        lint: Options {
            pg: u16::try_from(schema.server_version / 10_000).unwrap_or(ddl::lint::NEWEST),
            transaction: scripts.transaction,
            ..Options::default()
        },
        as_written: scripts.as_written,
    };
    let dump = schema.dump.clone();
    let work = move || ddl::plan::plan(&texts, &ddl::lint::schema(&dump), &options);
    let planned = with_stack(work)?;
    let steps = planned.map_err(|refusals| {
        for refusal in &refusals {
            eprintln!(
                "pgctl: {}:{}: {}",
                plain(&refusal.path),
                refusal.line,
                plain(&refusal.reason)
            );
        }
        Failure::usage(format!(
            "{} statements cannot be part of a rollout",
            refusals.len()
        ))
    })?;
    if steps.is_empty() {
        return Err(Failure::usage(
            "the scripts have no statement: nothing is to be done",
        ));
    }
    Ok(Planned { name, schema, steps })
}

/// Does what the parser needs room for.
pub fn with_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(|error| Failure::local(format!("no thread could be started: {error}")))?
        .join()
        .map_err(|_| Failure::local("the planner broke on these files: please report them"))
}

/// Tells of steps before they are carried out.
pub fn say(steps: &[Step]) {
    for (number, step) in steps.iter().enumerate() {
        let safer = if step.rewritten { " (safer form)" } else { "" };
        eprintln!(
            "{:>3}. {}{safer}",
            number + 1,
            plain(&step.sql.join("; ").replace('\n', " "))
        );
    }
}

/// Steps as agents take them.
pub fn sent(steps: &[Step]) -> Vec<wire::Step> {
    let steps = steps.iter().map(|step| wire::Step {
        sql: step.sql.clone(),
        settings: step.settings.clone(),
        class: Some(class(&step.class)),
        locks: step
            .locks
            .iter()
            .map(|(relation, mode)| wire::Lock {
                relation: relation.clone(),
                mode: mode.clone(),
            })
            .collect(),
        patient: step.patient,
        undo: step.undo.clone(),
        line: u32::try_from(step.line).unwrap_or(u32::MAX),
    });
    steps.collect()
}

fn class(class: &Class) -> wire::Class {
    let kind = class.name().to_owned();
    let plain = wire::Class {
        kind,
        ..wire::Class::default()
    };
    match class.clone() {
        Class::Transaction | Class::Outside => plain,
        Class::CreateIndex {
            table,
            index,
            unique,
            definition,
        } => wire::Class {
            table,
            object: index,
            unique,
            definition,
            ..plain
        },
        Class::DropIndex { index, if_exists } => wire::Class {
            object: index,
            if_exists,
            ..plain
        },
        Class::Reindex { relation } => wire::Class {
            object: relation,
            ..plain
        },
        Class::Detach { parent, child } => wire::Class {
            table: parent,
            object: child,
            ..plain
        },
        Class::Backfill { table, set, filter } => wire::Class {
            table,
            definition: set,
            filter,
            ..plain
        },
    }
}
