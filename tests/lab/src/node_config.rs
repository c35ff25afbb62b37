//! `node.toml`, as the agent reads it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

/// One node's configuration file. Public fields, so that a test can make any mistake it wants.
#[derive(Clone, Debug, Serialize)]
pub struct NodeConfig {
    /// Who this node is.
    pub node: NodeSection,
    /// Whom it belongs to.
    pub cluster: ClusterSection,
    /// gRPC for peers and `pgctl`; lease renewals by UDP on the same number.
    pub peer: Listen,
    /// Health endpoints.
    pub http: Listen,
    /// The server; absent on a witness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSection>,
    /// `[fencing]`, as it stands in the file.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub fencing: toml::Table,
    /// `[archive]`, as it stands in the file.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub archive: toml::Table,
    /// `[rollout]`, as it stands in the file.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub rollout: toml::Table,
    /// Used once, when the cluster is created.
    pub bootstrap: BootstrapSection,
}

/// `[node]`
#[derive(Clone, Debug, Serialize)]
pub struct NodeSection {
    /// `n1`
    pub name: String,
    /// Where the agent keeps its own files.
    pub state_dir: PathBuf,
}

/// `[cluster]`
#[derive(Clone, Debug, Serialize)]
pub struct ClusterSection {
    /// The cluster's name.
    pub name: String,
    /// Every node, this one included.
    pub members: Vec<Member>,
}

/// One entry of `members`.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// `n1`
    pub name: String,
    /// Its peer address.
    pub peer: SocketAddr,
    /// Whether it has no server, and only votes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub witness: bool,
}

/// An address to listen on.
#[derive(Clone, Debug, Serialize)]
pub struct Listen {
    /// `127.0.0.1:7001`
    pub listen: SocketAddr,
}

/// `[postgres]`
#[derive(Clone, Debug, Serialize)]
pub struct PostgresSection {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where `postgres` and its companions are.
    pub bin_dir: PathBuf,
    /// Where clients and standbys connect.
    pub listen: SocketAddr,
    /// The address that other nodes are told.
    pub advertise: SocketAddr,
    /// The folder of the server's Unix socket.
    pub socket_dir: PathBuf,
    /// Lines for pg_hba.conf.
    pub hba: Vec<String>,
    /// Settings of the server.
    pub parameters: BTreeMap<String, String>,
}

/// `[bootstrap]`
#[derive(Clone, Debug, Serialize)]
pub struct BootstrapSection {
    /// `lan-fast`, `default` or `wan`.
    pub timing: String,
    /// `quorum`, `strict` or `async`.
    pub sync_mode: String,
}

impl NodeConfig {
    /// The file's text.
    ///
    /// # Errors
    /// A value has no form in TOML (a path that is not UTF-8).
    pub fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_has_no_server_and_says_so() {
        let address = SocketAddr::from(([127, 0, 0, 1], 7001));
        let member = |name: &str, witness| Member {
            name: name.to_owned(),
            peer: address,
            witness,
        };
        let config = NodeConfig {
            node: NodeSection {
                name: "w1".to_owned(),
                state_dir: "/x/state".into(),
            },
            cluster: ClusterSection {
                name: "demo".to_owned(),
                members: vec![member("n1", false), member("w1", true)],
            },
            peer: Listen { listen: address },
            http: Listen { listen: address },
            postgres: None,
            fencing: toml::Table::new(),
            archive: toml::Table::new(),
            rollout: toml::Table::new(),
            bootstrap: BootstrapSection {
                timing: "default".to_owned(),
                sync_mode: "quorum".to_owned(),
            },
        };
        let text = config.to_toml().expect("has a form in TOML");
        let read: toml::Table = text.parse().expect("is TOML");
        assert!(!read.contains_key("postgres"), "{text}");
        let members = read["cluster"]["members"].as_array().expect("a list");
        assert_eq!(members[1]["witness"].as_bool(), Some(true));
        assert!(members[0].get("witness").is_none(), "{text}");
        assert_eq!(read["peer"]["listen"].as_str(), Some("127.0.0.1:7001"));
    }
}
