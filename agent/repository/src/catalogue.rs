//! What is known of each base backup.

use crate::error::Error;
use crate::inventory::{Hole, Inventory};
use crate::layout::Line;
use crate::repository::Repository;
use agent_core::pg::{Lsn, SystemId, TimelineId};
use serde::{Deserialize, Serialize};

/// A base backup's entry. It is written last, so a backup without one was never finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Such as `20261121T072319Z-n2`.
    pub id: String,
    pub cluster: String,
    pub incarnation: String,
    pub system_id: SystemId,
    /// The node whose server was copied.
    pub node: String,
    /// Whether it was a standby then.
    pub from_standby: bool,
    /// Such as 150018.
    pub server_version: u32,
    pub segment_bytes: u64,
    /// The timeline that it was on.
    pub timeline: TimelineId,
    /// A restore needs WAL from here ...
    pub start: Lsn,
    /// ... to here at least.
    pub stop: Lsn,
    /// By the agent's wall clock, ms since 1970.
    pub begun_ms: i64,
    pub ended_ms: i64,
    /// The content: one tar archive, in parts.
    pub parts: Vec<Part>,
    /// Bytes of the archive.
    pub bytes: u64,
    /// BLAKE3 of the whole archive.
    pub hash: String,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// BLAKE3 of the server's own manifest, which is in the archive.
    pub manifest_hash: String,
}

/// One part of a backup's archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub bytes: u64,
    pub hash: String,
}

/// Every finished base backup of a line, oldest first.
///
/// # Errors
/// The store does not list, or an entry is damaged.
pub async fn backups(repository: &Repository, line: &Line) -> Result<Vec<Catalogue>, Error> {
    let mut found = Vec::new();
    for listed in repository.list(&line.backups()).await? {
        if listed.key.ends_with("/backup") {
            let (_, json) = repository.read(&listed.key).await?;
            let entry: Catalogue = serde_json::from_slice(&json)
                .map_err(|error| repository.damaged(&listed.key, error.to_string()))?;
            found.push(entry);
        }
    }
    found.sort_by(|a, b| (a.ended_ms, &a.id).cmp(&(b.ended_ms, &b.id)));
    Ok(found)
}

impl Catalogue {
    /// The WAL that this backup needs to be of any use, and that is not there. Empty: it is complete.
    #[must_use]
    pub fn lacks(&self, inventory: &Inventory) -> Vec<Hole> {
        // What a standby's backup needs may lie on the timeline before its own.
        let last = inventory.number_of(Lsn(self.stop.0.saturating_sub(1)));
        let first = inventory.number_of(self.start);
        let begun_on = inventory
            .histories
            .get(&self.timeline)
            .and_then(|history| history.switches.iter().find(|switch| self.start < switch.end))
            .map_or(self.timeline, |switch| switch.timeline);
        let spans = inventory
            .line_of(begun_on, self.start, self.timeline)
            .unwrap_or_default();
        let mut holes = Vec::new();
        for mut span in spans {
            span.last = span.last.min(last);
            if span.first <= span.last {
                holes.extend(inventory.missing(span));
            }
        }
        debug_assert!(first <= last || self.start >= self.stop);
        holes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inventory::tests::{MIB, made_of};

    pub(crate) fn entry(id: &str, timeline: u32, start: u64, stop: u64, ended_ms: i64) -> Catalogue {
        Catalogue {
            id: id.to_owned(),
            cluster: "demo".to_owned(),
            incarnation: "1".to_owned(),
            system_id: SystemId(1),
            node: "n2".to_owned(),
            from_standby: true,
            server_version: 150_000,
            segment_bytes: MIB,
            timeline: TimelineId(timeline),
            start: Lsn(start),
            stop: Lsn(stop),
            begun_ms: ended_ms - 10,
            ended_ms,
            parts: Vec::new(),
            bytes: 0,
            hash: String::new(),
            stored_bytes: 0,
            manifest_hash: String::new(),
        }
    }

    #[test]
    fn a_backup_is_complete_only_with_its_wal() {
        let backup = entry("b", 1, 4 * MIB + 40, 6 * MIB, 0);
        let lacks = |inventory: &Inventory| {
            backup
                .lacks(inventory)
                .iter()
                .map(|hole| hole.segments)
                .sum::<u64>()
        };
        assert_eq!(lacks(&made_of(&[(1, 4..=5)], &[])), 0);
        assert_eq!(lacks(&made_of(&[(1, 5..=5)], &[])), 1);
        assert_eq!(lacks(&made_of(&[], &[])), 2);
        let further = entry("b", 1, 4 * MIB + 40, 6 * MIB + 1, 0);
        assert_eq!(further.lacks(&made_of(&[(1, 4..=5)], &[])).len(), 1);
    }

    #[test]
    fn a_standbys_backup_may_begin_on_the_timeline_before() {
        let history: &[(u32, u64)] = &[(1, 5 * MIB + 9)];
        let backup = entry("b", 2, 4 * MIB + 40, 6 * MIB, 0);
        assert_eq!(
            backup.lacks(&made_of(&[(1, 4..=4), (2, 5..=5)], &[(2, history)])),
            []
        );
        assert_eq!(backup.lacks(&made_of(&[(2, 5..=5)], &[(2, history)])).len(), 1);
    }
}
