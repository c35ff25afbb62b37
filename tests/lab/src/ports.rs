//! Ports on loopback that stay ours for the whole run, also while nobody listens on them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// Below the range from which Linux takes the local ports of outgoing connections (32768 and up), so that a port
/// whose node is switched off for a while is not taken by somebody's client.
const FIRST: u16 = 12_000;
const BLOCK: u16 = 50;
const BLOCKS: u16 = 400;

struct Reserved {
    /// Holds the file lock of each block for as long as the process lives.
    locks: Vec<File>,
    next: u16,
    end: u16,
}

static RESERVED: Mutex<Reserved> = Mutex::new(Reserved {
    locks: Vec::new(),
    next: 0,
    end: 0,
});

/// A port on 127.0.0.1 that is free for TCP and UDP, and that no other run of the lab on this machine gets before
/// this process ends.
///
/// # Errors
/// All blocks are taken (some 400 runs at once), or the lock files cannot be written.
pub fn free_port() -> Result<u16> {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while reserved.next < reserved.end {
            let port = reserved.next;
            reserved.next += 1;
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
            if tcp.is_ok() && udp.is_ok() {
                return Ok(port);
            }
        }
        reserve_block(&mut reserved)?;
    }
}

fn reserve_block(reserved: &mut Reserved) -> Result<()> {
    // Locks are per user: a second user's runs are kept apart by the bind test alone.
    let dir = std::env::temp_dir().join(format!("pgctl-lab-ports-{}", nix::unistd::geteuid()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let offset = (std::process::id() % u32::from(BLOCKS)) as u16;
    for i in 0..BLOCKS {
        let block = (offset + i) % BLOCKS;
        let path = dir.join(block.to_string());
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {
                reserved.locks.push(lock);
                reserved.next = FIRST + block * BLOCK;
                reserved.end = reserved.next + BLOCK;
                return Ok(());
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    bail!(
        "all {BLOCKS} blocks of ports are taken by other runs; see {}",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_gives_one_port_twice() {
        let mut ports: Vec<u16> = (0..3 * BLOCK / 2).map(|_| free_port().expect("a port")).collect();
        ports.sort_unstable();
        let before = ports.len();
        ports.dedup();
        assert_eq!(before, ports.len());
    }
}
