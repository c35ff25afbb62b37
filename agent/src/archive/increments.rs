//! What an incremental backup begins with.

use agent_core::pg::TimelineId;
use repository::{Catalogue, Error, Line, Repository, backups, complete, inventory, manifest_of, marked};
use std::collections::BTreeSet;
use std::time::Duration;

/// The first server that makes increments.
const SINCE_VERSION: u32 = 170_000;
/// How often an increment that cannot begin is helped by a checkpoint.
pub(super) const TRIES: u32 = 3;
/// What a standby takes to replay the primary's checkpoint, as a rule.
pub(super) const REPLAY: Duration = Duration::from_secs(1);
/// A checkpoint writes everything that is dirty.
pub(super) const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);

/// The backup before.
pub(super) struct Base {
    pub id: String,
    /// The server's own list of its files.
    pub manifest: Vec<u8>,
}

/// The newest backup that every repository has and that an increment may be made of; or why there is none.
///
/// A standby may summarise WAL that it has not replayed; promoted just there it would leave pages out. So the first backup after
/// a change of timeline is a full one.
pub(super) async fn base(
    repositories: &[Repository],
    line: &Line,
    server_version: u32,
    timeline: TimelineId,
) -> Result<Result<Base, &'static str>, Error> {
    if server_version < SINCE_VERSION {
        return Ok(Err(
            "this server makes no increments, PostgreSQL 17 is the first that does",
        ));
    }
    let mut common: Option<Vec<Catalogue>> = None;
    for repository in repositories {
        let there = inventory(repository, line).await?;
        let entries = backups(repository, line).await?;
        let going = marked(repository, line).await?;
        let whole = complete(&entries, &there).into_iter();
        let mut fit: Vec<Catalogue> = whole
            .filter(|entry| entry.timeline == timeline && !going.contains_key(&entry.id))
            .cloned()
            .collect();
        if let Some(common) = &common {
            let known: BTreeSet<&str> = common.iter().map(|entry| entry.id.as_str()).collect();
            fit.retain(|entry| known.contains(entry.id.as_str()));
        }
        common = Some(fit);
    }
    let (Some(newest), Some(repository)) = (common.as_ref().and_then(|fit| fit.last()), repositories.first())
    else {
        return Ok(Err(
            "no repository has a complete backup of this timeline that stays",
        ));
    };
    Ok(Ok(Base {
        id: newest.id.clone(),
        manifest: manifest_of(repository, newest).await?,
    }))
}
