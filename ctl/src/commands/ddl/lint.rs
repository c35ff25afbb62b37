//! `pgctl ddl lint`: judges SQL without a server.

use super::files::{self, Source};
use crate::failure::Failure;
use crate::output;
use clap::ValueEnum;
use ddl::catalog::Catalog;
use ddl::lint::{JudgedFile, Options};
use ddl::report;
use ddl::verdict::Severity;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The configuration that is looked for in the current directory.
const CONFIG: &str = ".pgctl-ddl.toml";
/// The parser calls itself for each level of nesting; this is enough for the longest statement that it is given.
const STACK_BYTES: usize = 512 << 20;

/// Says which locks, rewrites and scans SQL scripts mean, and how to do it more safely; asks no server
///
/// Files are judged together, in the order given (a directory's by name): tables that an earlier one creates are in nobody's use.
/// Suppress a rule with a comment before or behind a statement: -- pgctl:ignore H45 because the table is empty
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl ddl lint migrations/
  pg_dump --schema-only app > schema.sql; pgctl ddl lint --schema schema.sql --pg 15 0042_add_index.sql
  pgctl ddl lint --format github --threshold warning migrations/*.sql
  pgctl ddl lint --fix 0042_add_index.sql
  git show HEAD:up.sql | pgctl ddl lint -

Exit codes:
  0  nothing at or above the threshold
  1  findings at or above the threshold
  2  a file could not be read, or a statement not parsed")]
pub struct Args {
    /// Scripts, directories of scripts, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// The server's major version, 13 to 18 (default: 18, or what the configuration says)
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u16).range(13..=18))]
    pg: Option<u16>,
    /// A dump of the schema as it is (pg_dump --schema-only): types, indexes and keys are judged by it
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Each file runs in a transaction, as most migration tools do
    #[arg(long)]
    transaction: bool,
    /// The form of the output (default: text, or json with -o json)
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Form>,
    /// From which severity on findings make the exit code 1
    #[arg(long, value_enum, default_value = "danger", value_name = "SEVERITY")]
    threshold: Threshold,
    /// Rules that say nothing, besides the configuration's
    #[arg(long, value_name = "RULE,...", value_delimiter = ',')]
    ignore: Vec<String>,
    /// Write the safer form into the files, where that needs no judgement
    #[arg(long)]
    fix: bool,
    /// The configuration (default: .pgctl-ddl.toml in the current directory, if there is one)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
    Sarif,
    Github,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Threshold {
    Danger,
    Warning,
    Advice,
}

impl Threshold {
    fn severity(self) -> Severity {
        match self {
            Threshold::Danger => Severity::Danger,
            Threshold::Warning => Severity::Warning,
            Threshold::Advice => Severity::Advice,
        }
    }
}

pub fn run(format: output::Format, args: &Args) -> Result<ExitCode, Failure> {
    let options = options(args)?;
    let schema = match &args.schema {
        Some(path) => Some(
            files::source(path)
                .text
                .map_err(|why| Failure::usage(format!("--schema {}: {why}", path.display())))?,
        ),
        None => None,
    };
    let sources = files::read(&args.paths);
    let mut unreadable = false;
    for Source { path, text } in &sources {
        if let Err(why) = text {
            unreadable = true;
            eprintln!("pgctl: {path}: {why}");
        }
    }
    let texts: Vec<(String, String)> = sources
        .into_iter()
        .filter_map(|source| source.text.ok().map(|text| (source.path, text)))
        .collect();
    let judged = judge(texts.clone(), schema, options)?;
    unreadable |= judged
        .iter()
        .flat_map(|file| &file.statements)
        .any(|statement| report::unread(statement).is_some());
    if args.fix {
        fix(&texts, &judged)?;
    }
    let form = args.format.unwrap_or(match format {
        output::Format::Json => Form::Json,
        output::Format::Table => Form::Text,
    });
    match form {
        Form::Json => output::json(&report::json(&judged))?,
        Form::Sarif => output::json(&report::sarif(&judged))?,
        Form::Github => print(&report::github(&judged))?,
        Form::Text => print(&report::text(&judged))?,
    }
    let threshold = args.threshold.severity();
    let found = judged
        .iter()
        .flat_map(|file| &file.statements)
        .flat_map(|statement| &statement.verdict.findings)
        .any(|finding| finding.severity >= threshold);
    Ok(ExitCode::from(match (unreadable, found) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }))
}

fn print(text: &str) -> Result<(), Failure> {
    match text.trim_end() {
        "" => Ok(()),
        text => output::line(text),
    }
}

fn options(args: &Args) -> Result<Options, Failure> {
    let path = args
        .config
        .clone()
        .or_else(|| Path::new(CONFIG).exists().then(|| CONFIG.into()));
    let mut options = match path {
        Some(path) => {
            let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
            let text = files::source(&path).text.map_err(wrong)?;
            Options::parse(&text).map_err(wrong)?
        }
        None => Options::default(),
    };
    if let Some(version) = args.pg {
        options.pg = version;
    }
    options.transaction |= args.transaction;
    options
        .ignore
        .extend(args.ignore.iter().map(|rule| rule.to_ascii_uppercase()));
    options.check().map_err(Failure::usage)?;
    Ok(options)
}

/// On a thread with room for deeply nested statements.
fn judge(
    texts: Vec<(String, String)>,
    schema: Option<String>,
    options: Options,
) -> Result<Vec<JudgedFile>, Failure> {
    let work = move || {
        let catalog = schema.map_or_else(Catalog::default, |dump| ddl::lint::schema(&dump));
        ddl::lint::lint(&texts, catalog, &options)
    };
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(|error| Failure::local(format!("no thread could be started: {error}")))?
        .join()
        .map_err(|_| Failure::local("the linter broke on these files: please report them"))
}

fn fix(texts: &[(String, String)], judged: &[JudgedFile]) -> Result<(), Failure> {
    for ((path, text), file) in texts.iter().zip(judged) {
        let (new, count) = ddl::lint::fixed(text, file);
        if count == 0 || path == "-" {
            continue;
        }
        std::fs::write(path, new)
            .map_err(|error| Failure::local(format!("{path} cannot be written: {error}")))?;
        eprintln!("pgctl: {path}: {count} statements were rewritten; read them before you run them");
    }
    Ok(())
}
