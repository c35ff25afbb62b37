//! One table, or one database, as it was.

use super::Args;
use super::scratch::{PORT, Scratch};
use crate::failure::Failure;
use crate::output::{self, Format};
use serde::Serialize;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Serialize)]
struct Done {
    database: String,
    tables: Vec<String>,
    /// The file that was written, or empty.
    file: String,
}

pub(super) async fn run(format: Format, args: &Args, below: &Path) -> Result<(), Failure> {
    let (database, tables) = what(args)?;
    // Before an hour's work, and not after it.
    let file = match &args.dump {
        Some(path) => Some((path, create(path)?)),
        None => None,
    };
    let scratch = match Scratch::restore(args, below).await {
        Ok(scratch) => scratch,
        Err(failure) => {
            if let Some((path, _)) = &file {
                // It is empty, and made a moment ago.
                let _ = std::fs::remove_file(path);
            }
            return Err(failure);
        }
    };
    eprintln!("taking it out");
    let mut dump = Command::new(scratch.program("pg_dump"));
    dump.args(["--format=custom", "--no-password", "--username=postgres"])
        .arg(format!("--host={}", scratch.socket_dir().display()))
        .arg(format!("--port={PORT}"))
        .arg(format!("--dbname={}", quoted(&database)))
        .args(tables.iter().map(|table| format!("--table={table}")))
        .stdin(Stdio::null());
    match (&args.dbname, &file) {
        (Some(target), _) => load(&scratch, dump, target, args)?,
        (None, Some((_, file))) => {
            let copy = file
                .try_clone()
                .map_err(|error| Failure::local(error.to_string()))?;
            succeeded("pg_dump", dump.stdout(copy).status())?;
            file.sync_all()
                .map_err(|error| Failure::local(error.to_string()))?;
        }
        (None, None) => return Err(Failure::usage("give --dbname or --dump")),
    }
    let file = file
        .map(|(path, _)| path.display().to_string())
        .unwrap_or_default();
    match format {
        Format::Json => output::json(&Done {
            database,
            tables,
            file,
        }),
        Format::Table if file.is_empty() => output::line(format!("loaded what {database} had then")),
        Format::Table => output::line(format!("load it with: pg_restore -d DATABASE {file}")),
    }
}

/// The database, and the tables in it; none means all of it.
fn what(args: &Args) -> Result<(String, Vec<String>), Failure> {
    if let Some(database) = &args.database {
        return Ok((database.clone(), args.table.clone()));
    }
    let mut found: Option<String> = None;
    let mut tables = Vec::new();
    for table in &args.table {
        let parts: Vec<&str> = table.splitn(3, '.').collect();
        let [database, schema, name] = parts.as_slice() else {
            return Err(Failure::usage(format!(
                "--table {table}: give DATABASE.SCHEMA.TABLE, or --database and SCHEMA.TABLE"
            )));
        };
        if found.as_deref().is_some_and(|known| known != *database) {
            return Err(Failure::usage(
                "tables of several databases: take them out one database after the other",
            ));
        }
        found = Some((*database).to_owned());
        tables.push(format!("{schema}.{name}"));
    }
    match found {
        Some(database) => Ok((database, tables)),
        None => Err(Failure::usage("give --table or --database")),
    }
}

/// A name that is no connection string, whatever is in it.
fn quoted(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"))
}

fn create(path: &Path) -> Result<std::fs::File, Failure> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map_err(|error| Failure::local(format!("{}: {error}", path.display())))
}

fn load(scratch: &Scratch, mut dump: Command, target: &str, args: &Args) -> Result<(), Failure> {
    let failed =
        |program: &'static str| move |error: std::io::Error| Failure::local(format!("{program}: {error}"));
    let mut dumping = dump.stdout(Stdio::piped()).spawn().map_err(failed("pg_dump"))?;
    let made = dumping
        .stdout
        .take()
        .ok_or_else(|| Failure::local("pg_dump has no output"))?;
    let mut load = Command::new(scratch.program("pg_restore"));
    load.args(["--exit-on-error", "--single-transaction", "--no-password"]);
    if args.clean {
        load.args(["--clean", "--if-exists"]);
    }
    let loaded = load.arg(format!("--dbname={target}")).stdin(made).status();
    let dumped = dumping.wait();
    // If the one that loads has ended, the other one could not go on: that is the first thing to say.
    succeeded("pg_restore", loaded)?;
    succeeded("pg_dump", dumped)
}

fn succeeded(program: &str, ended: std::io::Result<std::process::ExitStatus>) -> Result<(), Failure> {
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::local(format!(
            "{program}: {status}: what it said stands above"
        ))),
        Err(error) => Err(Failure::local(format!("{program}: {error}"))),
    }
}
