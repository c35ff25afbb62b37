//! `pgctl dump create`

use crate::cli::Globals;
use crate::commands::backup::create::id;
use crate::commands::through::Through;
use crate::failure::Failure;
use crate::output::{self, Format, bytes, text_or_dash};
use proto::archive::{CreateDumpRequest, DumpEntry};
use std::io::IsTerminal;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A database; may be given several times. Without any: all, and the globals
    #[arg(long, value_name = "NAME")]
    database: Vec<String>,
    /// The roles and their settings as well
    #[arg(long)]
    globals: bool,
    #[command(flatten)]
    through: Through,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let mut chosen = args.through.connect(globals).await?;
    let request = CreateDumpRequest {
        id: id(),
        databases: args.database.clone(),
        globals: args.globals,
    };
    let asked = chosen.client.create_dump(request).await;
    let mut stream = asked.map_err(|status| chosen.failed(&status))?.into_inner();
    eprintln!("dump of {} ({})", chosen.member.name, chosen.member.role);
    while let Some(progress) = stream.message().await.map_err(|status| chosen.failed(&status))? {
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
    Err(chosen.fell_silent())
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
