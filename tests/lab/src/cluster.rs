//! Several nodes that belong together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::condition::wait_until;
use crate::lab::Lab;
use crate::network::End;
use crate::node::Node;
use crate::node_config::{
    BootstrapSection, ClusterSection, Listen, Member, NodeConfig, NodeSection, PostgresSection,
};

/// What a cluster is to be; see [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    lab: Lab,
    name: String,
    data_nodes: usize,
    witnesses: usize,
    bin_dir: Option<PathBuf>,
    timing: String,
    sync_mode: String,
    parameters: BTreeMap<String, String>,
    archive: toml::Table,
    rollout: toml::Table,
}

impl ClusterBuilder {
    /// How many nodes with a server (`n1`, `n2`, ...; 3 by default).
    pub fn data_nodes(mut self, count: usize) -> Self {
        self.data_nodes = count;
        self
    }

    /// How many nodes that only vote (`w1`, ...; none by default).
    pub fn witnesses(mut self, count: usize) -> Self {
        self.witnesses = count;
        self
    }

    /// Which server programs to run (the newest found by default).
    pub fn postgres(mut self, bin_dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(bin_dir.into());
        self
    }

    /// `lan-fast`, `default` (the default) or `wan`.
    pub fn timing(mut self, profile: &str) -> Self {
        self.timing = profile.to_owned();
        self
    }

    /// `quorum` (the default), `strict` or `async`.
    pub fn sync_mode(mut self, mode: &str) -> Self {
        self.sync_mode = mode.to_owned();
        self
    }

    /// A setting for every server.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A repository in that directory, which must exist, for WAL and backups of every node.
    pub fn repository(mut self, path: &Path) -> Self {
        let mut entry = toml::Table::new();
        entry.insert("name".to_owned(), "main".into());
        entry.insert("path".to_owned(), path.display().to_string().into());
        entry.insert("compression_level".to_owned(), 1.into());
        self.archive
            .insert("repositories".to_owned(), toml::Value::Array(vec![entry.into()]));
        self
    }

    /// Another one beside it, encrypted with the key in that file.
    pub fn encrypted_repository(mut self, name: &str, path: &Path, key: &Path) -> Self {
        let mut entry = toml::Table::new();
        entry.insert("name".to_owned(), name.into());
        entry.insert("path".to_owned(), path.display().to_string().into());
        entry.insert("key_file".to_owned(), key.display().to_string().into());
        if let Some(toml::Value::Array(all)) = self.archive.get_mut("repositories") {
            all.push(entry.into());
        }
        self
    }

    /// Another one beside it, in the bucket `b` of whoever speaks S3 there.
    pub fn bucket(mut self, name: &str, endpoint: &str) -> Self {
        let mut s3 = toml::Table::new();
        for (key, value) in [
            ("bucket", "b"),
            ("region", "us-east-1"),
            ("endpoint", endpoint),
            ("access_key_id", "id"),
            ("secret_access_key", "secret"),
        ] {
            s3.insert(key.to_owned(), value.into());
        }
        let mut entry = toml::Table::new();
        entry.insert("name".to_owned(), name.into());
        entry.insert("compression".to_owned(), "lz4".into());
        entry.insert("s3".to_owned(), s3.into());
        if let Some(toml::Value::Array(all)) = self.archive.get_mut("repositories") {
            all.push(entry.into());
        }
        self
    }

    /// Schema changes are carried out in the name of that role.
    pub fn rollout_role(mut self, role: &str) -> Self {
        self.rollout.insert("role".to_owned(), role.into());
        self
    }

