//! What lies in a line of a repository, as far as retention is concerned.

use super::{GIVEN_UP_MS, Tombstone};
use crate::catalogue::{Catalogue, backups};
use crate::error::Error;
use crate::inventory::{Inventory, inventory};
use crate::layout::Line;
use crate::marks::{Pin, Proof, pins, proofs};
use crate::repository::Repository;
use crate::retention::{Facts, Policy, Verdict, Window, decide, windows};
use std::collections::{BTreeMap, BTreeSet};

/// A look.
pub(super) struct Seen {
    pub backups: Vec<Catalogue>,
    pub inventory: Inventory,
    pub pins: Vec<Pin>,
    pub proofs: Vec<Proof>,
    /// Backups whose making is under way.
    pub busy: Vec<String>,
    pub tombstones: BTreeMap<String, Tombstone>,
    /// Backups whose deletion has begun, and when, by the store's clock.
    pub begun: BTreeMap<String, i64>,
    /// What lies in the folder of each backup that has no entry.
    pub unfinished: BTreeMap<String, Unfinished>,
}

#[derive(Default)]
pub(super) struct Unfinished {
    pub stored_bytes: u64,
    pub newest_ms: i64,
}

impl Seen {
    pub(super) async fn look(repository: &Repository, line: &Line, busy: &[String]) -> Result<Seen, Error> {
        let folders = repository.list(&line.backups()).await?;
        let backups = backups(repository, line).await?;
        let begins_with = format!("{}/", line.backups());
        let finished: BTreeSet<&str> = backups.iter().map(|entry| entry.id.as_str()).collect();
        let mut unfinished: BTreeMap<String, Unfinished> = BTreeMap::new();
        for listed in &folders {
            let id = listed
                .key
                .strip_prefix(&begins_with)
                .and_then(|rest| rest.split('/').next());
            let Some(id) = id.filter(|id| !finished.contains(id)) else {
                continue;
            };
            let one = unfinished.entry(id.to_owned()).or_default();
            one.stored_bytes += listed.bytes;
            one.newest_ms = one.newest_ms.max(listed.modified_ms);
        }
        let tombstones: Vec<(String, Tombstone)> = repository.read_all(&line.tombstones()).await?;
        let mut begun = BTreeMap::new();
        for listed in repository.list(&line.sweeps()).await? {
            let id = listed.key.rsplit('/').next().unwrap_or_default();
            begun.insert(id.to_owned(), listed.modified_ms);
        }
        Ok(Seen {
            inventory: inventory(repository, line).await?,
            pins: pins(repository, line).await?,
            proofs: proofs(repository, line).await?,
            busy: busy.to_vec(),
            tombstones: tombstones
                .into_iter()
                .map(|(_, stone)| (stone.backup.clone(), stone))
                .collect(),
            begun,
            unfinished,
            backups,
        })
    }

    pub(super) fn judge(&self, policy: &Policy, now_ms: i64) -> Verdict {
        decide(
            policy,
            &Facts {
                backups: &self.backups,
                inventory: &self.inventory,
                pins: &self.pins,
                proofs: &self.proofs,
                busy: &self.busy,
                now_ms,
            },
        )
    }

    /// The windows that are left when the verdict is carried out.
    pub(super) fn after(&self, verdict: &Verdict) -> Vec<Window> {
        let mut inventory = self.inventory.clone();
        for doomed in &verdict.wal {
            for number in doomed.span.first..=doomed.span.last {
                inventory.forget(doomed.span.timeline, number);
            }
        }
        let goes: BTreeSet<&str> = verdict.expired.iter().map(|it| it.backup.as_str()).collect();
        let kept = self
            .backups
            .iter()
            .filter(|entry| !goes.contains(entry.id.as_str()));
        let kept: Vec<Catalogue> = kept.cloned().collect();
        windows(&kept, &inventory)
    }

    /// Backups that nobody goes on writing, with the bytes that they left.
    pub(super) fn given_up(&self, now_ms: i64) -> impl Iterator<Item = (&String, u64)> {
        let since = now_ms.saturating_sub(GIVEN_UP_MS);
        let given_up = self
            .unfinished
            .iter()
            .filter(move |(id, one)| one.newest_ms < since && !self.busy.contains(id));
        given_up.map(|(id, one)| (id, one.stored_bytes))
    }

    /// Backups that were marked and are not to go any more.
    pub(super) fn rescued(&self, verdict: &Verdict, now_ms: i64) -> Vec<String> {
        let given_up: BTreeSet<&String> = self.given_up(now_ms).map(|(id, _)| id).collect();
        let goes = |id: &String| {
            given_up.contains(id) || verdict.expired.iter().any(|expired| expired.backup == *id)
        };
        let known = |id: &String| {
            self.unfinished.contains_key(id) || self.backups.iter().any(|entry| entry.id == *id)
        };
        let rescued = self.tombstones.keys().filter(|id| known(id) && !goes(id));
        rescued.cloned().collect()
    }
}
