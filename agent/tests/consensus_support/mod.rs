//! Agents' consensus on loopback, several in one process: each with its own state directory, port and gRPC server.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use agent::consensus::store::{AppendFile, Directory, OpenError, StateDir};
use agent::consensus::{
    ConsensusHandle, ConsensusRoom, InitialMember, RaftTiming, StartConfig, StartError, peer_server,
};
use agent::ports::Consensus;
use agent_core::cluster::{Applied, Command, Member, MemberKind, Settings};
use agent_core::time::WallTime;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

static START_ID: AtomicU64 = AtomicU64::new(1);

/// A node's home: it outlives the agent in it.
pub struct Home {
    pub name: String,
    pub address: SocketAddr,
    dir: tempfile::TempDir,
    /// Holds the port while no agent does, so that nobody else gets it.
    port: Option<TcpListener>,
}

impl Home {
    pub fn new(name: &str) -> Home {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = port.local_addr().expect("bound");
        Home {
            name: name.to_owned(),
            address,
            dir: tempfile::tempdir().expect("a temporary directory"),
            port: Some(port),
        }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn listed(&self) -> InitialMember {
        InitialMember {
            name: self.name.clone(),
            peer: self.address.to_string(),
            witness: false,
        }
    }

    pub fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            kind: MemberKind::Data,
            peer: self.address.to_string(),
            http: format!("127.0.0.1:{}", self.address.port()),
            postgres: format!("{}:5432", self.name),
            tags: Default::default(),
            nofailover: false,
        }
    }

    pub fn config(&self, members: &[InitialMember]) -> StartConfig {
        StartConfig {
            state_dir: self.state_dir(),
            cluster_name: "testing".to_owned(),
            member: self.member(),
            members: members.to_vec(),
            settings: Settings::default(),
            timing: RaftTiming::LAN,
            start_id: START_ID.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Loses everything that the agent has written.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.state_dir()).expect("remove the state directory");
    }

    /// Starts an agent's consensus here.
    pub fn start(&mut self, members: &[InitialMember]) -> Agent {
        let config = self.config(members);
        self.start_with(config)
    }

    pub fn start_with(&mut self, config: StartConfig) -> Agent {
        let room = open_when_free(&config);
        self.start_room(room)
    }

    /// Starts an agent's consensus whose log lies on `disk`.
    pub fn start_on(&mut self, members: &[InitialMember], disk: &FaultyDisk) -> Agent {
        let config = self.config(members);
        let state_dir = open_until_free(|| StateDir::open(&config.state_dir));
        let directory = FaultyDirectory {
            real: state_dir,
            disk: disk.clone(),
        };
        let room = ConsensusRoom::open_in(config, Box::new(directory)).expect("opens");
        self.start_room(room)
    }

    fn start_room(&mut self, room: ConsensusRoom) -> Agent {
        let listener = self.port.take().unwrap_or_else(|| bind_again(self.address));
        listener.set_nonblocking(true).expect("nonblocking");
        let service = peer_server(room.rpc());
        let waiting_for = room.waiting_for();
        let (started, handle) = watch::channel(None);
        // A runtime of its own: when it goes, everything that the agent had under way is gone, as with the process.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("in a runtime");
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .expect("serve");
        });
        runtime.spawn(async move {
            match room.join_or_found().await {
                Ok(handle) => drop(started.send_replace(Some(handle))),
                Err(StartError::Raft(error)) => panic!("Raft did not start: {error}"),
                Err(error) => panic!("did not start: {error}"),
            }
        });
        Agent {
            name: self.name.clone(),
            runtime: Some(runtime),
            handle,
            waiting_for,
        }
    }

    /// Keeps the port for the next agent, or as one that nobody answers on.
    pub fn hold_port(&mut self) {
        self.port = Some(bind_again(self.address));
    }
}

fn open_when_free(config: &StartConfig) -> ConsensusRoom {
    open_until_free(|| ConsensusRoom::open(config.clone()))
}

