//! The configuration, checked: what the rest of the agent is given.

use agent_core::cluster::Settings;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

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

/// How this node makes sure that its server does not outlive its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fencing {
    pub kernel_lease: KernelLeasePolicy,
}

/// Whether clients are let through by the kernel only while the lease lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelLeasePolicy {
    Off,
    /// Where the machine permits it.
    Automatic,
    /// Without it the agent does not start.
    Required,
}

impl KernelLeasePolicy {
    /// Every policy.
    pub const ALL: [KernelLeasePolicy; 3] = [
        KernelLeasePolicy::Off,
        KernelLeasePolicy::Automatic,
        KernelLeasePolicy::Required,
    ];

    /// The policy's name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KernelLeasePolicy::Off => "off",
            KernelLeasePolicy::Automatic => "automatic",
            KernelLeasePolicy::Required => "required",
        }
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
