//! `pgctl unfence`: a node that was fenced by hand may run again.

use super::Frame;
use super::pause::report;
use crate::failure::Failure;
use crate::session::{Client, Intent, Session};
use proto::control::UnfenceNodeRequest;

/// Lets a node that was fenced by hand run its server and hold the lease again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgctl unfence n2")]
pub struct Args {
    #[arg(value_name = "NODE")]
    node: String,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let request = UnfenceNodeRequest {
        request: Session::request_id(),
        name: args.node.clone(),
    };
    let ask = async |mut client: Client| client.unfence_node(request.clone()).await;
    let change = frame.session.call(Intent::Write, ask).await?;
    let done = format!("{} may run again; it starts as a standby", args.node);
    report(frame, &change, &done, "it was not fenced")
}
