//! Patroni with etcd, set up as its own documentation does.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{DEADLINE, Host, Lab, Mono, Program, http, processes, wait_until};
use nix::sys::signal::Signal;

use crate::system::{System, servers_in_sync};

/// How fast it is told to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timing {
    /// ttl 30, loop_wait 10, retry_timeout 10; a crashed server is started again in place.
    Default,
    /// ttl 20, loop_wait 1, retry_timeout 3: the smallest that it accepts; a crashed server is failed over at once.
    Tightest,
}

/// Three Patronis and one etcd, each on a host of its own.
pub struct Patroni {
    lab: Lab,
    programs: PathBuf,
    etcd: Host,
    etcd_address: SocketAddr,
    etcd_peer: SocketAddr,
    nodes: Vec<PatroniNode>,
}

struct PatroniNode {
    host: Host,
    postgres: SocketAddr,
    rest: SocketAddr,
    config: PathBuf,
    agent: Option<Program>,
}

const SCOPE: &str = "bench";

impl Patroni {
    /// A cluster that is still off.
    ///
    /// # Errors
    /// No free ports, or the folders cannot be made.
    pub fn new(lab: &Lab, postgres: &Path, programs: &Path, timing: Timing) -> Result<Patroni> {
        let port = || Ok::<_, anyhow::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, lab.port_for(0)?)));
        let etcd_address = port()?;
        let mut nodes = Vec::new();
        for i in 1..=3 {
            let host = lab.host(&format!("p{i}"))?;
            let (pg, rest) = (port()?, port()?);
            let config = host.dir().join("patroni.yml");
            let text = yaml(
                &format!("p{i}"),
                host.dir(),
                postgres,
                pg,
                rest,
                etcd_address,
                timing,
            );
            fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
            nodes.push(PatroniNode {
                host,
                postgres: pg,
                rest,
                config,
                agent: None,
            });
        }
        let (etcd, etcd_peer) = (lab.host("etcd")?, port()?);
        Ok(Patroni {
            lab: lab.clone(),
            programs: programs.to_owned(),
            etcd,
            etcd_address,
            etcd_peer,
            nodes,
        })
    }

    async fn start_etcd(&mut self) -> Result<()> {
        self.etcd.power_on().await?;
        let data = self.etcd.dir().join("data").display().to_string();
        let (client, peer) = (
            format!("http://{}", self.etcd_address),
            format!("http://{}", self.etcd_peer),
        );
        let initial = format!("default={peer}");
        let args = [
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &initial,
        ];
        let log = self.lab.dir().join("etcd.log");
        let etcd = Path::new("/usr/bin/etcd");
        let _runs_until_its_host_is_switched_off =
            self.etcd.run(self.lab.servers_run_as(), &log, etcd, &args)?;
        wait_until("etcd is healthy", DEADLINE, || async {
            let answer = http::get(self.etcd_address, "/health", Duration::from_secs(1)).await?;
            if answer.body.contains("true") {
                Ok(())
            } else {
                anyhow::bail!("it says {}", answer.body)
            }
        })
        .await
        .with_context(|| format!("etcd's log: {}", tail(&log)))
    }

    fn start_agent(&mut self, node: usize) -> Result<()> {
        let log = self.log(node);
        let program = self.programs.join("patroni");
        let node = &mut self.nodes[node];
        let config = node.config.display().to_string();
        node.agent = Some(
            node.host
                .run(self.lab.servers_run_as(), &log, &program, &[&config])?,
        );
        Ok(())
    }

    fn log(&self, node: usize) -> PathBuf {
        self.lab.dir().join(format!("p{}.log", node + 1))
    }

    fn agent(&self, node: usize) -> Result<&Program> {
        self.nodes[node]
            .agent
            .as_ref()
            .with_context(|| format!("p{} was not started", node + 1))
    }
}

impl System for Patroni {
    async fn start(&mut self) -> Result<()> {
        self.start_etcd().await?;
        for node in 0..self.nodes.len() {
            self.power_on(node).await?;
        }
        Ok(())
    }

