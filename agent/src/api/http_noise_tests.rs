//! The HTTP port under clients that mean no good or know no better.

use super::http::HttpLimits;
use super::http_tests::{DEADLINE, Rig, rig, serving};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests that this node's snapshot answers with no, in the forms that clients give them.
const REFUSED: &[&str] = &[
    "GET /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "OPTIONS /primary HTTP/1.0\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /primary HTTP/1.1\r\nHost: x\r\n\r\nGET /leader HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /primary?tag_zone=eu%2Dwest&lag=16MB HTTP/1.1\r\nHost: x\r\nUser-Agent: check/1.0\r\nAccept: */*\r\n\r\n",
    "GET http://x:8008/primary?lag=1MB HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /primary HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nGET / HTTP/",
    "PUT /leader HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET /primary HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
];

/// How a client behaves besides what it sends.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Sends all, then waits for the end.
    Whole,
    /// In small pieces with pauses.
    Slow,
    /// Goes away without reading.
    Gone,
    /// Stays, silent.
    Stays,
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let valid = || prop::sample::select(REFUSED);
    prop_oneof![
        6 => valid().prop_flat_map(|request| mangled::bytes(request.as_bytes())),
        1 => valid().prop_map(|request| request.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (valid(), 1..40_usize).prop_map(|(request, times)| {
            // Longer than a head may be, from some number on.
            let header = format!("\r\nX-Padding: {}\r\n", "y".repeat(times * 1_000));
            request.replacen("\r\n", &header, 1).into_bytes()
        }),
        1 => (valid(), 1..400_usize).prop_map(|(request, times)| {
            request.replacen("\r\n", &format!("\r\n{}", "A: b\r\n".repeat(times)), 1).into_bytes()
        }),
    ]
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        12 => Just(Manner::Whole),
        1 => Just(Manner::Slow),
        3 => Just(Manner::Gone),
        2 => Just(Manner::Stays),
    ]
}

/// A rig whose node is not the primary.
fn standby(limits: HttpLimits) -> Rig {
    let rig = rig(limits);
    let mut snapshot = serving(1_000);
    snapshot.lease = None;
    snapshot.gate_open = false;
    rig.snapshots.send_replace(Arc::new(snapshot));
    rig
}

/// What comes back; the connection, if it is to stay.
fn send(rig: &Rig, request: &[u8], manner: Manner) -> (Vec<u8>, Option<TcpStream>) {
    let mut stream = rig.connect();
    let pieces = match manner {
        Manner::Slow => request.len().div_ceil(4).max(1),
        _ => request.len().max(1),
    };
    for piece in request.chunks(pieces) {
        // The server may hang up at any point of it.
        if stream.write_all(piece).is_err() {
            break;
        }
        if matches!(manner, Manner::Slow) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let mut answer = Vec::new();
    match manner {
        Manner::Gone => (answer, None),
        Manner::Stays => (answer, Some(stream)),
        Manner::Whole | Manner::Slow => {
            let _ = stream.shutdown(Shutdown::Write);
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert!(
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "no end of the answer to {:?}",
                    String::from_utf8_lossy(request)
                );
            }
            (answer, None)
        }
    }
}

/// Asks for `/liveness` again and again until told to stop, and says how long the slowest answer took and how many
/// there were.
fn watch(rig: &Rig, stop: &AtomicBool, asked: &AtomicU64) -> Duration {
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let (status, answer) = rig.ask("GET", "/liveness");
        assert_eq!(status, 200, "{answer}");
        slowest = slowest.max(began.elapsed());
        asked.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
    slowest
}

#[test]
fn under_thousands_of_mangled_requests_it_lives_and_never_claims_to_be_primary() {
    let rig = standby(HttpLimits {
        connections: 64,
        ..HttpLimits::default()
    });
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowest = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&rig, &stop, &asked));
        let mut runner = TestRunner::new(mangled::cases(3_000));
        let (requests, mut silent) = ((request(), manner()), VecDeque::new());
        let cases = runner.config().cases;
        for _ in 0..cases {
            let (request, manner) = requests.new_tree(&mut runner).expect("a case").current();
            let (answer, stays) = send(&rig, &request, manner);
            let told = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || told.starts_with("HTTP/1."), "{told}");
            for line in told.lines().filter(|line| line.starts_with("HTTP/1.")) {
                let status = line.split(' ').nth(1).unwrap_or_default();
                assert!(
                    ["100", "400", "404", "405", "408", "414", "431", "503", "505"].contains(&status),
                    "{line} to {:?}",
                    String::from_utf8_lossy(&request)
                );
            }
            silent.extend(stays);
            if silent.len() > 40 {
                silent.pop_front();
            }
        }
        stop.store(true, Ordering::Relaxed);
        watcher.join().expect("liveness was answered throughout")
    });
    assert!(asked.load(Ordering::Relaxed) > 0);
    assert!(slowest < DEADLINE, "{slowest:?}");
    assert_eq!(rig.ask("GET", "/primary").0, 503);
    rig.snapshots.send_replace(Arc::new(serving(1_000)));
    assert_eq!(rig.ask("GET", "/primary").0, 200, "and it tells when it is");
}

#[test]
fn a_head_without_an_end_is_cut_off_long_before_it_fills_the_memory() {
    let rig = standby(HttpLimits::default());
    let mut stream = rig.connect();
    stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
    stream.write_all(b"GET /primary HTTP/1.1\r\nX: ").expect("open");
    let chunk = [b'y'; 64 << 10];
    // What the sockets' own buffers hold is far less.
    let taken = (0..1_000)
        .take_while(|_| stream.write_all(&chunk).is_ok())
        .count();
    assert!(taken < 1_000, "it took {taken} chunks of 64 KiB");
    assert_eq!(rig.ask("GET", "/liveness").0, 200);
}

#[test]
fn many_slow_clients_do_not_keep_a_check_waiting() {
    let rig = standby(HttpLimits {
        connections: 64,
        idle: DEADLINE * 10,
    });
    let mut slow: Vec<TcpStream> = (0..60).map(|_| rig.connect()).collect();
    for byte in b"GET /primary HTTP/1.1\r\nX-Slow: ".iter().cycle().take(200) {
        for stream in &mut slow {
            // The oldest give way.
            let _ = stream.write_all(&[*byte]);
        }
        if byte == &b' ' {
            assert_eq!(rig.ask("GET", "/liveness").0, 200);
        }
    }
    assert_eq!(rig.ask("GET", "/primary").0, 503);
}

proptest! {
    #[test]
    fn any_target_of_a_well_formed_request_has_one_answer(target in "/[!-~]{0,60}") {
        thread_local! {
            static RIG: Rig = standby(HttpLimits::default());
        }
        RIG.with(|rig| {
            let (status, answer) = rig.ask("GET", &target);
            let path = target.split(['?', '#']).next().unwrap_or_default();
            prop_assert!([200, 400, 404, 503].contains(&status), "{}", answer);
            prop_assert!(status != 200 || !["/", "/primary", "/leader", "/read-write"].contains(&path), "{}", answer);
            prop_assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
            Ok(())
        })?;
    }
}
