//! Scheduled work on the repositories alone: retention, and reading a share of them.

use super::Archive;
use crate::wall_time::stamp;
use repository::{Error, Line, Repository, Share, Verified, expire, mend, verify};
use std::sync::Arc;

const DAY_MS: i64 = 86_400_000;

/// What reading came to.
pub(super) enum Read {
    Whole(String),
    /// Something is wrong, and no repository has it as it should be.
    Wrong(String),
}

/// Carries every repository's retention out; says what went.
pub(super) async fn expire_all(archive: Arc<Archive>) -> Result<String, String> {
    let (line, repositories, mut trouble) = opened(&archive).await?;
    let under_way = (archive.sight)().under_way;
    let mut said = Vec::new();
    for repository in &repositories {
        let config = archive.doors.config(repository.name());
        let Some(policy) = config.and_then(|config| config.retention.as_ref()) else {
            said.push(format!("{}: no retention", repository.name()));
            continue;
        };
        let done = match expire(repository, &line, policy, now_ms(), &under_way, false).await {
            Ok(done) => done,
            Err(error) => {
                trouble = Some(error);
                continue;
            }
        };
        let (marked, gone) = (
            done.going.iter().filter(|it| it.marked_ms.is_none()).count(),
            done.deleted,
        );
        said.push(format!(
            "{}: {marked} marked, {} backups and {} segments deleted, {} bytes",
            repository.name(),
            gone.backups.len(),
            gone.segments,
            gone.stored_bytes
        ));
    }
    ended(said, trouble)
}

/// Reads a share of every repository, today's part, and mends what another repository has whole.
pub(super) async fn verify_share(archive: Arc<Archive>, percent: u32) -> Result<Read, String> {
    let (line, repositories, mut trouble) = opened(&archive).await?;
    let share = (percent < 100).then(|| Share {
        part: f64::from(percent) / 100.0,
        round: u64::try_from(now_ms() / DAY_MS).unwrap_or(0),
    });
    let (mut said, mut wrong) = (Vec::new(), false);
    for repository in &repositories {
        let verified = match look(repository, &line, &repositories, share).await {
            Ok(verified) => verified,
            Err(error) => {
                trouble = Some(error);
                continue;
            }
        };
        let left: Vec<&str> = verified
            .findings
            .iter()
            .filter(|finding| finding.mended_from.is_none())
            .map(|finding| finding.key.as_str())
            .collect();
        let mended = verified.findings.len() - left.len();
        let mut text = format!("{}: {} objects read", repository.name(), verified.objects);
        if mended > 0 {
            text += &format!(", {mended} mended");
        }
        if let Some(first) = left.first() {
            wrong = true;
            text += &format!(
                ", {} WRONG, {first} the first: see `pgctl backup verify`",
                left.len()
            );
        }
        said.push(text);
    }
    if wrong {
        // What is damaged is not to be hidden by what could not be read.
        said.extend(trouble.map(|error| error.to_string()));
        return Ok(Read::Wrong(said.join("; ")));
    }
    ended(said, trouble).map(Read::Whole)
}

/// What was done, and what could not be.
fn ended(mut said: Vec<String>, trouble: Option<Error>) -> Result<String, String> {
    let failed = trouble.is_some();
    said.extend(trouble.map(|error| error.to_string()));
    let said = said.join("; ");
    if failed { Err(said) } else { Ok(said) }
}

async fn look(
    repository: &Repository,
    line: &Line,
    all: &[Repository],
    share: Option<Share>,
) -> Result<Verified, Error> {
    let mut verified = verify(repository, line, share, None, |_, _| {}).await?;
    if verified.findings.is_empty() {
        return Ok(verified);
    }
    for finding in &verified.findings {
        tracing::error!(
            repository = repository.name(),
            key = finding.key,
            wrong = %finding.wrong,
            why = finding.why,
            "found while reading"
        );
    }
    mend(repository, line, all, &mut verified.findings).await?;
    Ok(verified)
}

/// The repositories that can be used, and why another one cannot.
async fn opened(archive: &Archive) -> Result<(Line, Vec<Repository>, Option<Error>), String> {
    let (system_id, _) = archive
        .source
        .identity()
        .ok_or("the data directory cannot be read")?;
    let line = Line::new(&archive.config.cluster, system_id);
    let (usable, trouble) = archive.doors.usable(&line).await;
    let repositories = usable.into_iter().map(|opened| opened.plain).collect();
    Ok((line, repositories, trouble))
}

fn now_ms() -> i64 {
    i64::try_from(stamp().0).unwrap_or(i64::MAX)
}
