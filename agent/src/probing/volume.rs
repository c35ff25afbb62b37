//! Where the server's data and WAL lie, and how much room there is.

use super::ballast;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A folder of the server's, and the files that the agent keeps on its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    /// The folder itself, symbolic links resolved.
    pub folder: PathBuf,
    pub device: u64,
    /// What the files' names begin with, beside the folder or, where that is a mount point, in it.
    stem: PathBuf,
}

/// Room on a volume, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub free: u64,
    pub total: u64,
}

impl Volume {
    /// The volume of `folder`.
    pub(super) fn of(folder: &Path) -> Result<Volume, Error> {
        let folder = folder.canonicalize()?;
        let device = std::fs::metadata(&folder)?.dev();
        let beside = folder
            .parent()
            .filter(|parent| std::fs::metadata(parent).is_ok_and(|parent| parent.dev() == device));
        let stem = match (beside, folder.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            // By this prefix a base backup leaves them out.
            _ => folder.join("pgsql_tmp"),
        };
        Ok(Volume { folder, device, stem })
    }

    /// The file that is written to see whether the disk takes writes.
    pub(super) fn probe_file(&self) -> PathBuf {
        self.file(".pgctl-probe")
    }

    /// The file that is given up when the volume is full.
    pub(super) fn ballast_file(&self) -> PathBuf {
        self.file(".pgctl-ballast")
    }

    fn file(&self, ending: &str) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    }

    /// How much of it is free for whoever is not root.
    pub(super) fn room(&self) -> Result<Room, Error> {
        let found = nix::sys::statvfs::statvfs(&self.folder)?;
        let unit = found.fragment_size();
        Ok(Room {
            free: found.blocks_available() * unit,
            total: found.blocks() * unit,
        })
    }

    /// Makes, keeps or gives up the ballast. Gives its size then, bytes.
    pub(super) fn trim_ballast(&self, setting: u64, room: Room) -> Result<u64, Error> {
        let path = self.ballast_file();
        let held = match std::fs::metadata(&path) {
            Ok(found) => found.blocks() * 512,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let want = ballast::wanted(setting, room);
        match ballast::plan(room, held, want) {
            ballast::Plan::Keep => Ok(held),
            ballast::Plan::Release => {
                std::fs::remove_file(&path)?;
                tracing::warn!(path = %path.display(), bytes = held, free = room.free, "gave the ballast up");
                Ok(0)
            }
            ballast::Plan::Make => {
                ballast::make(&path, want)?;
                tracing::info!(path = %path.display(), bytes = want, "made the ballast");
                Ok(want)
            }
        }
    }
}