/// The directory of an agent that was killed is free a moment later, when its writer has noticed.
fn open_until_free<T>(open: impl Fn() -> Result<T, OpenError>) -> T {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(OpenError::InUse { .. }) if std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn bind_again(address: SocketAddr) -> TcpListener {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("reuse");
        match socket.bind(&address.into()).and_then(|()| socket.listen(128)) {
            Ok(()) => return socket.into(),
            Err(error) if std::time::Instant::now() > until => panic!("{address}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// What ails a disk.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Ailment>>);

#[derive(Clone, Copy, Default)]
struct Ailment {
    sync_takes: Duration,
    full: bool,
}

impl FaultyDisk {
    pub fn syncs_take(&self, time: Duration) {
        self.0.lock().expect("no panic").sync_takes = time;
    }

    pub fn is_full(&self) {
        self.0.lock().expect("no panic").full = true;
    }

    fn suffer(&self) -> io::Result<()> {
        let ailment = *self.0.lock().expect("no panic");
        std::thread::sleep(ailment.sync_takes);
        if ailment.full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

struct FaultyDirectory {
    real: StateDir,
    disk: FaultyDisk,
}

impl Directory for FaultyDirectory {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.real.read(name)
    }
    fn replace(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.disk.suffer()?;
        self.real.replace(name, contents)
    }
    fn open_to_append(&mut self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let real = self.real.open_to_append(name)?;
        Ok(Box::new(FaultyFile {
            real,
            disk: self.disk.clone(),
        }))
    }
    fn show(&self, name: &str) -> String {
        self.real.show(name)
    }
}

struct FaultyFile {
    real: Box<dyn AppendFile>,
    disk: FaultyDisk,
}

impl AppendFile for FaultyFile {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.real.cut(len)
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.real.append(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.disk.suffer()?;
        self.real.sync()
    }
}

/// One running agent's consensus.
pub struct Agent {
    pub name: String,
    runtime: Option<Runtime>,
    handle: watch::Receiver<Option<ConsensusHandle>>,
    pub waiting_for: watch::Receiver<Vec<String>>,
}

impl Agent {
    /// The handle, once this agent belongs to a cluster.
    pub async fn handle(&self) -> ConsensusHandle {
        let mut handle = self.handle.clone();
        let started = tokio::time::timeout(PATIENCE, handle.wait_for(Option::is_some));
        match started.await {
            Ok(Ok(handle)) => handle.clone().expect("waited for"),
            _ => panic!(
                "{} has not started; it waits for {:?}",
                self.name,
                *self.waiting_for.borrow()
            ),
        }
    }

    pub fn has_started(&self) -> bool {
        self.handle.borrow().is_some()
    }

    /// Waits until the agent says that it waits for something with `part` in it.
    pub async fn says(&mut self, part: &str) {
        let name = self.name.clone();
        let said = self
            .waiting_for
            .wait_for(|reasons| reasons.iter().any(|reason| reason.contains(part)));
        if tokio::time::timeout(PATIENCE, said).await.is_err() {
            panic!(
                "{name} does not say {part:?}, but {:?}",
                *self.waiting_for.borrow()
            );
        }
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().expect("running");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .expect("ends");
        // A test may still hold a handle, and with it the state directory.
        let handle = self.handle.borrow().clone();
        if let Some(handle) = handle {
            handle.shutdown().await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The one among `handles` that leads.
pub async fn leader<'a>(handles: &'a [&'a ConsensusHandle]) -> &'a ConsensusHandle {
    eventually("a Raft leader", || {
        handles.iter().find(|handle| handle.leads()).copied()
    })
    .await
}

pub fn note(text: &str) -> Command {
    Command::Note {
        kind: "test".to_owned(),
        text: text.to_owned(),
        at: WallTime(1),
    }
}

/// Proposes until it is certain that it was done; a note may then be there twice.
pub async fn propose_note(handle: &ConsensusHandle, text: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        match handle.propose(note(text), Duration::from_secs(5)).await {
            Ok(Applied::Done) => return,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

/// The notes in the replicated state, oldest first.
pub fn notes(handle: &ConsensusHandle) -> Vec<String> {
    handle
        .state()
        .events
        .iter()
        .filter(|event| event.kind == "test")
        .map(|event| event.text.clone())
        .collect()
}

/// Waits until `handle` has applied a note with this text.
pub async fn sees_note(handle: &ConsensusHandle, text: &str) {
    eventually(&format!("the note {text}"), || {
        notes(handle).iter().any(|note| note == text).then_some(())
    })
    .await;
}
