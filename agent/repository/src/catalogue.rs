//! What is known of each base backup.

use crate::error::Error;
use crate::inventory::{Hole, Inventory, Span};
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
    /// BLAKE3 of the hashes of its parts, in hexadecimal, one after the other.
    pub hash: String,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// BLAKE3 of the server's own manifest, which is in the archive.
    pub manifest_hash: String,
    /// The backup that this one is an increment of; a full one has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// One part of a backup's archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub bytes: u64,
    pub hash: String,
}

/// The hash of an archive of these parts.
pub(crate) fn hash_of(parts: &[Part]) -> String {
    let all: String = parts.iter().map(|part| part.hash.as_str()).collect();
    crate::envelope::hash(all.as_bytes())
}

/// Every finished base backup of a line, oldest first.
///
/// # Errors
/// The store does not list, or an entry is damaged.
pub async fn backups(repository: &Repository, line: &Line) -> Result<Vec<Catalogue>, Error> {
    let mut found: Vec<Catalogue> = Vec::new();
    for listed in repository.list(&line.backups()).await? {
        if listed.key.ends_with("/backup") {
            match repository.read_json(&listed.key).await {
                Ok(entry) => found.push(entry),
                // Retention, or its own writer, has deleted it meanwhile.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
    }
    found.sort_by(|a, b| (a.ended_ms, &a.id).cmp(&(b.ended_ms, &b.id)));
    Ok(found)
}

/// The server's own list of a backup's files, which an increment of it begins with.
///
/// # Errors
/// It is not there (an older program kept it in the archive only), or is damaged.
pub async fn manifest_of(repository: &Repository, backup: &Catalogue) -> Result<Vec<u8>, Error> {
    let line = Line::new(&backup.cluster, backup.system_id);
    let key = line.manifest(&backup.id);
    let (header, manifest) = repository.read(&key).await?;
    if header.hash != backup.manifest_hash {
        return Err(repository.damaged(&key, "it is not the manifest that the catalogue names"));
    }
    Ok(manifest)
}

impl Catalogue {
    /// The WAL that this backup needs to be of any use, and that is not there. Empty: it is complete.
    #[must_use]
    pub fn lacks(&self, inventory: &Inventory) -> Vec<Hole> {
        let spans = self.own_spans(inventory);
        spans
            .into_iter()
            .flat_map(|span| inventory.missing(span))
            .collect()
    }

    /// The WAL without which it is of no use: from its beginning to its end.
    #[must_use]
    pub fn own_spans(&self, inventory: &Inventory) -> Vec<Span> {
        let last = inventory.number_of(Lsn(self.stop.0.saturating_sub(1)));
        let spans = inventory
            .line_of(self.origin(inventory), self.start, self.timeline)
            .unwrap_or_default();
        let clipped = spans.into_iter().map(|span| Span {
            last: span.last.min(last),
            ..span
        });
        clipped.filter(|span| span.first <= span.last).collect()
    }

    /// The timeline that its first WAL is on: a standby's backup may begin before the timeline that it ended on.
    #[must_use]
    pub fn origin(&self, inventory: &Inventory) -> TimelineId {
        inventory
            .histories
            .get(&self.timeline)
            .and_then(|history| history.switches.iter().find(|switch| self.start < switch.end))
            .map_or(self.timeline, |switch| switch.timeline)
    }

    /// Whether a recovery from it can go along `timeline`: it is the backup's own, or was left after the backup's end.
    #[must_use]
    pub fn reaches(&self, inventory: &Inventory, timeline: TimelineId) -> bool {
        timeline == self.timeline
            || inventory.histories.get(&timeline).is_some_and(|history| {
                history
                    .switches
                    .iter()
                    .any(|switch| switch.timeline == self.timeline && self.stop <= switch.end)
            })
    }
}

/// The backups that a restore of `id` needs, the full one first and `id` last; `None` if one of them is not there.
#[must_use]
pub fn chain<'a>(backups: &'a [Catalogue], id: &str) -> Option<Vec<&'a Catalogue>> {
    let mut found = Vec::new();
    let mut wanted = Some(id);
    while let Some(id) = wanted {
        let entry = backups.iter().find(|entry| entry.id == id)?;
        // An increment of itself is no backup.
        if found.len() > backups.len() {
            return None;
        }
        found.push(entry);
        wanted = entry.parent.as_deref();
    }
    found.reverse();
    Some(found)
}

/// The backups that can be restored now: with all of their own WAL, and so has each one that they are an increment of.
#[must_use]
pub fn complete<'a>(backups: &'a [Catalogue], inventory: &Inventory) -> Vec<&'a Catalogue> {
    let whole = |entry: &&Catalogue| entry.lacks(inventory).is_empty() && chain(backups, &entry.id).is_some();
    backups.iter().filter(whole).collect()
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
            parent: None,
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
    fn an_increment_needs_all_that_it_is_an_increment_of() {
        let mut all: Vec<Catalogue> = (0..4)
            .map(|n| entry(&n.to_string(), 1, MIB, 2 * MIB, n))
            .collect();
        all[1].parent = Some("0".to_owned());
        all[2].parent = Some("1".to_owned());
        all[3].parent = Some("gone".to_owned());
        let ids = |id| chain(&all, id).map(|found| found.iter().map(|it| it.id.clone()).collect::<Vec<_>>());
        assert_eq!(ids("0"), Some(vec!["0".to_owned()]));
        assert_eq!(ids("2").map(|found| found.join(" ")), Some("0 1 2".to_owned()));
        assert_eq!(ids("3"), None);
        let mut ring = all.clone();
        ring[0].parent = Some("2".to_owned());
        assert_eq!(chain(&ring, "1"), None, "a ring has no beginning");
        let whole = complete(&all, &made_of(&[(1, 1..=1)], &[]));
        assert_eq!(whole.len(), 3);
    }

    #[test]
    fn a_timeline_that_was_left_before_the_backups_end_is_out_of_its_reach() {
        let history: &[(u32, u64)] = &[(1, 5 * MIB + 9)];
        let inventory = made_of(&[(1, 4..=6), (2, 5..=5)], &[(2, history)]);
        for (stop, reaches) in [(5 * MIB, true), (5 * MIB + 9, true), (5 * MIB + 10, false)] {
            let backup = entry("b", 1, 4 * MIB + 40, stop, 0);
            assert_eq!(backup.reaches(&inventory, TimelineId(2)), reaches, "{stop}");
            assert!(backup.reaches(&inventory, TimelineId(1)));
        }
        let later = entry("b", 2, 5 * MIB + 10, 6 * MIB, 0);
        assert!(!later.reaches(&inventory, TimelineId(1)), "the way back is none");
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
