//! Putting a base backup back onto a disk.

use crate::catalogue::Catalogue;
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use crate::tar::{Entry, EntryKind, Visitor, Walker};
use futures::{StreamExt, TryStreamExt};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Parts that are fetched ahead.
const AHEAD: usize = 3;

/// What was unpacked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// Writes the files of `backup` into the empty directory `into`. Every part is verified before any of it is used, and the
/// whole archive at the end. The server's control file comes last, so what was broken off cannot be started.
///
/// # Errors
/// `into` is not an empty directory, a part is missing or damaged, or a file cannot be written.
pub async fn restore_into(
    repository: &Repository,
    backup: &Catalogue,
    into: &Path,
    mut progress: impl FnMut(u64),
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
    let mut parts = futures::stream::iter(fetches).buffered(AHEAD);
    let mut walker = Walker::default();
    let mut unpacker = Unpacker {
        into: into.to_owned(),
        open: None,
        done: Unpacked::default(),
    };
    let mut hasher = blake3::Hasher::new();
    let failed = |why: String| Error::Refused {
        name: format!("backup {}", backup.id),
        why,
    };
    while let Some(content) = parts.try_next().await? {
        hasher.update(&content);
        walker.feed(&content, &mut unpacker).map_err(failed)?;
        progress(content.len() as u64);
    }
    walker.finish().map_err(failed)?;
    if hasher.finalize().to_hex().as_str() != backup.hash {
        return Err(failed("the archive does not match its hash".to_owned()));
    }
    Ok(unpacker.done)
}

struct Unpacker {
    into: PathBuf,
    open: Option<File>,
    done: Unpacked,
}

impl Visitor for Unpacker {
    fn begin(&mut self, entry: &Entry) -> Result<(), String> {
        let path = self.into.join(&entry.path);
        let wrong = |error: std::io::Error| format!("could not create {}: {error}", path.display());
        match &entry.kind {
            EntryKind::Folder => {
                fs::create_dir_all(&path).map_err(wrong)?;
                fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(wrong)?;
            }
            EntryKind::Link(to) => {
                return Err(format!(
                    "{} is a link to {to}: tablespaces are not restored yet",
                    entry.path
                ));
            }
            EntryKind::File => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(wrong)?;
                }
                let mut options = File::options();
                options.write(true).create_new(true).mode(entry.mode & 0o700);
                self.open = Some(options.open(&path).map_err(wrong)?);
            }
        }
        Ok(())
    }

    fn content(&mut self, entry: &Entry, piece: &[u8]) -> Result<(), String> {
        let file = self.open.as_mut().ok_or("content without a file")?;
        file.write_all(piece)
            .map_err(|error| format!("could not write {}: {error}", entry.path))?;
        self.done.bytes += piece.len() as u64;
        Ok(())
    }

    fn end(&mut self, _: &Entry) -> Result<(), String> {
        if self.open.take().is_some() {
            self.done.files += 1;
        }
        Ok(())
    }
}
