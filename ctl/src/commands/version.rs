//! `pgctl version`: of this program, and of the agents where they are reached.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format, text_or_dash};
use serde::Serialize;
use std::collections::BTreeMap;

/// Prints the version of pgctl, and of each agent
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl version
  pgctl version --client      # without asking anybody")]
pub struct Args {
    /// Only this program's
    #[arg(long)]
    client: bool,
}

#[derive(Serialize)]
struct Versions {
    pgctl: &'static str,
    agents: BTreeMap<String, String>,
}

pub async fn run(
    frame: impl Fn() -> Result<Frame, Failure>,
    format: Format,
    args: &Args,
) -> Result<(), Failure> {
    let mut versions = Versions {
        pgctl: env!("CARGO_PKG_VERSION"),
        agents: BTreeMap::new(),
    };
    let mut missed = None;
    if !args.client {
        match frame()?.session.cluster().await {
            Ok(cluster) => {
                versions.agents = cluster
                    .members
                    .into_iter()
                    .map(|member| (member.name, member.agent_version))
                    .collect();
            }
            Err(failure) => missed = Some(failure),
        }
    }
    match format {
        Format::Json => output::json(&versions)?,
        Format::Table => {
            output::line(format!("pgctl {}", versions.pgctl))?;
            for (node, version) in &versions.agents {
                output::line(format!("{node} {}", text_or_dash(version)))?;
            }
        }
    }
    missed.map_or(Ok(()), Err)
}
