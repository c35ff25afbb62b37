//! pgctl.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use lab::{Cluster, Lab, Mono, Node};
use nix::sys::signal::Signal;

use crate::system::{System, servers_in_sync};

/// Three agents, nothing else.
pub struct Ours {
    cluster: Cluster,
}

impl Ours {
    /// A cluster that is still off, with a timing profile.
    ///
    /// # Errors
    /// The lab cannot make it.
    pub fn new(lab: &Lab, postgres: &Path, timing: &str) -> Result<Ours> {
        Ok(Ours {
            cluster: Cluster::builder(lab, "bench")
                .postgres(postgres)
                .timing(timing)
                .build()?,
        })
    }

    fn node(&self, node: usize) -> &Node {
        &self.cluster.nodes()[node]
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        let name = self.node(node).name().to_owned();
        self.cluster.node_mut(&name)
    }
}

impl System for Ours {
    async fn start(&mut self) -> Result<()> {
        self.cluster.start().await
    }

    async fn in_sync(&self) -> Result<usize> {
        let primary = servers_in_sync(&self.servers()).await?;
        // What clients are told must agree with what is.
        if !self.node(primary).says("/primary").await {
            anyhow::bail!(
                "{} is in sync and does not say that it is primary",
                self.node(primary).name()
            );
        }
        Ok(primary)
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.cluster.pg_addresses()
    }

    fn health(&self) -> Vec<SocketAddr> {
        self.cluster.nodes().iter().map(Node::http_address).collect()
    }

    fn power_off(&mut self, node: usize) -> Result<Mono> {
        self.node_mut(node).power_off()
    }

    async fn power_on(&mut self, node: usize) -> Result<()> {
        self.node_mut(node).start().await
    }

    fn kill_postmaster(&self, node: usize) -> Result<Mono> {
        self.node(node).signal_postmaster(Signal::SIGKILL)
    }

    fn signal_agent(&self, node: usize, signal: Signal) -> Result<Mono> {
        self.node(node).signal_agent(signal)
    }

    async fn switchover(&self, _away_from: usize) -> Result<()> {
        self.cluster
            .pgctl_ok(&["switchover", "--yes"])
            .await
            .map(drop)
            .context("switchover")
    }

    fn agent_pids(&self, node: usize) -> Vec<i32> {
        let processes = self.node(node).host().processes();
        // The guard, too, if it is a process of its own.
        processes
            .into_iter()
            .filter(|process| process.name.starts_with("pgctl"))
            .map(|process| process.pid)
            .collect()
    }

    fn store_pids(&self) -> Vec<i32> {
        Vec::new()
    }

    fn logs(&self) -> String {
        let nodes = self.cluster.nodes().iter();
        nodes
            .map(|node| format!("--- {}\n{}\n", node.name(), node.log_tail(20)))
            .collect()
    }
}
