use super::http::{Clock, HttpLimits, HttpServer};
use super::listen;
use agent_core::cluster::{ClusterState, Member, MemberKind};
use agent_core::health::{HealthSnapshot, HeldLease, Instants, Probe};
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{Position, TimelineHistory};
use agent_core::time::{ClockReading, MonoTime};
use agent_core::view::{ClusterView, PgObservation, PrimaryView, Server};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A server whose clock stands still until the test moves it on.
pub(super) struct Rig {
    pub(super) server: HttpServer,
    clock_ms: Arc<AtomicU64>,
    pub(super) snapshots: watch::Sender<Arc<HealthSnapshot>>,
}

fn reading(ms: u64) -> ClockReading {
    ClockReading {
        boot_ns: ms * 1_000_000,
        raw_ns: ms * 1_000_000,
    }
}

pub(super) fn serving(at_ms: u64) -> HealthSnapshot {
    let node = NodeId(1);
    let member = Member {
        name: "n1".to_owned(),
        kind: MemberKind::Data,
        peer: "n1:7432".to_owned(),
        http: "n1:8008".to_owned(),
        postgres: "n1:5432".to_owned(),
        tags: BTreeMap::new(),
        nofailover: false,
    };
    let primary = PrimaryView {
        position: Position::default(),
        history: TimelineHistory {
            timeline: Position::default().timeline,
            switches: Vec::new(),
        },
        synchronous_standby_names: String::new(),
        standbys: Vec::new(),
        read_only: false,
    };
    let pg = PgObservation {
        server: Server::Primary(primary),
        control: None,
        version_num: 150_000,
        postmaster_pid: None,
        trouble: None,
        pending_restart: Vec::new(),
        vitals: Default::default(),
    };
    HealthSnapshot {
        node,
        name: "n1".to_owned(),
        state: Arc::new(ClusterState {
            members: BTreeMap::from([(node, member)]),
            epoch: Epoch(1),
            holder: Some(node),
            ..ClusterState::default()
        }),
        probe: Some(Probe {
            at: MonoTime(at_ms),
            pg: Arc::new(pg),
        }),
        lease: Some(HeldLease {
            epoch: Epoch(1),
            deadline: reading(at_ms + 2_000),
        }),
        gate_open: true,
        fencing: false,
        heartbeat: MonoTime(at_ms),
        view: Arc::new(ClusterView::default()),
        raft_leader: Some(node),
        log_writes: None,
        agent_version: "0.1.0".to_owned(),
    }
}

