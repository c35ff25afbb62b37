use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key}: cannot listen on {address} ({source}): see what uses it with `ss -ltnp`, or choose another address or port"
)]
pub struct BindError {
    /// The key of the configuration that names the address.
    pub key: &'static str,
    pub address: SocketAddr,
    pub source: std::io::Error,
}

/// Opens `address` for connections; `key` names where it is configured, for the error. A port that connections of an
/// agent before still linger on is taken again at once; one that a living process listens on is not.
///
/// # Errors
/// The port is taken, or the address is not one of this host.
pub fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|source| BindError { key, address, source })
}

/// How long [`take_over`] waits, and how often it tries.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3);
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// The same for the first port that an agent opens. A killed agent keeps its ports until its last thread has returned
/// from the disk, and may count as dead before: the next one waits a moment for that.
///
/// # Errors
/// As for [`listen`].
pub fn take_over(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let begun = Instant::now();
    loop {
        match listen(key, address) {
            Err(error)
                if error.source.kind() == ErrorKind::AddrInUse && begun.elapsed() < TAKEN_OVER_WITHIN =>
            {
                std::thread::sleep(TRY_AGAIN);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_over_as_soon_as_the_agent_before_has_let_it_go() {
        let first = listen("peer.listen", "127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = first.local_addr().expect("bound");
        let last_thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        let second = take_over("peer.listen", address).expect("taken over");
        assert_eq!(second.local_addr().expect("bound"), address);
        last_thread.join().expect("it ends");
    }

    #[test]
    fn a_port_that_is_taken_is_named_with_its_key() {
        let first = listen("http.listen", "127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let taken = first.local_addr().expect("bound");
        let error = listen("http.listen", taken).expect_err("taken").to_string();
        assert!(
            error.contains("http.listen") && error.contains(&taken.to_string()),
            "{error}"
        );
    }
}
