//! The postmaster as a process: starting it apart from the agent, finding it again, learning of its death.

use super::kill::KillTarget;
use super::proc_table::{FolderId, Process, find_postmaster, is_postmaster};
use super::{Instance, PgError, ServerConf, pidfd};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How many of the last bytes of the log to show when a server has died.
const TAIL: usize = 2000;
const TAIL_LINES: usize = 5;
/// A start has lasted when the server has run for so long.
const LASTS_AFTER: Duration = Duration::from_secs(30);

/// The postmaster that is known to run, if any.
pub struct ServerProcess {
    target: Arc<KillTarget>,
    sender: watch::Sender<Option<i32>>,
    current: Mutex<Option<Arc<Postmaster>>>,
    last_end: Mutex<Option<String>>,
    /// How often a server ended soon after its start, without anybody having told or made it to.
    crashes: AtomicU64,
}

/// A postmaster that cannot be mistaken for another process.
pub struct Postmaster {
    pub pid: i32,
    fd: OwnedFd,
    /// It was told to end.
    stopping: AtomicBool,
    /// When we started it; `None` if it was found running.
    started: Option<Instant>,
}

impl Postmaster {
    pub fn signal(&self, signal: Signal) -> Result<(), PgError> {
        pidfd::signal(&self.fd, signal).map_err(|source| PgError::Process {
            action: format!("send {signal} to the server"),
            source,
        })
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

impl ServerProcess {
    pub(super) fn new(target: Arc<KillTarget>) -> ServerProcess {
        let (sender, _) = watch::channel(None);
        ServerProcess {
            target,
            sender,
            current: Mutex::default(),
            last_end: Mutex::default(),
            crashes: AtomicU64::new(0),
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<Option<i32>> {
        self.sender.subscribe()
    }

    pub fn current(&self) -> Option<Arc<Postmaster>> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn pid(&self) -> Option<i32> {
        self.current().map(|postmaster| postmaster.pid)
    }

    /// How the last server ended, if nobody had told it to.
    pub fn last_end(&self) -> Option<String> {
        self.last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How often a server ended soon after its start, without anybody having told or made it to.
    pub fn crashes(&self) -> u64 {
        self.crashes.load(Ordering::SeqCst)
    }

    /// Takes `pid` under watch if it still is the process that `holds` says; false if it is gone or another one.
    fn take(
        self: &Arc<Self>,
        pid: i32,
        started: Option<Instant>,
        holds: impl FnOnce() -> bool,
    ) -> std::io::Result<bool> {
        let fd = match pidfd::open(pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(error) => return Err(error),
        };
        // Checked after the descriptor was opened: from here on no other process can take its place unnoticed.
        if !holds() {
            return Ok(false);
        }
        let ended = pidfd::watch(fd.try_clone()?)?;
        let postmaster = Arc::new(Postmaster {
            pid,
            fd,
            stopping: AtomicBool::new(false),
            started,
        });
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&postmaster));
        *self.last_end.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.target.set_postmaster(Some(pid));
        self.sender.send_replace(Some(pid));
        let process = Arc::clone(self);
        tokio::spawn(async move {
            if ended.readable().await.is_ok() {
                process.ended(&postmaster);
            }
        });
        Ok(true)
    }

    fn ended(&self, postmaster: &Postmaster) {
        let status = pidfd::reap(&postmaster.fd);
        if !postmaster.is_stopping() {
            let how = match status {
                Some(WaitStatus::Exited(_, code)) => {
                    format!("the server ended by itself with exit status {code}")
                }
                Some(WaitStatus::Signaled(_, signal, _)) => format!("the server was ended by {signal}"),
                _ => "the server ended without having been told to".to_owned(),
            };
            *self.last_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
            let lasted = postmaster
                .started
                .is_none_or(|started| started.elapsed() > LASTS_AFTER);
            if !lasted && !self.target.has_struck(postmaster.pid) {
                self.crashes.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.target.set_postmaster(None);
        if let Some(group) = self.target.cgroup() {
            group.dissolve();
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.sender.send_replace(None);
    }
}

impl Instance {
    /// Finds the running postmaster of *this* data directory and takes it under watch: one that an earlier agent or
    /// an operator has started. Neither a zombie, nor a server of another data directory, nor whatever now has the
    /// process id in a stale `postmaster.pid` is taken for it.
    pub async fn adopt(&self) -> Option<i32> {
        if let Some(pid) = self.process().pid() {
            return Some(pid);
        }
        let folder = self.target().refresh_folder()?;
        let named = pid_file(&self.config().data_dir.join("postmaster.pid"))
            .and_then(|file| Process::read(file.pid))
            .filter(|process| is_postmaster(process, folder));
        let process = named.or_else(|| find_postmaster(folder))?;
        let taken = self.process().take(process.pid, None, || {
            process.still_alive() && process.serves(folder)
        });
        match taken {
            Ok(true) => Some(process.pid),
            Ok(false) => None,
            Err(error) => {
                tracing::error!(pid = process.pid, %error, "cannot watch the running server; its death will go unnoticed");
                None
            }
        }
    }

    /// Starts the server program, apart from the agent: a session and a control group of its own, so that neither the
    /// agent's end nor a signal to its group reaches it.
    #[allow(unsafe_code)]
    pub(super) fn spawn_server(&self, conf: &ServerConf) -> Result<i32, PgError> {
        let log = self.startup_log()?;
        let clone = || log.try_clone().map_err(PgError::file("open", &self.log_path()));
        let data_dir = &self.config().data_dir;
        let entrance = self.target().cgroup().and_then(super::cgroup::Cgroup::entrance);
        let detach = |command: &mut Command| {
            // SAFETY: between fork and exec this makes system calls on descriptors and constants, and allocates nothing.
            unsafe {
                command.pre_exec(move || {
                    nix::unistd::setsid()?;
                    if let Some(entrance) = &entrance {
                        // Not being in the group is survivable: the walk over the process table finds it too.
                        libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1);
                    }
                    reset_oom_score();
                    Ok(())
                });
            }
        };
        let mut command = self
            .account()
            .command(&self.binaries().program("postgres"), detach);
        command.arg("-D").arg(data_dir).arg("-c");
        command.arg(format!(
            "config_file={}",
            data_dir.join("postgresql.conf").display()
        ));
        for (name, value) in conf.recovery.iter().flat_map(|recovery| &recovery.settings) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(clone()?).stderr(clone()?);
        let child = command.spawn().map_err(|source| PgError::Process {
            action: "start the server program".to_owned(),
            source,
        })?;
        let pid = child.id().cast_signed();
        tracing::info!(pid, upstream = ?conf.upstream, "started the server program");
        // It is our child and not reaped yet, so the id cannot belong to anybody else.
        self.process()
            .take(pid, Some(Instant::now()), || true)
            .map_err(|source| PgError::Process {
                action: "watch the server process".to_owned(),
                source,
            })?;
        Ok(pid)
    }

    /// Removes lock files that a crash left behind where they would stop the next start: PostgreSQL takes any living
    /// process with the recorded id for a server. Call only when no process serves this data directory.
    pub(super) fn remove_stale_locks(&self) -> Result<(), PgError> {
        let data_dir = &self.config().data_dir;
        let socket = self
            .config()
            .socket_dir
            .join(format!(".s.PGSQL.{}.lock", self.config().port));
        for path in [data_dir.join("postmaster.pid"), socket] {
            let Some(file) = pid_file(&path) else { continue };
            // A dead process does not stop PostgreSQL, and its file tells it which shared memory to look for.
            let in_the_way = Process::read(file.pid).is_some();
            if in_the_way && file.data_dir.as_deref().and_then(FolderId::of) == FolderId::of(data_dir) {
                tracing::warn!(path = %path.display(), pid = file.pid, "removed a stale lock file");
                super::durable_file::remove(&path)?;
            }
        }
        Ok(())
    }

    /// The file that the server writes to until its own log collector takes over.
    pub(super) fn log_path(&self) -> PathBuf {
        self.config().beside(".log").join("startup.log")
    }

    fn startup_log(&self) -> Result<std::fs::File, PgError> {
        self.account().create_dir(&self.config().beside(".log"), 0o750)?;
        let path = self.log_path();
        // The one before is kept as well: it may tell why this start became necessary.
        match std::fs::rename(&path, path.with_extension("log.1")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PgError::file("rename", &path)(error));
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).mode(0o640);
        let log = options.open(&path).map_err(PgError::file("create", &path))?;
        self.account().own(&path)?;
        Ok(log)
    }

    /// The last lines that the server has logged, with the file they are in.
    pub(super) fn log_tail(&self) -> (String, PathBuf) {
        let entries = std::fs::read_dir(self.config().beside(".log"))
            .into_iter()
            .flatten()
            .flatten();
        let newest = entries
            .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
            .max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok());
        let path = newest.map_or_else(|| self.log_path(), |entry| entry.path());
        let bytes = std::fs::read(&path).unwrap_or_default();
        let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]).into_owned();
        let mut lines: Vec<&str> = tail.lines().rev().take(TAIL_LINES).collect();
        lines.reverse();
        (lines.join(" | "), path)
    }
}

/// What a lock file of PostgreSQL's says: whose it is, and for which data directory.
pub(super) struct PidFile {
    pub pid: i32,
    data_dir: Option<PathBuf>,
}

pub(super) fn pid_file(path: &Path) -> Option<PidFile> {
    let content = std::fs::read_to_string(path).ok()?;
    let mut lines = content.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    Some(PidFile {
        pid,
        data_dir: lines.next().map(PathBuf::from),
    })
}

/// The agent protects itself from the kernel's out-of-memory killer; the server must not inherit that.
#[allow(unsafe_code)]
fn reset_oom_score() {
    // SAFETY: constant strings, and a descriptor that is closed again; no allocation, so fit for after a fork.
    unsafe {
        let fd = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}
