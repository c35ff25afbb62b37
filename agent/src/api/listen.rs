use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener};

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

#[cfg(test)]
mod tests {
    use super::*;

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
