//! What this machine and this cluster can do.

use super::disk::Disks;
use lab::Cluster;

/// What faults need.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Nodes have networks of their own.
    pub network: bool,
    /// The kernel can delay packets.
    pub netem: bool,
    /// Nodes have disks of their own.
    pub disks: bool,
    /// Their disks can be made to stand still.
    pub stallable_disks: bool,
    /// Agents have wall clocks that can be shifted.
    pub clocks: bool,
    /// Guards run beside the agents.
    pub guards: bool,
    /// How many nodes there are, and how many of them have a server.
    pub nodes: usize,
    pub data_nodes: usize,
    /// quorum, strict or async.
    pub mode: String,
}

impl Machine {
    /// Looks at a cluster that runs.
    pub fn of(cluster: &Cluster, disks: &Disks, clocks: bool, mode: &str) -> Machine {
        let network = cluster.lab().network().ok();
        let guards = cluster
            .nodes()
            .iter()
            .any(|node| !super::process::guards(node).is_empty());
        Machine {
            network: network.is_some(),
            netem: network.is_some_and(lab::Network::can_delay),
            disks: disks.are_there(),
            stallable_disks: disks.can_stall(),
            clocks,
            guards,
            nodes: cluster.nodes().len(),
            data_nodes: cluster.data_nodes().count(),
            mode: mode.to_owned(),
        }
    }
}
