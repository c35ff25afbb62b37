//! The netlink socket: hands messages to the kernel, which carries them out before the call returns.

use super::message::{self, Answer, Messages};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// More than any answer to our messages. An answer that is cut off here is not a confirmation.
const ROOM: usize = 16 * 1024;

/// A socket of `NETLINK_NETFILTER`, in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: OwnedFd,
    room: Box<[u8]>,
}

impl Netlink {
    pub(super) fn open() -> Result<Netlink, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        Ok(Netlink {
            socket,
            room: vec![0; ROOM].into_boxed_slice(),
        })
    }

    /// Sends the messages and returns when the kernel has confirmed each of them. `found` sees what it answers besides.
    ///
    /// The kernel works on them within the sending call, so that its answers lie ready when that returns: there is
    /// nothing to wait for, and no answer means no confirmation. That call itself waits while somebody else changes
    /// rules in the same network namespace.
    ///
    /// # Errors
    /// What the kernel answers, the first if there are several; then nothing of a batch was done. `EBADMSG` if it
    /// answers less than it should.
    pub(super) fn ask(&mut self, messages: &Messages, mut found: impl FnMut(&Answer)) -> Result<(), Errno> {
        let fd = self.socket.as_raw_fd();
        let sent = send(fd, messages.bytes(), MsgFlags::empty())?;
        let mut confirmed = 0;
        let mut failed = None;
        loop {
            let length = match recv(fd, &mut self.room, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error),
            };
            for answer in message::answers(&self.room[..length]) {
                // Answers to messages before these, which were left unread by an error.
                if answer.sequence != messages.sequence() {
                    continue;
                }
                match answer.errno() {
                    None => found(&answer),
                    Some(0) => confirmed += 1,
                    Some(errno) => {
                        failed.get_or_insert(Errno::from_raw(errno));
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if sent == messages.bytes().len() && confirmed == messages.confirmations() => Ok(()),
            None => Err(Errno::EBADMSG),
        }
    }
}
