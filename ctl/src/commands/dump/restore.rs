//! `pgctl dump restore`

use crate::failure::Failure;
use crate::output;
use crate::repositories::{Which, refused};
use clap::ArgGroup;
use repository::{Dump, Repository, dumps, read_dump};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("to").args(["file", "dbname"]).required(true))]
pub struct Args {
    #[arg(value_name = "DUMP")]
    id: String,
    /// The file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The database to load it into, as a connection string; runs pg_restore (psql for globals) of your PATH
    #[arg(long, value_name = "CONNECTION")]
    dbname: Option<String>,
    /// Only this table; may be given several times
    #[arg(long, value_name = "TABLE", requires = "dbname")]
    table: Vec<String>,
    /// Only this schema; may be given several times
    #[arg(long, value_name = "SCHEMA", requires = "dbname")]
    schema: Vec<String>,
    /// Drop what is there before it is made anew
    #[arg(long, requires = "dbname")]
    clean: bool,
    /// Where pg_restore and psql are, instead of your PATH: of the dumped server's version or a later one
    #[arg(long, value_name = "DIR", requires = "dbname")]
    bin_dir: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

pub async fn run(args: &Args) -> Result<(), Failure> {
    let opened = args.which.open().await?;
    let found = dumps(&opened.repository, &opened.line).await.map_err(refused)?;
    let dump = found.into_iter().find(|dump| dump.id == args.id).ok_or_else(|| {
        Failure::refused(
            "no-such-dump",
            format!("there is no finished dump {}: see `pgctl dump list`", args.id),
        )
    })?;
    match (&args.file, &args.dbname) {
        (Some(file), _) => to_file(&opened.repository, &dump, file).await,
        (None, Some(dbname)) => load(&opened.repository, &dump, dbname, args).await,
        (None, None) => Err(Failure::usage("give --file or --dbname")),
    }
}

async fn to_file(repository: &Repository, dump: &Dump, path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::local(format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = file.map_err(failed)?;
    read_dump(repository, dump, |piece| file.write_all(piece))
        .await
        .map_err(refused)?;
    file.sync_all().map_err(failed)?;
    let next = if dump.database.is_empty() {
        "load it with: psql -X -f"
    } else {
        "load it with: pg_restore -d DATABASE"
    };
    output::line(format!("{} bytes; {next} {}", dump.bytes, path.display()))
}

async fn load(repository: &Repository, dump: &Dump, dbname: &str, args: &Args) -> Result<(), Failure> {
    let place = |program: &str| match &args.bin_dir {
        Some(folder) => folder.join(program),
        None => PathBuf::from(program),
    };
    let mut command = if dump.database.is_empty() {
        let mut command = Command::new(place("psql"));
        command.args(["-X", "--quiet", "--set=ON_ERROR_STOP=1"]);
        command
    } else {
        let mut command = Command::new(place("pg_restore"));
        command.args(["--exit-on-error", "--no-password"]);
        command.args(args.table.iter().map(|table| format!("--table={table}")));
        command.args(args.schema.iter().map(|schema| format!("--schema={schema}")));
        command.args(
            args.clean
                .then_some("--clean")
                .into_iter()
                .chain(args.clean.then_some("--if-exists")),
        );
        command
    };
    let program = command.get_program().to_string_lossy().into_owned();
    command.arg(format!("--dbname={dbname}")).stdin(Stdio::piped());
    let failed = |error: std::io::Error| Failure::local(format!("{program}: {error}: is it on your PATH?"));
    let mut child = command.spawn().map_err(failed)?;
    let mut input = child
        .stdin
        .take()
        .ok_or_else(|| Failure::local("the program has no input"))?;
    let passed = read_dump(repository, dump, |piece| input.write_all(piece)).await;
    drop(input);
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(Failure::local(format!(
            "{program}: {status}: what it said stands above; it must be of version {} or later (--bin-dir)",
            dump.server_version / 10_000
        )));
    }
    passed.map_err(refused)?;
    output::line(format!("loaded {} bytes of {}", dump.bytes, dump.id))
}
