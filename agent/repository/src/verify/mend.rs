//! Replacing damaged objects by what another repository has.

use super::{Finding, Wrong};
use crate::catalogue::Catalogue;
use crate::envelope::{self, Header, Kind, hash};
use crate::error::Error;
use crate::inventory::inventory;
use crate::layout::Line;
use crate::page_header::check_segment;
use crate::repository::Repository;
use crate::wal_name::Segment;
use agent_core::pg::SystemId;
use std::collections::BTreeMap;

/// Mends what can be mended of `findings`, and notes from where. What is damaged is kept in `quarantine/verify`.
///
/// # Errors
/// The repository that is to be mended does not take it.
pub async fn mend(
    repository: &Repository,
    line: &Line,
    sources: &[Repository],
    findings: &mut [Finding],
) -> Result<u64, Error> {
    let mut writers: BTreeMap<String, Repository> = BTreeMap::new();
    let mut mended = 0;
    let mendable = |finding: &&mut Finding| {
        matches!(
            finding.wrong,
            Wrong::Damaged | Wrong::Missing | Wrong::Misnamed | Wrong::Unreadable
        )
    };
    for finding in findings.iter_mut().filter(mendable) {
        let Some(kind) = kind_of(line, &finding.key) else {
            continue;
        };
        for source in sources.iter().filter(|source| source.id() != repository.id()) {
            let Ok((header, content)) = source.read(&finding.key).await else {
                continue;
            };
            if !fits(repository, line, &finding.key, &header, &content).await {
                continue;
            }
            let key_name = kind.data_key();
            if !writers.contains_key(key_name) {
                let writer = repository.encrypting(line, key_name).await?;
                writers.insert(key_name.to_owned(), writer);
            }
            let Some(writer) = writers.get(key_name) else {
                continue;
            };
            set_aside(repository, line, &finding.key).await?;
            repository.delete(&finding.key).await?;
            writer
                .create(
                    finding.key.clone(),
                    header.kind,
                    &header.name,
                    header.about,
                    content,
                )
                .await?;
            // What is there now is what was meant to be.
            writer.read(&finding.key).await?;
            finding.mended_from = Some(source.name().to_owned());
            mended += 1;
            break;
        }
    }
    Ok(mended)
}

/// Mends one segment that whoever fetched it found damaged or missing; whether it was mended. One that is only not there yet,
/// at the end of the archive, or that retention has deleted, is let be.
///
/// # Errors
/// The repository does not answer, or does not take it.
pub async fn mend_segment(
    repository: &Repository,
    line: &Line,
    sources: &[Repository],
    segment: Segment,
) -> Result<bool, Error> {
    let key = line.segment(segment);
    let wrong = match repository.read(&key).await {
        Ok(_) => return Ok(false),
        Err(error) if error.is_missing() => {
            let there = inventory(repository, line).await?;
            let number = segment.number(there.segment_bytes);
            let gaps = there.unexpected_gaps();
            if !gaps.iter().any(|gap| gap.contains(segment.timeline, number)) {
                return Ok(false);
            }
            Wrong::Missing
        }
        Err(Error::Damaged { .. }) => Wrong::Damaged,
        Err(error) => return Err(error),
    };
    let mut findings = [Finding {
        key,
        wrong,
        why: String::new(),
        mended_from: None,
    }];
    mend(repository, line, sources, &mut findings)
        .await
        .map(|mended| mended > 0)
}

/// What two repositories have in common.
enum Common<'a> {
    Wal,
    OfBackup(&'a str),
}

impl Common<'_> {
    /// Of what the data key is that it is encrypted with.
    fn data_key(&self) -> &str {
        match self {
            Common::Wal => "wal",
            Common::OfBackup(id) => id,
        }
    }
}

/// `None` for what each repository has of its own: keys, marks, quarantine.
fn kind_of<'a>(line: &Line, key: &'a str) -> Option<Common<'a>> {
    let below = key.strip_prefix(&format!("{line}/"))?;
    let mut words = below.split('/');
    match (words.next()?, words.next()?) {
        ("wal" | "history", _) => Some(Common::Wal),
        ("backups", id) => Some(Common::OfBackup(id)),
        _ => None,
    }
}

/// Whether another repository's object is what should be here.
async fn fits(repository: &Repository, line: &Line, key: &str, header: &Header, content: &[u8]) -> bool {
    let name = super::name_of(key);
    // A header that is whole says which content it was.
    if let Ok(Some(object)) = repository.store.get(key).await
        && let Ok((ours, _)) = envelope::header(&object)
        && ours.name == header.name
        && ours.hash != header.hash
    {
        return false;
    }
    match header.kind {
        Kind::Segment => {
            let segment = Segment::parse(name).filter(|_| header.name == name);
            let system_id = line.incarnation().parse::<u64>().ok();
            match (segment, system_id) {
                (Some(segment), Some(system_id)) => {
                    check_segment(segment, SystemId(system_id), content).is_ok()
                }
                _ => false,
            }
        }
        Kind::History => header.name == name,
        Kind::Part => {
            // Two backups never have the same id; that these two are the same one, the catalogue says.
            let Some(Common::OfBackup(id)) = kind_of(line, key) else {
                return false;
            };
            let entry = repository.read_json::<Catalogue>(&line.backup(id)).await;
            let number = name.parse::<usize>().ok();
            entry.is_ok_and(|entry| {
                number
                    .and_then(|number| entry.parts.get(number))
                    .is_some_and(|part| part.hash == header.hash)
            })
        }
        Kind::Backup | Kind::Manifest => true,
        // Each repository has its own.
        _ => false,
    }
}

/// Keeps what is damaged, for whoever wants to know why.
async fn set_aside(repository: &Repository, line: &Line, key: &str) -> Result<(), Error> {
    let Some(object) = repository.store.get(key).await? else {
        return Ok(());
    };
    let name = super::name_of(key).to_owned();
    let aside = line.quarantine(&name, "verify", &hash(&object));
    repository
        .create(aside, Kind::Mark, &name, BTreeMap::new(), object)
        .await?;
    Ok(())
}
