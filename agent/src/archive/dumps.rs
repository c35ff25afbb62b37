//! Logical dumps of this node's server, one database after the other, and the globals.

use super::Archive;
use crate::wall_time::stamp;
use proto::archive::{DumpEntry, DumpProgress};
use repository::{Dump, DumpWriter, Line, Repository, forget_dumps};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes that are read from the program at once.
const PIECE: usize = 256 << 10;
/// What the ids of scheduled dumps begin with.
const SCHEDULED: &str = "dump-";
/// What nobody has written to for so long was given up.
const ABANDONED_MS: i64 = 2 * 86_400_000;

pub(super) struct Asked {
    pub id: String,
    /// None: all that take connections.
    pub databases: Vec<String>,
    pub globals: bool,
    /// Where none are named: all of them, though the globals were asked for.
    pub all: bool,
}

/// Takes the dumps and tells of each.
pub(super) async fn run(
    archive: &Arc<Archive>,
    asked: Asked,
    tell: mpsc::Sender<Result<DumpProgress, Status>>,
) {
    let mut done = Vec::new();
    let outcome = take_all(archive, &asked, &tell, &mut done).await;
    let last = DumpProgress {
        database: String::new(),
        bytes: 0,
        ended: true,
        error: outcome.err().unwrap_or_default(),
        dumps: done,
    };
    // Whoever asked may be gone.
    let _ = tell.send(Ok(last)).await;
}

/// Takes the dumps that the cluster has ordered, and lets those of runs before go.
pub(super) async fn claimed(
    archive: Arc<Archive>,
    id: String,
    databases: Vec<String>,
    keep: usize,
) -> Result<String, String> {
    let asked = Asked {
        id,
        all: databases.is_empty(),
        globals: databases.is_empty(),
        databases,
    };
    // Nobody is told on the way.
    let (tell, _) = mpsc::channel(1);
    let mut done = Vec::new();
    take_all(&archive, &asked, &tell, &mut done).await?;
    let stored: u64 = done.iter().map(|dump| dump.stored_bytes).sum();
    let mut said = format!("{} dumps, {stored} bytes stored", done.len());
    if keep > 0 {
        let gone = forget(&archive, keep).await;
        said += &gone.map_or_else(
            |error| format!("; older ones could not be deleted: {error}"),
            |gone| format!("; {gone} older ones deleted"),
        );
    }
    Ok(said)
}

async fn forget(archive: &Archive, keep: usize) -> Result<u64, String> {
    let (system_id, _) = archive
        .source
        .identity()
        .ok_or("the data directory cannot be read")?;
    let line = Line::new(&archive.config.cluster, system_id);
    let repositories = archive
        .doors
        .plain(&line)
        .await
        .map_err(|error| error.to_string())?;
    let mut gone = 0;
    for repository in &repositories {
        let here = forget_dumps(
            repository,
            &line,
            SCHEDULED,
            keep,
            now_ms().saturating_sub(ABANDONED_MS),
        )
        .await;
        gone = here.map_err(|error| error.to_string())?.max(gone);
    }
    Ok(gone)
}

