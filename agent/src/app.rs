//! The one place that puts the rooms together.

use crate::api::control::ControlService;
use crate::api::http::{HttpLimits, HttpServer};
use crate::api::{Late, listen, take_over};
use crate::archive::{self, Archive, ArchiveConfig, ArchiveService, Sight};
use crate::config::{FencePolicy, NodeConfig, Postgres};
use crate::consensus::{ConsensusRoom, InitialMember, RaftTiming, StartConfig, peer_server};
use crate::driver::coordinator::Coordinator;
use crate::driver::node::{Guards, Node};
use crate::driver::supervision::SupervisionService;
use crate::driver::{
    Clock, DriverDevices, DriverOverview, follow_state, node_loop, publisher, reporter, take_up_restored,
    watchman,
};
use crate::fencing::Fencer;
use crate::fencing::guard::{Guard, GuardProgram};
use crate::fencing::kernel_lease::{KernelLeasing, Place};
use crate::fencing::stonith::Stonith;
use crate::fencing::watchdog::{Device, KernelWatchdog, LeaseSight, Watchdog};
use crate::guard_command::GuardArguments;
use crate::lease::{self, Fences, Lease};
use crate::ports::{Consensus, Overview, SchemaServer, WalCommands};
use crate::postgres::{Credentials, Instance, InstanceConfig};
use crate::rollout::{RolloutService, Rollouts};
use crate::{hardening, incarnation, notify};
use agent_core::cluster::{ClusterState, Command, Member, MemberKind, Secrets};
use agent_core::health::{HealthSnapshot, Instants};
use agent_core::sabotage::Rule;
use agent_core::timing::TimingProfile;
use agent_core::view::WatchdogState;
use anyhow::Context;
use proto::archive::archive_server::ArchiveServer;
use proto::control::control_server::ControlServer;
use proto::supervision::supervision_server::SupervisionServer;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server;

/// Runs the agent until it is told to stop. The PostgreSQL server is left running: the next agent adopts it, and until then
/// the guard ends it when its lease is over.
///
/// # Errors
/// What kept it from starting, or made it stop, and what to do about it.
pub fn run(config: &NodeConfig) -> anyhow::Result<()> {
    make_state_dir(&config.node.state_dir)?;
    let incarnation = incarnation::next(&config.node.state_dir).with_context(|| {
        format!(
            "could not count this start in {}",
            config.node.state_dir.display()
        )
    })?;
    let peer = take_over("peer.listen", config.peer.listen)?;
    let http = listen("http.listen", config.http.listen)?;
    hardening::protect_process();
    hardening::keep_no_large_blocks();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("could not start the runtime: raise the limit on threads")?;
    let outcome = runtime.block_on(Agent { config, incarnation }.run(peer, http));
    // A job that blocks on a child process must not keep the agent from ending.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

struct Agent<'a> {
    config: &'a NodeConfig,
    incarnation: u64,
}

