//! The probes of the disks: a write of one page that is on the disk when it returns, as a commit's is.

use super::volume::{Room, Volume};
use super::{DiskDesk, Shared, lock};
use crate::postgres::Instance;
use agent_core::vitals::Disk;
use std::fs::{File, OpenOptions};
use std::io::Error;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// One page, which is what a write past the cache has to be aligned to.
const PAGE: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Data,
    Wal,
}

/// Starts a thread for each of the two folders; where both are on one volume, that of the WAL rests.
pub(super) fn start(shared: &Arc<Shared>, instance: &Instance) -> std::io::Result<()> {
    for (which, name) in [(Which::Data, "probe-data"), (Which::Wal, "probe-wal")] {
        let shared = shared.clone();
        let data_dir = instance.data_dir().to_owned();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&shared, which, &data_dir))?;
    }
    Ok(())
}

fn run(shared: &Shared, which: Which, data_dir: &Path) {
    let desk = match which {
        Which::Data => &shared.data,
        Which::Wal => &shared.wal,
    };
    let mut told = String::new();
    if which == Which::Data {
        // An agent that is started beside a disk that hangs shall know of it, too.
        *lock(&desk.found) = Some(Disk {
            data: true,
            path: data_dir.display().to_string(),
            ..Disk::default()
        });
    }
    while !shared.stopped() {
        // Also to find the folder may take for ever.
        lock(&desk.stopwatch).asks();
        match place(which, data_dir) {
            Some(place) => {
                let written = write_through(&place.volume.probe_file());
                note(desk, &place, written, &mut told);
                // What follows is no question to the disk, and may take longer.
                let found = place.look_around(shared.ballast.load(Ordering::SeqCst));
                *lock(&desk.found) = Some(found);
            }
            None => {
                lock(&desk.stopwatch).answered();
                *lock(&desk.found) = None;
            }
        }
        std::thread::sleep(EVERY);
    }
}

/// A volume, and what the server has there.
struct Place {
    volume: Volume,
    wal: bool,
    data: bool,
}

/// `None` where there is no such folder, or the other thread looks after its volume.
fn place(which: Which, data_dir: &Path) -> Option<Place> {
    let data = Volume::of(data_dir).ok()?;
    let wal = Volume::of(&data_dir.join("pg_wal")).ok();
    let shared = wal.as_ref().is_some_and(|wal| wal.device == data.device);
    let volume = match which {
        Which::Data => data,
        Which::Wal if shared => return None,
        Which::Wal => wal?,
    };
    Some(Place {
        volume,
        wal: which == Which::Wal || shared,
        data: which == Which::Data,
    })
}

impl Place {
    /// Looks how much room there is, and sees to the ballast.
    fn look_around(&self, ballast: u64) -> Disk {
        let room = self.volume.room();
        let held = room.as_ref().map_err(|error| error.to_string()).and_then(|room| {
            let held = self.volume.trim_ballast(ballast, *room);
            held.map_err(|error| error.to_string())
        });
        let folder = self.volume.folder.display();
        let ballast_bytes = held.unwrap_or_else(|error| {
            tracing::debug!(%folder, error, "the ballast could not be seen to");
            0
        });
        Disk {
            wal: self.wal,
            data: self.data,
            path: folder.to_string(),
            pulse: Default::default(),
            free_bytes: room.as_ref().ok().map(|room| room.free),
            total_bytes: room.map_or(0, |Room { total, .. }| total),
            ballast_bytes,
        }
    }
}

fn note(desk: &DiskDesk, place: &Place, written: Result<(), Error>, told: &mut String) {
    let said = written
        .as_ref()
        .err()
        .map(ToString::to_string)
        .unwrap_or_default();
    if said != *told && !said.is_empty() {
        let folder = place.volume.folder.display();
        tracing::warn!(%folder, error = said, "the disk does not take the probe's write");
    }
    told.clone_from(&said);
    // Only these speak of the disk itself; a full volume has answered, and shows in the room that is left.
    let broken = written
        .err()
        .and_then(|error| error.raw_os_error())
        .is_some_and(|code| code == libc::EIO || code == libc::EROFS);
    let mut stopwatch = lock(&desk.stopwatch);
    if broken {
        stopwatch.silent(said);
    } else {
        stopwatch.answered();
    }
}

/// Writes one page past the cache, where the file system lets us; on the disk when this returns in any case.
fn write_through(path: &PathBuf) -> Result<(), Error> {
    let open = |flags: i32| -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options
            .custom_flags(libc::O_DSYNC | libc::O_CLOEXEC | flags)
            .open(path)
    };
    let buffer = vec![0_u8; 2 * PAGE];
    let aligned = buffer.as_ptr().align_offset(PAGE);
    let page = buffer.get(aligned..aligned + PAGE).unwrap_or(&buffer);
    let refused = |error: &Error| error.raw_os_error() == Some(libc::EINVAL);
    let direct = open(libc::O_DIRECT).and_then(|file| file.write_all_at(page, 0));
    match direct {
        Err(error) if refused(&error) => open(0)?.write_all_at(page, 0),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reaches_the_disk_whatever_the_file_system() {
        for folder in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
            let Ok(dir) = tempfile::tempdir_in(&folder) else {
                continue;
            };
            let path = dir.path().join("probe");
            for _ in 0..2 {
                write_through(&path).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
                assert_eq!(std::fs::metadata(&path).expect("written").len(), 4096);
            }
        }
    }

    #[test]
    fn data_and_wal_on_one_volume_are_looked_after_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("data");
        assert!(place(Which::Data, &data).is_none());
        std::fs::create_dir_all(data.join("pg_wal")).expect("made");
        let both = place(Which::Data, &data).expect("a volume");
        assert!(both.wal && both.data);
        assert!(place(Which::Wal, &data).is_none());
        let ballast = dir
            .path()
            .canonicalize()
            .expect("there")
            .join("data.pgctl-ballast");
        assert_eq!(both.volume.ballast_file(), ballast);
        let disk = both.look_around(1 << 20);
        assert!(disk.free_bytes.is_some() && disk.total_bytes > 0, "{disk:?}");
        assert_eq!(
            disk.ballast_bytes,
            std::fs::metadata(&ballast).expect("made").len()
        );
        assert_eq!(both.look_around(0).ballast_bytes, 0);
        assert!(!ballast.exists());
    }
}
