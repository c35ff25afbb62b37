//! Reading objects, and taking the archives of base backups apart.

use super::files::Files;
use super::pages::{Pages, PagesSay};
use super::{Findings, Verified, Wrong, name_of};
use crate::catalogue::{Catalogue, hash_of};
use crate::error::Error;
use crate::layout::Line;
use crate::page_header::check_segment;
use crate::repository::Repository;
use crate::store::Listed;
use crate::tar::{Entry, EntryKind, Visitor, Walker};
use crate::wal_name::Segment;
use agent_core::pg::SystemId;
use futures::StreamExt;
use std::collections::BTreeSet;

/// Objects that are read at once.
const AT_ONCE: usize = 3;
/// How many files of one backup are named.
const NAMED: usize = 20;

pub(super) struct Reading<'a, P> {
    pub repository: &'a Repository,
    pub line: &'a Line,
    /// Bytes that there are to read.
    pub all: u64,
    pub progress: P,
    pub verified: Verified,
    pub found: Findings,
}

impl<P: FnMut(u64, u64)> Reading<'_, P> {
    pub(super) async fn read(mut self, chosen: &[&Listed], whole: &[&Catalogue]) -> Verified {
        let mut in_archives = BTreeSet::new();
        for entry in whole {
            in_archives.extend((0..entry.parts.len()).map(|number| self.line.part(&entry.id, number)));
        }
        let (parts, single): (Vec<&&Listed>, Vec<&&Listed>) = chosen
            .iter()
            .partition(|listed| in_archives.contains(&listed.key));
        let (repository, line) = (self.repository, self.line);
        let single: Vec<(String, u64)> = single
            .into_iter()
            .map(|listed| (listed.key.clone(), listed.bytes))
            .collect();
        // Owned, so that whoever reads may do so in a task of its own.
        let reads = single.into_iter().map(|(key, bytes)| async move {
            let looked = look(repository, line, &key).await;
            (key, bytes, looked)
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(AT_ONCE);
        while let Some((key, bytes, looked)) = reads.next().await {
            self.tell(bytes);
            if let Err((wrong, why)) = looked {
                self.found.add(&key, wrong, why);
            }
        }
        for entry in whole {
            self.take_apart(entry, &parts).await;
        }
        self.verified.findings = self.found.found.into_values().collect();
        self.verified
    }

    fn tell(&mut self, bytes: u64) {
        self.verified.objects += 1;
        self.verified.stored_bytes += bytes;
        (self.progress)(self.verified.stored_bytes, self.all);
    }

    async fn take_apart(&mut self, entry: &Catalogue, parts: &[&&Listed]) {
        let (repository, line) = (self.repository, self.line);
        let reads = (0..entry.parts.len()).map(|number| {
            let key = line.part(&entry.id, number);
            async move {
                let read = repository.read(&key).await;
                (number, key, read)
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(AT_ONCE);
        let mut walker = Walker::default();
        let mut content = Content {
            files: Files::default(),
            pages: Pages::since(entry.start),
        };
        let mut broken = None;
        let mut gap = false;
        while let Some((number, key, read)) = reads.next().await {
            let stored = parts
                .iter()
                .find(|listed| listed.key == key)
                .map(|listed| listed.bytes);
            let read = match read {
                Ok((header, piece)) if header.hash == entry.parts[number].hash => Ok(piece),
                Ok(_) => Err((
                    Wrong::Misnamed,
                    "it is not the part that the catalogue names".to_owned(),
                )),
                Err(error) => match wrong(error) {
                    Some(wrong) => Err(wrong),
                    // Found before, or deleted by retention meanwhile.
                    None => {
                        gap = true;
                        continue;
                    }
                },
            };
            self.tell(stored.unwrap_or(0));
            match read {
                Ok(piece) if !gap && broken.is_none() => {
                    broken = walker.feed(&piece, &mut content).err();
                }
                Ok(_) => {}
                Err((wrong, why)) => {
                    gap = true;
                    self.found.add(&key, wrong, why);
                }
            }
        }
        if gap {
            return;
        }
        self.verified.backups += 1;
        let mut unsound = Vec::new();
        unsound.extend(broken.or_else(|| walker.finish().err()));
        if unsound.is_empty() {
            if hash_of(&entry.parts) != entry.hash {
                unsound.push("its parts are not those that it was finished with".to_owned());
            }
            if content.files.manifest_hash() != entry.manifest_hash {
                unsound.push("its manifest is not the one that the catalogue names".to_owned());
            }
            unsound.extend(content.files.differences().into_iter().take(NAMED));
            match content.pages.say() {
                PagesSay::Right(pages) => self.verified.pages += pages,
                PagesSay::NoChecksums => {}
                PagesSay::Wrong(named, all) => {
                    unsound.push(format!("{all} pages have a wrong checksum: {}", named.join(", ")));
                }
            }
        }
        if !unsound.is_empty() {
            let key = line.backup(&entry.id);
            self.found.add(&key, Wrong::Unsound, unsound.join("; "));
        }
    }
}

/// What an error says of an object; nothing if it was deleted meanwhile.
fn wrong(error: Error) -> Option<(Wrong, String)> {
    match error {
        Error::Missing { .. } => None,
        Error::Damaged { why, .. } => Some((Wrong::Damaged, why)),
        error => Some((Wrong::Unreadable, error.to_string())),
    }
}

async fn look(repository: &Repository, line: &Line, key: &str) -> Result<(), (Wrong, String)> {
    let (header, content) = match repository.read(key).await {
        Ok(read) => read,
        Err(error) => return wrong(error).map_or(Ok(()), Err),
    };
    let name = name_of(key);
    let is_wal = key.starts_with(&format!("{}/", line.wal()));
    let named = is_wal || key.starts_with(&format!("{}/", line.histories()));
    if named && header.name != name {
        return Err((Wrong::Misnamed, format!("it holds {}", header.name)));
    }
    if let (true, Some(segment), Ok(system_id)) =
        (is_wal, Segment::parse(name), line.incarnation().parse::<u64>())
    {
        check_segment(segment, SystemId(system_id), &content)
            .map_err(|error| (Wrong::Unsound, error.to_string()))?;
    }
    Ok(())
}

/// What goes by of an archive.
struct Content {
    files: Files,
    pages: Pages,
}

impl Visitor for Content {
    fn begin(&mut self, entry: &Entry) -> Result<(), String> {
        self.files.begin();
        self.pages.begin(entry);
        Ok(())
    }

    fn content(&mut self, entry: &Entry, piece: &[u8]) -> Result<(), String> {
        self.files.content(entry, piece);
        self.pages.content(entry, piece);
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.kind == EntryKind::File {
            self.files.end(entry);
        }
        Ok(())
    }
}
