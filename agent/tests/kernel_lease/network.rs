//! A network namespace for each test, with a server in it that answers each line, and clients.

use agent::fencing::kernel_lease::{Gate, Place};
use agent::lease::clock;
use agent_core::time::ClockReading;
use nix::sched::{CloneFlags, unshare};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longer than anything takes that works; only how long a failing test hangs depends on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on a thread with a network of its own, which goes with the thread. Where that is not permitted, the test
/// says so and does nothing.
pub fn in_own_network(name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped {name}: no network namespace of its own ({error}); run as root");
                return;
            }
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(
                up.is_ok_and(|status| status.success()),
                "ip link set lo up; is iproute2 installed?"
            );
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub fn from_now(milliseconds: u64) -> ClockReading {
    clock::read().plus(Duration::from_millis(milliseconds))
}

/// The gate of a server at `address`, unarmed.
pub fn gate(address: SocketAddr) -> Gate {
    Gate::attach(place(address), Box::new(clock::read)).expect("nf_tables in a namespace of its own")
}

pub fn place(address: SocketAddr) -> Place {
    Place::new(address, Path::new("/var/lib/pgctl"))
}

/// Starts a server that answers each line with the same line. It ends with the test's process.
pub fn echo(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                    // `later N ...` is answered after so many milliseconds, as a commit that waits is.
                    if let Some(rest) = line.strip_prefix("later ") {
                        let after = rest.split_whitespace().next().and_then(|n| n.parse().ok());
                        let after = after.expect("milliseconds");
                        std::thread::sleep(Duration::from_millis(after));
                    }
                    if (&stream).write_all(line.as_bytes()).is_err() {
                        break;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// A client that keeps its connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Connects and asks once.
    pub fn visit(address: SocketAddr) -> io::Result<String> {
        Client::connect(address)?.ask("hello")
    }

    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    pub fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub fn ask(&mut self, line: &str) -> io::Result<String> {
        self.send(line)?;
        self.answer()
    }
}

/// Waits for a condition.
pub fn wait_until(what: &str, met: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !met() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