impl Agent<'_> {
    async fn run(&self, peer: TcpListener, http: TcpListener) -> anyhow::Result<()> {
        let clock = Clock::start();
        let mut stop = stop_on_signal()?;
        let room = ConsensusRoom::open(self.consensus_config())?;
        let server = self
            .config
            .postgres
            .as_ref()
            .map(|postgres| self.open_server(postgres))
            .transpose()?;
        let kernel_lease = self.start_kernel_lease()?;
        let fences = Fences {
            fencer: server.as_ref().map(|(_, fencer)| fencer.clone()),
            guard: self.start_guard()?,
            kernel: kernel_lease.handle().cloned(),
        };
        let promise = self.config.bootstrap.timing.promise();
        let lease = lease::start(
            self.config.peer.listen,
            &self.config.node.state_dir,
            promise,
            self.incarnation,
            fences,
        )?;
        let guards = Guards {
            kernel_lease,
            watchdog: self.open_watchdog(&lease)?,
            stonith: Stonith::new(self.config.fencing.devices.clone()),
        };
        let (health, _http) = self.serve_health(http, clock)?;
        let supervision = Late::default();
        let control = Late::default();
        let archiving = Late::default();
        let rolling = Late::default();
        let mut tasks = JoinSet::new();
        let services = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(2)))
            .http2_keepalive_timeout(Some(Duration::from_secs(2)))
            .add_service(peer_server(room.rpc()))
            .add_service(supervision.clone())
            .add_service(control.clone())
            .add_service(archiving.clone())
            .add_service(rolling.clone());
        let incoming =
            tokio_stream::wrappers::TcpListenerStream::new(tokio::net::TcpListener::from_std(peer)?);
        let mut closing = stop.clone();
        tasks.spawn(async move {
            let closed = async move {
                let _ = closing.wait_for(|stop| *stop).await;
            };
            services
                .serve_with_incoming_shutdown(incoming, closed)
                .await
                .context("the gRPC server ended")
        });
        notify::ready("waiting for the cluster");
        let consensus = tokio::select! {
            joined = room.join_or_found() => joined?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let handle = consensus;
        let consensus: Arc<dyn Consensus> = Arc::new(handle.clone());
        tracing::info!(node = %consensus.node_id(), incarnation = self.incarnation, "this node is in the cluster");
        let archive =
            self.start_archive(server.as_ref().map(|(instance, _)| instance), &consensus, &lease)?;
        let told = archive
            .as_ref()
            .map(|archive| archive.take_duties(&consensus, self.incarnation));
        let restores = archive.clone();
        archiving.open(ArchiveServer::new(ArchiveService::new(
            archive,
            Arc::clone(&consensus),
        )));
        let node = self.start_driver(clock, consensus, lease, server, guards, health, &stop, &mut tasks);
        let rollouts = rollouts(&node);
        rolling.open(RolloutService::server(rollouts.clone()));
        run_task(&mut tasks, rollouts.run(stop.clone()));
        if let Some(told) = told {
            // Set once, here.
            let _ = node.archive.set(told);
        }
        if let Some(restores) = restores {
            take_up_restored(&node, restores.as_ref());
            let _ = node.restores.set(restores);
        }
        watchman::start(&node, stop.clone())
            .context("could not start the threads of the probes: raise the limit on threads")?;
        let coordinator = Coordinator::new(node.clone());
        let overview: Arc<dyn Overview> = Arc::new(DriverOverview::new(node.clone(), coordinator.clone()));
        supervision.open(SupervisionServer::new(SupervisionService::new(
            node.clone(),
            coordinator.clone(),
        )));
        control.open(ControlServer::new(ControlService::new(
            node.consensus.clone(),
            overview,
            Arc::new(DriverDevices::new(node.clone())),
        )));
        run_task(&mut tasks, coordinator.run(stop.clone()));
        let stopping = stop.clone();
        let ended = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            failed = consensus_failed(&node) => Err(failed),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) if *stopping.borrow() => Ok(()),
                Ok(Ok(())) => Err(ended_without_a_word(&node).await),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.into()),
            },
        };
        notify::stopping();
        if let Err(error) = &ended {
            // An agent that cannot take part in decisions must not keep a lease, nor a writable server.
            tracing::error!("{error:#}; this node gives up its lease");
            give_up(&node).await;
        } else if let Some(watchdog) = &node.watchdog {
            watchdog.stop();
        }
        handle.give_leadership_away().await;
        handle.shutdown().await;
        ended
    }

    /// The process that ends this node's server if this one does not; a witness has none.
    fn start_guard(&self) -> anyhow::Result<Option<Guard>> {
        let Some(postgres) = &self.config.postgres else {
            return Ok(None);
        };
        let program = GuardProgram {
            state_dir: self.config.node.state_dir.clone(),
            arguments: GuardArguments {
                state_dir: self.config.node.state_dir.clone(),
                data_dir: postgres.data_dir.clone(),
                cluster: self.config.cluster.name.clone(),
                node: self.config.node.name.clone(),
                log_level: self.config.log.level.clone(),
                log_format: self.config.log.format,
            }
            .as_command_line(),
        };
        let guard = Guard::start(program)
            .context("could not start the thread that keeps the guard: raise the limit on threads")?;
        Ok(Some(guard))
    }

    /// What keeps clients from a server whose lease is over; a witness has none.
    fn start_kernel_lease(&self) -> anyhow::Result<KernelLeasing> {
        let Some(postgres) = &self.config.postgres else {
            return Ok(KernelLeasing::Off);
        };
        let place = Place::new(postgres.listen, &self.config.node.state_dir);
        let leasing = KernelLeasing::start(self.config.fencing.kernel_lease, place, lease::clock::read)?;
        let report = leasing.report();
        tracing::info!(state = ?report.state, detail = report.detail, "kernel lease");
        Ok(leasing)
    }

    fn consensus_config(&self) -> StartConfig {
        let config = self.config;
        let members = config.cluster.members.iter().map(|member| InitialMember {
            name: member.name.clone(),
            peer: member.peer.to_string(),
            witness: member.witness,
        });
        let wan = config.bootstrap.timing.renew_ms >= TimingProfile::Wan.timing().renew_ms;
        StartConfig {
            state_dir: config.node.state_dir.clone(),
            cluster_name: config.cluster.name.clone(),
            member: self.member(),
            members: members.collect(),
            settings: config.bootstrap.clone(),
            timing: if wan { RaftTiming::WAN } else { RaftTiming::LAN },
            // Not the count of starts, which begins anew in an empty state directory: two agents of one name would pass
            // for one.
            start_id: rand::random(),
        }
    }

    /// This node as the cluster shall know it.
    fn member(&self) -> Member {
        let config = self.config;
        Member {
            name: config.node.name.clone(),
            kind: if config.is_witness() {
                MemberKind::Witness
            } else {
                MemberKind::Data
            },
            peer: config.peer.advertise.to_string(),
            http: config.http.advertise.to_string(),
            postgres: config
                .postgres
                .as_ref()
                .map(|postgres| postgres.advertise.to_string())
                .unwrap_or_default(),
            tags: config.node.tags.clone(),
            nofailover: config.node.nofailover,
        }
    }

    fn open_server(&self, postgres: &Postgres) -> anyhow::Result<(Instance, Fencer)> {
        let config = InstanceConfig {
            node_name: self.config.node.name.clone(),
            cluster_name: self.config.cluster.name.clone(),
            data_dir: postgres.data_dir.clone(),
            bin_dir: postgres.bin_dir.clone(),
            socket_dir: postgres.socket_dir.clone(),
            listen_addresses: postgres.listen.ip().to_string(),
            port: postgres.listen.port(),
            os_user: postgres.os_user.clone(),
            parameters: postgres.parameters.clone(),
            hba: postgres.hba.clone(),
            rollout_role: self.config.rollout_role.clone(),
            wal_commands: self.wal_commands(postgres)?,
            state_dir: self.config.node.state_dir.clone(),
        };
        let instance = Instance::open(config, credentials(&Secrets::default()))?;
        for overridden in instance.overridden() {
            tracing::warn!(
                setting = overridden.name,
                yours = overridden.user_value,
                ours = overridden.our_value,
                why = overridden.why,
                "a setting of postgres.parameters is the agent's and does not take effect"
            );
        }
        let killer = instance.killer();
        let fencer = Fencer::start(Box::new(move |deadline| match Rule::Fence.is_off() {
            true => Ok(0),
            false => killer.fence(deadline),
        }))
        .context("could not start the fencing thread: raise the limit on threads")?;
        Ok((instance, fencer))
    }

    fn wal_commands(&self, postgres: &Postgres) -> anyhow::Result<Option<WalCommands>> {
        if self.config.repositories.is_empty() {
            return Ok(None);
        }
        let socket = archive::socket_path(&postgres.socket_dir, postgres.listen.port());
        archive::wal_commands(&socket)
            .map(Some)
            .map_err(anyhow::Error::msg)
    }

    /// What takes WAL and backups to the repositories, where there is a server and a repository.
    fn start_archive(
        &self,
        instance: Option<&Instance>,
        consensus: &Arc<dyn Consensus>,
        lease: &Lease,
    ) -> anyhow::Result<Option<Arc<Archive>>> {
        let (Some(instance), Some(postgres)) = (instance, &self.config.postgres) else {
            return Ok(None);
        };
        if self.config.repositories.is_empty() {
            return Ok(None);
        }
        let config = ArchiveConfig {
            cluster: self.config.cluster.name.clone(),
            node: self.config.node.name.clone(),
            data_dir: postgres.data_dir.clone(),
            state_dir: self.config.node.state_dir.clone(),
            socket: archive::socket_path(&postgres.socket_dir, postgres.listen.port()),
            owner: instance.server_account(),
            repositories: self.config.repositories.clone(),
        };
        let (consensus, lease) = (Arc::clone(consensus), lease.clone());
        let sight = move || {
            // The pledge first: a state that is read afterwards can only be newer.
            let pledge = lease.status().pledge;
            Sight::of(&consensus.state(), consensus.node_id(), pledge)
        };
        Archive::start(config, Arc::new(instance.clone()), sight)
            .map(Some)
            .context("could not start the threads of the archive: raise the limit on threads")
    }

    /// The machine's watchdog, where one is to be used. `required` and not there is an error.
    fn open_watchdog(&self, lease: &Lease) -> anyhow::Result<Option<Watchdog>> {
        let fencing = &self.config.fencing;
        let required = fencing.watchdog == FencePolicy::Required;
        if fencing.watchdog == FencePolicy::Off || self.config.is_witness() {
            return Ok(None);
        }
        let path = &fencing.watchdog_device;
        let device = KernelWatchdog::at(path);
        match device.look() {
            Err(error) if required => anyhow::bail!(
                "fencing.watchdog = \"required\", and {} cannot be used: {error}; load the machine's watchdog driver \
                 (softdog where there is no other), let this user write to it, or say \"automatic\"",
                path.display()
            ),
            Err(error) => tracing::warn!(device = %path.display(), %error, "there is no watchdog here"),
            Ok(()) => {}
        }
        let lease = lease.clone();
        let look = move || {
            // The clock first: what is read of the lease afterwards can only be newer.
            let now = lease::clock::read();
            let status = lease.status();
            LeaseSight {
                now,
                epoch: status.epoch,
                renewed: status.renewed,
                ended: status.fenced,
                timing: status.timing,
            }
        };
        Watchdog::start(Box::new(device), fencing.watchdog_timeout_s, required, look)
            .map(Some)
            .context("could not start the watchdog thread: raise the limit on threads")
    }

    fn serve_health(
        &self,
        listener: TcpListener,
        clock: Clock,
    ) -> anyhow::Result<(watch::Sender<Arc<HealthSnapshot>>, HttpServer)> {
        let nothing = HealthSnapshot {
            node: Default::default(),
            name: self.config.node.name.clone(),
            state: Arc::new(ClusterState::default()),
            probe: None,
            lease: None,
            gate_open: false,
            fencing: false,
            heartbeat: clock.now(),
            view: Arc::default(),
            raft_leader: None,
            log_writes: None,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (sender, receiver) = watch::channel(Arc::new(nothing));
        let now = Arc::new(move || Instants {
            reading: lease::clock::read(),
            mono: clock.now(),
        });
        let server = HttpServer::start(listener, HttpLimits::default(), receiver, now)
            .context("could not start the HTTP server")?;
        Ok((sender, server))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a room, and this is where they meet"
    )]
    fn start_driver(
        &self,
        clock: Clock,
        consensus: Arc<dyn Consensus>,
        lease: Lease,
        server: Option<(Instance, Fencer)>,
        guards: Guards,
        health: watch::Sender<Arc<HealthSnapshot>>,
        stop: &watch::Receiver<bool>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> Arc<Node> {
        let instance = server.as_ref().map(|(instance, _)| instance.clone());
        let node = Node::new(
            clock,
            self.incarnation,
            consensus,
            lease,
            server,
            guards,
            &self.config.node.state_dir,
        );
        let name = self.config.node.name.clone();
        run_task(tasks, follow_state(node.clone(), stop.clone()));
        run_task(tasks, reporter::run(node.clone(), stop.clone()));
        run_task(tasks, publisher::run(node.clone(), name, health, stop.clone()));
        run_task(tasks, notify::keep_alive(node.clone(), stop.clone()));
        run_task(tasks, announce(node.clone(), self.member(), stop.clone()));
        if let Some(instance) = instance {
            let (node, mut stop) = (node.clone(), stop.clone());
            run_task(tasks, async move {
                // The passwords of the server's roles are in the replicated state.
                let mut states = node.consensus.watch();
                let state = tokio::select! {
                    state = states.wait_for(|state| !state.cluster_id.is_empty()) => state.ok().map(|s| s.clone()),
                    _ = stop.wait_for(|stop| *stop) => None,
                };
                if let Some(state) = state {
                    instance.set_credentials(credentials(&state.secrets));
                    node_loop::run(node, stop).await;
                }
            });
        }
        node
    }
}

