//! The configuration of one node: a TOML file, and environment variables over it.
mod model;

pub use model::{Cluster, ClusterMember, HostPort, Listener, Log, LogFormat, Node, NodeConfig, Postgres};
