//! The few things that the store does with files, behind a trait so that tests can make each of them fail.

use super::OpenError;
use crate::durable;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A directory of small files.
pub trait Directory: Send + 'static {
    /// The whole file, or `None` if there is none.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Creates the file, or replaces it as a whole. When it returns, the new contents survive a crash; until then,
    /// the old ones do.
    ///
    /// # Errors
    /// Something failed; the old or the new contents are there.
    fn replace(&mut self, name: &str, contents: &[u8]) -> io::Result<()>;

    /// Opens an existing file to append to it.
    ///
    /// # Errors
    /// There is no such file, or it cannot be opened.
    fn open_to_append(&mut self, name: &str) -> io::Result<Box<dyn AppendFile>>;

    /// The file's name as messages show it.
    fn show(&self, name: &str) -> String;
}

/// A file that grows at its end.
pub trait AppendFile: Send {
    /// Cuts everything from byte `len` on, durably.
    ///
    /// # Errors
    /// The file may or may not have been cut.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Adds `bytes`; not durable before [`AppendFile::sync`].
    ///
    /// # Errors
    /// Some of the bytes may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable what was appended.
    ///
    /// # Errors
    /// What was appended since the last success is lost or not, and a second try proves nothing.
    fn sync(&mut self) -> io::Result<()>;
}

/// The agent's state directory, locked against a second agent for as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

const LOCK_FILE: &str = "agent.lock";

impl StateDir {
    /// Creates the directory if needed and locks it. The lock goes with the process, however it ends: a file that is
    /// left behind does no harm.
    ///
    /// # Errors
    /// Another agent holds the lock, or the directory cannot be made or written.
    pub fn open(path: &Path) -> Result<StateDir, OpenError> {
        let failed = |what, source| OpenError::Io {
            what,
            path: path.display().to_string(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("cannot create the state directory", error))?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(|error| failed("cannot create the lock file in", error))?;
        let mut lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
            if errno != nix::errno::Errno::EWOULDBLOCK {
                return failed("cannot lock the state directory", errno.into());
            }
            let mut holder = String::new();
            // Only for the message: whoever holds the lock may not have written its number yet.
            let holder = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                _ => "of unknown process number".to_owned(),
            };
            OpenError::InUse {
                path: path.to_owned(),
                holder,
            }
        })?;
        lock.set_len(0)
            .and_then(|()| write!(*lock, "{}", std::process::id()))
            .map_err(|error| failed("cannot write the lock file in", error))?;
        Ok(StateDir {
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

impl Directory for StateDir {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        read(&self.path, name)
    }

    fn replace(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        durable::replace(&self.path.join(name), contents)
    }

    fn open_to_append(&mut self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().append(true).open(self.path.join(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn show(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// The whole file, or `None` if there is none.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(directory: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(directory.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct RealFile(File);

impl AppendFile for RealFile {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        self.0.sync_all()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = StateDir::open(dir.path()).expect("first");
        let error = StateDir::open(dir.path()).expect_err("locked");
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        StateDir::open(dir.path()).expect("free again");
    }

    #[test]
    fn a_replaced_file_has_the_new_contents_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut state = StateDir::open(dir.path()).expect("open");
        assert_eq!(state.read("f").expect("read"), None);
        state.replace("f", b"one").expect("create");
        state.replace("f", b"two!").expect("replace");
        assert_eq!(state.read("f").expect("read").as_deref(), Some(&b"two!"[..]));
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
