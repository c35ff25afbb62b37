//! Logical dumps: what `pg_dump` and `pg_dumpall` write, cut into parts, beside the base backups.

use crate::catalogue::Part;
use crate::envelope::{Kind, hash};
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bytes of one part before compression.
const PART: usize = 16 << 20;

/// A dump's entry. It is written last, so a dump without one was never finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Such as `20261121T072319Z-3f2a-shop`.
    pub id: String,
    pub cluster: String,
    pub incarnation: String,
    pub node: String,
    /// Empty for the globals: roles, their settings, tablespaces.
    pub database: String,
    /// Such as 150018.
    pub server_version: u32,
    /// By the agent's wall clock, ms since 1970.
    pub begun_ms: i64,
    pub ended_ms: i64,
    pub parts: Vec<Part>,
    pub bytes: u64,
    /// BLAKE3 of all of it.
    pub hash: String,
    /// Bytes in the store.
    pub stored_bytes: u64,
}

/// Takes what the program writes.
pub struct DumpWriter {
    repositories: Vec<Repository>,
    line: Line,
    dump: Dump,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl DumpWriter {
    /// Begins a dump. `of` has the names and numbers that are known before the first byte.
    ///
    /// # Errors
    /// A data key cannot be written.
    pub async fn begin(repositories: &[Repository], line: &Line, of: Dump) -> Result<DumpWriter, Error> {
        let mut encrypting = Vec::new();
        for repository in repositories {
            encrypting.push(repository.encrypting(line, &of.id).await?);
        }
        Ok(DumpWriter {
            repositories: encrypting,
            line: line.clone(),
            dump: of,
            buffer: Vec::with_capacity(PART),
            hasher: blake3::Hasher::new(),
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// A part could not be written.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.dump.bytes += bytes.len() as u64;
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

    /// The dump is over: writes its entry into every repository.
    ///
    /// # Errors
    /// A part or the entry could not be written. What was written stays without an entry.
    pub async fn finish(mut self, ended_ms: i64) -> Result<Dump, Error> {
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        self.dump.ended_ms = ended_ms;
        self.dump.hash = self.hasher.finalize().to_hex().to_string();
        let json = serde_json::to_vec_pretty(&self.dump).map_err(|error| Error::Refused {
            name: format!("dump {}", self.dump.id),
            why: error.to_string(),
        })?;
        let key = self.line.dump(&self.dump.id);
        for repository in &self.repositories {
            repository
                .create_own(
                    key.clone(),
                    Kind::Backup,
                    &self.dump.id,
                    json.clone(),
                    hash(&json),
                )
                .await?;
        }
        Ok(self.dump)
    }

    async fn send(&mut self) -> Result<(), Error> {
        let content = Arc::new(std::mem::replace(&mut self.buffer, Vec::with_capacity(PART)));
        let number = self.dump.parts.len();
        let key = self.line.dump_part(&self.dump.id, number);
        let name = format!("{}/{number:06}", self.dump.id);
        let known = hash(&content);
        for (index, repository) in self.repositories.iter().enumerate() {
            let content = Whole(Arc::clone(&content));
            let bytes = repository
                .create_own(key.clone(), Kind::Part, &name, content, known.clone())
                .await?;
            if index == 0 {
                self.dump.stored_bytes += bytes;
            }
        }
        self.dump.parts.push(Part {
            bytes: content.len() as u64,
            hash: known,
        });
        Ok(())
    }
}

struct Whole(Arc<Vec<u8>>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Every finished dump of a line, oldest first.
///
/// # Errors
/// The store does not list, or an entry is damaged.
pub async fn dumps(repository: &Repository, line: &Line) -> Result<Vec<Dump>, Error> {
    let mut found = Vec::new();
    for listed in repository.list(&line.dumps()).await? {
        if listed.key.ends_with("/dump") {
            let (_, json) = repository.read(&listed.key).await?;
            let entry: Dump = serde_json::from_slice(&json)
                .map_err(|error| repository.damaged(&listed.key, error.to_string()))?;
            found.push(entry);
        }
    }
    found.sort_by(|a, b| (a.ended_ms, &a.id).cmp(&(b.ended_ms, &b.id)));
    Ok(found)
}

/// Deletes the dumps of a line but those of the newest `keep` runs, of all whose ids begin with `prefix`; and what a run of
/// such an id left behind that nobody has written to since `abandoned_ms`. Gives how many were deleted.
///
/// # Errors
/// The store does not list or delete. The next run goes on.
pub async fn forget_dumps(
    repository: &Repository,
    line: &Line,
    prefix: &str,
    keep: usize,
    abandoned_ms: i64,
) -> Result<u64, Error> {
    // One run begins all its ids with the same words: the prefix, when it was due, which attempt.
    let run = |id: &str| id.splitn(4, '-').take(3).collect::<Vec<_>>().join("-");
    let finished = dumps(repository, line).await?;
    let mut kept: Vec<String> = Vec::new();
    for dump in finished.iter().rev().filter(|dump| dump.id.starts_with(prefix)) {
        let run = run(&dump.id);
        if !kept.contains(&run) && kept.len() < keep {
            kept.push(run);
        }
    }
    let of_entry = |id: &str| finished.iter().any(|dump| dump.id == id);
    let below = format!("{}/", line.dumps());
    let mut gone = std::collections::BTreeSet::new();
    let mut newest: std::collections::BTreeMap<String, i64> = std::collections::BTreeMap::new();
    let listed = repository.list(&line.dumps()).await?;
    let id_of = |key: &str| Some(key.strip_prefix(&below)?.split('/').next()?.to_owned());
    for one in &listed {
        if let Some(id) = id_of(&one.key).filter(|id| id.starts_with(prefix)) {
            let at = newest.entry(id).or_insert(i64::MIN);
            *at = (*at).max(one.modified_ms);
        }
    }
    for (id, at) in newest {
        let goes = match of_entry(&id) {
            true => !kept.contains(&run(&id)),
            false => at < abandoned_ms,
        };
        if goes {
            // The entry first: half a dump is none.
            repository.delete(&line.dump(&id)).await?;
            gone.insert(id);
        }
    }
    for one in &listed {
        if id_of(&one.key).is_some_and(|id| gone.contains(&id)) {
            repository.delete(&one.key).await?;
        }
    }
    Ok(gone.len() as u64)
}

/// Gives the content of a dump to `take`, each part verified before any of it is given.
///
/// # Errors
/// A part is missing or damaged, or `take` fails.
pub async fn read_dump(
    repository: &Repository,
    dump: &Dump,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Error> {
    let line = Line::of_parts(&dump.cluster, &dump.incarnation);
    let mut hasher = blake3::Hasher::new();
    for (number, part) in dump.parts.iter().enumerate() {
        let key = line.dump_part(&dump.id, number);
        let (header, content) = repository.read(&key).await?;
        if header.hash != part.hash {
            return Err(repository.damaged(&key, "it is not the part that the dump names"));
        }
        hasher.update(&content);
        take(&content).map_err(|source| Error::File {
            action: "pass on",
            path: format!("dump {}", dump.id),
            source,
        })?;
    }
    if hasher.finalize().to_hex().as_str() != dump.hash {
        return Err(repository.damaged(&line.dump(&dump.id), "the parts do not match its hash"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::pg::SystemId;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn the_newest_runs_of_the_schedule_are_kept_and_what_was_made_by_hand() {
        let repository = Repository::over(Arc::new(InMemory::new())).await.expect("opens");
        let line = Line::new("demo", SystemId(77));
        let run = async |id: &str, ended_ms: i64, finishes: bool| {
            let of = Dump {
                id: id.to_owned(),
                cluster: "demo".to_owned(),
                incarnation: "77".to_owned(),
                node: "n1".to_owned(),
                database: "shop".to_owned(),
                server_version: 150_000,
                begun_ms: 0,
                ended_ms: 0,
                parts: Vec::new(),
                bytes: 0,
                hash: String::new(),
                stored_bytes: 0,
            };
            let mut writer = DumpWriter::begin(std::slice::from_ref(&repository), &line, of)
                .await
                .expect("begins");
            writer.write(&vec![7; PART]).await.expect("takes it");
            if finishes {
                writer.finish(ended_ms).await.expect("ends");
            }
        };
        for (number, id) in [
            "dump-1-1-shop-0",
            "dump-1-1-globals-1",
            "by-hand",
            "dump-2-1-shop-0",
            "dump-3-2-a-b-0",
        ]
        .iter()
        .enumerate()
        {
            run(id, number as i64, true).await;
        }
        run("dump-3-1-shop-0", 0, false).await;
        let left = async || -> Vec<String> {
            let left = dumps(&repository, &line).await.expect("lists").into_iter();
            left.map(|dump| dump.id).collect()
        };
        let gone = forget_dumps(&repository, &line, "dump-", 2, 0)
            .await
            .expect("deletes");
        assert_eq!(gone, 2);
        assert_eq!(left().await, ["by-hand", "dump-2-1-shop-0", "dump-3-2-a-b-0"]);
        let gone = forget_dumps(&repository, &line, "dump-", 1, i64::MAX)
            .await
            .expect("deletes");
        assert_eq!(gone, 2, "an older one, and what was broken off");
        assert_eq!(left().await, ["by-hand", "dump-3-2-a-b-0"]);
        let below = repository.list(&line.dumps()).await.expect("lists");
        assert_eq!(below.len(), 4, "{below:?}");
    }
}
