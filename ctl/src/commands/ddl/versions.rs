//! `pgctl ddl versions`: which versions of the schema there are, and when each was last used.

use super::agents::{self, ask};
use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Intent, Session};
use crate::wall_time::utc;
use ddl::expand::{Facts, State, Version};
use proto::rollout::{VersionsReply, VersionsRequest};

/// Shows the versions of a schema that `pgctl ddl expand` has opened, and when each was last written by
///
/// A version is a schema with views. Writes are noted as they happen; reads are looked for when a version is contracted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl versions --database app
  pgctl ddl versions --database app -o json")]
pub struct Args {
    /// The database to look at
    #[arg(long, short = 'd', value_name = "NAME", default_value = "postgres")]
    database: String,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let session = agents::patient(globals)?;
    let (_, versions) = look(&session, &args.database, &[]).await?;
    if globals.output == Format::Json {
        return output::json(&versions);
    }
    if versions.is_empty() {
        return output::line("there is one version only: the tables themselves");
    }
    let rows = versions.iter().map(|version| {
        let tables: Vec<String> = version.expansion.tables.iter().map(changed).collect();
        vec![
            version.version.clone(),
            version.state.name().to_owned(),
            second(Some(version.begun_unix)),
            second(version.old_written_unix),
            second(version.new_written_unix),
            tables.join("; "),
            next(version.state).to_owned(),
        ]
    });
    let headings = [
        "version",
        "state",
        "begun",
        "old written",
        "new written",
        "changes",
        "next",
    ];
    output::table(&headings, rows)
}

/// What a table's new version has that its old one does not.
fn changed(table: &ddl::expand::Table) -> String {
    let mut parts = Vec::new();
    if table.name != table.new_name {
        parts.push(format!("is {}", table.new_name));
    }
    for column in &table.columns {
        let shadow = column.shadow.as_ref();
        let ty = shadow.map_or_else(String::new, |shadow| {
            format!(" {} to {}", shadow.old_ty, shadow.ty)
        });
        let name = if column.name == column.new_name {
            String::new()
        } else {
            format!(" is {}", column.new_name)
        };
        if !ty.is_empty() || !name.is_empty() {
            parts.push(format!("{}{name}{ty}", column.name));
        }
    }
    format!("{}: {}", table.name, parts.join(", "))
}

fn next(state: State) -> &'static str {
    match state {
        State::Expanding => "its rollout ends, or: contract --back",
        State::Open => "contract, or: contract --back",
        State::Contracting => "contract again",
        State::Contracted => "programs back to the tables, then: contract --drop-views",
    }
}

fn second(unix: Option<i64>) -> String {
    unix.and_then(|second| u64::try_from(second).ok())
        .map_or_else(|| "-".to_owned(), |second| utc(second.saturating_mul(1000)))
}

/// Asks an agent, and reads its answer.
pub async fn look(
    session: &Session,
    database: &str,
    tables: &[String],
) -> Result<(Facts, Vec<Version>), Failure> {
    let request = VersionsRequest {
        database: database.to_owned(),
        tables: tables.to_vec(),
    };
    let reply: VersionsReply = ask(session, Intent::Read, async |mut client| {
        client.versions(request.clone()).await
    })
    .await?;
    let unread = |error: serde_json::Error| {
        Failure::local(format!(
            "what {} says of its versions cannot be read: {error}; use the pgctl of the agents' version",
            reply.node
        ))
    };
    let facts = serde_json::from_str(&reply.facts).map_err(unread)?;
    let versions = serde_json::from_str(&reply.versions).map_err(unread)?;
    Ok((facts, versions))
}

/// The primary's agent alone: a standby may not have heard yet of what has just been done.
pub async fn primary(session: &Session) -> Result<Session, Failure> {
    let cluster = session.cluster().await?;
    let primary = cluster.members.iter().find(|member| member.holder);
    let primary =
        primary.ok_or_else(|| Failure::refused("no-primary", "there is no primary: see `pgctl explain`"))?;
    Ok(Session::new(
        vec![primary.peer.clone()],
        std::time::Duration::from_secs(60),
    ))
}
