//! The agent's side: a thread that sees to it that a guard is there, and that it answers.

use super::wire::{Frame, LENGTH};
use super::{SocketPath, connect};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::Socket;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a guard may take to answer that it is there.
const ANSWER: Duration = Duration::from_millis(300);
/// How long a new guard may take until it listens.
const START: Duration = Duration::from_secs(2);
/// The pause after a guard could not be started.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a lasting failure to start one is said again.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How to start a guard.
#[derive(Debug, Clone)]
pub struct GuardProgram {
    /// Where its socket is to be.
    pub state_dir: PathBuf,
    /// The arguments after the program's name.
    pub arguments: Vec<OsString>,
}

/// The agent's hold on its guard. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    line: Mutex<Line>,
    changed: Condvar,
}

#[derive(Default)]
struct Line {
    socket: Option<Arc<Socket>>,
    /// Why there is none, for people.
    trouble: Option<String>,
}

impl Guard {
    /// Starts the thread; the guard is there a little later.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(program: GuardProgram) -> io::Result<Guard> {
        let guard = Guard {
            shared: Arc::new(Shared {
                line: Mutex::default(),
                changed: Condvar::new(),
            }),
        };
        let keeper = Keeper {
            program,
            shared: guard.shared.clone(),
            child: None,
        };
        std::thread::Builder::new()
            .name("guard keeper".to_owned())
            .spawn(move || keeper.run())?;
        Ok(guard)
    }

    /// The connection to the guard, while there is one.
    #[must_use]
    pub fn line(&self) -> Option<Arc<Socket>> {
        self.shared.lock().socket.clone()
    }

    /// Why there is no guard; `None` while there is one.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let line = self.shared.lock();
        match line.socket {
            Some(_) => None,
            None => Some(
                line.trouble
                    .clone()
                    .unwrap_or_else(|| "it is being started".to_owned()),
            ),
        }
    }

    /// Says that the guard at the end of `line` is gone, or does not answer: another takes its place.
    pub fn lost(&self, line: &Arc<Socket>, why: &str) {
        let mut current = self.shared.lock();
        if current
            .socket
            .as_ref()
            .is_some_and(|socket| Arc::ptr_eq(socket, line))
        {
            current.socket = None;
            current.trouble = Some(why.to_owned());
            self.shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a frame; never waits.
///
/// # Errors
/// If the guard is gone, or has not read for so long that nothing fits any more.
pub fn send(line: &Socket, frame: Frame) -> io::Result<()> {
    line.send(&frame.encode()).map(drop)
}

/// Takes a frame that has arrived; `None` if there is none.
///
/// # Errors
/// If the guard is gone, or speaks another version.
pub fn receive(line: &Socket) -> io::Result<Option<Frame>> {
    let mut bytes = [0; LENGTH];
    let mut reader = line;
    match io::Read::read(&mut reader, &mut bytes) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => Frame::decode(&bytes[..length])
            .map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

struct Keeper {
    program: GuardProgram,
    shared: Arc<Shared>,
    child: Option<Child>,
}

impl Keeper {
    fn run(mut self) {
        let mut said: Option<Instant> = None;
        loop {
            match self.restore() {
                Ok(socket) => {
                    said = None;
                    let mut line = self.shared.lock();
                    line.socket = Some(Arc::new(socket));
                    line.trouble = None;
                    let mut line = self
                        .shared
                        .changed
                        .wait_while(line, |line| line.socket.is_some())
                        .unwrap_or_else(PoisonError::into_inner);
                    let why = line.trouble.get_or_insert_default().clone();
                    drop(line);
                    tracing::warn!(why, "the guard is lost; another is started");
                }
                Err(error) => {
                    let why = format!(
                        "the guard could not be started: {error}; without one this node holds no lease. Check the \
                         limits on processes and the free space of the agent's state_dir"
                    );
                    if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                        tracing::error!("{why}");
                        said = Some(Instant::now());
                    }
                    self.shared.lock().trouble = Some(why);
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    /// A connection to a guard that answers: the one that runs, or a new one.
    fn restore(&mut self) -> io::Result<Socket> {
        self.reap();
        let path = SocketPath::open(&self.program.state_dir)?;
        if let Ok(socket) = connect(&path) {
            if answers(&socket) {
                return Ok(socket);
            }
            end(&socket);
            self.reap();
        }
        self.child = Some(self.spawn()?);
        let begun = Instant::now();
        loop {
            if let Ok(socket) = connect(&path)
                && answers(&socket)
            {
                return Ok(socket);
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(io::Error::other(format!("it ended at once, with {status}")));
            }
            if begun.elapsed() >= START {
                return Err(io::Error::other(format!("it did not answer within {START:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts the program that this process itself runs, even if its file has been replaced: in a session of its own,
    /// so that nothing that ends the agent ends it.
    #[allow(unsafe_code)]
    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("pgctl-agent").args(&self.program.arguments);
        command.stdin(Stdio::null());
        // SAFETY: between fork and exec this makes one system call, and allocates nothing.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
        }
        command.spawn()
    }

    /// Takes a guard of ours that has ended off the process table.
    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(Some(_)) | Err(_))
        {
            self.child = None;
        }
    }
}

/// Whether the guard says within a moment that it is there.
fn answers(socket: &Socket) -> bool {
    if send(socket, Frame::Ask).is_err() {
        return false;
    }
    let begun = Instant::now();
    while let Some(left) = ANSWER.checked_sub(begun.elapsed()) {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let millis = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::ZERO);
        if poll(&mut fds, millis).is_err() {
            continue;
        }
        match receive(socket) {
            Ok(Some(_)) => return true,
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Ends the guard at the other end: it is stopped, hung, or of a version that cannot be spoken to.
fn end(socket: &Socket) {
    let _ = send(socket, Frame::Retire);
    // Whoever listens on the socket has kept it open ever since, so the id is still its own.
    let Ok(peer) = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials) else {
        return;
    };
    // 0 is what a process outside of this one's namespace is shown as.
    if peer.pid() > 1 {
        tracing::warn!(
            pid = peer.pid(),
            "the guard does not answer: it is ended and replaced"
        );
        let _ = kill(Pid::from_raw(peer.pid()), Signal::SIGKILL);
        // Its lock is free when it is gone; if this is too short, the next attempt finds it so.
        std::thread::sleep(Duration::from_millis(5));
    }
}
