//! Servers for the tests: each under a folder, port and control group of its own, all gone at the end.

use agent::postgres::{Credentials, Instance, InstanceConfig, ServerConf};
use agent_core::pg::{Position, TimelineId};
use agent_core::view::{PgObservation, PrimaryView, Server, StandbyView, Upstream};
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// More than any wait takes on a busy machine; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A folder for one test with one version of the server.
pub struct Bench {
    dir: tempfile::TempDir,
    pub bin_dir: PathBuf,
}

/// A server under control, ended with all its processes when dropped.
pub struct Node {
    pub pg: Instance,
    pub config: InstanceConfig,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(failed) = self.pg.killer().kill(PATIENCE) {
            println!("left running: {failed}");
        }
    }
}

pub fn bin_dirs() -> Vec<PathBuf> {
    let dirs: Vec<PathBuf> = match std::env::var_os("PGCTL_TEST_PG_BINDIRS") {
        Some(list) => std::env::split_paths(&list)
            .filter(|dir| dir.join("postgres").exists())
            .collect(),
        None => std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|version| version.path().join("bin"))
            .filter(|dir| dir.join("postgres").exists())
            .collect(),
    };
    assert!(
        !dirs.is_empty(),
        "no PostgreSQL server programs: install a server or set PGCTL_TEST_PG_BINDIRS"
    );
    dirs
}

/// Runs `test` once for each version, each in a folder of its own.
pub fn on_each_version<F: Future<Output = ()>>(test: impl Fn(Bench) -> F) {
    for bin_dir in bin_dirs() {
        println!("--- {}", bin_dir.display());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(Bench::new(bin_dir)));
    }
}

pub fn credentials() -> Credentials {
    Credentials {
        replication_user: "pgctl_replication".to_owned(),
        replication_password: "it's a \\ se:cret".to_owned(),
        rewind_user: "pgctl_rewind".to_owned(),
        rewind_password: "another 'one'".to_owned(),
    }
}

impl Bench {
    pub fn new(bin_dir: PathBuf) -> Bench {
        let dir = tempfile::Builder::new().prefix("pgctl-pg-").tempdir().unwrap();
        open_to_all(dir.path());
        Bench { dir, bin_dir }
    }

    pub fn config(&self, name: &str) -> InstanceConfig {
        let home = self.dir.path().join(name);
        for dir in [&home, &home.join("state")] {
            std::fs::create_dir_all(dir).unwrap();
            open_to_all(dir);
        }
        let user = |name: &str| nix::unistd::User::from_name(name).ok().flatten().is_some();
        let parameters = [
            ("shared_buffers", "16MB"),
            ("max_connections", "40"),
            ("work_mem", "1MB"),
        ];
        InstanceConfig {
            node_name: name.to_owned(),
            cluster_name: "contract".to_owned(),
            data_dir: home.join("data"),
            bin_dir: Some(self.bin_dir.clone()),
            socket_dir: home.join("run"),
            listen_addresses: "127.0.0.1".to_owned(),
            port: free_port(),
            os_user: (nix::unistd::Uid::effective().is_root() && !user("postgres"))
                .then(|| "nobody".to_owned()),
            parameters: parameters
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            hba: Vec::new(),
            rollout_role: None,
            wal_commands: None,
            state_dir: home.join("state"),
        }
    }

    pub fn node(&self, name: &str) -> Node {
        Node::open(self.config(name))
    }

    /// A primary on timeline `timeline` with its roles and a table `t (id int)`.
    pub async fn primary(&self, name: &str, timeline: u32) -> Node {
        let node = self.node(name);
        node.pg.initdb().await.unwrap();
        node.pg.start(&conf(None)).await.unwrap();
        node.until_standby(|_| true).await;
        node.pg.promote(TimelineId(timeline), PATIENCE).await.unwrap();
        node.pg.ensure_roles().await.unwrap();
        node.pg.run_sql("CREATE TABLE public.t (id int)").await.unwrap();
        node
    }

    /// A copy of `primary` that streams from it.
    pub async fn standby_of(&self, primary: &Node, name: &str) -> Node {
        let node = self.node(name);
        node.pg
            .base_backup(&primary.upstream("copy"), |_, _| {})
            .await
            .unwrap();
        node.pg.start(&conf(Some(primary.upstream(name)))).await.unwrap();
        node.until_streaming().await;
        node
    }
}

impl Node {
    pub fn open(config: InstanceConfig) -> Node {
        Node {
            pg: Instance::open(config.clone(), credentials()).unwrap(),
            config,
        }
    }

    pub fn upstream(&self, application_name: &str) -> Upstream {
        Upstream {
            host: "127.0.0.1".to_owned(),
            port: self.config.port,
            application_name: application_name.to_owned(),
        }
    }

    /// The only value of a query.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.pg.run_sql(sql).await.unwrap();
        rows[0][0].clone().unwrap_or_default()
    }

    pub async fn until(&self, what: &str, fits: impl Fn(&PgObservation) -> bool) -> PgObservation {
        let begun = Instant::now();
        loop {
            let observation = self.pg.observe().await;
            if fits(&observation) {
                return observation;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what}: {observation:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn until_standby(&self, fits: impl Fn(&StandbyView) -> bool) -> StandbyView {
        let seen = self
            .until(
                "such a standby",
                |seen| matches!(&seen.server, Server::Standby(s) if fits(s)),
            )
            .await;
        let Server::Standby(standby) = seen.server else {
            unreachable!("just matched")
        };
        standby
    }

    pub async fn until_streaming(&self) -> StandbyView {
        self.until_standby(|standby| {
            standby
                .receiver
                .as_ref()
                .is_some_and(|receiver| receiver.streaming)
        })
        .await
    }

    pub async fn until_primary(&self, fits: impl Fn(&PrimaryView) -> bool) -> PrimaryView {
        let seen = self
            .until(
                "such a primary",
                |seen| matches!(&seen.server, Server::Primary(p) if fits(p)),
            )
            .await;
        let Server::Primary(primary) = seen.server else {
            unreachable!("just matched")
        };
        primary
    }

    pub async fn until_down(&self) {
        self.until("down", |seen| seen.server == Server::Down).await;
    }

    /// Until this standby has replayed up to `position`.
    pub async fn until_replayed(&self, position: Position) {
        self.until_standby(|standby| standby.replay >= position.lsn).await;
    }
}

pub fn conf(upstream: Option<Upstream>) -> ServerConf {
    ServerConf {
        upstream,
        slot: None,
        synchronous_standby_names: String::new(),
        slot_budget_bytes: 512 << 20,
        restart_after_crash: false,
        recovery: None,
    }
}

pub fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
