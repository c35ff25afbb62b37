//! Who is meant, at this moment.

use super::schedule::Whom;
use lab::Cluster;
use std::time::Duration;
use tokio::time::timeout;

/// How long `pgctl` may take to say who leads.
const LOOK: Duration = Duration::from_secs(5);

/// The name of the node that is meant; if that cannot be told, one by number.
pub async fn resolve(cluster: &Cluster, whom: Whom, pick: u64) -> String {
    let of = |names: Vec<&str>| names[(pick % names.len() as u64) as usize].to_owned();
    let data = || cluster.data_nodes().map(lab::Node::name).collect::<Vec<&str>>();
    match whom {
        Whom::Primary => cluster.primary().await.unwrap_or_else(|_| of(data())),
        Whom::Standby => {
            let primary = cluster.primary().await.unwrap_or_default();
            of(data().into_iter().filter(|name| *name != primary).collect())
        }
        Whom::RaftLeader => raft_leader(cluster)
            .await
            .filter(|leader| cluster.nodes().iter().any(|node| node.name() == leader))
            .unwrap_or_else(|| of(data())),
        Whom::Any => of(cluster.nodes().iter().map(lab::Node::name).collect()),
    }
}

/// The node that leads the agents' group, if it can be told.
pub async fn raft_leader(cluster: &Cluster) -> Option<String> {
    let asked = timeout(LOOK, cluster.pgctl_ok(&["status", "-o", "json"])).await;
    let status: serde_json::Value = serde_json::from_str(&asked.ok()?.ok()?).ok()?;
    Some(status["raft_leader"].as_str()?.to_owned())
}