    /// The cluster, with every node still off.
    ///
    /// # Errors
    /// No server programs, no free ports, or the folders cannot be made.
    pub fn build(self) -> Result<Cluster> {
        let bin_dir = match &self.bin_dir {
            Some(bin_dir) => bin_dir.clone(),
            None => binaries::newest_postgres()?,
        };
        let names = (1..=self.data_nodes).map(|i| (format!("n{i}"), false));
        let names: Vec<_> = names
            .chain((1..=self.witnesses).map(|i| (format!("w{i}"), true)))
            .collect();
        let mut members = Vec::new();
        let mut hosts = Vec::new();
        for (name, witness) in names {
            // Two clusters of one lab may have nodes of one name.
            let host = self.lab.host(&format!("{}-{name}", self.name))?;
            let peer = SocketAddr::new(IpAddr::V4(host.ip()), self.lab.port_for(7432)?);
            members.push(Member { name, peer, witness });
            hosts.push(host);
        }
        let mut nodes = Vec::new();
        for (host, member) in hosts.into_iter().zip(&members) {
            let ip = IpAddr::V4(host.ip());
            let dir = host.dir().to_owned();
            let user = self.lab.servers_run_as();
            let postgres = if member.witness {
                None
            } else {
                let socket_dir = dir.join("run");
                user.make_dir(&socket_dir)?;
                let address = SocketAddr::new(ip, self.lab.port_for(5432)?);
                Some(PostgresSection {
                    data_dir: dir.join("data"),
                    bin_dir: bin_dir.clone(),
                    listen: address,
                    advertise: address,
                    socket_dir,
                    hba: vec!["host all all all trust".to_owned()],
                    parameters: self.parameters.clone(),
                })
            };
            let config = NodeConfig {
                node: NodeSection {
                    name: member.name.clone(),
                    state_dir: dir.join("state"),
                },
                // Some names derived from the cluster's are global on a machine (control groups): hence the run.
                cluster: ClusterSection {
                    name: format!("{}-{}", self.name, self.lab.run()),
                    members: members.clone(),
                },
                peer: Listen { listen: member.peer },
                http: Listen {
                    listen: SocketAddr::new(ip, self.lab.port_for(8008)?),
                },
                postgres,
                fencing: fencing(&self.lab),
                archive: self.archive.clone(),
                rollout: self.rollout.clone(),
                bootstrap: BootstrapSection {
                    timing: self.timing.clone(),
                    sync_mode: self.sync_mode.clone(),
                },
            };
            nodes.push(Node::new(host, config));
        }
        Ok(Cluster { lab: self.lab, nodes })
    }
}

/// `[fencing]` of the nodes of `lab`: where they share this machine's network, none may change its packet rules.
fn fencing(lab: &Lab) -> toml::Table {
    let mut section = toml::Table::new();
    if !lab.has_network() {
        section.insert("kernel_lease".to_owned(), "off".into());
    }
    section
}

/// A cluster. Dropping it cuts the power of its nodes.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: no node may run on in a folder that is being removed.
    nodes: Vec<Node>,
    lab: Lab,
}

impl Cluster {
    /// Describes a cluster of three nodes in `lab`; `name` is of `a-z`, `0-9` and `-`, at most 20 long.
    pub fn builder(lab: &Lab, name: &str) -> ClusterBuilder {
        let parameters = [
            ("shared_buffers", "32MB"),
            ("max_connections", "50"),
            ("max_wal_size", "256MB"),
        ];
        ClusterBuilder {
            lab: lab.clone(),
            name: name.to_owned(),
            data_nodes: 3,
            witnesses: 0,
            bin_dir: None,
            archive: toml::Table::new(),
            rollout: toml::Table::new(),
            timing: "default".to_owned(),
            sync_mode: "quorum".to_owned(),
            parameters: parameters
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// The lab it is in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Every node, servers first, then witnesses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes that have a server.
    pub fn data_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_witness())
    }

