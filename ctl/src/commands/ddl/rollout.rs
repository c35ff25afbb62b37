//! `pgctl ddl status`, `pause`, `resume`, `abort` and `history`.

use super::agents::{self, ask};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, confirm};
use crate::session::{Intent, Session};
use crate::wall_time::{span, utc};
use proto::rollout::{DirectRequest, HistoryRequest, Status};

/// Shows the rollout that is under way, or the last one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgctl ddl status\n  pgctl ddl status -o json")]
pub struct StatusArgs {}

/// Lets the step under way end, and begins no other
///
/// A step that waits for its locks stops at once; a backfill stops behind its batch.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgctl ddl pause")]
pub struct PauseArgs {}

/// Goes on with a rollout that was paused, or tries a step again that the server refused
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgctl ddl resume")]
pub struct ResumeArgs {}

/// Ends the rollout: what was begun is cleaned up, what was done stays done unless --undo is given
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl abort
  pgctl ddl abort --undo --yes    # takes the steps that were done back, last first")]
pub struct AbortArgs {
    /// Take back what was done; refused where a step cannot be
    #[arg(long)]
    undo: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Shows the rollouts before the last one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgctl ddl history\n  pgctl ddl history -o json")]
pub struct HistoryArgs {}

pub async fn status(globals: &Globals) -> Result<(), Failure> {
    let status = agents::status(&globals.session()?).await?;
    show(globals.output, &status)
}

pub async fn direct(globals: &Globals, order: &str, undo: bool) -> Result<(), Failure> {
    let request = DirectRequest {
        request: Session::request_id(),
        order: order.to_owned(),
        undo,
    };
    let session = globals.session()?;
    let order = async |mut client: agents::Client| client.direct(request.clone()).await;
    let status = ask(&session, Intent::Write, order).await?;
    show(globals.output, &status)
}

pub async fn abort(globals: &Globals, args: &AbortArgs) -> Result<(), Failure> {
    let question = if args.undo {
        "End the rollout and take back what it has done? What was written to new columns and tables is lost."
    } else {
        "End the rollout? What it has done stays done."
    };
    confirm(question, args.yes)?;
    direct(globals, "abort", args.undo).await
}

pub async fn history(globals: &Globals) -> Result<(), Failure> {
    let session = globals.session()?;
    let asked = async |mut client: agents::Client| client.history(HistoryRequest {}).await;
    let reply = ask(&session, Intent::Read, asked).await?;
    if globals.output == Format::Json {
        return output::json(&reply.rollouts);
    }
    let rows = reply.rollouts.into_iter().map(|past| {
        vec![
            utc(past.since_unix_ms),
            past.name,
            past.database,
            past.phase,
            format!("{}/{}", past.steps_done, past.steps),
            format!("{} ms", past.longest_stall_ms),
            output::text_or_dash(&past.message),
        ]
    });
    output::table(
        &["begun", "name", "database", "ended", "steps", "stall", "message"],
        rows,
    )
}

/// Prints how a rollout stands.
pub fn show(format: Format, status: &Status) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(status);
    }
    let Some(rollout) = &status.rollout else {
        return output::line("there is no rollout: begin one with `pgctl ddl apply`");
    };
    output::line(format!(
        "{} in {}: {}{}",
        rollout.name,
        rollout.database,
        rollout.phase,
        if rollout.message.is_empty() {
            String::new()
        } else {
            format!(": {}", rollout.message)
        }
    ))?;
    output::line(format!("begun {}, id {}", utc(rollout.since_unix_ms), rollout.id))?;
    let rows = rollout.steps.iter().enumerate().map(|(number, step)| {
        let done = step.state == "done";
        let of = |value: u64, unit: &str| {
            if done {
                format!("{value} {unit}")
            } else {
                "-".to_owned()
            }
        };
        vec![
            (number + 1).to_string(),
            step.state.clone(),
            step.class.clone(),
            if done { span(step.took_ms) } else { "-".to_owned() },
            of(u64::from(step.tries), "tries"),
            of(step.stall_ms, "ms"),
            if step.rows > 0 {
                step.rows.to_string()
            } else {
                "-".to_owned()
            },
            output::text_or_dash(&step.note),
            step.title.clone(),
        ]
    });
    let headings = [
        "step",
        "state",
        "class",
        "took",
        "locks",
        "stall",
        "rows",
        "note",
        "statement",
    ];
    output::table(&headings, rows)?;
    if status.live.is_some() {
        output::line(line(status))?;
    }
    if !rollout.fingerprint.is_empty() {
        output::line(format!("schema {}", rollout.fingerprint))?;
    }
    Ok(())
}

/// What is going on, on one line.
pub fn line(status: &Status) -> String {
    let Some(rollout) = &status.rollout else {
        return "no rollout".to_owned();
    };
    let done = rollout.steps.iter().filter(|step| step.state == "done").count();
    let mut line = format!("{done}/{} {}", rollout.steps.len(), rollout.phase);
    if !rollout.message.is_empty() {
        line.push_str(&format!(": {}", rollout.message));
    }
    if let Some(live) = &status.live {
        line.push_str(&format!(", step {} {}", live.step + 1, live.doing));
        if live.rows > 0 {
            let left = live
                .eta_s
                .map_or_else(String::new, |eta| format!(", {eta} s left"));
            line.push_str(&format!(
                " {} of about {} rows, {} a second{left}",
                live.rows, live.rows_total, live.rows_per_s
            ));
        }
        if !live.detail.is_empty() {
            line.push_str(&format!(" ({})", live.detail));
        }
    }
    line
}