    async fn in_sync(&self) -> Result<usize> {
        let primary = servers_in_sync(&self.servers()).await?;
        let answer = http::get(self.nodes[primary].rest, "/primary", Duration::from_secs(2)).await?;
        if answer.status != 200 {
            anyhow::bail!("p{} is in sync and does not say that it is primary", primary + 1);
        }
        Ok(primary)
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.postgres).collect()
    }

    fn health(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.rest).collect()
    }

    fn power_off(&mut self, node: usize) -> Result<Mono> {
        self.nodes[node].agent = None;
        self.nodes[node].host.power_off()
    }

    async fn power_on(&mut self, node: usize) -> Result<()> {
        self.nodes[node].host.power_on().await?;
        self.start_agent(node)
    }

    fn kill_postmaster(&self, node: usize) -> Result<Mono> {
        let host = &self.nodes[node].host;
        let pid = host
            .postmaster_pid(&host.dir().join("data"))
            .context("no server runs there")?;
        let at = Mono::now();
        processes::signal(pid, Signal::SIGKILL)?;
        Ok(at)
    }

    fn signal_agent(&self, node: usize, signal: Signal) -> Result<Mono> {
        let at = Mono::now();
        self.agent(node)?.signal(signal)?;
        Ok(at)
    }

    async fn switchover(&self, node: usize) -> Result<()> {
        let leader = format!("p{}", node + 1);
        let mut command = tokio::process::Command::new(self.programs.join("patronictl"));
        command.arg("-c").arg(&self.nodes[node].config).args([
            "switchover",
            SCOPE,
            "--leader",
            &leader,
            "--force",
        ]);
        let done = command.output().await.context("cannot run patronictl")?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !done.status.success() || !said(&done.stdout).contains("Successfully") {
            anyhow::bail!(
                "patronictl switchover: {}{}",
                said(&done.stdout),
                said(&done.stderr)
            );
        }
        Ok(())
    }

    fn agent_pids(&self, node: usize) -> Vec<i32> {
        self.nodes[node]
            .agent
            .as_ref()
            .and_then(Program::pid)
            .into_iter()
            .collect()
    }

    fn store_pids(&self) -> Vec<i32> {
        let processes = self.etcd.processes().into_iter();
        processes
            .filter(|process| process.name == "etcd")
            .map(|process| process.pid)
            .collect()
    }

    fn logs(&self) -> String {
        (0..self.nodes.len())
            .map(|node| format!("--- p{}\n{}\n", node + 1, tail(&self.log(node))))
            .collect()
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn yaml(
    name: &str,
    dir: &Path,
    bin_dir: &Path,
    postgres: SocketAddr,
    rest: SocketAddr,
    etcd: SocketAddr,
    timing: Timing,
) -> String {
    let timing = match timing {
        Timing::Default => "ttl: 30\n    loop_wait: 10\n    retry_timeout: 10",
        Timing::Tightest => "ttl: 20\n    loop_wait: 1\n    retry_timeout: 3\n    primary_start_timeout: 0",
    };
    let (dir, bin_dir) = (dir.display(), bin_dir.display());
    format!(
        r#"scope: {SCOPE}
namespace: /bench/
name: {name}
restapi:
  listen: {rest}
  connect_address: {rest}
etcd3:
  host: {etcd}
bootstrap:
  dcs:
    {timing}
    synchronous_mode: quorum
    synchronous_node_count: 1
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        shared_buffers: 32MB
        max_connections: 50
        max_wal_size: 256MB
  initdb:
    - encoding: UTF8
    - locale: C.UTF-8
    - data-checksums
postgresql:
  listen: {postgres}
  connect_address: {postgres}
  data_dir: {dir}/data
  bin_dir: {bin_dir}
  pgpass: {dir}/pgpass
  authentication:
    superuser: {{username: postgres, password: bench}}
    replication: {{username: replicator, password: bench}}
    rewind: {{username: rewinder, password: bench}}
  parameters:
    unix_socket_directories: {dir}
  pg_hba:
    - local all all trust
    - host all all all trust
    - host replication all all trust
"#
    )
}
