//! Restoring over a data directory that is there: what is right already is not written again.
//!
//! What is there is compared byte by byte with what comes out of the backup; sizes, times and names prove nothing.

use agent_core::pg::SystemId;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(crate) const CONTROL_FILE: &str = "global/pg_control";
/// Under this name the new control file waits until everything else is in place.
pub(crate) const NEXT_CONTROL_FILE: &str = "global/pg_control.pgctl";
/// Says whose data they were while there is no control file.
const MARK: &str = "pgctl.restoring";

/// A file that is there, and what it shall be.
pub(crate) struct Compared {
    file: File,
    /// Up to here it is as it shall be.
    at: u64,
    differs: bool,
    kept: u64,
    there: Vec<u8>,
}

impl Compared {
    pub(crate) fn open(path: &Path, mode: u32) -> io::Result<Compared> {
        let file = File::options().read(true).write(true).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(Compared {
            file,
            at: 0,
            differs: false,
            kept: 0,
            there: Vec::new(),
        })
    }

    pub(crate) fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.differs {
            self.there.resize(piece.len(), 0);
            let length = read_up_to(&mut self.file, &mut self.there)?;
            if self.there[..length] == *piece {
                self.at += piece.len() as u64;
                self.kept += piece.len() as u64;
                return Ok(());
            }
            self.differs = true;
            self.file.seek(SeekFrom::Start(self.at))?;
        }
        self.file.write_all(piece)?;
        self.at += piece.len() as u64;
        Ok(())
    }

    /// Cuts off what it had beyond its end. Gives how many bytes were kept.
    pub(crate) fn finish(self) -> io::Result<u64> {
        if self.file.metadata()?.len() > self.at {
            self.file.set_len(self.at)?;
        }
        Ok(self.kept)
    }
}

fn read_up_to(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read(&mut into[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// Makes sure that it is a data directory of `system_id` that nobody uses, and that nobody can start it until it is whole.
pub(crate) fn prepare(into: &Path, system_id: SystemId) -> Result<(), String> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    if let Some(pid) = user_of(into) {
        return Err(format!("process {pid} works in it: stop the server first"));
    }
    no_links(into)?;
    let (control, mark) = (into.join(CONTROL_FILE), into.join(MARK));
    let found = match fs::read(&control) {
        Ok(bytes) => bytes
            .first_chunk()
            .map(|first| SystemId(u64::from_le_bytes(*first))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read_to_string(&mark)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(SystemId),
        Err(error) => return Err(failed(&control, error)),
    };
    match found {
        Some(found) if found == system_id => {}
        Some(found) => {
            return Err(format!(
                "it is a data directory of the system {found}, and the backup is of {system_id}: restore into an empty one"
            ));
        }
        None => {
            return Err("it is neither empty nor a data directory: restore into an empty one".to_owned());
        }
    }
    let mut file = File::create(&mark).map_err(|error| failed(&mark, error))?;
    let written = writeln!(file, "{system_id}").and_then(|()| file.sync_all());
    written.map_err(|error| failed(&mark, error))?;
    match fs::remove_file(&control) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&control, error)),
        _ => Ok(()),
    }
}

/// Everything is in place but the control file: it comes once all of it is on the disk, so that a power cut leaves no
/// server that starts with less.
pub(crate) fn finish(into: &Path) -> Result<(), String> {
    let flushed = |path: &Path| format!("flushing {}", path.display());
    File::open(into)
        .and_then(|folder| Ok(nix::unistd::syncfs(folder)?))
        .map_err(|error| format!("{}: {error}", flushed(into)))?;
    let control = into.join(CONTROL_FILE);
    fs::rename(into.join(NEXT_CONTROL_FILE), &control)
        .map_err(|error| format!("{NEXT_CONTROL_FILE}: {error}"))?;
    let folder = control.parent().unwrap_or(into);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| format!("{}: {error}", flushed(folder)))
}

/// Server processes work in their data directory.
fn user_of(into: &Path) -> Option<i32> {
    let into = into.canonicalize().ok()?;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).ok();
    pids.find(|pid| {
        Some(*pid) != own && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == into)
    })
}

/// Nothing is written or removed outside of the directory.
fn no_links(folder: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_symlink() {
            return Err(format!(
                "{} is a link: tablespaces, and WAL on a volume of its own, are not restored over; restore into an empty \
                 directory",
                entry.path().display()
            ));
        }
        if kind.is_dir() {
            no_links(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_there_the_file_becomes_what_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        let wanted: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
        let change = |at: usize| {
            let mut other = wanted.clone();
            other[at] ^= 1;
            other
        };
        let longer = [wanted.as_slice(), b"more"].concat();
        let cases: [(&str, Vec<u8>, u64); 7] = [
            ("the same", wanted.clone(), 10_000),
            ("nothing", Vec::new(), 0),
            ("its first byte differs", change(0), 0),
            ("a byte in the middle differs", change(5_500), 5_000),
            ("its last byte differs", change(9_999), 9_000),
            ("it is longer", longer, 10_000),
            ("it is shorter", wanted[..2_500].to_vec(), 2_000),
        ];
        for (what, there, kept) in cases {
            fs::write(&path, there).expect("written");
            let mut compared = Compared::open(&path, 0o600).expect("opens");
            for piece in wanted.chunks(1_000) {
                compared.take(piece).expect("taken");
            }
            assert_eq!(compared.finish().expect("ends"), kept, "{what}");
            assert!(fs::read(&path).expect("there") == wanted, "{what}");
        }
    }

    #[test]
    fn only_a_directory_of_the_same_system_that_nobody_uses_is_taken() {
        let home = tempfile::tempdir().expect("a folder");
        let into = home.path().join("data");
        fs::create_dir_all(into.join("global")).expect("folders");
        let control = |id: u64| fs::write(into.join(CONTROL_FILE), [&id.to_le_bytes()[..], b"rest"].concat());
        let refused = |what: &str| prepare(&into, SystemId(7)).expect_err(what);
        assert!(refused("nobody's").contains("neither empty"));
        control(8).expect("written");
        assert!(refused("another system's").contains("system 8"));
        control(7).expect("written");
        let mut user = std::process::Command::new("sleep")
            .arg("600")
            .current_dir(&into)
            .spawn()
            .expect("a process");
        let begun = std::time::Instant::now();
        while user_of(&into).is_none() {
            assert!(begun.elapsed().as_secs() < 20, "it does not start");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(refused("in use").contains("stop the server"));
        user.kill().expect("ended");
        user.wait().expect("gone");
        std::os::unix::fs::symlink("/tmp", into.join("pg_wal")).expect("a link");
        assert!(refused("a link").contains("is a link"));
        fs::remove_file(into.join("pg_wal")).expect("removed");
        prepare(&into, SystemId(7)).expect("taken");
        assert!(!into.join(CONTROL_FILE).exists(), "it cannot be started half way");
        prepare(&into, SystemId(7)).expect("and again, after it was broken off");
        prepare(&into, SystemId(8)).expect_err("it is still the other one's");
    }
}
