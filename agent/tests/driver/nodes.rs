//! Several nodes in one process, each with a server of its own.

use crate::shared_log::{Seat, SharedLog};
use agent::driver::coordinator::Coordinator;
use agent::driver::node::Node;
use agent::driver::supervision::SupervisionService;
use agent::driver::{Clock, follow_state, node_loop, reporter};
use agent::fencing::Fencer;
use agent::lease::Fences;
use agent::postgres::{Credentials, Instance, InstanceConfig};
use agent_core::cluster::{ClusterState, Command, Member, MemberKind, Secrets, Settings};
use agent_core::ids::NodeId;
use agent_core::view::{NodeReport, Server};
use proto::supervision::supervision_server::SupervisionServer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

const DEADLINE: Duration = Duration::from_secs(90);

/// Waits for a condition, and says which one did not come.
pub async fn wait(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < DEADLINE,
            "{what}: did not come within {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nodes numbered from 1; the last one leads the log.
pub struct Nodes {
    pub log: SharedLog,
    nodes: BTreeMap<NodeId, (Arc<Node>, Instance)>,
    stop: watch::Sender<bool>,
    /// The loops that start servers again.
    loops: Vec<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Nodes {
    /// Starts them; `None`, and a line that says so, where no PostgreSQL is installed.
    pub async fn start(count: u64) -> Option<Nodes> {
        let Some(bin_dir) = bin_dir() else {
            eprintln!("skipped: no PostgreSQL server programs were found");
            return None;
        };
        if std::env::var_os("PGCTL_TEST_LOG").is_some() {
            let _ = tracing_subscriber::fmt()
                .with_env_filter("info,agent=debug")
                .try_init();
        }
        let dir = tempfile::Builder::new()
            .prefix("pgctl-driver")
            .tempdir()
            .expect("a temporary directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let peers: Vec<(TcpListener, SocketAddr)> = (0..count).map(|_| peer_port()).collect();
        let ids = || (1..=count).map(NodeId);
        let postgres: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let members = ids()
            .zip(peers.iter().zip(&postgres))
            .map(|(id, ((_, peer), port))| {
                let member = Member {
                    name: format!("n{id}"),
                    kind: MemberKind::Data,
                    peer: peer.to_string(),
                    http: String::new(),
                    postgres: format!("127.0.0.1:{port}"),
                    tags: BTreeMap::new(),
                    nofailover: false,
                };
                (id, member)
            });
        let mut state = ClusterState::default();
        let secrets = Secrets {
            replication_password: "r".repeat(16),
            rewind_password: "w".repeat(16),
        };
        state
            .apply(&Command::Found {
                cluster_id: uuid::Uuid::new_v4().to_string(),
                name: "driver".to_owned(),
                members: members.collect(),
                settings: Box::default(),
                secrets: secrets.clone(),
            })
            .expect("founded");
        state.apply_voters(1, &[ids().collect::<BTreeSet<_>>()]);
        let log = SharedLog::new(state);
        let (stop, stopped) = watch::channel(false);
        let mut nodes = BTreeMap::new();
        let mut loops = Vec::new();
        for (id, ((listener, address), port)) in ids().zip(peers.into_iter().zip(postgres)) {
            let seat = Seat {
                node: id,
                leader: NodeId(count),
                log: log.clone(),
            };
            let place = Place {
                root: dir.path(),
                bin_dir: &bin_dir,
                id,
                port,
                secrets: &secrets,
            };
            let (node, instance, running) = start_node(place, seat, listener, address, &stopped);
            nodes.insert(id, (node, instance));
            loops.push(running);
        }
        Some(Nodes {
            log,
            nodes,
            stop,
            loops,
            dir,
        })
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    /// The node's server, as it was last seen.
    pub fn server(&self, id: NodeId) -> Option<Server> {
        self.nodes[&id]
            .0
            .observed
            .borrow()
            .as_ref()
            .map(|(_, pg)| pg.server.clone())
    }

    /// What the leader's coordinator knows of a node.
    pub fn report(&self, id: NodeId) -> Option<NodeReport> {
        let leader = &self.nodes.last_key_value()?.1.0;
        let view = leader.reports.view();
        view.reports.get(&id).map(|(_, report)| report.clone())
    }

    /// Where its agent listens.
    pub fn address(&self, id: NodeId) -> String {
        self.log.state().members[&id].peer.clone()
    }

    /// The gate is open, the synchronous set is settled, and it has so many members.
    pub fn settled(&self, members: usize) -> bool {
        let state = self.log.state();
        state
            .promotion
            .is_some_and(|promotion| promotion.epoch == state.epoch)
            && !state.sync_unsettled()
            && state
                .sync_rule()
                .is_some_and(|rule| rule.k == 1 && rule.members.len() == members)
    }

    pub fn kill_postmaster(&self, id: NodeId) {
        let pid = self.nodes[&id].1.postmaster().borrow().expect("a running server");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("killed");
    }

    /// Ends the loops, then the servers.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        for running in self.loops.drain(..) {
            running.await.expect("no panic");
        }
        for (_, instance) in self.nodes.values() {
            let killer = instance.killer();
            tokio::task::spawn_blocking(move || killer.kill(Duration::from_secs(10)))
                .await
                .expect("no panic")
                .ok();
        }
        let _ = &self.dir;
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for (_, instance) in self.nodes.values() {
            let _ = instance.killer().kill(Duration::from_secs(10));
        }
    }
}

struct Place<'a> {
    root: &'a Path,
    bin_dir: &'a Path,
    id: NodeId,
    port: u16,
    secrets: &'a Secrets,
}

fn start_node(
    place: Place<'_>,
    seat: Seat,
    listener: TcpListener,
    address: SocketAddr,
    stop: &watch::Receiver<bool>,
) -> (Arc<Node>, Instance, JoinHandle<()>) {
    let home = place.root.join(format!("n{}", place.id));
    let state_dir = home.join("state");
    let config = InstanceConfig {
        node_name: format!("n{}", place.id),
        cluster_name: format!("driver-{}", std::process::id()),
        data_dir: home.join("pg").join("data"),
        bin_dir: Some(place.bin_dir.to_owned()),
        socket_dir: home.join("run"),
        listen_addresses: "127.0.0.1".to_owned(),
        port: place.port,
        os_user: None,
        parameters: BTreeMap::from([("shared_buffers".to_owned(), "32MB".to_owned())]),
        hba: vec!["host all all all trust".to_owned()],
        rollout_role: None,
        wal_commands: None,
        state_dir: state_dir.clone(),
    };
    for folder in [&state_dir, &home.join("run"), &home.join("pg")] {
        std::fs::create_dir_all(folder).expect("a directory");
    }
    for folder in [home.join("run"), home.join("pg")] {
        give_to_server(&folder);
    }
    let credentials = Credentials {
        replication_user: "pgctl_replication".to_owned(),
        replication_password: place.secrets.replication_password.clone(),
        rewind_user: "pgctl_rewind".to_owned(),
        rewind_password: place.secrets.rewind_password.clone(),
    };
    let instance = Instance::open(config, credentials).expect("an instance");
    let killer = instance.killer();
    let fencer = Fencer::start(Box::new(move |deadline| {
        killer
            .kill(deadline)
            .map(|report| report.killed.len())
            .map_err(|failed| failed.survivors)
    }))
    .expect("a thread");
    let promise = Settings::default().timing.promise();
    let lease = {
        let fences = Fences {
            fencer: Some(fencer.clone()),
            ..Fences::default()
        };
        agent::lease::start(address, &state_dir, promise, 1, fences).expect("a lease")
    };
    let node = Node::new(
        Clock::start(),
        1,
        Arc::new(seat),
        lease,
        Some((instance.clone(), fencer)),
        Default::default(),
        &state_dir,
    );
    let coordinator = Coordinator::new(node.clone());
    let service = SupervisionServer::new(SupervisionService::new(node.clone(), coordinator.clone()));
    listener.set_nonblocking(true).expect("non-blocking");
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).expect("a listener"));
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    tokio::spawn(follow_state(node.clone(), stop.clone()));
    tokio::spawn(reporter::run(node.clone(), stop.clone()));
    tokio::spawn(coordinator.run(stop.clone()));
    let running = tokio::spawn(node_loop::run(node.clone(), stop.clone()));
    (node, instance, running)
}

fn give_to_server(folder: &Path) {
    let user = nix::unistd::User::from_name("postgres").ok().flatten();
    if let (true, Some(user)) = (nix::unistd::geteuid().is_root(), user) {
        nix::unistd::chown(folder, Some(user.uid), Some(user.gid)).expect("chown");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// A port whose UDP twin is free, too.
fn peer_port() -> (TcpListener, SocketAddr) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        if UdpSocket::bind(address).is_ok() {
            return (listener, address);
        }
    }
}

fn bin_dir() -> Option<PathBuf> {
    if let Some(dirs) = std::env::var_os("PGCTL_TEST_PG_BINDIRS") {
        return std::env::split_paths(&dirs).last();
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop()
}
