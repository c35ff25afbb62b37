//! `pgctl ddl janitor`: what earlier changes have left behind.

use super::agents::{self, ask};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, confirm};
use crate::session::{Intent, Session};
use proto::rollout::{JanitorReply, JanitorRequest};

/// Finds what schema changes have left behind: invalid indexes, halves of rebuilds and detachments, constraints never validated
///
/// With --repair it removes or completes what needs no judgement, on the primary. The agents need `rollout.role` in node.toml for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl janitor --database app
  pgctl ddl janitor --database app --repair --yes")]
pub struct Args {
    /// The database to look at
    #[arg(long, short = 'd', value_name = "NAME", default_value = "postgres")]
    database: String,
    /// Repair what can be repaired
    #[arg(long)]
    repair: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let session = agents::patient(globals)?;
    let found = look(&session, &args.database, false).await?;
    if !args.repair || found.leftovers.iter().all(|leftover| leftover.repair.is_empty()) {
        return show(globals.output, &found);
    }
    for leftover in found
        .leftovers
        .iter()
        .filter(|leftover| !leftover.repair.is_empty())
    {
        eprintln!("  {};", output::plain(&leftover.repair));
    }
    confirm("Run these?", args.yes)?;
    let cluster = session.cluster().await?;
    let primary = cluster.members.iter().find(|member| member.holder);
    let primary =
        primary.ok_or_else(|| Failure::refused("no-primary", "there is no primary: see `pgctl explain`"))?;
    // A validation may read for hours.
    let primary = Session::new(
        vec![primary.peer.clone()],
        std::time::Duration::from_secs(24 * 3600),
    );
    let repaired = look(&primary, &args.database, true).await?;
    show(globals.output, &repaired)
}

async fn look(session: &Session, database: &str, repair: bool) -> Result<JanitorReply, Failure> {
    let request = JanitorRequest {
        database: database.to_owned(),
        repair,
    };
    let intent = if repair { Intent::Write } else { Intent::Read };
    ask(session, intent, async |mut client| {
        client.janitor(request.clone()).await
    })
    .await
}

fn show(format: Format, reply: &JanitorReply) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(reply);
    }
    if reply.leftovers.is_empty() {
        return output::line(format!("nothing is left behind (asked {})", reply.node));
    }
    let rows = reply.leftovers.iter().map(|leftover| {
        let what = if leftover.outcome.is_empty() {
            &leftover.repair
        } else {
            &leftover.outcome
        };
        vec![
            leftover.kind.clone(),
            leftover.object.clone(),
            leftover.detail.clone(),
            if what.is_empty() {
                "look at it yourself".to_owned()
            } else {
                what.clone()
            },
        ]
    });
    output::table(&["kind", "object", "detail", "repair"], rows)
}
