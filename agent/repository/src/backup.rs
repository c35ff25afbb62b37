//! Writing a base backup: the server's archive, cut into parts, into every repository at once, in bounded memory.

use crate::catalogue::{Catalogue, Part, hash_of};
use crate::envelope::{Kind, hash};
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use crate::tar::{Entry, EntryKind, Visitor, Walker};
use agent_core::pg::{Lsn, SystemId, TimelineId};
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Bytes of one part before compression. A writer holds at most `IN_FLIGHT + 1` of them, and their compressed forms.
const PART: usize = 16 << 20;
const IN_FLIGHT: usize = 3;
/// The longest manifest that is looked into: 1 KiB for each of 200,000 files.
const MANIFEST_MAX: usize = 200 << 20;
const MANIFEST: &str = "backup_manifest";

/// What is known before the first byte.
#[derive(Debug, Clone)]
pub struct BackupFacts {
    pub id: String,
    pub line: Line,
    pub system_id: SystemId,
    pub node: String,
    pub from_standby: bool,
    pub server_version: u32,
    pub segment_bytes: u64,
    pub begun_ms: i64,
    /// The backup that this one is an increment of.
    pub parent: Option<String>,
}

/// How far it has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Of the archive, written durably into every repository.
    pub bytes: u64,
    /// As they are stored in the first one.
    pub stored_bytes: u64,
}

/// Takes the archive.
pub struct BackupWriter {
    facts: BackupFacts,
    repositories: Arc<Vec<Repository>>,
    buffer: Vec<u8>,
    parts: Vec<Part>,
    in_flight: VecDeque<JoinHandle<Result<(Part, u64), Error>>>,
    progress: Progress,
    bytes: u64,
    walker: Walker,
    manifest: ManifestCatcher,
}

