//! The guard itself: a process with one thread that waits, and one that writes its log.

use super::wire::{Frame, LENGTH};
use super::{SocketPath, listen};
use crate::fencing::Kill;
use crate::hardening;
use agent_core::ids::Epoch;
use agent_core::lease::Watch;
use agent_core::time::ClockReading;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::Socket;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A guard that has nothing to do and hears from no agent for so long ends itself; the next agent starts another.
const LONELY: Duration = Duration::from_secs(10);
/// The longest wait while armed, so that a clock that runs on through a suspend is looked at soon after it.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// How long one attempt to end the server may take before the sockets are looked at again.
const ATTEMPT: Duration = Duration::from_millis(100);

/// What the guard of a node is given.
pub struct Duties {
    /// Where its socket and its lock are.
    pub state_dir: PathBuf,
    /// Both clocks of the lease.
    pub now: fn() -> ClockReading,
    /// Looks up afresh which processes would have to end, and says how many there are: before it is armed for a new
    /// epoch, so that a kill needs no disk.
    pub look_up: Box<dyn Fn() -> usize>,
    /// Ends them.
    pub kill: Kill,
}

/// Why a guard could not begin.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("another guard is at work for {}: nothing to do", .0.display())]
    AtWork(PathBuf),
    #[error("could not {doing} {}: {source}; check the permissions and the free space of the agent's state_dir", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Guards the server until no agent needs it any more.
///
/// # Errors
/// If another guard is at work already, or the socket cannot be made.
pub fn run(duties: &Duties) -> Result<(), GuardError> {
    // What `ps` and `top` show; it is started through a link, whose name says nothing. It runs under any name.
    let _ = nix::sys::prctl::set_name(c"pgctl-guard");
    let _only_one = lock(&duties.state_dir)?;
    let listener = SocketPath::open(&duties.state_dir)
        .and_then(|path| listen(&path))
        .map_err(|source| GuardError::Io {
            doing: "listen on a socket in",
            path: duties.state_dir.clone(),
            source,
        })?;
    // Nothing that is held open keeps a disk from being unmounted, and no server is taken for one of this folder.
    let _ = std::env::set_current_dir("/");
    hardening::protect_process();
    let log = Log::start();
    hardening::run_this_thread_first();
    // A rehearsal brings the code of the fence into memory, and locks it there.
    let found = (duties.look_up)();
    log.say(format!("the guard is ready; {found} processes of the server run"));
    let mut guard = Guard {
        duties,
        watch: Watch::default(),
        listener,
        agents: Vec::new(),
        alone_since: Some(Instant::now()),
        log,
    };
    while guard.turn() {}
    guard.log.say("nobody needs the guard: it ends".to_owned());
    Ok(())
}

fn lock(state_dir: &Path) -> Result<Flock<std::fs::File>, GuardError> {
    let path = state_dir.join("guard.lock");
    let io = |doing| {
        let path = path.clone();
        move |source| GuardError::Io { doing, path, source }
    };
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(GuardError::AtWork(state_dir.to_owned())),
        Err((_, errno)) => Err(io("lock")(errno.into())),
    }
}

struct Guard<'a> {
    duties: &'a Duties,
    watch: Watch,
    listener: Socket,
    agents: Vec<Socket>,
    /// Since when no agent is connected and nothing is armed.
    alone_since: Option<Instant>,
    log: Log,
}

