//! The thread itself: wait for a datagram or for the next thing that is due.

use super::clock;
use super::guarded::Guarded;
use super::pledge::{PledgeError, PledgeFile};
use super::shared::{Fences, Lease, Shared};
use super::wire::{Datagram, LENGTH};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::Socket;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Why the lease could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP port is not to be had.
    #[error(
        "could not listen on UDP {address} for lease renewals: {source}; free the port, or change peer.listen"
    )]
    Socket {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Pledge(#[from] PledgeError),
    /// The operating system gave no thread.
    #[error("could not start the lease thread: {0}; raise the limit on threads")]
    Thread(std::io::Error),
}

/// The longest wait for a datagram; bounds how late a change that arrived by another way is noticed.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Starts the lease: the voter at once, the holder side when [`Lease::follow`] says that this node holds an epoch.
/// `promise` is what the configured terms ask of a voter, so that a new node can vote from its first moment.
///
/// # Errors
/// If the port is taken, the pledge file is unusable, or no thread is to be had.
pub fn start(
    address: SocketAddr,
    state_dir: &Path,
    promise: Duration,
    incarnation: u64,
    fences: Fences,
) -> Result<Lease, StartError> {
    let socket = UdpSocket::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|source| StartError::Socket { address, source })?;
    let file = PledgeFile::new(state_dir);
    let pledge = file.load()?;
    let lease = Lease::new(socket, fences, file, pledge, incarnation);
    lease.allow_promises(promise)?;
    let shared = lease.shared.clone();
    std::thread::Builder::new()
        .name("lease".to_owned())
        .spawn(move || run(&shared))
        .map_err(StartError::Thread)?;
    Ok(lease)
}

fn run(shared: &Arc<Shared>) {
    crate::hardening::run_this_thread_first();
    let mut buffer = [0; LENGTH + 1];
    loop {
        let (wait, guard) = step(shared);
        wait_for(&shared.socket, guard.as_deref(), wait.min(LONGEST_WAIT));
        let Ok((length, from)) = shared.socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut sides = shared.lock();
        let Some(key) = sides.key.clone() else { continue };
        let Some(datagram) = Datagram::decode(&buffer[..length], &key) else {
            continue;
        };
        let answer = sides.receive(datagram, clock::read());
        shared.publish(&sides);
        drop(sides);
        if let Some(answer) = answer {
            send(shared, from, &answer.encode(&key));
        }
    }
}

/// Waits for a datagram, or for the guard to say something.
fn wait_for(socket: &UdpSocket, guard: Option<&Socket>, wait: Duration) {
    let mut polled = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    polled.extend(guard.map(|guard| PollFd::new(guard.as_fd(), PollFlags::POLLIN)));
    if ppoll(&mut polled, Some(TimeSpec::from_duration(wait)), None).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does what is due, and says how long nothing else will be; with the guard's connection, which may end the wait.
fn step(shared: &Shared) -> (Duration, Option<Arc<Socket>>) {
    let now = clock::read();
    let mut sides = shared.lock();
    let ended = sides.tend_guard(now);
    if let Some(epoch) = sides.ran_out(now).max(ended)
        && let Some(fencer) = &shared.fencer
    {
        fencer.lease_over(epoch);
    }
    let mut wait = now.until_any(sides.next_renewal);
    let mut outgoing = Vec::new();
    if wait.is_zero() {
        let key = sides.key.clone();
        outgoing = sides
            .renewals(now)
            .into_iter()
            .filter_map(|(to, d)| Some((to, d.encode(key.as_ref()?))))
            .collect();
        wait = if outgoing.is_empty() {
            LONGEST_WAIT
        } else {
            now.until_any(sides.next_renewal)
        };
    }
    for deadline in [sides.holder.as_ref(), sides.before.as_ref()]
        .into_iter()
        .flatten()
        .filter_map(|h| h.deadline())
    {
        let left = now.until_any(deadline);
        if !left.is_zero() {
            wait = wait.min(left);
        }
    }
    shared.publish(&sides);
    let guard = sides.guarded.as_ref().and_then(Guarded::line);
    drop(sides);
    for (to, bytes) in outgoing {
        send(shared, to, &bytes);
    }
    (wait, guard)
}

fn send(shared: &Shared, to: SocketAddr, bytes: &[u8]) {
    // A renewal that cannot be sent is one that is lost: the next one, or the end of the lease, answers it.
    if let Err(error) = shared.socket.send_to(bytes, to) {
        tracing::debug!(%to, %error, "could not send a lease datagram");
    }
}