    /// A node by name.
    ///
    /// # Panics
    /// There is none of that name: a mistake in the test.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// A node by name, to switch on or off.
    ///
    /// # Panics
    /// There is none of that name: a mistake in the test.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// A further node with a server, still off and on a host of its own, that is in no member list and asks the
    /// others to let it in. It is not part of this value before [`Cluster::take_in`].
    ///
    /// # Errors
    /// No free ports, or its folder cannot be made.
    ///
    /// # Panics
    /// The cluster has no data node to take after.
    pub fn spare(&self, name: &str) -> Result<Node> {
        let pattern = self.data_nodes().next().expect("a cluster has a data node");
        let mut config = pattern.config.clone();
        let host = self.lab.host(&format!("{}-{name}", config.cluster.name))?;
        let ip = IpAddr::V4(host.ip());
        let dir = host.dir().to_owned();
        config.node = NodeSection {
            name: name.to_owned(),
            state_dir: dir.join("state"),
        };
        config.peer.listen = SocketAddr::new(ip, self.lab.port_for(7432)?);
        config.http.listen = SocketAddr::new(ip, self.lab.port_for(8008)?);
        if let Some(postgres) = &mut config.postgres {
            postgres.data_dir = dir.join("data");
            postgres.socket_dir = dir.join("run");
            self.lab.servers_run_as().make_dir(&postgres.socket_dir)?;
            postgres.listen = SocketAddr::new(ip, self.lab.port_for(5432)?);
            postgres.advertise = postgres.listen;
        }
        Ok(Node::new(host, config))
    }

