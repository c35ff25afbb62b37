//! An agent's lease thread as a process of its own, to be frozen and killed.

use crate::network::{from_now, gate};
use agent::lease::clock;
use agent_core::time::ClockReading;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ADDRESS: &str = "PGCTL_TEST_RENEWER_ADDRESS";
const LEASE: &str = "PGCTL_TEST_RENEWER_LEASE_MS";
const PAUSE: &str = "PGCTL_TEST_RENEWER_PAUSE_MS";

/// What the process runs: as the holder of a lease whose every renewal is acknowledged at once, it opens the gate, tells
/// each deadline before it asks for it, and stops for good once one has passed.
#[test]
#[ignore = "a process that other tests start"]
fn renewing_process() {
    let variable = |name: &str| std::env::var(name).expect("set by the test that starts it");
    let server: SocketAddr = variable(ADDRESS).parse().expect("an address");
    let lease: u64 = variable(LEASE).parse().expect("milliseconds");
    let pause = Duration::from_millis(variable(PAUSE).parse().expect("milliseconds"));
    let mut gate = gate(server);
    gate.close().expect("armed and shut");
    let mut out = std::io::stdout();
    let mut deadline = from_now(lease);
    loop {
        writeln!(out, "\nuntil {} {}", deadline.boot_ns, deadline.raw_ns).expect("the test listens");
        let _ = gate.open_until(deadline);
        std::thread::sleep(pause);
        let next = from_now(lease);
        if clock::read().any_reached(deadline) {
            break;
        }
        deadline = next;
    }
    writeln!(out, "\nover").expect("the test listens");
    // The gate stays as it is, until the test ends this process.
    std::thread::sleep(Duration::from_secs(600));
}

pub struct Renewer {
    process: Child,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default, Clone, Copy)]
struct Heard {
    until: Option<ClockReading>,
    over: bool,
}

impl Renewer {
    /// Starts the process in the network of the calling thread, and waits for its first renewal.
    pub fn start(server: SocketAddr, lease_ms: u64, pause_ms: u64) -> Renewer {
        let mut process = Command::new(std::env::current_exe().expect("this test's program"))
            .args(["--exact", "renewer::renewing_process", "--ignored", "--nocapture"])
            .env(ADDRESS, server.to_string())
            .env(LEASE, lease_ms.to_string())
            .env(PAUSE, pause_ms.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test's program starts");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let noted = heard.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut noted = noted.lock().expect("no panic");
                match line.split(' ').collect::<Vec<_>>()[..] {
                    ["until", boot, raw] => {
                        noted.until = Some(ClockReading {
                            boot_ns: boot.parse().expect("a number"),
                            raw_ns: raw.parse().expect("a number"),
                        });
                    }
                    ["over"] => noted.over = true,
                    _ => {}
                }
            }
        });
        let renewer = Renewer { process, heard };
        crate::network::wait_until("the first renewal", || renewer.heard().until.is_some());
        renewer
    }

    fn heard(&self) -> Heard {
        *self.heard.lock().expect("no panic")
    }

    /// The last deadline that it may have asked for. To be asked of a process that is frozen or dead.
    pub fn last_deadline(&self) -> ClockReading {
        // What it wrote last is still on its way through the pipe.
        std::thread::sleep(Duration::from_millis(20));
        self.heard().until.expect("it began")
    }

    /// Whether it has found that its lease is over.
    pub fn is_over(&self) -> bool {
        self.heard().over
    }

    /// Returns when all of its threads stand still, which may be long after the signal on a busy machine.
    pub fn freeze(&self) {
        let process = Pid::from_raw(self.process.id() as i32);
        kill(process, Signal::SIGSTOP).expect("it runs");
        let seen = waitpid(process, Some(WaitPidFlag::WUNTRACED));
        assert_eq!(seen, Ok(WaitStatus::Stopped(process, Signal::SIGSTOP)));
    }

    pub fn thaw(&self) {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGCONT).expect("it is frozen");
    }

    /// Ends it as `kill -9` does.
    pub fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        self.end();
    }
}