impl Guard<'_> {
    /// One round; says whether there is to be another.
    fn turn(&mut self) -> bool {
        let due = self.watch.due((self.duties.now)());
        if let Some(epoch) = due {
            self.end_server(epoch);
        }
        let alone = self.agents.is_empty() && self.watch.armed().is_none();
        self.alone_since = alone.then(|| self.alone_since.unwrap_or_else(Instant::now));
        if self.alone_since.is_some_and(|since| since.elapsed() >= LONELY) {
            return false;
        }
        let wait = match self.watch.wait((self.duties.now)()) {
            Some(left) => left.min(LONGEST_WAIT),
            None => LONELY,
        };
        let ready = wait_for(&self.listener, &self.agents, wait);
        if ready.first() == Some(&true)
            && let Ok((agent, _)) = self.listener.accept()
            && agent.set_nonblocking(true).is_ok()
        {
            self.agents.push(agent);
        }
        let readable: Vec<bool> = ready.into_iter().skip(1).collect();
        let mut retire = false;
        let mut kept = Vec::new();
        for (index, agent) in std::mem::take(&mut self.agents).into_iter().enumerate() {
            if !readable.get(index).copied().unwrap_or(false) {
                kept.push(agent);
                continue;
            }
            match self.hear(&agent) {
                Heard::Nothing => kept.push(agent),
                Heard::Retire => retire = true,
                Heard::End => {}
            }
        }
        self.agents = kept;
        !retire
    }

    /// Reads what one agent has sent, and answers.
    fn hear(&mut self, agent: &Socket) -> Heard {
        loop {
            let mut bytes = [0; LENGTH];
            let length = match receive(agent, &mut bytes) {
                Ok(0) => return Heard::End,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(_) => return Heard::End,
            };
            let Some(frame) = Frame::decode(&bytes[..length]) else {
                // An agent of another version finds that it gets no answer, and brings a guard of its own.
                return Heard::End;
            };
            if frame == Frame::Retire {
                return Heard::Retire;
            }
            if let Frame::Arm { epoch, .. } = frame
                && self.watch.armed().is_none_or(|(armed, _)| armed != epoch)
            {
                (self.duties.look_up)();
            }
            let now = (self.duties.now)();
            match frame {
                Frame::Arm { epoch, until } => self.watch.arm(epoch, until, now),
                Frame::Disarm { epoch } => self.watch.ended(epoch),
                _ => {}
            }
            // An agent that does not read finds out by itself.
            let _ = agent.send(&self.tell().encode());
        }
    }

    fn tell(&self) -> Frame {
        match self.watch.armed() {
            Some((epoch, until)) => Frame::Armed { epoch, until },
            None => Frame::Idle {
                fenced: self.watch.fenced(),
            },
        }
    }

    /// Ends the server. If something of it does not die, the next round tries again.
    fn end_server(&mut self, epoch: Epoch) {
        let begun = Instant::now();
        match (self.duties.kill)(ATTEMPT) {
            Ok(ended) => {
                self.watch.ended(epoch);
                for agent in &self.agents {
                    let _ = agent.send(&self.tell().encode());
                }
                let took = begun.elapsed();
                self.log.say(format!(
                    "the lease of epoch {epoch} ran out and nobody had renewed it: ended {ended} processes of the \
                     server in {took:?}"
                ));
            }
            Err(survivors) => {
                self.log.say(format!(
                    "the lease of epoch {epoch} ran out, and these processes of the server do not die: {survivors:?}"
                ));
            }
        }
    }
}

enum Heard {
    Nothing,
    Retire,
    End,
}

fn receive(agent: &Socket, bytes: &mut [u8; LENGTH]) -> std::io::Result<usize> {
    let mut reader = agent;
    std::io::Read::read(&mut reader, bytes)
}

/// Waits until one of the sockets has something; says for each, the listener first, whether it has.
fn wait_for(listener: &Socket, agents: &[Socket], wait: Duration) -> Vec<bool> {
    let mut polled: Vec<PollFd<'_>> = std::iter::once(listener)
        .chain(agents)
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    if ppoll(&mut polled, Some(TimeSpec::from_duration(wait)), None).is_err() {
        return Vec::new();
    }
    polled
        .iter()
        .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
        .collect()
}

/// Writes the log on a thread of its own: whoever reads it may be as stuck as the agent is.
struct Log {
    lines: Option<SyncSender<String>>,
}

impl Log {
    fn start() -> Log {
        let (lines, said) = sync_channel::<String>(64);
        let writer = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for line in said {
                tracing::warn!("{line}");
            }
        });
        Log {
            lines: writer.ok().map(|_| lines),
        }
    }

    /// Says it if the log can take it at once.
    fn say(&self, line: String) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }
}
