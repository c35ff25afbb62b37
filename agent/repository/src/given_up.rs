//! WAL that was given up: its node had to let go of it before it was archived, so that there is a hole, and everybody knows.

use crate::envelope::{Kind, hash};
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use serde::{Deserialize, Serialize};

/// What one node has let go of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    pub node: String,
    /// By name.
    pub segments: Vec<String>,
    /// By the node's wall clock, ms since 1970.
    pub at_ms: i64,
    /// For a person.
    pub why: String,
}

/// Notes it in a repository. Safe to repeat.
///
/// # Errors
/// It cannot be written.
pub async fn note_given_up(repository: &Repository, line: &Line, what: &GivenUp) -> Result<(), Error> {
    let name = format!(
        "{}-{}",
        what.node,
        &hash(what.segments.join(" ").as_bytes())[..16]
    );
    let key = line.given_up_as(&name);
    repository.create_json(key, Kind::Mark, &name, what).await?;
    Ok(())
}

/// All that was given up of a line.
///
/// # Errors
/// The store does not list, or a note is damaged.
pub async fn given_up(repository: &Repository, line: &Line) -> Result<Vec<GivenUp>, Error> {
    let mut found: Vec<(String, GivenUp)> = repository.read_all(&line.given_up()).await?;
    found.sort_by_key(|(_, one)| one.at_ms);
    Ok(found.into_iter().map(|(_, one)| one).collect())
}

/// Which of these segments are not in a repository: another node may have archived what this one has let go of.
///
/// # Errors
/// The store does not answer.
pub async fn still_missing(
    repository: &Repository,
    line: &Line,
    segments: &[String],
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for name in segments {
        match repository.header(&line.segment_key(name)).await {
            Ok(_) => {}
            Err(error) if error.is_missing() => missing.push(name.clone()),
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}
