//! `pgctl resume`: automation on again.

use super::Frame;
use super::pause::report;
use crate::failure::Failure;
use crate::session::{Intent, Session};
use proto::control::ResumeRequest;

/// Turns automation on again after `pgctl pause`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl resume")]
pub struct Args {}

pub async fn run(frame: &Frame, _: &Args) -> Result<(), Failure> {
    let request = ResumeRequest {
        request: Session::request_id(),
    };
    let ask = async |mut client: crate::session::Client| client.resume(request.clone()).await;
    let change = frame.session.call(Intent::Write, ask).await?;
    report(frame, &change, "resumed", "it was not paused")
}
