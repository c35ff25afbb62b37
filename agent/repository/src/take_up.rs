//! A backup whose writer died between the entries of two repositories: all content was everywhere before the first entry was
//! written, so the entry is all that is to be copied.

use crate::catalogue::{Catalogue, backups};
use crate::envelope::Kind;
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use std::collections::BTreeMap;

/// The newest of the backups `ids` that is finished in one of the repositories and has all its content in every other; its
/// entry is in all of them then.
///
/// # Errors
/// A store does not answer, or does not take the entry.
pub async fn take_up(
    repositories: &[Repository],
    line: &Line,
    ids: &[String],
) -> Result<Option<Catalogue>, Error> {
    let mut found: Vec<Catalogue> = Vec::new();
    for repository in repositories {
        let there = backups(repository, line).await?.into_iter();
        let of_these = there.filter(|entry| ids.contains(&entry.id));
        for entry in of_these {
            if found.iter().all(|known| known.id != entry.id) {
                found.push(entry);
            }
        }
    }
    found.sort_by_key(|entry| entry.ended_ms);
    while let Some(entry) = found.pop() {
        if everywhere(repositories, line, &entry).await? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

async fn everywhere(repositories: &[Repository], line: &Line, entry: &Catalogue) -> Result<bool, Error> {
    let mut lacking = Vec::new();
    for repository in repositories {
        match repository.read_json::<Catalogue>(&line.backup(&entry.id)).await {
            Ok(theirs) if theirs == *entry => {}
            Ok(_) => return Ok(false),
            Err(error) if error.is_missing() => {
                if !has_content(repository, line, entry).await? {
                    return Ok(false);
                }
                lacking.push(repository);
            }
            Err(error) => return Err(error),
        }
    }
    for repository in lacking {
        let json = serde_json::to_vec_pretty(entry).map_err(|error| Error::Refused {
            name: format!("backup {}", entry.id),
            why: error.to_string(),
        })?;
        let key = line.backup(&entry.id);
        repository
            .create(key.clone(), Kind::Backup, &entry.id, BTreeMap::new(), json)
            .await?;
        // Who deletes says so before it looks for the entry: one of the two sees the other.
        if repository.exists(&line.sweep(&entry.id)).await? || !has_content(repository, line, entry).await? {
            repository.delete(&key).await?;
            return Ok(false);
        }
    }
    Ok(true)
}

async fn has_content(repository: &Repository, line: &Line, entry: &Catalogue) -> Result<bool, Error> {
    if repository.exists(&line.sweep(&entry.id)).await?
        || !repository.exists(&line.manifest(&entry.id)).await?
    {
        return Ok(false);
    }
    for (number, part) in entry.parts.iter().enumerate() {
        match repository.header(&line.part(&entry.id, number)).await {
            Ok(header) if header.hash == part.hash => {}
            Ok(_) | Err(Error::Missing { .. } | Error::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
