//! The configuration, checked: what the rest of the agent is given.

use agent_core::cluster::Settings;
use repository::RepositoryConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One node's configuration. Whoever holds one holds a valid one.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// `[node]`
    pub node: Node,
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[peer]`
    pub peer: Listener,
    /// `[http]`
    pub http: Listener,
    /// `[postgres]`; `None` on a witness.
    pub postgres: Option<Postgres>,
    /// `[bootstrap]`: the settings of a cluster that does not exist yet; version 0.
    pub bootstrap: Settings,
    /// `[fencing]`
    pub fencing: Fencing,
    /// `[[archive.repositories]]`: WAL and backups go into each of them.
    pub repositories: Vec<RepositoryConfig>,
    /// `[rollout]`: the role that carries schema changes out; `None`: nobody may.
    pub rollout_role: Option<String>,
    /// `[log]`
    pub log: Log,
}

/// What this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the cluster: 1 to 40 of `a-z 0-9 _ -`.
    pub name: String,
    /// Where the agent keeps its Raft log, vote and pledge. Absolute.
    pub state_dir: PathBuf,
    /// For health checks (`?tag_zone=a`) and `pgctl list`.
    pub tags: BTreeMap<String, String>,
    /// Never to be promoted by itself.
    pub nofailover: bool,
}

/// What cluster it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The operator's name for it.
    pub name: String,
    /// Those who form the cluster at the very first start, in the order of the file; afterwards, where to find it.
    pub members: Vec<ClusterMember>,
}

/// One entry of `cluster.members`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    pub name: String,
    /// `host:port` of its agent's gRPC port.
    pub peer: HostPort,
    /// It has no PostgreSQL and only votes.
    pub witness: bool,
}

/// A port of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How others reach it.
    pub advertise: HostPort,
}

/// The PostgreSQL beside the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Absolute.
    pub data_dir: PathBuf,
    /// Where `postgres`, `initdb`, `pg_rewind` and `pg_basebackup` are; `None`: the newest version that is found.
    pub bin_dir: Option<PathBuf>,
    /// Where the server listens for clients and standbys.
    pub listen: SocketAddr,
    /// How clients and standbys reach it.
    pub advertise: HostPort,
    /// Where its Unix socket is. Absolute.
    pub socket_dir: PathBuf,
    /// The operating system's user that the server runs as; `None`: the agent's own, or the owner of the data directory
    /// where the agent is root.
    pub os_user: Option<String>,
    /// Lines of `pg_hba.conf`, put after those that replication needs.
    pub hba: Vec<String>,
    /// Server settings of the operator's, as `postgresql.conf` would have them, without quotes.
    pub parameters: BTreeMap<String, String>,
}

/// What keeps this node's server from outliving its lease if the agent does not, and what this node can turn others off with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fencing {
    /// Whether clients are let through by the kernel only while the lease lasts.
    pub kernel_lease: FencePolicy,
    /// Whether the machine's watchdog resets it when the agent stops.
    pub watchdog: FencePolicy,
    /// Absolute.
    pub watchdog_device: PathBuf,
    /// The timeout that is asked of the device, 1 to 60 seconds.
    pub watchdog_timeout_s: u64,
    /// In the order in which they are tried; several for one node are alternatives.
    pub devices: Vec<FenceDevice>,
}

/// Whether a way to fence that not every machine has is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencePolicy {
    Off,
    /// Where the machine permits it.
    Automatic,
    /// Without it the agent does not start, or its node is not promoted.
    Required,
}

impl FencePolicy {
    /// Every policy.
    pub const ALL: [FencePolicy; 3] = [FencePolicy::Off, FencePolicy::Automatic, FencePolicy::Required];

    /// The policy's name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FencePolicy::Off => "off",
            FencePolicy::Automatic => "automatic",
            FencePolicy::Required => "required",
        }
    }
}

/// Something that can turn one node's machine off.
#[derive(Clone, PartialEq, Eq)]
pub struct FenceDevice {
    /// The name of the node that it turns off.
    pub node: String,
    /// How long to wait before it is used: of two nodes that would turn each other off, the one whose device has the
    /// delay loses.
    pub delay: Duration,
    pub method: FenceMethod,
}

/// How a device is driven.
#[derive(Clone, PartialEq, Eq)]
pub enum FenceMethod {
    /// A program that speaks the protocol of the ClusterLabs fence agents.
    Agent {
        program: PathBuf,
        options: BTreeMap<String, String>,
    },
    /// A program of the operator's own.
    Command {
        program: PathBuf,
        arguments: Vec<String>,
    },
    Http(Box<HttpCall>),
}

/// A device that is driven by HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpCall {
    pub method: String,
    pub url: String,
    /// The status that says that the order was taken.
    pub expect: u16,
    pub status_url: String,
    /// The status that says that the machine is off, if the text below is there, too.
    pub status_expect: u16,
    pub status_contains: Option<String>,
    pub headers: BTreeMap<String, String>,
}

impl fmt::Debug for FenceDevice {
    /// Options and headers hold secrets, and stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.method {
            FenceMethod::Agent { program, .. } | FenceMethod::Command { program, .. } => {
                program.display().to_string()
            }
            FenceMethod::Http(call) => call.url.clone(),
        };
        write!(f, "FenceDevice({} by {what})", self.node)
    }
}

/// What the agent writes about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or tracing's directives such as `info,agent::lease=debug`.
    pub level: String,
    pub format: LogFormat,
}

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// `host:port`, the host being a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl NodeConfig {
    /// Whether this node has no PostgreSQL and only votes.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.postgres.is_none()
    }
}

impl HostPort {
    /// Reads `host:port`; `None` if it is of another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let host = rest.strip_suffix(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                host
            }
            None if host.contains(':') => return None,
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
            return None;
        }
        let port: u16 = port.parse().ok()?;
        (port > 0).then(|| HostPort {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
