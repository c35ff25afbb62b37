//! One node of a cluster: a host, the agent on it, and the agent's server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::clock::Mono;
use crate::host::Host;
use crate::http::{self, Response};
use crate::node_config::NodeConfig;
use crate::os_user::OsUser;
use crate::program::Program;
use crate::{binaries, processes, sql};

/// How long a health endpoint may take before a look counts as failed.
const HTTP_DEADLINE: Duration = Duration::from_secs(2);

/// A node. Dropping it cuts its power.
#[derive(Debug)]
pub struct Node {
    host: Host,
    /// Written to `node.toml` at each start, so that a test may change it in between.
    pub config: NodeConfig,
    /// Variables of the agent's environment, taken at each start.
    pub agent_env: Vec<(String, String)>,
    agent: Option<Program>,
}

impl Node {
    pub(crate) fn new(host: Host, config: NodeConfig) -> Node {
        Node {
            host,
            config,
            agent_env: Vec::new(),
            agent: None,
        }
    }

    /// `n1`
    pub fn name(&self) -> &str {
        &self.config.node.name
    }

    /// The machine it runs on: power, freezing, processes.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it only votes.
    pub fn is_witness(&self) -> bool {
        self.config.postgres.is_none()
    }

    /// Where clients reach its server.
    ///
    /// # Errors
    /// It is a witness.
    pub fn pg_address(&self) -> Result<SocketAddr> {
        let postgres = self.config.postgres.as_ref();
        Ok(postgres
            .with_context(|| format!("{} is a witness", self.name()))?
            .advertise)
    }

    /// Where peers and `pgctl` reach its agent.
    pub fn peer_address(&self) -> SocketAddr {
        self.config.peer.listen
    }

    /// Where its health endpoints are.
    pub fn http_address(&self) -> SocketAddr {
        self.config.http.listen
    }

    /// Its data directory.
    ///
    /// # Errors
    /// It is a witness.
    pub fn data_dir(&self) -> Result<&Path> {
        let postgres = self.config.postgres.as_ref();
        Ok(&postgres
            .with_context(|| format!("{} is a witness", self.name()))?
            .data_dir)
    }

    /// What its agent has logged, over all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.host.dir().join("agent.log")
    }

    /// The end of the agent's log, for messages about failures.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Switches the host on, with nothing running on it yet: to prepare its disk.
    ///
    /// # Errors
    /// See [`Host::power_on`].
    pub async fn power_on(&mut self) -> Result<()> {
        self.host.power_on().await
    }

    /// Writes `node.toml`, switches the host on if it is off, and starts the agent. Does not wait for anything that
    /// the agent then does.
    ///
    /// # Errors
    /// The agent runs already, or its program is not built.
    pub async fn start(&mut self) -> Result<()> {
        if self.agent_pid().is_some() {
            bail!("the agent of {} runs already", self.name());
        }
        let config = self.host.dir().join("node.toml");
        fs::write(&config, self.config.to_toml()?)
            .with_context(|| format!("cannot write {}", config.display()))?;
        self.host.power_on().await?;
        let agent = binaries::ours("pgctl-agent")?;
        let variables = self
            .agent_env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let words: Vec<String> = variables
            .chain([agent, "--config".into(), config].map(|word| word.display().to_string()))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // `env` becomes the agent: it is no process of its own.
        let started = self.host.run(
            &OsUser::current()?,
            &self.log_path(),
            Path::new("/usr/bin/env"),
            &words,
        )?;
        self.agent = Some(started);
        Ok(())
    }

    /// Cuts the power of the whole node: agent, server and all, at once. Returns the moment just before.
    ///
    /// # Errors
    /// See [`Host::power_off`].
    pub fn power_off(&mut self) -> Result<Mono> {
        let at = self.host.power_off()?;
        self.agent = None;
        Ok(at)
    }

    /// The agent's process id; `None` if it does not run.
    pub fn agent_pid(&self) -> Option<i32> {
        self.agent.as_ref()?.pid()
    }

    /// The running agent, for its exit status.
    pub fn agent(&mut self) -> Option<&mut Program> {
        self.agent.as_mut()
    }

    /// Sends a signal to the agent alone; its server is left to itself.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_agent(&self, signal: Signal) -> Result<Mono> {
        let at = Mono::now();
        let agent = self
            .agent
            .as_ref()
            .with_context(|| format!("the agent of {} was not started", self.name()))?;
        agent.signal(signal)?;
        Ok(at)
    }

    /// The guard's process id; `None` if none runs.
    pub fn guard_pid(&self) -> Option<i32> {
        self.host
            .processes()
            .into_iter()
            .find(|process| process.name == "pgctl-guard" && process.alive())
            .map(|process| process.pid)
    }

    /// The server's main process; `None` if it does not run.
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.host.postmaster_pid(self.data_dir().ok()?)
    }

    /// Sends a signal to the server's main process alone.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_postmaster(&self, signal: Signal) -> Result<Mono> {
        let pid = self
            .postmaster_pid()
            .with_context(|| format!("no server runs on {}", self.name()))?;
        let at = Mono::now();
        processes::signal(pid, signal)?;
        Ok(at)
    }

    /// Asks one of its health endpoints.
    ///
    /// # Errors
    /// No answer.
    pub async fn http(&self, path: &str) -> Result<Response> {
        http::get(self.http_address(), path, HTTP_DEADLINE).await
    }

    /// Whether a health endpoint answers 200.
    pub async fn says(&self, path: &str) -> bool {
        self.http(path).await.is_ok_and(|answer| answer.status == 200)
    }

    /// Runs SQL on its server as a client would, over TCP; rows of text.
    ///
    /// # Errors
    /// See [`sql::query`].
    pub async fn sql(&self, query: &str) -> Result<Vec<Vec<Option<String>>>> {
        sql::query(self.pg_address()?, query).await
    }
}