async fn take_all(
    archive: &Arc<Archive>,
    asked: &Asked,
    tell: &mpsc::Sender<Result<DumpProgress, Status>>,
    done: &mut Vec<DumpEntry>,
) -> Result<(), String> {
    let facts = archive.source.facts().await?;
    let line = Line::new(&archive.config.cluster, facts.system_id);
    let repositories = archive
        .doors
        .plain(&line)
        .await
        .map_err(|error| error.to_string())?;
    let mut databases = asked.databases.clone();
    if asked.databases.is_empty() && (asked.all || !asked.globals) {
        databases = all_databases(archive).await?;
    }
    let globals = asked.globals || asked.databases.is_empty();
    let all = databases.into_iter().chain(globals.then(String::new));
    for database in all {
        let label = if database.is_empty() { "globals" } else { &database };
        // The name of an object: what else there may be in a database's name is left out.
        let plain: String = label
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let of = Dump {
            id: format!("{}-{plain}-{}", asked.id, done.len()),
            cluster: line.cluster().to_owned(),
            incarnation: line.incarnation().to_owned(),
            node: archive.config.node.clone(),
            database: database.clone(),
            server_version: facts.server_version,
            begun_ms: now_ms(),
            ended_ms: 0,
            parts: Vec::new(),
            bytes: 0,
            hash: String::new(),
            stored_bytes: 0,
        };
        let told = |bytes: u64| {
            let progress = DumpProgress {
                database: label.to_owned(),
                bytes,
                ended: false,
                error: String::new(),
                dumps: Vec::new(),
            };
            // Nobody waits for what is only told on the way.
            let _ = tell.try_send(Ok(progress));
        };
        let dump = take(archive, &repositories, &line, of, told).await;
        let dump = dump.map_err(|error| format!("{label}: {error}"))?;
        tracing::info!(dump = dump.id, bytes = dump.bytes, "the dump is complete");
        done.push(DumpEntry {
            id: dump.id,
            database: dump.database,
            bytes: dump.bytes,
            stored_bytes: dump.stored_bytes,
        });
    }
    Ok(())
}

async fn take(
    archive: &Archive,
    repositories: &[Repository],
    line: &Line,
    of: Dump,
    tell: impl Fn(u64),
) -> Result<Dump, String> {
    let mut command = if of.database.is_empty() {
        let mut command = client(archive, "pg_dumpall");
        command.arg("--globals-only");
        command
    } else {
        let mut command = client(archive, "pg_dump");
        // Compressed by the repository: twice gains nothing.
        command.args(["--format=custom", "--compress=0"]);
        command.arg(format!("--dbname={}", conninfo(&of.database)));
        command
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let (Some(mut output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the program has no output".to_owned());
    };
    let said = tokio::spawn(async move {
        let mut said = String::new();
        // What cannot be read is not told.
        let _ = errors.read_to_string(&mut said).await;
        said
    });
    let mut writer = DumpWriter::begin(repositories, line, of)
        .await
        .map_err(|error| error.to_string())?;
    let (mut piece, mut bytes) = (vec![0; PIECE], 0);
    loop {
        let length = output.read(&mut piece).await.map_err(|error| error.to_string())?;
        if length == 0 {
            break;
        }
        writer
            .write(&piece[..length])
            .await
            .map_err(|error| error.to_string())?;
        bytes += length as u64;
        tell(bytes);
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        let said = said.await.unwrap_or_default();
        return Err(format!("{status}: {}", said.trim()));
    }
    writer.finish(now_ms()).await.map_err(|error| error.to_string())
}

async fn all_databases(archive: &Archive) -> Result<Vec<String>, String> {
    let mut command = client(archive, "psql");
    command.args(["-AtX", "--dbname=postgres", "-c"]);
    command.arg("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1");
    match super::scratch::run(command).await? {
        Some((true, said)) => Ok(said.lines().map(str::to_owned).collect()),
        Some((false, said)) => Err(format!("psql: {}", said.trim())),
        None => Err("psql is not installed beside the server: name the databases".to_owned()),
    }
}

/// One of the server's programs, as a client of it.
fn client(archive: &Archive, program: &str) -> Command {
    let socket: &PathBuf = &archive.config.socket;
    let mut command = archive.source.at_low_priority(program);
    command.args(["--no-password", "--username=postgres"]);
    if let Some(folder) = socket.parent() {
        command.arg(format!("--host={}", folder.display()));
    }
    if let Some(port) = socket.extension().and_then(|port| port.to_str()) {
        command.arg(format!("--port={port}"));
    }
    command
}

/// A database by its name, whatever is in that.
fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"))
}

fn now_ms() -> i64 {
    i64::try_from(stamp().0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_databases_name_is_taken_as_it_is() {
        assert_eq!(conninfo("shop"), "dbname='shop'");
        assert_eq!(conninfo(r"it's host=x \"), r"dbname='it\'s host=x \\'");
    }
}