    /// Makes a node part of this value: it is counted, asked and cut like the first ones.
    pub fn take_in(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Takes a node out of this value: it is counted, asked and cut no more. Dropping it cuts its power.
    ///
    /// # Panics
    /// There is none of that name: a mistake in the test.
    pub fn take_out(&mut self, name: &str) -> Node {
        let found = self.nodes.iter().position(|node| node.name() == name);
        self.nodes
            .remove(found.unwrap_or_else(|| panic!("there is no node {name}")))
    }

    /// Starts the agent of every node whose agent does not run.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub async fn start(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.agent_pid().is_none() {
                node.start().await?;
            }
        }
        Ok(())
    }

    /// The addresses of all servers, for clients.
    pub fn pg_addresses(&self) -> Vec<SocketAddr> {
        self.data_nodes()
            .filter_map(|node| node.pg_address().ok())
            .collect()
    }

    /// The name of the node whose `/primary` answers 200.
    ///
    /// # Errors
    /// None does, or (a bug of the agent, and the worst one) several do.
    pub async fn primary(&self) -> Result<String> {
        let mut found = Vec::new();
        for node in self.data_nodes().filter(|node| node.host().is_on()) {
            if node.says("/primary").await {
                found.push(node.name().to_owned());
            }
        }
        match found.len() {
            0 => bail!("no node says that it is primary"),
            1 => Ok(found.remove(0)),
            _ => bail!("several nodes say that they are primary: {}", found.join(", ")),
        }
    }

    /// Waits until some node is primary, and returns its name.
    ///
    /// # Errors
    /// None is after `deadline`; the error holds the ends of the agents' logs.
    pub async fn wait_for_primary(&self, deadline: Duration) -> Result<String> {
        self.explained(wait_until("there is a primary", deadline, || self.primary()).await)
    }

    /// Waits until there is a primary and `standbys` servers stream from it, all of them counted by it as
    /// synchronous candidates (in mode `async`: just streaming), and the change that made them so is complete.
    /// PostgreSQL is asked for the first, `pgctl` for the second. Returns the primary's name.
    ///
    /// # Errors
    /// It is not so after `deadline`; the error holds the ends of the agents' logs.
    pub async fn wait_in_sync(&self, standbys: usize, deadline: Duration) -> Result<String> {
        let what = format!("{standbys} standbys are in sync");
        self.explained(wait_until(&what, deadline, || self.primary_with_standbys(standbys)).await)
    }

    /// Waits until every data node that is on takes part, as in [`Cluster::wait_in_sync`].
    ///
    /// # Errors
    /// It is not so after `deadline`.
    pub async fn wait_all_in_sync(&self, deadline: Duration) -> Result<String> {
        let on = self.data_nodes().filter(|node| node.host().is_on()).count();
        self.wait_in_sync(on.saturating_sub(1), deadline).await
    }

    async fn primary_with_standbys(&self, standbys: usize) -> Result<String> {
        let primary = self.primary().await?;
        let node = self.node(&primary);
        let query = "SELECT application_name, state, sync_state FROM pg_stat_replication";
        let rows = node.sql(query).await?;
        let synchronous = node.config.bootstrap.sync_mode != "async";
        let counts = |row: &&Vec<Option<String>>| {
            let field = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or("");
            field(1) == "streaming" && (!synchronous || matches!(field(2), "quorum" | "sync"))
        };
        let found = rows.iter().filter(counts).count();
        if found != standbys {
            bail!("{primary} counts {found} of {standbys} standbys; pg_stat_replication: {rows:?}");
        }
        // Until the change of the synchronous set is complete, the loss of one more node is not survived.
        let status: serde_json::Value =
            serde_json::from_str(&self.pgctl_ok(&["status", "-o", "json"]).await?)?;
        if status["sync"]["changing"] != serde_json::Value::Bool(false) {
            bail!("the synchronous set is still changing: {}", status["sync"]);
        }
        Ok(primary)
    }

    fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            let tails = self
                .nodes
                .iter()
                .map(|node| format!("--- {}\n{}", node.name(), node.log_tail(15)));
            format!(
                "the agents' logs end with:\n{}",
                tails.collect::<Vec<_>>().join("\n")
            )
        })
    }

    /// Every agent's address as `pgctl --endpoint` takes it.
    pub fn endpoints(&self) -> String {
        self.nodes
            .iter()
            .map(|node| node.peer_address().to_string())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Runs `pgctl` against this cluster to its end.
    ///
    /// # Errors
    /// It is not built, or cannot be run. How it ended is in the output.
    pub async fn pgctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries::ours("pgctl")?);
        command
            .args(args)
            .env("PGCTL_ENDPOINT", self.endpoints())
            .stdin(Stdio::null());
        // Whoever gives up waiting must not leave it at work.
        let mut command = tokio::process::Command::from(command);
        let done = command.kill_on_drop(true).output().await;
        done.with_context(|| format!("cannot run pgctl {}", args.join(" ")))
    }

    /// Runs `pgctl`, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
    pub async fn pgctl_ok(&self, args: &[&str]) -> Result<String> {
        let done = self.pgctl(args).await?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !done.status.success() {
            bail!(
                "pgctl {}: {}\n{}\n{}",
                args.join(" "),
                done.status,
                said(&done.stderr),
                said(&done.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Takes a node off the network altogether, clients included.
    ///
    /// # Errors
    /// The lab has no network (see `Lab::with_hosts`).
    pub fn isolate(&self, node: &str) -> Result<()> {
        self.lab.network()?.cut(self.node(node).host().end()?, End::Any)
    }

    /// Takes a node away from all other hosts; clients still reach it.
    ///
    /// # Errors
    /// The lab has no network.
    pub fn isolate_from_peers(&self, node: &str) -> Result<()> {
        let mut others = self.nodes.iter().filter(|other| other.name() != node);
        others.try_for_each(|other| self.cut(node, other.name()))
    }

    /// Cuts the connection between two nodes, both ways.
    ///
    /// # Errors
    /// The lab has no network.
    pub fn cut(&self, a: &str, b: &str) -> Result<()> {
        self.lab
            .network()?
            .cut(self.node(a).host().end()?, self.node(b).host().end()?)
    }

    /// Drops what `from` sends to `to`; the other way stays open.
    ///
    /// # Errors
    /// The lab has no network.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.lab
            .network()?
            .cut_one_way(self.node(from).host().end()?, self.node(to).host().end()?)
    }

    /// Drops everything that `node` sends (to anyone); it still hears.
    ///
    /// # Errors
    /// The lab has no network.
    pub fn mute(&self, node: &str) -> Result<()> {
        self.lab
            .network()?
            .cut_one_way(self.node(node).host().end()?, End::Any)
    }

    /// Drops everything sent to `node` (by anyone); it is still heard.
    ///
    /// # Errors
    /// The lab has no network.
    pub fn deafen(&self, node: &str) -> Result<()> {
        self.lab
            .network()?
            .cut_one_way(End::Any, self.node(node).host().end()?)
    }

    /// Undoes every cut.
    ///
    /// # Errors
    /// The lab has no network.
    pub fn heal(&self) -> Result<()> {
        self.lab.network()?.heal()
    }
}
