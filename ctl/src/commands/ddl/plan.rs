//! `pgctl ddl plan`: what a rollout would do, on the cluster's own schema.

use super::agents::{self, ask};
use super::forecast::{self, Forecast};
use super::planning::{self, Planned, Scripts};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::session::Intent;
use ddl::plan::Step;
use proto::rollout::{SchemaReply, TraceReply, TraceRequest, Traced};
use serde::Serialize;

/// Shows the steps that a change would be carried out in, judged by the cluster's own schema and tried on an empty copy of it
///
/// The schema, its sizes and the server's version come from one agent's server. The statements run on a server that this agent starts
/// beside it and throws away, loaded with the schema and no rows: locks, rewrites and scans are read from it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl plan --database app 0042_orders.sql
  pgctl ddl plan --database app --as-written -o json 0042_orders.sql
  pgctl ddl plan --database app --no-trace migrations/")]
pub struct Args {
    #[command(flatten)]
    scripts: Scripts,
    /// Judge by the text and the catalogue alone
    #[arg(long)]
    no_trace: bool,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let planned = planning::plan(globals, &args.scripts).await?;
    let trace = if args.no_trace {
        None
    } else {
        let request = TraceRequest {
            database: args.scripts.database.clone(),
            steps: planning::sent(&planned.steps),
        };
        let session = agents::patient(globals)?;
        Some(
            ask(&session, Intent::Read, async |mut client| {
                client.trace(request.clone()).await
            })
            .await?,
        )
    };
    let shown = shown(&planned, trace.as_ref(), &args.scripts.database);
    match globals.output {
        Format::Json => output::json(&shown),
        Format::Table => output::line(text(&shown)),
    }
}

#[derive(Serialize)]
struct Shown {
    name: String,
    database: String,
    /// Whose schema it was judged by, and where it was traced; empty where it was not.
    schema_of: String,
    traced_on: String,
    server_version: u32,
    steps: Vec<ShownStep>,
}

#[derive(Serialize)]
struct ShownStep {
    path: String,
    line: usize,
    sql: Vec<String>,
    class: &'static str,
    /// How it is taken up again after a failure at any point.
    resumed: &'static str,
    undo: Vec<String>,
    /// By relation.
    locks: std::collections::BTreeMap<String, String>,
    waits_without_limit: bool,
    rewrites: Vec<String>,
    scans: Vec<String>,
    /// Where text and server disagree; the server is right.
    differences: Vec<String>,
    said_by_the_server: Vec<String>,
    error: String,
    not_traced: String,
    rewritten: bool,
    /// What is going on in the cluster that the step would meet.
    warnings: Vec<String>,
    findings: Vec<ShownFinding>,
    forecast: Forecast,
}

#[derive(Serialize)]
struct ShownFinding {
    rule: &'static str,
    severity: ddl::verdict::Severity,
    message: String,
}

fn shown(planned: &Planned, trace: Option<&TraceReply>, database: &str) -> Shown {
    let steps = planned.steps.iter().enumerate().map(|(number, step)| {
        let traced = trace.and_then(|trace| trace.steps.get(number));
        shown_step(step, traced, &planned.schema)
    });
    Shown {
        name: planned.name.clone(),
        database: database.to_owned(),
        schema_of: planned.schema.node.clone(),
        traced_on: trace.map(|trace| trace.node.clone()).unwrap_or_default(),
        server_version: planned.schema.server_version,
        steps: steps.collect(),
    }
}

