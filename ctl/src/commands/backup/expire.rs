//! `pgctl backup expire`

use super::schedule;
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::repositories::{Opened, Which, refused};
use crate::wall_time::{now_ms, utc};
use repository::{Age, Expiry, Kept, Policy, Reason, Window, expire};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would go and what could be restored then, and change nothing
    #[arg(long)]
    preview: bool,
    /// Keep so many full backups, with their increments and all WAL since
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: Option<u32>,
    /// Keep what restores every moment of so long ago, such as 14d
    #[arg(long, value_name = "AGE")]
    within: Option<Age>,
    /// Keep one backup of each of so many days
    #[arg(long, value_name = "COUNT")]
    daily: Option<u32>,
    /// Of each of so many weeks
    #[arg(long, value_name = "COUNT")]
    weekly: Option<u32>,
    /// Of each of so many months
    #[arg(long, value_name = "COUNT")]
    monthly: Option<u32>,
    /// Of each of so many years
    #[arg(long, value_name = "COUNT")]
    yearly: Option<u32>,
    /// Delete what has been marked for so long, such as 24h; 0s: at once
    #[arg(long, value_name = "AGE")]
    grace: Option<Age>,
    #[command(flatten)]
    which: Which,
}

#[derive(Serialize)]
struct Done {
    repository: String,
    preview: bool,
    #[serde(flatten)]
    expiry: Expiry,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let format = globals.output;
    let under_way = match schedule::under_way(globals).await {
        Ok(under_way) => under_way,
        Err(_) => {
            eprintln!(
                "no agent says which backups are being made: what nobody has written to for two days is taken for given up"
            );
            Vec::new()
        }
    };
    let mut done = Vec::new();
    for opened in args.which.open_each().await? {
        let Some(policy) = policy(args, &opened)? else {
            eprintln!("repository {} has no retention: nothing goes", opened.config.name);
            continue;
        };
        let expiry = expire(
            &opened.repository,
            &opened.line,
            &policy,
            now_ms(),
            &under_way,
            args.preview,
        )
        .await
        .map_err(refused)?;
        done.push(Done {
            repository: opened.config.name,
            preview: args.preview,
            expiry,
        });
    }
    if done.is_empty() {
        return Err(Failure::usage(format!(
            "no repository of {} has a policy: add `retention = {{ within = \"14d\" }}` to its \
             [[archive.repositories]], or give one, such as --within 14d",
            args.which.config.display()
        )));
    }
    match format {
        Format::Json => output::json(&done),
        Format::Table => done.iter().try_for_each(print),
    }
}

/// The policy of the command line, where there is one; otherwise the repository's.
fn policy(args: &Args, opened: &Opened) -> Result<Option<Policy>, Failure> {
    let calendar = [args.daily, args.weekly, args.monthly, args.yearly];
    let given = args.last.is_some() || args.within.is_some() || calendar.iter().any(Option::is_some);
    let mut policy = match (&opened.config.retention, given) {
        (None, false) => return Ok(None),
        (Some(kept), false) => kept.clone(),
        (configured, true) => Policy {
            last: args.last,
            within: args.within,
            daily: args.daily.unwrap_or(0),
            weekly: args.weekly.unwrap_or(0),
            monthly: args.monthly.unwrap_or(0),
            yearly: args.yearly.unwrap_or(0),
            grace: configured
                .as_ref()
                .map_or(Policy::default().grace, |configured| configured.grace),
        },
    };
    policy.grace = args.grace.unwrap_or(policy.grace);
    policy.check().map_err(Failure::usage)?;
    Ok(Some(policy))
}

fn print(done: &Done) -> Result<(), Failure> {
    let expiry = &done.expiry;
    output::line(format!("repository {}", done.repository))?;
    for kept in &expiry.verdict.kept {
        output::line(format!("  stays  {}  {}", kept.backup, reasons(kept)))?;
    }
    for going in &expiry.going {
        let state = match (going.marked_ms, going.finished) {
            (None, _) if done.preview => format!("would be marked, and go {}", time(going.due_ms)),
            (None, _) => format!("is marked now, and goes {}", time(going.due_ms)),
            (Some(_), _) => format!("was marked, and goes {}", time(going.due_ms)),
        };
        let unfinished = if going.finished { "" } else { "  (never finished)" };
        output::line(format!(
            "  goes   {}  {}, {state}{unfinished}",
            going.backup,
            bytes(going.stored_bytes)
        ))?;
    }
    let segments: u64 = expiry
        .verdict
        .wal
        .iter()
        .map(|doomed| doomed.span.last - doomed.span.first + 1)
        .sum();
    if segments > 0 {
        output::line(format!(
            "  goes   WAL that nothing needs then: {segments} segments, {}",
            bytes(expiry.wal_bytes)
        ))?;
    }
    for id in &expiry.rescued {
        output::line(format!("  was marked and stays: {id}"))?;
    }
    for (when, windows) in [("now", &expiry.before), ("then", &expiry.after)] {
        if windows.is_empty() {
            output::line(format!("  {when} nothing can be restored"))?;
        }
        for window in windows {
            output::line(format!("  {when} can be restored: {}", shown(window)))?;
        }
    }
    let deleted = &expiry.deleted;
    if !done.preview {
        output::line(format!(
            "  deleted: {} backups, {} segments, {}",
            deleted.backups.len(),
            deleted.segments,
            bytes(deleted.stored_bytes)
        ))?;
    }
    Ok(())
}

fn shown(window: &Window) -> String {
    let to = window.to_ms.map_or_else(|| window.to.clone(), time);
    format!(
        "{} to {to}, on timeline {} ({} backups)",
        time(window.from_ms),
        window.timeline,
        window.backups.len()
    )
}

fn reasons(kept: &Kept) -> String {
    let words: Vec<String> = kept.reasons.iter().map(reason).collect();
    words.join(", ")
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Last => "among the last".to_owned(),
        Reason::Within => "within the time".to_owned(),
        Reason::BeginsWindow => "the time within begins with it".to_owned(),
        Reason::Daily => "daily".to_owned(),
        Reason::Weekly => "weekly".to_owned(),
        Reason::Monthly => "monthly".to_owned(),
        Reason::Yearly => "yearly".to_owned(),
        Reason::Pinned(None) => "pinned".to_owned(),
        Reason::Pinned(Some(until)) => format!("pinned until {}", time(*until)),
        Reason::Held => "held".to_owned(),
        Reason::Newest => "the newest that is complete".to_owned(),
        Reason::NewestProven => "the newest that was proven".to_owned(),
        Reason::WaitingForWal => "its WAL may still come".to_owned(),
        Reason::UnderWay => "it is being made".to_owned(),
        Reason::NeededBy(id) => format!("{id} is an increment of it"),
    }
}

fn time(ms: i64) -> String {
    utc(u64::try_from(ms).unwrap_or(0))
}