/// Schema changes on this node's server, where it has one.
fn rollouts(node: &Arc<Node>) -> Arc<Rollouts> {
    let server = node
        .server
        .as_ref()
        .map(|server| Arc::new(server.instance.clone()) as Arc<dyn SchemaServer>);
    let standing = node.clone();
    Rollouts::new(node.consensus.clone(), server, move || {
        let epoch = standing.consensus.state().epoch;
        let lease = standing.lease.status();
        (standing.gate_open(epoch) && lease.epoch == epoch && lease.valid()).then_some(epoch)
    })
}

fn run_task(tasks: &mut JoinSet<anyhow::Result<()>>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        Ok(())
    });
}

fn credentials(secrets: &Secrets) -> Credentials {
    Credentials {
        replication_user: "pgctl_replication".to_owned(),
        replication_password: secrets.replication_password.clone(),
        rewind_user: "pgctl_rewind".to_owned(),
        rewind_password: secrets.rewind_password.clone(),
    }
}

fn make_state_dir(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| {
            format!(
                "could not make node.state_dir {}: check its parent's permissions",
                path.display()
            )
        })
}

/// Becomes true at SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop; the server runs on for the next agent, a primary until its lease ends");
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

/// Tells the cluster the addresses of this node's configuration, where they differ from those it knows.
async fn announce(node: Arc<Node>, member: Member, mut stop: watch::Receiver<bool>) {
    let mut states = node.consensus.watch();
    loop {
        let state = states.borrow_and_update().clone();
        let id = node.id();
        if state.members.get(&id).is_some_and(|known| *known != member) {
            let command = Command::AnnounceMember {
                node: id,
                member: member.clone(),
            };
            if let Err(error) = node.consensus.propose(command, Duration::from_secs(5)).await {
                tracing::warn!(%error, "the cluster could not be told of this node's addresses yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
                states.mark_changed();
            }
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Comes back when this node's consensus has ended.
/// Why a part of the agent ended by itself: those that follow the replicated state end with the consensus, and may be seen
/// to end before it is.
async fn ended_without_a_word(node: &Node) -> anyhow::Error {
    tokio::time::timeout(Duration::from_secs(1), consensus_failed(node))
        .await
        .unwrap_or_else(|_| {
            anyhow::anyhow!(
                "a part of the agent has ended without a word, which it never should; the agent is to be restarted"
            )
        })
}

async fn consensus_failed(node: &Node) -> anyhow::Error {
    let error = node.consensus.failed().await;
    anyhow::anyhow!(
        "the consensus of this node has stopped: {error}; the agent ends, so that it can start afresh"
    )
}

/// Ends the server if this node holds a lease, and waits for it, and for the watchdog to be closed upon its receipt.
async fn give_up(node: &Node) {
    let status = node.lease.status();
    node.lease.stop_renewing(status.epoch);
    if let (Some(server), Some(_)) = (&node.server, status.deadline) {
        server.fencer.fence(status.epoch).await;
    }
    let armed = || {
        node.watchdog
            .as_ref()
            .is_some_and(|watchdog| watchdog.report().state == WatchdogState::Armed)
    };
    let patience = tokio::time::Instant::now() + Duration::from_secs(1);
    while armed() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
