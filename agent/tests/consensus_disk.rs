//! Nodes whose disks are slow or fail.

mod consensus_support;

use agent::consensus::{ConsensusHandle, InitialMember, RaftHealth};
use agent::ports::Consensus;
use consensus_support::*;
use std::time::Duration;

struct Cluster {
    disks: Vec<FaultyDisk>,
    agents: Vec<Agent>,
    handles: Vec<ConsensusHandle>,
    homes: Vec<Home>,
    members: Vec<InitialMember>,
}

async fn three_nodes() -> Cluster {
    let mut homes: Vec<Home> = ["n1", "n2", "n3"].map(Home::new).into();
    let members: Vec<InitialMember> = homes.iter().map(Home::listed).collect();
    let disks: Vec<FaultyDisk> = homes.iter().map(|_| FaultyDisk::default()).collect();
    let agents: Vec<Agent> = homes
        .iter_mut()
        .zip(&disks)
        .map(|(home, disk)| home.start_on(&members, disk))
        .collect();
    let mut handles = Vec::new();
    for agent in &agents {
        handles.push(agent.handle().await);
    }
    propose_note(&handles[0], "founded").await;
    for handle in &handles {
        sees_note(handle, "founded").await;
    }
    Cluster {
        disks,
        agents,
        handles,
        homes,
        members,
    }
}

impl Cluster {
    async fn leader(&self) -> usize {
        eventually("a Raft leader", || self.handles.iter().position(Consensus::leads)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_stops_says_why_and_is_replaced() {
    let mut cluster = three_nodes().await;
    let at = cluster.leader().await;
    cluster.disks[at].is_full();
    let other = (at + 1) % 3;
    propose_note(&cluster.handles[other], "without it").await;
    let mut health = cluster.handles[at].health();
    let stopped = health.wait_for(|now| matches!(now, RaftHealth::Stopped { .. }));
    let told = tokio::time::timeout(PATIENCE, stopped)
        .await
        .expect("in time")
        .expect("reported")
        .clone();
    assert!(
        matches!(&told, RaftHealth::Stopped { detail } if detail.contains("free space")),
        "{told:?}"
    );
    assert!(!cluster.handles[at].leads());
    let refused = cluster.handles[at]
        .propose(note("on it"), Duration::from_secs(5))
        .await;
    assert!(refused.expect_err("stopped").to_string().contains("free space"));
    assert_ne!(cluster.leader().await, at);

    // With space on its disk, the agent comes back with all it had.
    cluster.agents.remove(at).kill().await;
    let agent = cluster.homes[at].start(&cluster.members);
    sees_note(&agent.handle().await, "without it").await;
    agent.kill().await;
    for agent in cluster.agents {
        agent.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_slow_disk_hands_the_leadership_over() {
    let cluster = three_nodes().await;
    let at = cluster.leader().await;
    cluster.disks[at].syncs_take(Duration::from_millis(2_500));
    // The others commit without its disk; nothing but its own watch makes it give way.
    let slow = cluster.handles[at].clone();
    let writing = tokio::spawn(async move { slow.propose(note("slowly"), Duration::from_secs(20)).await });
    let next = eventually("another Raft leader", || {
        cluster
            .handles
            .iter()
            .position(Consensus::leads)
            .filter(|leader| *leader != at)
    })
    .await;
    propose_note(&cluster.handles[next], "quickly").await;
    // Whether the first one was acknowledged or not, it is one of the two and never both.
    let outcome = writing.await.expect("no panic");
    if outcome.is_ok() {
        sees_note(&cluster.handles[next], "slowly").await;
    }
    cluster.disks[at].syncs_take(Duration::ZERO);
    sees_note(&cluster.handles[at], "quickly").await;
    for agent in cluster.agents {
        agent.kill().await;
    }
}
