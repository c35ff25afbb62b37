//! Putting a base backup back onto a disk, with all that it is an increment of.

use crate::catalogue::{Catalogue, hash_of};
use crate::error::Error;
use crate::increment::{self, Increment};
use crate::layout::Line;
use crate::over::{self, CONTROL_FILE, Compared, NEXT_CONTROL_FILE};
use crate::repository::Repository;
use crate::tar::{Entry, EntryKind, Visitor, Walker};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Parts that are fetched ahead.
const AHEAD: usize = 3;
/// Longer than any sensible chain: what is longer is a ring.
const CHAIN_MAX: usize = 10_000;

/// What was unpacked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
    /// Of the bytes, those that were there already.
    pub kept: u64,
}

/// Writes the files of `backup` into the empty directory `into`; of an increment, the full backup first, and then what each
/// one changed. Every part is verified before any of it is used, and each archive at its end. The server's control
/// file comes last, so what was broken off cannot be started; `ready` is called before it comes, to prepare the recovery.
///
/// # Errors
/// `into` is not an empty directory, a part is missing or damaged, or a file cannot be written.
pub async fn restore_into(
    repository: &Repository,
    backup: &Catalogue,
    into: &Path,
    progress: impl FnMut(u64),
    ready: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<Unpacked, Error> {
    let occupied = fs::read_dir(into)
        .map_err(Error::file("read", into))?
        .next()
        .is_some();
    if occupied {
        return Err(Error::Refused {
            name: into.display().to_string(),
            why: "it is not empty; a restore never overwrites".to_owned(),
        });
    }
    fs::set_permissions(into, Permissions::from_mode(0o700)).map_err(Error::file("set the mode of", into))?;
    restore_chain(repository, backup, into, false, progress, ready).await
}

/// The same over a data directory of the same database, whose files are kept where they are what they shall be: each is
/// compared, and whatever the backup does not have is removed.
///
/// # Errors
/// As [`restore_into`]; `into` is another database's, a server uses it, or it holds links.
pub async fn restore_over(
    repository: &Repository,
    backup: &Catalogue,
    into: &Path,
    progress: impl FnMut(u64),
    ready: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<Unpacked, Error> {
    let refused = |why: String| Error::Refused {
        name: into.display().to_string(),
        why,
    };
    over::prepare(into, backup.system_id).map_err(refused)?;
    restore_chain(repository, backup, into, true, progress, ready).await
}

async fn restore_chain(
    repository: &Repository,
    backup: &Catalogue,
    into: &Path,
    is_over: bool,
    mut progress: impl FnMut(u64),
    ready: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<Unpacked, Error> {
    let chain = chain_of(repository, backup).await?;
    let mut done = Unpacked::default();
    let mut before: Option<&Catalogue> = None;
    for (index, entry) in chain.iter().enumerate() {
        let mut unpacker = Unpacker {
            into: into.to_owned(),
            is_over: is_over && index == 0,
            is_increment: index > 0,
            is_last: index + 1 == chain.len(),
            open: None,
            listed: BTreeSet::new(),
            changed: BTreeSet::new(),
            done: Unpacked::default(),
        };
        unpack(repository, entry, &mut unpacker, &mut progress).await?;
        let failed = |why: String| Error::Refused {
            name: format!("backup {}", entry.id),
            why,
        };
        if let Some(before) = before {
            increment::is_of(into, before).map_err(failed)?;
            increment::remove_all_but(into, &unpacker.listed).map_err(failed)?;
            if unpacker.is_last {
                increment::make_whole(into, &unpacker.changed).map_err(failed)?;
            }
        }
        if unpacker.is_over {
            increment::remove_all_but(into, &unpacker.listed).map_err(failed)?;
        }
        done.files = unpacker.done.files;
        done.bytes += unpacker.done.bytes;
        done.kept += unpacker.done.kept;
        before = Some(entry);
    }
    let failed = |why: String| Error::Refused {
        name: into.display().to_string(),
        why,
    };
    ready(into).map_err(failed)?;
    // It may wait long for the disk.
    let whole = into.to_owned();
    let finished = tokio::task::spawn_blocking(move || over::finish(&whole)).await;
    finished
        .unwrap_or_else(|error| Err(error.to_string()))
        .map_err(failed)?;
    Ok(done)
}

/// The backup with all that it is an increment of, the full one first.
async fn chain_of(repository: &Repository, backup: &Catalogue) -> Result<Vec<Catalogue>, Error> {
    let line = Line::new(&backup.cluster, backup.system_id);
    let mut chain = vec![backup.clone()];
    while let Some(parent) = chain.last().and_then(|entry| entry.parent.clone()) {
        if chain.len() > CHAIN_MAX {
            return Err(repository.damaged(&line.backup(&backup.id), "it is an increment of itself"));
        }
        chain.push(repository.read_json(&line.backup(&parent)).await?);
    }
    chain.reverse();
    Ok(chain)
}

async fn unpack(
    repository: &Repository,
    backup: &Catalogue,
    unpacker: &mut Unpacker,
    progress: &mut impl FnMut(u64),
) -> Result<(), Error> {
    let line = Line::new(&backup.cluster, backup.system_id);
    let fetches = (0..backup.parts.len()).map(|number| {
        let key = line.part(&backup.id, number);
        async move {
            let (header, content) = repository.read(&key).await?;
            if header.hash != backup.parts[number].hash {
                return Err(repository.damaged(&key, "it is not the part that the catalogue names"));
            }
            Ok(content)
        }
    });
    if hash_of(&backup.parts) != backup.hash {
        let key = line.backup(&backup.id);
        return Err(repository.damaged(&key, "its parts are not those that it was finished with"));
    }
    let mut parts = futures::stream::iter(fetches).buffered(AHEAD);
    let mut walker = Walker::default();
    let failed = |why: String| Error::Refused {
        name: format!("backup {}", backup.id),
        why,
    };
    while let Some(content) = parts.try_next().await? {
        walker.feed(&content, unpacker).map_err(failed)?;
        progress(content.len() as u64);
    }
    walker.finish().map_err(failed)
}

struct Unpacker {
    into: PathBuf,
    /// There may be files already.
    is_over: bool,
    is_increment: bool,
    is_last: bool,
    open: Option<Target>,
    /// Every path of the archive, as it is on the disk.
    listed: BTreeSet<PathBuf>,
    /// Files of which the archive has only what changed.
    changed: BTreeSet<String>,
    done: Unpacked,
}

enum Target {
    Whole(File),
    Compared(Compared),
    Changed(Increment),
    /// The control file of all but the last archive.
    Nothing,
}

impl Unpacker {
    fn begin_file(&mut self, entry: &Entry) -> Result<Target, String> {
        if entry.path == CONTROL_FILE && !self.is_last {
            return Ok(Target::Nothing);
        }
        if let Some(name) = increment::name_of(&entry.path).filter(|_| self.is_increment) {
            let path = self.into.join(&name);
            let changed = Increment::of(&path, entry.mode & 0o700)?;
            self.listed.insert(path);
            self.changed.insert(name);
            return Ok(Target::Changed(changed));
        }
        let path = match entry.path.as_str() {
            // It would let the server start before its recovery is prepared, and what does not belong there is gone.
            CONTROL_FILE => self.into.join(NEXT_CONTROL_FILE),
            path => self.into.join(path),
        };
        let wrong = |error: std::io::Error| format!("could not create {}: {error}", path.display());
        if self.is_over && path.is_file() {
            let there = Compared::open(&path, entry.mode & 0o700).map_err(wrong)?;
            self.listed.insert(path);
            return Ok(Target::Compared(there));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(wrong)?;
        }
        if self.is_increment && path.exists() {
            fs::remove_file(&path).map_err(wrong)?;
        }
        let mut options = File::options();
        options.write(true).create_new(true).mode(entry.mode & 0o700);
        let file = options.open(&path).map_err(wrong)?;
        self.listed.insert(path);
        Ok(Target::Whole(file))
    }
}

impl Visitor for Unpacker {
    fn begin(&mut self, entry: &Entry) -> Result<(), String> {
        match &entry.kind {
            EntryKind::Folder => {
                let path = self.into.join(&entry.path);
                let wrong = |error: std::io::Error| format!("could not create {}: {error}", path.display());
                fs::create_dir_all(&path).map_err(wrong)?;
                fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(wrong)?;
                self.listed.insert(path);
            }
            EntryKind::Link(to) => {
                return Err(format!(
                    "{} is a link to {to}: tablespaces are not restored yet",
                    entry.path
                ));
            }
            EntryKind::File => self.open = Some(self.begin_file(entry)?),
        }
        Ok(())
    }

    fn content(&mut self, entry: &Entry, piece: &[u8]) -> Result<(), String> {
        match self.open.as_mut().ok_or("content without a file")? {
            Target::Whole(file) => file
                .write_all(piece)
                .map_err(|error| format!("could not write {}: {error}", entry.path))?,
            Target::Compared(there) => there
                .take(piece)
                .map_err(|error| format!("could not write {}: {error}", entry.path))?,
            Target::Changed(increment) => increment
                .take(piece)
                .map_err(|error| format!("{}: {error}", entry.path))?,
            Target::Nothing => {}
        }
        self.done.bytes += piece.len() as u64;
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<(), String> {
        if let Some(target) = self.open.take() {
            match target {
                Target::Changed(increment) => increment
                    .finish()
                    .map_err(|error| format!("{}: {error}", entry.path))?,
                Target::Compared(there) => {
                    self.done.kept += there
                        .finish()
                        .map_err(|error| format!("{}: {error}", entry.path))?;
                }
                Target::Whole(_) | Target::Nothing => {}
            }
            self.done.files += 1;
        }
        Ok(())
    }
}
