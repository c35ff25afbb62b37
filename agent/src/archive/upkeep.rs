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
    let (line, repositories) = opened(&archive).await?;
    let under_way = (archive.sight)().under_way;
    let mut said = Vec::new();
    for (repository, config) in repositories.iter().zip(archive.doors.configs()) {
        let Some(policy) = &config.retention else {
            said.push(format!("{}: no retention", repository.name()));
            continue;
        };
        let done = expire(repository, &line, policy, now_ms(), &under_way, false)
            .await
            .map_err(|error| error.to_string())?;
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
    Ok(said.join("; "))
}

/// Reads a share of every repository, today's part, and mends what another repository has whole.
pub(super) async fn verify_share(archive: Arc<Archive>, percent: u32) -> Result<Read, String> {
    let (line, repositories) = opened(&archive).await?;
    let share = (percent < 100).then(|| Share {
        part: f64::from(percent) / 100.0,
        round: u64::try_from(now_ms() / DAY_MS).unwrap_or(0),
    });
    let (mut said, mut wrong) = (Vec::new(), false);
    for repository in &repositories {
        let verified = look(repository, &line, &repositories, share)
            .await
            .map_err(|error| error.to_string())?;
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
    let said = said.join("; ");
    Ok(if wrong {
        Read::Wrong(said)
    } else {
        Read::Whole(said)
    })
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

async fn opened(archive: &Archive) -> Result<(Line, Vec<Repository>), String> {
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
    Ok((line, repositories))
}

fn now_ms() -> i64 {
    i64::try_from(stamp().0).unwrap_or(i64::MAX)
}
