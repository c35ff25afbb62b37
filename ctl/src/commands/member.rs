//! `pgctl member`: who belongs to the cluster.

use super::Frame;
use super::pause::report;
use crate::failure::Failure;
use crate::output::{self, Format, confirm, or_dash, text_or_dash};
use crate::session::{Client, Intent, Session};
use crate::wall_time::span;
use clap::{Subcommand, ValueEnum};
use proto::control::{AddMemberRequest, MaintenanceRequest, Member, RemoveMemberRequest};

/// Adds, removes and lists members, and leaves one out for maintenance
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl member list
  pgctl member add n4 --peer 10.0.0.4:7432     # then start its agent
  pgctl member maintenance n3 on
  pgctl member remove n3")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists the members with their addresses and numbers
    #[command(after_help = "Examples:\n  pgctl member list -o json")]
    List,
    /// Takes a new node into the cluster; its agent may be started before or after
    #[command(after_help = "\
Examples:
  pgctl member add n4 --peer 10.0.0.4:7432
  pgctl member add w2 --peer 10.0.0.9:7432 --witness")]
    Add {
        /// The name in its node.toml
        name: String,
        /// host:port of its agent's gRPC port
        #[arg(long, value_name = "HOST:PORT")]
        peer: String,
        /// It has no PostgreSQL and only votes
        #[arg(long)]
        witness: bool,
        /// Never promote it by itself
        #[arg(long)]
        nofailover: bool,
        /// A tag of your own; can be given several times
        #[arg(long = "tag", value_name = "NAME=VALUE")]
        tags: Vec<String>,
    },
    /// Takes a node out of the cluster for good; its data stay where they are
    #[command(after_help = "Examples:\n  pgctl member remove n3 --yes")]
    Remove {
        name: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Leaves a node out of every automatic decision, or takes it in again
    #[command(after_help = "Examples:\n  pgctl member maintenance n3 on\n  pgctl member maintenance n3 off")]
    Maintenance { name: String, switch: Switch },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::List => list(frame).await,
        Verb::Add {
            name,
            peer,
            witness,
            nofailover,
            tags,
        } => {
            let request = AddMemberRequest {
                request: Session::request_id(),
                name: name.clone(),
                peer: peer.clone(),
                witness: *witness,
                nofailover: *nofailover,
                tags: tags.iter().map(|tag| pair(tag)).collect::<Result<_, _>>()?,
            };
            add(frame, request).await
        }
        Verb::Remove { name, yes } => {
            confirm(&format!("Take {name} out of the cluster for good?"), *yes)?;
            let request = RemoveMemberRequest {
                request: Session::request_id(),
                name: name.clone(),
            };
            let ask = async |mut client: Client| client.remove_member(request.clone()).await;
            let change = frame.session.call(Intent::Write, ask).await?;
            let done = format!(
                "{name} is no member any more: stop its agent; to add it again, empty its state directory"
            );
            report(frame, &change, &done, "it was no member")
        }
        Verb::Maintenance { name, switch } => {
            let on = *switch == Switch::On;
            let request = MaintenanceRequest {
                request: Session::request_id(),
                name: name.clone(),
                on,
            };
            let ask = async |mut client: Client| client.maintenance(request.clone()).await;
            let change = frame.session.call(Intent::Write, ask).await?;
            let state = if on {
                "left out of every automatic decision"
            } else {
                "taken into account again"
            };
            report(frame, &change, &format!("{name} is {state}"), "it was so already")
        }
    }
}

async fn add(frame: &Frame, request: AddMemberRequest) -> Result<(), Failure> {
    let ask = async |mut client: Client| client.add_member(request.clone()).await;
    let added = frame.session.call(Intent::Write, ask).await?;
    match frame.format {
        Format::Json => output::json(&added),
        Format::Table => output::line(format!(
            "{} is node {}: start its agent; it votes as soon as it has caught up",
            request.name, added.id
        )),
    }
}

async fn list(frame: &Frame) -> Result<(), Failure> {
    let members = frame.session.cluster().await?.members;
    if frame.format == Format::Json {
        return output::json(&members);
    }
    let row = |member: &Member| {
        let tags: Vec<String> = member
            .tags
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        vec![
            member.id.to_string(),
            member.name.clone(),
            member.kind.clone(),
            if member.voter {
                "yes".to_owned()
            } else {
                "no".to_owned()
            },
            member.peer.clone(),
            text_or_dash(&member.http),
            text_or_dash(&member.postgres),
            or_dash(member.report_age_ms.map(span)),
            text_or_dash(&member.agent_version),
            text_or_dash(&tags.join(" ")),
        ]
    };
    let headings = [
        "ID", "NODE", "KIND", "VOTES", "PEER", "HTTP", "POSTGRES", "HEARD", "AGENT", "TAGS",
    ];
    output::table(&headings, members.iter().map(row))
}

fn pair(text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("{text:?} is no tag: give NAME=VALUE"))),
    }
}
