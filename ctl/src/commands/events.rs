//! `pgctl events`: what happened.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::Intent;
use crate::wall_time::utc;
use proto::control::{Event, EventsRequest};
use std::collections::VecDeque;
use std::time::Duration;

/// Tells what happened lately, and with --follow what happens from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl events --last 20
  pgctl events --follow
  pgctl events -o json        # one JSON document per line")]
pub struct Args {
    /// Go on, until Ctrl-C; goes over to another agent when one goes away
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only the newest so many of the past
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let past = events(frame, 0).await?;
    let skipped = past.len().saturating_sub(args.last.unwrap_or(past.len()));
    for event in past.iter().skip(skipped) {
        show(frame, event)?;
    }
    let mut next = past.back().map_or(0, |event| event.number + 1);
    if !args.follow {
        return Ok(());
    }
    loop {
        next = follow(frame, next).await?;
        eprintln!("the agent went away; asking the others");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// All events from a number on, as the first agent that answers has them.
async fn events(frame: &Frame, from: u64) -> Result<VecDeque<Event>, Failure> {
    let ask =
        async |mut client: crate::session::Client| client.events(EventsRequest { from, follow: false }).await;
    let mut stream = frame.session.call(Intent::Read, ask).await?;
    let mut events = VecDeque::new();
    loop {
        match stream.message().await {
            Ok(Some(event)) => events.push_back(event),
            Ok(None) => return Ok(events),
            Err(status) => {
                return Err(Failure::local(format!(
                    "the events broke off: {}",
                    status.message()
                )));
            }
        }
    }
}

/// Shows events as they happen until the agent goes away; the number to go on from.
async fn follow(frame: &Frame, from: u64) -> Result<u64, Failure> {
    let ask =
        async |mut client: crate::session::Client| client.events(EventsRequest { from, follow: true }).await;
    let mut stream = frame.session.call(Intent::Read, ask).await?;
    let mut next = from;
    while let Ok(Some(event)) = stream.message().await {
        show(frame, &event)?;
        next = event.number + 1;
    }
    Ok(next)
}

fn show(frame: &Frame, event: &Event) -> Result<(), Failure> {
    match frame.format {
        Format::Json => output::json_line(event),
        Format::Table => output::line(format!(
            "{:>5}  {}  {:<24} {}",
            event.number,
            utc(event.at_unix_ms),
            event.kind,
            event.text
        )),
    }
}
