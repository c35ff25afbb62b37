//! `pgctl switchover`: a planned change of primary.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format, confirm};
use crate::session::Session;
use crate::wall_time::span;
use proto::control::{Progress, SwitchoverRequest};

/// Makes another node the primary, with nothing lost
///
/// The new primary must be a streaming standby. Until the old one is shut down, the switchover goes back to it by itself if
/// anything stands in the way.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl switchover                # to the synchronous standby that is furthest; asks first
  pgctl switchover --to n2 --yes  # without a question")]
pub struct Args {
    /// The new primary; without it, the synchronous standby that is furthest
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let cluster = frame.session.cluster().await?;
    let target = args
        .to
        .as_deref()
        .unwrap_or("the synchronous standby that is furthest");
    let from = if cluster.holder.is_empty() {
        "no primary"
    } else {
        &cluster.holder
    };
    confirm(
        &format!("Switch {} over from {from} to {target}?", cluster.name),
        args.yes,
    )?;
    let request = SwitchoverRequest {
        request: Session::request_id(),
        to: args.to.clone().unwrap_or_default(),
    };
    let end = frame
        .session
        .follow(async |mut client| client.switchover(request.clone()).await, tell)
        .await?;
    finish(frame, &end)
}

/// Tells of one stage on standard error.
pub fn tell(progress: &Progress) -> Result<(), Failure> {
    if progress.outcome.is_none() {
        eprintln!(
            "[{:>8}] {}: {}",
            span(progress.elapsed_ms),
            output::plain(&progress.phase),
            output::plain(&progress.message)
        );
    }
    Ok(())
}

/// Prints the outcome; fails where it is a failure.
pub fn finish(frame: &Frame, end: &Progress) -> Result<(), Failure> {
    let outcome = end.outcome.clone().unwrap_or_default();
    if frame.format == Format::Json {
        output::json(end)?;
    } else if outcome.succeeded {
        output::line(format!("{} ({})", end.message, span(end.elapsed_ms)))?;
    }
    if outcome.succeeded {
        return Ok(());
    }
    let next = "pgctl explain, pgctl status".to_owned();
    Err(Failure::Refused {
        id: "failed".to_owned(),
        message: end.message.clone(),
        next,
    })
}
