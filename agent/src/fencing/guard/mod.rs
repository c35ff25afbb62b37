//! The guard: a process of its own that ends the server when the lease is over, whatever has become of the agent.
//!
//! It knows one deadline. The agent's lease thread moves it with each renewal, and a node holds its lease no longer than
//! the guard has confirmed. The agent may be dead, stopped, swapped out or hung: at the deadline the server ends. It
//! outlives the agent, so that one can be replaced by a newer while the lease runs.
//!
//! *Invariant:* the guard touches no disk, and waits for nobody, between the moment it is armed and the fence.

mod keeper;
mod process;
mod wire;

pub use keeper::{Guard, GuardProgram, receive, send};
pub use process::{Duties, GuardError, run};
pub use wire::{Frame, LENGTH};

use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The socket of a state directory. Its address goes by an open descriptor, since the address of a socket has 108 bytes
/// and a directory's name may have more.
struct SocketPath {
    folder: File,
}

impl SocketPath {
    fn open(state_dir: &Path) -> io::Result<SocketPath> {
        Ok(SocketPath {
            folder: File::open(state_dir)?,
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/guard.sock", self.folder.as_raw_fd()))
    }

    fn address(&self) -> io::Result<SockAddr> {
        SockAddr::unix(self.path())
    }
}

/// Listens where agents look for the guard. The caller is the only guard, so a socket that is there is a dead one's.
fn listen(path: &SocketPath) -> io::Result<Socket> {
    match std::fs::remove_file(path.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&path.address()?)?;
    std::fs::set_permissions(path.path(), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    socket.listen(4)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Connects to the guard of a state directory.
fn connect(path: &SocketPath) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    // Before it connects: a guard that is stopped accepts nobody.
    socket.set_nonblocking(true)?;
    socket.connect(&path.address()?)?;
    Ok(socket)
}
