//! `pgctl backup pin` and `unpin`

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::repositories::{Which, refused};
use crate::wall_time::{now_ms, utc};
use repository::{Pin, parse_time, pin as set, unpin as take};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct PinArgs {
    #[arg(value_name = "BACKUP")]
    id: String,
    /// Until this moment, with a zone, such as '2027-01-01 00:00+00'; otherwise until it is taken off
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// As a legal hold, which only `unpin --hold` takes off
    #[arg(long, conflicts_with = "until")]
    hold: bool,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
pub struct UnpinArgs {
    #[arg(value_name = "BACKUP")]
    id: String,
    /// Take the legal holds off, and not the pins
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Serialize)]
struct Pinned {
    repository: String,
    #[serde(flatten)]
    pin: Pin,
}

#[derive(Serialize)]
struct Unpinned {
    repository: String,
    backup: String,
    taken_off: usize,
}

/// In every repository of the file that has the backup.
pub async fn pin(format: Format, args: &PinArgs) -> Result<(), Failure> {
    let until_ms = match &args.until {
        None => None,
        Some(text) => Some(parse_time(text).ok_or_else(|| {
            Failure::usage(format!(
                "--until {text:?}: give a date, a time and a zone, such as '2027-01-01 00:00+00'"
            ))
        })?),
    };
    if until_ms.is_some_and(|until| until <= now_ms()) {
        return Err(Failure::usage("--until is over already"));
    }
    let mine = Pin {
        backup: args.id.clone(),
        until_ms,
        hold: args.hold,
        reason: args.reason.clone(),
        at_ms: now_ms(),
    };
    let mut pinned = Vec::new();
    let mut last_error = None;
    for opened in args.which.open_each().await? {
        match set(&opened.repository, &opened.line, &mine).await {
            Ok(()) => pinned.push(Pinned {
                repository: opened.config.name,
                pin: mine.clone(),
            }),
            Err(error) => {
                eprintln!("repository {}: {error}", opened.config.name);
                last_error = Some(error);
            }
        }
    }
    if let (true, Some(error)) = (pinned.is_empty(), last_error) {
        return Err(refused(error));
    }
    if format == Format::Json {
        return output::json(&pinned);
    }
    let how = match (args.hold, until_ms) {
        (true, _) => "held until it is taken off with unpin --hold".to_owned(),
        (_, Some(until)) => format!("kept until {}", utc(u64::try_from(until).unwrap_or(0))),
        _ => "kept until it is taken off with unpin".to_owned(),
    };
    for one in &pinned {
        output::line(format!("{} in {}: {how}", args.id, one.repository))?;
    }
    Ok(())
}

pub async fn unpin(format: Format, args: &UnpinArgs) -> Result<(), Failure> {
    let mut done = Vec::new();
    for opened in args.which.open_each().await? {
        let taken_off = take(&opened.repository, &opened.line, &args.id, args.hold)
            .await
            .map_err(refused)?;
        done.push(Unpinned {
            repository: opened.config.name,
            backup: args.id.clone(),
            taken_off,
        });
    }
    if done.iter().all(|one| one.taken_off == 0) {
        let what = if args.hold { "legal hold" } else { "pin" };
        return Err(Failure::refused(
            "not-pinned",
            format!("{} has no {what}", args.id),
        ));
    }
    match format {
        Format::Json => output::json(&done),
        Format::Table => done.iter().try_for_each(|one| {
            output::line(format!(
                "{} in {}: {} taken off",
                args.id, one.repository, one.taken_off
            ))
        }),
    }
}
