//! `pgctl pause`: automation off.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Intent, Session};
use proto::control::{Change, PauseRequest};

/// Turns automation off: no failover by itself until `pgctl resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl pause --reason 'moving the racks'
  pgctl resume")]
pub struct Args {
    /// Why; shown by list and status until the pause ends
    #[arg(long, default_value = "no reason was given")]
    reason: String,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let request = PauseRequest {
        request: Session::request_id(),
        reason: args.reason.clone(),
    };
    let ask = async |mut client: crate::session::Client| client.pause(request.clone()).await;
    let change = frame.session.call(Intent::Write, ask).await?;
    report(
        frame,
        &change,
        "paused: nothing fails over by itself until `pgctl resume`",
        "it was paused already",
    )
}

/// Prints what a change did.
pub fn report(frame: &Frame, change: &Change, done: &str, unchanged: &str) -> Result<(), Failure> {
    match frame.format {
        Format::Json => output::json(change),
        Format::Table => output::line(if change.changed { done } else { unchanged }),
    }
}
