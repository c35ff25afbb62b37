//! Marking backups, and deleting those whose time has come.

use super::seen::Seen;
use super::{Deleted, Expiry, Going, Tombstone};
use crate::catalogue::backups;
use crate::envelope::Kind;
use crate::error::Error;
use crate::layout::Line;
use crate::marks::{pins, proofs};
use crate::repository::Repository;
use crate::retention::{Facts, Policy, decide};
use crate::store::Created;
use futures::{StreamExt, TryStreamExt};
use std::time::{Duration, Instant};

/// Objects that are deleted at once.
const AT_ONCE: usize = 8;
/// For how long a look holds: what takes longer is left to the next run.
const LOOK_HOLDS: Duration = Duration::from_secs(60);
/// Whoever began to delete a backup and has not done so by now never will.
const ABANDONED_MS: i64 = 3_600_000;
/// What follows a backup's id in the name of its data key: a dash and 16 hexadecimal digits.
const KEY_SUFFIX: usize = 17;

pub(super) struct Sweeper<'a> {
    pub repository: &'a Repository,
    pub line: &'a Line,
    pub policy: &'a Policy,
    pub now_ms: i64,
    pub deleted: Deleted,
}

impl Sweeper<'_> {
    /// Of a backup whose entry is gone the rest goes as well.
    pub(super) async fn finish_what_was_broken_off(
        &mut self,
        seen: &Seen,
        rescued: &[String],
    ) -> Result<(), Error> {
        for (id, since) in &seen.begun {
            if !seen.backups.iter().any(|entry| entry.id == *id) {
                // Its writer may be about to write the entry; it looks for our mark afterwards, and takes it back.
                self.delete_rest(id).await?;
            } else if rescued.contains(id) && since.saturating_add(ABANDONED_MS) < self.now_ms {
                self.repository.delete(&self.line.sweep(id)).await?;
            }
        }
        Ok(())
    }

    /// Marks what is to go, and takes the marks off what is not.
    pub(super) async fn mark(&self, seen: &Seen, expiry: &Expiry) -> Result<(), Error> {
        for going in expiry.going.iter().filter(|going| going.marked_ms.is_none()) {
            let stone = Tombstone {
                backup: going.backup.clone(),
                marked_ms: self.now_ms,
                due_ms: going.due_ms,
            };
            let key = self.line.tombstone(&going.backup);
            self.repository
                .create_json(key, Kind::Mark, &going.backup, &stone)
                .await?;
        }
        for id in &expiry.rescued {
            self.repository.delete(&self.line.tombstone(id)).await?;
        }
        // A mark without a backup is what a run that was broken off has left.
        for id in seen.tombstones.keys() {
            let there = seen.unfinished.contains_key(id) || seen.backups.iter().any(|entry| entry.id == *id);
            if !there {
                self.repository.delete(&self.line.tombstone(id)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn sweep_backups(&mut self, seen: &Seen, going: &[Going]) -> Result<(), Error> {
        // The newest first: an increment goes before what it is an increment of.
        let now_ms = self.now_ms;
        for going in going.iter().rev().filter(|going| going.due_ms <= now_ms) {
            self.sweep(seen, going).await?;
        }
        Ok(())
    }

    async fn sweep(&mut self, seen: &Seen, going: &Going) -> Result<(), Error> {
        let (id, mark) = (&going.backup, self.line.sweep(&going.backup));
        let looked = Instant::now();
        let stone = Tombstone {
            backup: id.clone(),
            marked_ms: self.now_ms,
            due_ms: going.due_ms,
        };
        let made = self
            .repository
            .create_json(mark.clone(), Kind::Mark, id, &stone)
            .await?;
        let goes = self.still_goes(seen, going).await?;
        if !goes || looked.elapsed() > LOOK_HOLDS {
            if made == Created::Made {
                self.repository.delete(&mark).await?;
            }
            return Ok(());
        }
        if going.finished {
            self.repository.delete(&self.line.backup(id)).await?;
            self.deleted.objects += 1;
        }
        self.delete_rest(id).await?;
        self.deleted.backups.push(id.clone());
        Ok(())
    }

    /// Judged anew, by what has changed since: pins, proofs, and new backups that may be increments of this one.
    async fn still_goes(&self, seen: &Seen, going: &Going) -> Result<bool, Error> {
        let now_there = backups(self.repository, self.line).await?;
        if !going.finished {
            return Ok(!now_there.iter().any(|entry| entry.id == going.backup));
        }
        if now_there
            .iter()
            .any(|entry| entry.parent.as_deref() == Some(going.backup.as_str()))
        {
            return Ok(false);
        }
        let (pins, proofs) = (
            pins(self.repository, self.line).await?,
            proofs(self.repository, self.line).await?,
        );
        let verdict = decide(
            self.policy,
            &Facts {
                backups: &now_there,
                inventory: &seen.inventory,
                pins: &pins,
                proofs: &proofs,
                busy: &seen.busy,
                now_ms: self.now_ms,
            },
        );
        let expired = verdict.expired.iter().any(|it| it.backup == going.backup);
        // Somebody else was quicker: the rest goes all the same.
        let gone = !now_there.iter().any(|entry| entry.id == going.backup);
        Ok(expired || gone)
    }

    /// All of a backup but its entry, which is gone: content, data key, pins that are over, and last the marks.
    async fn delete_rest(&mut self, id: &str) -> Result<(), Error> {
        let mut keys = Vec::new();
        for listed in self.repository.list(&self.line.backup_folder(id)).await? {
            // An entry that appeared meanwhile is its writer's to take back.
            if listed.key != self.line.backup(id) {
                self.deleted.stored_bytes += listed.bytes;
                keys.push(listed.key);
            }
        }
        for listed in self.repository.list(&self.line.keys()).await? {
            let name = listed.key.rsplit('/').next().unwrap_or_default();
            let of_this = name.strip_prefix(id).is_some_and(|rest| {
                rest.len() == KEY_SUFFIX
                    && rest.starts_with('-')
                    && rest[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            if of_this {
                keys.push(listed.key);
            }
        }
        let pins = self.repository.list(&self.line.pin(id, "")).await?;
        keys.extend(pins.into_iter().map(|listed| listed.key));
        self.delete_all(keys).await?;
        self.repository.delete(&self.line.tombstone(id)).await?;
        self.repository.delete(&self.line.sweep(id)).await
    }

    pub(super) async fn delete_all(&mut self, keys: Vec<String>) -> Result<(), Error> {
        self.deleted.objects += keys.len() as u64;
        let repository = self.repository;
        let deletes = keys
            .into_iter()
            .map(|key| async move { repository.delete(&key).await });
        futures::stream::iter(deletes)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}
