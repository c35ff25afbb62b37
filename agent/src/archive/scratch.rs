//! A throw-away server: in a folder beside the data directory, without a network, at the lowest priority; gone with all
//! that it has written when it is dropped, or at the next start of the agent.

use super::ArchiveConfig;
use crate::ports::BackupSource;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server may take to end, before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// The longest path of a Unix socket, bytes.
const SOCKET_PATH_MAX: usize = 107;
/// The port that names the server's socket.
pub(super) const PORT: u16 = 5432;

/// The folder, and the server in it once there is one.
pub(super) struct Scratch {
    folder: PathBuf,
    server: Option<Child>,
    owner: (u32, u32),
}

impl Scratch {
    /// An empty one; whatever was left of another is removed.
    pub(super) fn make(config: &ArchiveConfig) -> Result<Scratch, String> {
        let folder = place(config);
        clear(&folder)?;
        let scratch = Scratch {
            folder,
            server: None,
            owner: config.owner,
        };
        let socket = scratch.sockets().join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(format!(
                "{} is longer than the {SOCKET_PATH_MAX} bytes of a socket's path",
                socket.display()
            ));
        }
        for folder in [scratch.folder.clone(), scratch.data(), scratch.sockets()] {
            let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
            std::fs::create_dir(&folder).map_err(failed)?;
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        scratch.give_away(&scratch.folder)?;
        Ok(scratch)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where the server puts its socket, and where it asks for WAL.
    pub(super) fn sockets(&self) -> PathBuf {
        self.folder.join("s")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Gives everything below `path` to the server's user.
    pub(super) fn give_away(&self, path: &Path) -> Result<(), String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Ok(());
        }
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        chown(path, Some(self.owner.0), Some(self.owner.1)).map_err(failed)?;
        if path.is_dir() {
            for entry in std::fs::read_dir(path).map_err(failed)?.flatten() {
                self.give_away(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Starts the server.
    pub(super) fn start(&mut self, source: &dyn BackupSource) -> Result<(), String> {
        let log = std::fs::File::create(self.log())
            .map_err(|error| format!("{}: {error}", self.log().display()))?;
        let again = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = source.at_low_priority("postgres");
        command.arg("-D").arg(self.data());
        command.stdin(Stdio::null()).stdout(log).stderr(again);
        let child = command
            .spawn()
            .map_err(|error| format!("the server could not be started: {error}"))?;
        self.server = Some(child);
        Ok(())
    }

    /// Whether the server has ended, with the end of its log.
    pub(super) fn has_ended(&mut self) -> Option<String> {
        let ended = match self.server.as_mut()?.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let said = lines[lines.len().saturating_sub(6)..].join(" | ");
        Some(format!("the server ended ({ended}): {said}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (server, folder) = (self.server.take(), self.folder.clone());
        // To end a server takes a moment, and this may run where nothing may wait.
        std::thread::spawn(move || {
            if let Some(mut server) = server {
                let pid = i32::try_from(server.id()).unwrap_or(0);
                end(pid, || matches!(server.try_wait(), Ok(Some(_)) | Err(_)));
            }
            if let Err(error) = clear(&folder) {
                tracing::warn!(
                    error,
                    "scratch space could not be cleared; it is at the next start of the agent"
                );
            }
        });
    }
}

/// Where it is, whether or not there is one now.
pub(super) fn place(config: &ArchiveConfig) -> PathBuf {
    let mut name = config.data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".pgctl-drill");
    config.data_dir.with_file_name(name)
}

/// Ends whatever server still runs in `folder`, and removes it.
pub(super) fn clear(folder: &Path) -> Result<(), String> {
    if !folder.exists() {
        return Ok(());
    }
    let data = folder.join("data");
    for pid in processes_in(&data) {
        end(pid, || !processes_in(&data).contains(&pid));
    }
    let mut tries = 0;
    loop {
        match std::fs::remove_dir_all(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A process that is ending may still write into it.
            Err(_) if tries < 20 => tries += 1,
            Err(error) => return Err(format!("{} cannot be removed: {error}", folder.display())),
        }
        std::thread::sleep(POLL);
    }
}

/// Server processes work in their data directory.
fn processes_in(data: &Path) -> Vec<i32> {
    let Ok(data) = data.canonicalize() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data))
        .collect()
}

/// Asks a server to end at once, and kills it if it does not.
fn end(pid: i32, mut is_gone: impl FnMut() -> bool) {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(pid);
    if pid.as_raw() <= 1 {
        return;
    }
    // It may be gone already.
    let _ = kill(pid, Signal::SIGQUIT);
    let begun = Instant::now();
    while !is_gone() && begun.elapsed() < ENDS_WITHIN {
        std::thread::sleep(POLL);
    }
    if !is_gone() {
        let _ = kill(pid, Signal::SIGKILL);
        std::thread::sleep(POLL);
        let _ = is_gone();
    }
}

/// Runs a program to its end; what it said, and whether it succeeded. `None` if there is no such program here.
pub(super) async fn run(mut command: Command) -> Result<Option<(bool, String)>, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    match command.kill_on_drop(true).output().await {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            // `nice` and `env` say so where the program is not there.
            if matches!(output.status.code(), Some(126 | 127)) {
                return Ok(None);
            }
            Ok(Some((output.status.success(), said)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_removed_with_the_process_that_works_in_it() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("x.pgctl-drill");
        std::fs::create_dir_all(folder.join("data")).expect("folders");
        let mut sleeper = Command::new("sleep")
            .arg("600")
            .current_dir(folder.join("data"))
            .spawn()
            .expect("a process");
        // A process that nobody waits for stays in the table: somebody has to.
        let waiting = std::thread::spawn(move || sleeper.wait());
        let begun = Instant::now();
        while processes_in(&folder.join("data")).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not start");
            std::thread::sleep(POLL);
        }
        clear(&folder).expect("cleared");
        assert!(!folder.exists());
        assert!(
            waiting
                .join()
                .expect("no panic")
                .is_ok_and(|status| !status.success())
        );
        clear(&folder).expect("nothing to do");
    }
}