impl BackupWriter {
    /// Begins a backup of that id.
    ///
    /// # Errors
    /// A data key cannot be written.
    pub async fn begin(repositories: &[Repository], facts: BackupFacts) -> Result<BackupWriter, Error> {
        let mut encrypting = Vec::new();
        for repository in repositories {
            encrypting.push(repository.encrypting(&facts.line, &facts.id).await?);
        }
        Ok(BackupWriter {
            facts,
            repositories: Arc::new(encrypting),
            buffer: Vec::with_capacity(PART),
            parts: Vec::new(),
            in_flight: VecDeque::new(),
            progress: Progress::default(),
            bytes: 0,
            walker: Walker::default(),
            manifest: ManifestCatcher::default(),
        })
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Takes the next bytes of the archive; waits while too many parts are under way.
    ///
    /// # Errors
    /// A part could not be written, or the archive is none.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.walker
            .feed(bytes, &mut self.manifest)
            .map_err(|why| self.refused(why))?;
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == PART {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// The archive is over: waits until all of it is durable, and writes the entry of the catalogue. Whether the backup is
    /// complete then depends on its WAL: [`Catalogue::lacks`].
    ///
    /// # Errors
    /// A part or the entry could not be written, or the archive was cut off. What was written stays without an entry.
    pub async fn finish(mut self, ended_ms: i64) -> Result<Catalogue, Error> {
        self.walker.finish().map_err(|why| self.refused(why))?;
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        while !self.in_flight.is_empty() {
            self.settle_one().await?;
        }
        let parts = std::mem::take(&mut self.parts);
        let (range, manifest_hash) = self.manifest.range().map_err(|why| self.refused(why))?;
        let entry = Catalogue {
            id: self.facts.id.clone(),
            cluster: self.facts.line.cluster().to_owned(),
            incarnation: self.facts.line.incarnation().to_owned(),
            system_id: self.facts.system_id,
            node: self.facts.node.clone(),
            from_standby: self.facts.from_standby,
            server_version: self.facts.server_version,
            segment_bytes: self.facts.segment_bytes,
            timeline: range.timeline,
            start: range.start,
            stop: range.stop,
            begun_ms: self.facts.begun_ms,
            ended_ms,
            hash: hash_of(&parts),
            parts,
            bytes: self.bytes,
            stored_bytes: self.progress.stored_bytes,
            manifest_hash,
            parent: self.facts.parent.clone(),
        };
        self.keep_manifest().await?;
        let json = serde_json::to_vec_pretty(&entry).map_err(|error| self.refused(error.to_string()))?;
        for repository in self.repositories.iter() {
            let key = self.facts.line.backup(&entry.id);
            repository
                .create_own(key.clone(), Kind::Backup, &entry.id, json.clone(), hash(&json))
                .await?;
            if let Some(lost) = self.lost_meanwhile(repository, &entry).await? {
                repository.delete(&key).await?;
                return Err(self.refused(lost));
            }
        }
        Ok(entry)
    }

    /// The manifest by itself: increments begin with it, and it is not searched for in the archive then.
    async fn keep_manifest(&self) -> Result<(), Error> {
        let manifest = Arc::new(self.manifest.manifest.clone());
        for repository in self.repositories.iter() {
            let content = Whole(Arc::clone(&manifest));
            let key = self.facts.line.manifest(&self.facts.id);
            repository
                .create_own(key, Kind::Manifest, &self.facts.id, content, hash(&manifest))
                .await?;
        }
        Ok(())
    }

    /// Whether somebody has begun to delete this backup, or one that it is an increment of. Who deletes says so before it
    /// looks for our entry, and takes its word back only when all is gone: one of the two sees the other.
    async fn lost_meanwhile(
        &self,
        repository: &Repository,
        entry: &Catalogue,
    ) -> Result<Option<String>, Error> {
        let (line, id) = (&self.facts.line, &self.facts.id);
        let swept = repository.exists(&line.sweep(id)).await?;
        if swept || (!entry.parts.is_empty() && !repository.exists(&line.part(id, 0)).await?) {
            return Ok(Some(
                "it took so long that it was taken for given up, and deleted".to_owned(),
            ));
        }
        if let Some(parent) = &self.facts.parent {
            let swept = repository.exists(&line.sweep(parent)).await?;
            if swept || !repository.exists(&line.backup(parent)).await? {
                return Ok(Some(format!(
                    "{parent}, which it is an increment of, was deleted meanwhile: take a full backup"
                )));
            }
        }
        Ok(None)
    }

    async fn send(&mut self) -> Result<(), Error> {
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle_one().await?;
        }
        let content = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        let number = self.parts.len() + self.in_flight.len();
        let repositories = Arc::clone(&self.repositories);
        let (key, id) = (
            self.facts.line.part(&self.facts.id, number),
            self.facts.id.clone(),
        );
        self.in_flight.push_back(tokio::spawn(async move {
            let content = Arc::new(content);
            let hashed = Arc::clone(&content);
            let known = tokio::task::spawn_blocking(move || hash(&hashed)).await;
            let known = known.map_err(|error| Error::Refused {
                name: key.clone(),
                why: error.to_string(),
            })?;
            let mut stored = 0;
            for (index, repository) in repositories.iter().enumerate() {
                let content = Whole(Arc::clone(&content));
                let name = format!("{id}/{number:06}");
                let bytes = repository
                    .create_own(key.clone(), Kind::Part, &name, content, known.clone())
                    .await?;
                if index == 0 {
                    stored = bytes;
                }
            }
            let part = Part {
                bytes: content.len() as u64,
                hash: known,
            };
            Ok((part, stored))
        }));
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let (part, stored) = oldest.await.map_err(|error| self.refused(error.to_string()))??;
        self.progress.stored_bytes += stored;
        self.progress.bytes += part.bytes;
        self.parts.push(part);
        Ok(())
    }

    fn refused(&self, why: String) -> Error {
        Error::Refused {
            name: format!("backup {}", self.facts.id),
            why,
        }
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        for part in &self.in_flight {
            part.abort();
        }
    }
}

struct Whole(Arc<Vec<u8>>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Keeps the manifest as it goes by.
#[derive(Debug, Default)]
struct ManifestCatcher {
    manifest: Vec<u8>,
}

impl Visitor for ManifestCatcher {
    fn begin(&mut self, entry: &Entry) -> Result<(), String> {
        if let EntryKind::Link(to) = &entry.kind {
            return Err(format!(
                "{} is a link to {to}: tablespaces outside of the data directory are not backed up yet",
                entry.path
            ));
        }
        Ok(())
    }

    fn content(&mut self, entry: &Entry, piece: &[u8]) -> Result<(), String> {
        if entry.path == MANIFEST {
            if self.manifest.len() + piece.len() > MANIFEST_MAX {
                return Err(format!("its manifest is longer than {MANIFEST_MAX} bytes"));
            }
            self.manifest.extend_from_slice(piece);
        }
        Ok(())
    }

    fn end(&mut self, _: &Entry) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct WalRange {
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
}

impl ManifestCatcher {
    /// The WAL that the backup needs, as the server's manifest has it, and the manifest's hash.
    fn range(&self) -> Result<(WalRange, String), String> {
        #[derive(Deserialize)]
        struct Manifest {
            #[serde(rename = "WAL-Ranges")]
            ranges: Vec<Range>,
        }
        #[derive(Deserialize)]
        struct Range {
            #[serde(rename = "Timeline")]
            timeline: u32,
            #[serde(rename = "Start-LSN")]
            start: Lsn,
            #[serde(rename = "End-LSN")]
            end: Lsn,
        }
        if self.manifest.is_empty() {
            return Err("the archive has no backup_manifest: PostgreSQL 13 or newer is needed".to_owned());
        }
        let manifest: Manifest = serde_json::from_slice(&self.manifest)
            .map_err(|error| format!("its backup_manifest cannot be read: {error}"))?;
        let newest = manifest.ranges.iter().max_by_key(|range| range.timeline);
        let oldest = manifest.ranges.iter().min_by_key(|range| range.timeline);
        let (Some(newest), Some(oldest)) = (newest, oldest) else {
            return Err("its backup_manifest names no WAL".to_owned());
        };
        let range = WalRange {
            timeline: TimelineId(newest.timeline),
            start: oldest.start,
            stop: newest.end,
        };
        Ok((range, hash(&self.manifest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_says_which_wal_is_needed() {
        let text = br#"{ "PostgreSQL-Backup-Manifest-Version": 1, "Files": [],
            "WAL-Ranges": [
              { "Timeline": 2, "Start-LSN": "0/4000000", "End-LSN": "0/5000100" },
              { "Timeline": 1, "Start-LSN": "0/3000028", "End-LSN": "0/4000000" } ],
            "Manifest-Checksum": "x"}"#;
        let catcher = ManifestCatcher {
            manifest: text.to_vec(),
        };
        let (range, _) = catcher.range().expect("is read");
        let expected = WalRange {
            timeline: TimelineId(2),
            start: Lsn(0x300_0028),
            stop: Lsn(0x500_0100),
        };
        assert_eq!(range, expected);
        assert!(ManifestCatcher::default().range().is_err());
    }
}
