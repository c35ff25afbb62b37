//! The names of objects, as `docs/repository.md` has them.

use crate::wal_name::Segment;
use agent_core::pg::{SystemId, TimelineId};
use std::fmt;

/// Says that this is a repository, and which one.
pub(crate) const MARKER: &str = "repository.json";

/// One incarnation of one cluster: WAL of two of them never mixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    cluster: String,
    incarnation: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.incarnation)
    }
}

impl Line {
    /// The line of the database cluster `system_id`, operated as `cluster`.
    #[must_use]
    pub fn new(cluster: &str, system_id: SystemId) -> Line {
        Line {
            cluster: cluster.to_owned(),
            incarnation: system_id.to_string(),
        }
    }

    /// The line with these names.
    #[must_use]
    pub fn of_parts(cluster: &str, incarnation: &str) -> Line {
        Line {
            cluster: cluster.to_owned(),
            incarnation: incarnation.to_owned(),
        }
    }

    /// The line whose objects have `key` among them.
    #[must_use]
    pub(crate) fn of_key(key: &str) -> Option<Line> {
        let mut words = key.split('/');
        let (cluster, incarnation) = (words.next()?, words.next()?);
        words.next()?;
        Some(Line {
            cluster: cluster.to_owned(),
            incarnation: incarnation.to_owned(),
        })
    }

    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The database cluster's number, and what tells apart those that were restored from it.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    pub(crate) fn wal(&self) -> String {
        format!("{self}/wal")
    }

    pub(crate) fn segment(&self, segment: Segment) -> String {
        format!(
            "{self}/wal/{:08X}/{:08X}/{segment}",
            segment.timeline.0, segment.log
        )
    }

    /// By name.
    pub(crate) fn segment_key(&self, name: &str) -> String {
        let part = |range: std::ops::Range<usize>| name.get(range).unwrap_or_default();
        format!("{self}/wal/{}/{}/{name}", part(0..8), part(8..16))
    }

    pub(crate) fn labels(&self) -> String {
        format!("{self}/labels")
    }

    pub(crate) fn partials(&self) -> String {
        format!("{self}/partial")
    }

    pub(crate) fn histories(&self) -> String {
        format!("{self}/history")
    }

    pub(crate) fn history(&self, timeline: TimelineId) -> String {
        format!("{self}/history/{:08X}.history", timeline.0)
    }

    pub(crate) fn label(&self, name: &str) -> String {
        format!("{self}/labels/{name}")
    }

    /// Two nodes may rightly differ in it, so each keeps its own.
    pub(crate) fn partial(&self, name: &str, node: &str, hash: &str) -> String {
        format!("{self}/partial/{name}/{node}-{}", short(hash))
    }

    /// WAL beyond the point where the cluster left its timeline.
    pub(crate) fn diverged(&self, name: &str, node: &str, hash: &str) -> String {
        format!("{self}/diverged/{node}/{name}-{}", short(hash))
    }

    /// What differs from what is there already.
    pub(crate) fn quarantine(&self, name: &str, node: &str, hash: &str) -> String {
        format!("{self}/quarantine/{node}/{name}-{}", short(hash))
    }

    pub(crate) fn backups(&self) -> String {
        format!("{self}/backups")
    }

    pub(crate) fn backup(&self, id: &str) -> String {
        format!("{self}/backups/{id}/backup")
    }

    pub(crate) fn manifest(&self, id: &str) -> String {
        format!("{self}/backups/{id}/manifest")
    }

    pub(crate) fn part(&self, id: &str, number: usize) -> String {
        format!("{self}/backups/{id}/parts/{number:06}")
    }

    /// Everything of a backup.
    pub(crate) fn backup_folder(&self, id: &str) -> String {
        format!("{self}/backups/{id}")
    }

    pub(crate) fn keys(&self) -> String {
        format!("{self}/keys")
    }

    pub(crate) fn pins(&self) -> String {
        format!("{self}/pins")
    }

    pub(crate) fn pin(&self, backup: &str, name: &str) -> String {
        format!("{self}/pins/{backup}/{name}")
    }

    pub(crate) fn tombstones(&self) -> String {
        format!("{self}/expiring/backups")
    }

    /// Says that a backup is to go.
    pub(crate) fn tombstone(&self, backup: &str) -> String {
        format!("{self}/expiring/backups/{backup}")
    }

    pub(crate) fn sweeps(&self) -> String {
        format!("{self}/expiring/begun")
    }

    /// Says that a backup is going, and cannot be kept any more.
    pub(crate) fn sweep(&self, backup: &str) -> String {
        format!("{self}/expiring/begun/{backup}")
    }

    pub(crate) fn wal_marks(&self) -> String {
        format!("{self}/expiring/wal")
    }

    pub(crate) fn wal_mark(&self, name: &str) -> String {
        format!("{self}/expiring/wal/{name}")
    }

    /// What WAL was deleted.
    pub(crate) fn expired(&self) -> String {
        format!("{self}/expired")
    }

    pub(crate) fn expired_as(&self, name: &str) -> String {
        format!("{self}/expired/{name}")
    }

    pub(crate) fn given_up(&self) -> String {
        format!("{self}/given-up")
    }

    /// What WAL a node has let go of.
    pub(crate) fn given_up_as(&self, name: &str) -> String {
        format!("{self}/given-up/{name}")
    }

    pub(crate) fn dumps(&self) -> String {
        format!("{self}/dumps")
    }

    pub(crate) fn dump(&self, id: &str) -> String {
        format!("{self}/dumps/{id}/dump")
    }

    pub(crate) fn dump_part(&self, id: &str, number: usize) -> String {
        format!("{self}/dumps/{id}/parts/{number:06}")
    }

    pub(crate) fn drills(&self) -> String {
        format!("{self}/drills")
    }

    pub(crate) fn drill(&self, id: &str) -> String {
        format!("{self}/drills/{id}")
    }

    pub(crate) fn owners(&self) -> String {
        format!("{self}/owners")
    }

    /// Who archives into this line; the highest number counts.
    pub(crate) fn owner(&self, number: u64) -> String {
        format!("{self}/owners/{number:06}")
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{self}/keys/{name}")
    }
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}
