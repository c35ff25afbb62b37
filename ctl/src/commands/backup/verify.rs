//! `pgctl backup verify`

use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::repositories::{Opened, Which, refused};
use crate::wall_time::now_ms;
use repository::{Repository, Share, Verified, mend, verify};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const DAY_MS: i64 = 86_400_000;
const TELL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read this backup, with all that it is an increment of and its WAL, instead of everything
    #[arg(value_name = "BACKUP")]
    id: Option<String>,
    /// Read a part, such as 5%; another one each day, so that 5% reads everything within 20 days
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "id")]
    share: Option<f64>,
    /// Replace what is damaged or missing by what another repository of the file has; the damaged object is kept aside
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Serialize)]
struct Done {
    repository: String,
    #[serde(flatten)]
    verified: Verified,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .trim_end_matches('%')
        .parse()
        .map_err(|_| "write it as 5%".to_owned())?;
    let right = text.ends_with('%') && number > 0.0 && number <= 100.0;
    right
        .then_some(number / 100.0)
        .ok_or_else(|| "it must be more than 0% and at most 100%".to_owned())
}

pub async fn run(format: Format, args: &Args) -> Result<(), Failure> {
    let round = u64::try_from(now_ms() / DAY_MS).unwrap_or(0);
    let share = args.share.map(|part| Share { part, round });
    let opened = args.which.open_each().await?;
    let sources = sources(args, &opened).await?;
    let mut done = Vec::new();
    for one in &opened {
        let mut told = Instant::now();
        let name = &one.config.name;
        let progress = |read: u64, all: u64| {
            if std::io::stderr().is_terminal() && (told.elapsed() >= TELL || read >= all) {
                told = Instant::now();
                eprint!("\r\x1b[K{name}: {} of {}", bytes(read), bytes(all));
            }
        };
        let mut verified = verify(&one.repository, &one.line, share, args.id.as_deref(), progress)
            .await
            .map_err(refused)?;
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        if args.repair {
            mend(&one.repository, &one.line, &sources, &mut verified.findings)
                .await
                .map_err(refused)?;
        }
        done.push(Done {
            repository: name.clone(),
            verified,
        });
    }
    match format {
        Format::Json => output::json(&done)?,
        Format::Table => done.iter().try_for_each(print)?,
    }
    let all = done.iter().flat_map(|one| &one.verified.findings);
    let left = all.filter(|finding| finding.mended_from.is_none()).count();
    if left == 0 {
        return Ok(());
    }
    Err(Failure::Refused {
        id: "damaged".to_owned(),
        message: format!("{left} objects are damaged, missing or not what they should be"),
        next: if args.repair {
            "no repository has them as they should be: take a new backup (`pgctl backup create`)"
        } else {
            "repeat with --repair if there is another repository, or take a new backup (`pgctl backup create`)"
        }
        .to_owned(),
    })
}

/// What a damaged repository is mended from: every repository of the file, also where one was named.
async fn sources(args: &Args, opened: &[Opened]) -> Result<Vec<Repository>, Failure> {
    if !args.repair {
        return Ok(Vec::new());
    }
    let every = Which {
        repository: None,
        ..args.which.clone()
    };
    let mut sources: Vec<Repository> = opened.iter().map(|one| one.repository.clone()).collect();
    for config in every.read_each()?.0 {
        if sources.iter().any(|source| source.name() == config.name) {
            continue;
        }
        match Repository::open(&config).await {
            Ok(source) => sources.push(source),
            Err(error) => eprintln!("nothing is taken from repository {}: {error}", config.name),
        }
    }
    Ok(sources)
}

fn print(done: &Done) -> Result<(), Failure> {
    let verified = &done.verified;
    output::line(format!(
        "repository {}: read {} of {} objects, {} of {}; {} backups whole, {} pages with the right checksum",
        done.repository,
        verified.objects,
        verified.all_objects,
        bytes(verified.stored_bytes),
        bytes(verified.all_stored_bytes),
        verified.backups,
        verified.pages
    ))?;
    for finding in &verified.findings {
        let mended = finding
            .mended_from
            .as_ref()
            .map(|from| format!("; MENDED from {from}"))
            .unwrap_or_default();
        output::line(format!(
            "  {}: {}: {}{mended}",
            finding.wrong, finding.key, finding.why
        ))?;
    }
    Ok(())
}
