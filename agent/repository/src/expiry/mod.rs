//! Carrying a verdict of retention out, in two phases, by whoever comes along.
//!
//! What is to go is marked; a later run deletes what was marked for as long as the policy's grace, and still is to go by what
//! is there then. Any number of runs may be under way at once, and each may end anywhere: every step leaves a repository in
//! which all that is in the catalogue can be restored, and the next run goes on.
//!
//! | order | why |
//! |---|---|
//! | a mark, then nothing for a while | a policy that was mistyped is noticed before anything is gone |
//! | "it has begun", then a look at pins and increments | whoever pins a backup writes first and looks then: one sees the other |
//! | the entry in the catalogue, then the content | a restore never chooses a backup that is half gone |
//! | increments before what they are increments of | a chain never lacks its beginning |
//! | backups, then WAL | judged anew in between: what still is in the catalogue keeps its WAL |
//! | what WAL was deleted is noted, then it is deleted | retention never looks like a hole |
//!
//! Nothing but marks is ever created here, and nothing is deleted but: what the verdict names, pins' leftovers, and what a
//! backup that was never finished has left behind.

mod seen;
mod sweep;
mod wal;

#[cfg(test)]
mod faults_tests;

pub(crate) use wal::expired as expired_wal;

use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use crate::retention::{Policy, Verdict, Window, windows};
use seen::Seen;
use serde::{Deserialize, Serialize};
use sweep::Sweeper;

/// A backup without an entry that nobody has written to for so long was given up by its writer.
const GIVEN_UP_MS: i64 = 2 * 86_400_000;

/// A mark: this is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub backup: String,
    pub marked_ms: i64,
    pub due_ms: i64,
}

/// What goes, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Going {
    pub backup: String,
    /// False for what a backup that was never finished has left behind.
    pub finished: bool,
    pub stored_bytes: u64,
    /// When it was marked, ms since 1970; not yet where there is none.
    pub marked_ms: Option<i64>,
    /// When it may be deleted.
    pub due_ms: i64,
}

/// What was deleted in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    pub backups: Vec<String>,
    pub segments: u64,
    pub objects: u64,
    pub stored_bytes: u64,
}

/// What a run found, and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expiry {
    pub verdict: Verdict,
    /// What the verdict has go, as it was before this run.
    pub going: Vec<Going>,
    /// Bytes of the WAL that goes.
    pub wal_bytes: u64,
    pub deleted: Deleted,
    /// Marked before, and kept now.
    pub rescued: Vec<String>,
    /// From when to when a restore could go before,
    pub before: Vec<Window>,
    /// and can when all of this is gone.
    pub after: Vec<Window>,
}

/// Looks at a line of a repository, and marks and deletes what `policy` does not keep; with `preview`, nothing. The backups
/// `busy` are under way, as the cluster says; without its word what nobody has written to for two days is taken for given up.
///
/// # Errors
/// The store does not answer, or something in the catalogue is damaged. What was begun is gone on with by the next run.
pub async fn expire(
    repository: &Repository,
    line: &Line,
    policy: &Policy,
    now_ms: i64,
    busy: &[String],
    preview: bool,
) -> Result<Expiry, Error> {
    let seen = Seen::look(repository, line, busy).await?;
    let verdict = seen.judge(policy, now_ms);
    let mut expiry = Expiry {
        going: going(&seen, &verdict, policy, now_ms),
        wal_bytes: verdict.wal.iter().map(|doomed| doomed.stored_bytes).sum(),
        deleted: Deleted::default(),
        rescued: seen.rescued(&verdict, now_ms),
        before: windows(&seen.backups, &seen.inventory),
        after: seen.after(&verdict),
        verdict,
    };
    if preview {
        return Ok(expiry);
    }
    let mut sweeper = Sweeper {
        repository,
        line,
        policy,
        now_ms,
        deleted: Deleted::default(),
    };
    sweeper.finish_what_was_broken_off(&seen, &expiry.rescued).await?;
    sweeper.mark(&seen, &expiry).await?;
    sweeper.sweep_backups(&seen, &expiry.going).await?;
    // What is there now decides on WAL, not what was there when the backups were judged.
    let seen = Seen::look(repository, line, busy).await?;
    let verdict = seen.judge(policy, now_ms);
    wal::mark_and_sweep(&mut sweeper, &seen, &verdict).await?;
    expiry.deleted = sweeper.deleted;
    Ok(expiry)
}

/// When each backup that is marked may be deleted, ms since 1970.
///
/// # Errors
/// The store does not list.
pub async fn marked(
    repository: &Repository,
    line: &Line,
) -> Result<std::collections::BTreeMap<String, i64>, Error> {
    let stones: Vec<(String, Tombstone)> = repository.read_all(&line.tombstones()).await?;
    Ok(stones
        .into_iter()
        .map(|(_, stone)| (stone.backup, stone.due_ms))
        .collect())
}

fn going(seen: &Seen, verdict: &Verdict, policy: &Policy, now_ms: i64) -> Vec<Going> {
    let when = |id: &str| {
        let stone = seen.tombstones.get(id);
        let due = stone.map_or(now_ms.saturating_add(policy.grace.ms), |stone| stone.due_ms);
        (stone.map(|stone| stone.marked_ms), due)
    };
    let finished = verdict.expired.iter().map(|expired| {
        let (marked_ms, due_ms) = when(&expired.backup);
        Going {
            backup: expired.backup.clone(),
            finished: true,
            stored_bytes: expired.stored_bytes,
            marked_ms,
            due_ms,
        }
    });
    let given_up = seen.given_up(now_ms).map(|(id, stored_bytes)| {
        let (marked_ms, due_ms) = when(id);
        Going {
            backup: id.clone(),
            finished: false,
            stored_bytes,
            marked_ms,
            due_ms,
        }
    });
    finished.chain(given_up).collect()
}