fn shown_step(step: &Step, traced: Option<&Traced>, schema: &SchemaReply) -> ShownStep {
    let forecast = forecast::of(step, traced, schema);
    let claimed: std::collections::BTreeMap<String, String> = step.locks.iter().cloned().collect();
    let seen = traced.filter(|it| it.not_traced.is_empty() && it.error.is_empty());
    let mut differences = Vec::new();
    let (mut locks, mut rewrites, mut scans) = (claimed.clone(), step.rewrites.clone(), step.scans.clone());
    if let Some(seen) = seen {
        for lock in &seen.locks {
            match claimed.get(&lock.relation) {
                Some(mode) if *mode != lock.mode => {
                    differences.push(format!(
                        "{}: {} by the text, {} on the server",
                        lock.relation, mode, lock.mode
                    ));
                }
                _ => {}
            }
            locks.insert(lock.relation.clone(), lock.mode.clone());
        }
        for name in seen.rewrites.iter().filter(|name| !rewrites.contains(name)) {
            differences.push(format!("{name} is written anew, which the text does not show"));
        }
        rewrites.clone_from(&seen.rewrites);
        scans.clone_from(&seen.scans);
    }
    ShownStep {
        path: step.path.clone(),
        line: step.line,
        sql: step.sql.clone(),
        class: step.class.name(),
        resumed: step.class.resumed(),
        undo: step.undo.clone(),
        locks,
        waits_without_limit: step.patient,
        rewrites,
        scans,
        differences,
        said_by_the_server: traced.map(|it| it.said.clone()).unwrap_or_default(),
        error: traced.map(|it| it.error.clone()).unwrap_or_default(),
        not_traced: traced.map(|it| it.not_traced.clone()).unwrap_or_default(),
        rewritten: step.rewritten,
        warnings: warnings(step, schema),
        findings: step
            .findings
            .iter()
            .map(|finding| ShownFinding {
                rule: finding.rule,
                severity: finding.severity,
                message: finding.message.clone(),
            })
            .collect(),
        forecast,
    }
}

/// H81: a vacuum against wraparound is not cancelled by who waits for it.
fn warnings(step: &Step, schema: &SchemaReply) -> Vec<String> {
    let vacuumed = schema
        .tables
        .iter()
        .filter(|table| table.wraparound_vacuum && step.locks.iter().any(|(name, _)| *name == table.table));
    let said = vacuumed.map(|table| {
        format!(
            "a vacuum to prevent wraparound is at work on {}, and gives way to nobody (H81): the step waits for it",
            table.table
        )
    });
    said.collect()
}

fn text(shown: &Shown) -> String {
    let mut lines = vec![format!(
        "{} steps in {}, PostgreSQL {}, by the schema of {}{}",
        shown.steps.len(),
        shown.database,
        shown.server_version / 10_000,
        shown.schema_of,
        if shown.traced_on.is_empty() {
            ", not traced".to_owned()
        } else {
            format!(", traced on {}", shown.traced_on)
        }
    )];
    for (number, step) in shown.steps.iter().enumerate() {
        lines.push(String::new());
        let safer = if step.rewritten { ", in a safer form" } else { "" };
        lines.push(format!("{}. {}:{}{safer}", number + 1, step.path, step.line));
        lines.extend(
            step.sql
                .iter()
                .map(|sql| format!("     {};", sql.replace('\n', "\n     "))),
        );
        let mut say = |what: &str, text: String| {
            if !text.is_empty() {
                lines.push(format!("   {what:<9} {text}"));
            }
        };
        say("error", step.error.clone());
        let locks: Vec<String> = step
            .locks
            .iter()
            .map(|(name, mode)| format!("{name} {mode}"))
            .collect();
        say("locks", locks.join(", "));
        if step.waits_without_limit {
            say(
                "",
                "waiting for them stops nobody: it waits as long as it takes".to_owned(),
            );
        } else if !locks.is_empty() {
            say(
                "",
                "asked for for 0.1 to 0.8 s at a time, when nobody is in the way".to_owned(),
            );
        }
        say("rewrites", step.rewrites.join(", "));
        say("reads", step.scans.join(", "));
        let forecast = &step.forecast;
        if forecast.seconds > 0 || forecast.wal_bytes > 0 {
            let stops = match forecast.stops_others_seconds {
                0 => String::new(),
                seconds => format!("; others are stopped for {seconds} s of it"),
            };
            say(
                "forecast",
                format!(
                    "about {} s over {} in {} rows, {} of WAL, standbys {} s behind{stops} (rough)",
                    forecast.seconds,
                    bytes(forecast.bytes),
                    forecast.rows,
                    bytes(forecast.wal_bytes),
                    forecast.replica_lag_seconds
                ),
            );
        }
        say("standbys", forecast.standbys.clone());
        say("resumed", step.resumed.to_owned());
        if forecast.irreversible {
            say("undo", "none: what it does stays done".to_owned());
        } else {
            say("undo", step.undo.join("; "));
        }
        say("untraced", step.not_traced.clone());
        for difference in &step.differences {
            say("differs", difference.clone());
        }
        for warning in &step.warnings {
            say("warning", warning.clone());
        }
        for finding in &step.findings {
            say(finding.rule, finding.message.clone());
        }
    }
    lines.join("\n")
}
