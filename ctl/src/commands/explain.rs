//! `pgctl explain`: every gate, its value, and what would open it.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format, text_or_dash};
use crate::session::Intent;
use crate::wall_time::span;
use proto::control::{ExplainRequest, Gate};

/// Says why the cluster does what it does: every gate, what was found, what would open it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl explain
  pgctl explain --shut        # only what stands in the way
  pgctl explain --node n2     # only what n2 says of itself
  pgctl explain -o json | jq '.cluster[] | select(.open | not)'")]
pub struct Args {
    /// Only the gates that are shut
    #[arg(long)]
    shut: bool,
    /// Only what one node says of itself, and not the coordinator
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let ask = async |mut client: crate::session::Client| client.explain(ExplainRequest {}).await;
    let mut told = frame.session.call(Intent::Read, ask).await?;
    if args.shut {
        told.cluster.retain(|gate| !gate.open);
        told.nodes
            .iter_mut()
            .for_each(|node| node.gates.retain(|gate| !gate.open));
    }
    if let Some(name) = &args.node {
        told.cluster.clear();
        told.nodes.retain(|node| node.node == *name);
        if told.nodes.is_empty() {
            return Err(Failure::Refused {
                id: "not-a-member".to_owned(),
                message: format!("{name:?} is not a member of the cluster"),
                next: "choose a node of `pgctl list`".to_owned(),
            });
        }
    }
    if frame.format == Format::Json {
        return output::json(&told);
    }
    if args.node.is_some() {
        // The coordinator was not asked for.
    } else if told.cluster_unreachable.is_empty() {
        output::line("The coordinator, on the Raft leader:")?;
        gates(&told.cluster)?;
    } else {
        output::line(format!(
            "The coordinator is not reached: {}",
            told.cluster_unreachable
        ))?;
    }
    for node in &told.nodes {
        let age = node
            .report_age_ms
            .map_or_else(|| "nothing heard".to_owned(), |age| format!("{} ago", span(age)));
        output::line(format!("\n{} ({age}):", node.node))?;
        gates(&node.gates)?;
    }
    Ok(())
}

fn gates(gates: &[Gate]) -> Result<(), Failure> {
    if gates.is_empty() {
        return output::line("  nothing to tell");
    }
    let row = |gate: &Gate| {
        let mark = if gate.open { "open" } else { "SHUT" };
        vec![
            mark.to_owned(),
            gate.id.clone(),
            gate.found.clone(),
            text_or_dash(&gate.next),
        ]
    };
    output::table(
        &["GATE", "ID", "FOUND", "WHAT WOULD OPEN IT"],
        gates.iter().map(row),
    )
}
