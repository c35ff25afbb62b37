//! `pgctl dump create`

use crate::cli::Globals;
use crate::commands::backup::create::{best, id, named};
use crate::failure::Failure;
use crate::output::{self, Format, bytes, text_or_dash};
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{CreateDumpRequest, DumpEntry};
use std::io::IsTerminal;
use std::time::Duration;
use tonic::transport::Endpoint;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A database; may be given several times. Without any: all, and the globals
    #[arg(long, value_name = "NAME")]
    database: Vec<String>,
    /// The roles and their settings as well
    #[arg(long)]
    globals: bool,
    /// The node whose server is dumped, instead of the best standby
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let cluster = globals.session()?.cluster().await?;
    let member = match &args.node {
        Some(name) => named(&cluster, name)?,
        None => best(&cluster)?,
    };
    let unreachable = |error: String| Failure::Unreachable {
        tried: vec![format!("{} ({}): {error}", member.name, member.peer)],
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", member.peer))
        .map_err(|error| unreachable(error.to_string()))?
        .connect_timeout(Duration::from_secs(3));
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let request = CreateDumpRequest {
        id: id(),
        databases: args.database.clone(),
        globals: args.globals,
    };
    let of = |status: tonic::Status| {
        Failure::of_agent(&status)
            .unwrap_or_else(|| Failure::local(format!("{}: {}", member.name, status.message())))
    };
    let mut stream = ArchiveClient::new(channel)
        .create_dump(request)
        .await
        .map_err(of)?
        .into_inner();
    eprintln!("dump of {} ({})", member.name, member.role);
    while let Some(progress) = stream.message().await.map_err(of)? {
        if !progress.ended {
            if std::io::stderr().is_terminal() {
                eprint!("\r\x1b[K{} {}", progress.database, bytes(progress.bytes));
            }
            continue;
        }
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        print(globals.output, &progress.dumps)?;
        if !progress.error.is_empty() {
            return Err(Failure::refused("dump-failed", progress.error));
        }
        return Ok(());
    }
    Err(Failure::local(format!(
        "the agent of {} stopped telling",
        member.name
    )))
}

fn print(format: Format, dumps: &[DumpEntry]) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(&dumps);
    }
    let rows = dumps.iter().map(|dump| {
        vec![
            dump.id.clone(),
            text_or_dash(&dump.database),
            bytes(dump.bytes),
            bytes(dump.stored_bytes),
        ]
    });
    output::table(&["DUMP", "DATABASE", "SIZE", "STORED"], rows)
}