pub(super) fn rig(limits: HttpLimits) -> Rig {
    let clock_ms = Arc::new(AtomicU64::new(1_000));
    let (snapshots, newest) = watch::channel(Arc::new(serving(1_000)));
    let now = Arc::clone(&clock_ms);
    let clock: Clock = Arc::new(move || {
        let ms = now.load(Ordering::SeqCst);
        Instants {
            reading: reading(ms),
            mono: MonoTime(ms),
        }
    });
    let listener = listen("http.listen", "127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let server = HttpServer::start(listener, limits, newest, clock).expect("a thread");
    Rig {
        server,
        clock_ms,
        snapshots,
    }
}

impl Rig {
    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address()).expect("the port is open");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream
    }

    /// Everything that comes back for `request`, until the server closes.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may close before all of it is written.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn ask(&self, method: &str, target: &str) -> (u16, String) {
        let answer = self
            .raw(format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        (
            status.unwrap_or_else(|| panic!("no status in {answer:?}")),
            answer,
        )
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn get_has_a_body_head_and_options_have_none_and_all_have_the_status() {
    let rig = rig(HttpLimits::default());
    let (status, get) = rig.ask("GET", "/primary");
    assert_eq!(status, 200, "{get}");
    assert!(body(&get).contains("\"role\":\"primary\""), "{get}");
    let (status, head) = rig.ask("HEAD", "/primary");
    assert_eq!((status, body(&head)), (200, ""));
    assert!(
        head.contains(&format!("content-length: {}", body(&get).len())),
        "{head}"
    );
    let (status, options) = rig.ask("OPTIONS", "/primary");
    assert_eq!((status, body(&options)), (200, ""));
    assert!(options.contains("allow: GET, HEAD, OPTIONS"), "{options}");
    assert_eq!(rig.ask("OPTIONS", "/replica").0, 503);
    assert_eq!(rig.ask("HEAD", "/replica").0, 503);
}

#[test]
fn haproxys_own_form_of_check_is_answered() {
    let rig = rig(HttpLimits::default());
    let answer = rig.raw(b"OPTIONS /primary HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[test]
fn other_methods_paths_and_parameters_are_refused() {
    let rig = rig(HttpLimits::default());
    for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
        let (status, answer) = rig.ask(method, "/config");
        assert_eq!(status, 405, "{method}");
        assert!(answer.contains("allow: GET, HEAD, OPTIONS"), "{answer}");
    }
    assert_eq!(rig.ask("GET", "/nothing").0, 404);
    let (status, answer) = rig.ask("GET", "/replica?lag=far");
    assert_eq!(status, 400);
    assert!(body(&answer).contains("\"parameter\":\"lag\""), "{answer}");
}

#[test]
fn one_connection_carries_many_requests() {
    let rig = rig(HttpLimits::default());
    let mut stream = rig.connect();
    for _ in 0..3 {
        stream
            .write_all(b"HEAD /primary HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn garbage_harms_nobody_else() {
    let rig = rig(HttpLimits::default());
    let long = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    for garbage in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        &long,
        &[0xff; 70_000],
    ] {
        let answer = rig.raw(garbage);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(rig.ask("GET", "/primary").0, 200);
}

#[test]
fn silent_sockets_beyond_the_limit_keep_nobody_out() {
    let rig = rig(HttpLimits {
        connections: 20,
        idle: DEADLINE * 10,
    });
    let silent: Vec<TcpStream> = (0..100).map(|_| rig.connect()).collect();
    for _ in 0..20 {
        assert_eq!(rig.ask("GET", "/primary").0, 200);
    }
    drop(silent);
}

#[test]
fn a_silent_socket_is_closed_after_a_while() {
    let rig = rig(HttpLimits {
        idle: Duration::from_millis(50),
        ..HttpLimits::default()
    });
    let mut silent = rig.connect();
    let mut half = rig.connect();
    half.write_all(b"GET /primary HTT").expect("open");
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        // Either end of stream or a reset, and no timeout of ours.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn answers_decay_by_themselves_and_come_back_with_a_new_snapshot() {
    let rig = rig(HttpLimits::default());
    assert_eq!(rig.ask("GET", "/primary").0, 200);
    rig.clock_ms.store(2_900, Ordering::SeqCst);
    let (status, answer) = rig.ask("GET", "/primary");
    assert_eq!(status, 503);
    assert!(answer.contains("lease-is-held"), "{answer}");
    assert_eq!(rig.ask("GET", "/health").0, 200);
    rig.clock_ms.store(4_100, Ordering::SeqCst);
    assert_eq!(rig.ask("GET", "/health").0, 503);
    assert_eq!(rig.ask("GET", "/liveness").0, 503);
    rig.snapshots.send_replace(Arc::new(serving(4_100)));
    assert_eq!(rig.ask("GET", "/primary").0, 200);
}

#[test]
fn answers_decay_also_when_nobody_is_left_to_renew_the_snapshot() {
    let Rig {
        server,
        clock_ms,
        snapshots,
    } = rig(HttpLimits::default());
    drop(snapshots);
    let (snapshots, _) = watch::channel(Arc::new(serving(0)));
    let rig = Rig {
        server,
        clock_ms,
        snapshots,
    };
    assert_eq!(rig.ask("GET", "/primary").0, 200);
    rig.clock_ms.store(60_000, Ordering::SeqCst);
    assert_eq!(rig.ask("GET", "/primary").0, 503);
}

#[test]
fn its_requests_are_counted() {
    let rig = rig(HttpLimits::default());
    rig.ask("GET", "/replica");
    let (_, page) = rig.ask("GET", "/metrics");
    assert!(page.contains("\npgctl_http_requests_total 2\n"), "{page}");
    assert!(page.contains("\npgctl_http_refusals_total 1\n"), "{page}");
}

#[test]
fn dropping_it_frees_the_port() {
    let rig = rig(HttpLimits::default());
    let address = rig.server.address();
    let idle = rig.connect();
    drop(rig);
    let began = Instant::now();
    while let Err(error) = listen("http.listen", address) {
        assert!(began.elapsed() < DEADLINE, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(idle);
}
