//! Nodes that come and go: let in, refused, wiped, removed.

mod consensus_support;

use agent::consensus::{ConsensusHandle, InitialMember};
use agent::ports::{Consensus, ProposeError};
use agent_core::cluster::{Member, Rejected};
use agent_core::ids::{NodeId, RequestId};
use consensus_support::*;
use std::collections::BTreeSet;
use std::time::Duration;

struct Cluster {
    homes: Vec<Home>,
    members: Vec<InitialMember>,
    agents: Vec<Agent>,
    handles: Vec<ConsensusHandle>,
}

/// A founded cluster of nodes `n1` to `n<size>`.
async fn cluster(size: usize) -> Cluster {
    let mut homes: Vec<Home> = (1..=size)
        .map(|number| Home::new(&format!("n{number}")))
        .collect();
    let members: Vec<InitialMember> = homes.iter().map(Home::listed).collect();
    let agents: Vec<Agent> = homes.iter_mut().map(|home| home.start(&members)).collect();
    let mut handles = Vec::new();
    for agent in &agents {
        handles.push(agent.handle().await);
    }
    for handle in &handles {
        eventually("a founded cluster", || {
            (!handle.state().cluster_id.is_empty()).then_some(())
        })
        .await;
    }
    Cluster {
        homes,
        members,
        agents,
        handles,
    }
}

impl Cluster {
    async fn end(self) {
        for agent in self.agents {
            agent.kill().await;
        }
    }

    fn leader_now(&self) -> Option<&ConsensusHandle> {
        self.handles.iter().find(|handle| handle.leads())
    }

    async fn leader(&self) -> &ConsensusHandle {
        eventually("a Raft leader", || self.leader_now()).await
    }
}

/// As `pgctl member add` does it: the agent's other addresses are not known yet.
fn announced(home: &Home) -> Member {
    Member {
        http: String::new(),
        postgres: String::new(),
        ..home.member()
    }
}

fn request(text: &str) -> RequestId {
    RequestId(text.to_owned())
}

/// The lease's voters, which follow Raft's.
async fn voters_become(handle: &ConsensusHandle, expected: &[u64]) {
    let expected: BTreeSet<NodeId> = expected.iter().copied().map(NodeId).collect();
    eventually(&format!("the voters {expected:?}"), || {
        let voters = handle.state().voters.clone();
        (voters.sets.last() == Some(&expected) && voters.current == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_node_is_told_to_be_added_and_joins_once_it_is() {
    let cluster = cluster(3).await;
    let mut home = Home::new("n4");
    let mut fourth = home.start(&cluster.members);
    fourth.says("pgctl member add n4").await;

    let number = cluster.handles[1]
        .add_member(request("add n4"), announced(&home))
        .await
        .expect("added");
    assert_eq!(number, NodeId(4));
    let handle = fourth.handle().await;
    assert_eq!(handle.node_id(), NodeId(4));
    voters_become(&cluster.handles[0], &[1, 2, 3, 4]).await;
    voters_become(&handle, &[1, 2, 3, 4]).await;
    propose_note(&handle, "from the new one").await;
    sees_note(&cluster.handles[0], "from the new one").await;
    let known = handle.state().members[&NodeId(4)].clone();
    assert_eq!(known, home.member(), "its addresses are known now");
    assert_eq!(
        cluster.handles[2]
            .add_member(request("add n4"), announced(&home))
            .await,
        Ok(NodeId(4)),
        "the same request again gives the same number"
    );

    // It is a member like any other: it survives a restart.
    fourth.kill().await;
    let fourth = home.start(&cluster.members);
    sees_note(&fourth.handle().await, "from the new one").await;
    fourth.kill().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_under_a_name_that_lives_is_refused() {
    let cluster = cluster(3).await;
    let mut double = Home::new("n2");
    // Configured by the list, it finds another agent at the address of its own name.
    let mut agent = double.start(&cluster.members);
    agent.says("another agent runs as n2").await;
    agent.kill().await;
    // Configured with its own address as a seed that nobody else knows of.
    double.wipe();
    let mut seeds = cluster.members.clone();
    seeds[1].peer = double.address.to_string();
    let mut agent = double.start(&seeds);
    agent.says("two agents must not have one name").await;
    assert!(!agent.has_started());
    assert_eq!(
        cluster.handles[0]
            .state()
            .member_named("n2")
            .map(|(number, _)| number),
        Some(NodeId(2))
    );
    agent.kill().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_under_a_fresh_number_and_its_old_one_is_gone() {
    let mut cluster = cluster(3).await;
    let leading = cluster.leader().await.node_id();
    // A follower first, then the Raft leader.
    let follower = if leading == NodeId(1) { 1 } else { 0 };
    let leader_at = usize::try_from(leading.0 - 1).expect("small");
    let mut expected_voters: Vec<u64> = vec![1, 2, 3];
    for (at, fresh) in [(follower, 4), (leader_at, 5)] {
        let old = cluster.handles[at].node_id();
        let agent = cluster.agents.remove(at);
        agent.kill().await;
        cluster.homes[at].wipe();
        let agent = cluster.homes[at].start(&cluster.members);
        let handle = agent.handle().await;
        assert_eq!(handle.node_id(), NodeId(fresh));
        cluster.agents.insert(at, agent);
        cluster.handles[at] = handle;
        expected_voters.retain(|number| *number != old.0);
        expected_voters.push(fresh);
        for handle in &cluster.handles {
            voters_become(handle, &expected_voters).await;
        }
        let state = cluster.handles[at].state();
        assert!(!state.members.contains_key(&old));
        assert_eq!(
            state
                .member_named(&cluster.homes[at].name)
                .map(|(number, _)| number),
            Some(NodeId(fresh))
        );
        propose_note(&cluster.handles[at], &format!("back as {fresh}")).await;
    }
    for handle in &cluster.handles {
        sees_note(handle, "back as 5").await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_leave_one_by_one_the_leader_too_and_the_last_one_stays() {
    let mut cluster = cluster(3).await;
    let leading = cluster.leader().await.node_id();
    let leader_at = usize::try_from(leading.0 - 1).expect("small");
    // Asked of the leader itself, to go: it hands over first.
    cluster.handles[leader_at]
        .remove_member(request("remove leader"), leading)
        .await
        .expect("removed");
    cluster.agents.remove(leader_at).kill().await;
    cluster.handles.remove(leader_at);
    let rest: Vec<u64> = cluster.handles.iter().map(|handle| handle.node_id().0).collect();
    voters_become(&cluster.handles[0], &rest).await;
    assert_eq!(
        cluster.handles[1]
            .remove_member(request("remove leader"), leading)
            .await,
        Ok(()),
        "the same request again"
    );

    let gone = cluster.handles[1].node_id();
    cluster.handles[1]
        .remove_member(request("remove second"), gone)
        .await
        .expect("removed");
    voters_become(&cluster.handles[0], &rest[..1]).await;
    let last = cluster.handles[0].node_id();
    let refused = cluster.handles[0]
        .remove_member(request("remove last"), last)
        .await;
    assert!(
        matches!(&refused, Err(ProposeError::Rejected(Rejected::Conflict { id, .. })) if id == "last-member"),
        "{refused:?}"
    );
    propose_note(&cluster.handles[0], "alone").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_that_comes_back_disturbs_nobody() {
    let mut cluster = cluster(3).await;
    let leading = cluster.leader().await.node_id();
    let at = if leading == NodeId(3) { 1 } else { 2 };
    let gone = cluster.handles[at].node_id();
    cluster.agents.remove(at).kill().await;
    cluster.handles.remove(at);
    cluster.handles[0]
        .remove_member(request("remove"), gone)
        .await
        .expect("removed");
    let term_of_peace = cluster.leader().await.node_id();
    let zombie = cluster.homes[at].start(&cluster.members);
    let handle = zombie.handle().await;
    // It has time for many elections of its own.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!handle.leads());
    assert_eq!(cluster.leader().await.node_id(), term_of_peace);
    propose_note(&cluster.handles[0], "undisturbed").await;
    zombie.kill().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = cluster(3).await;
    let leading = cluster.leader().await.node_id();
    let at = if leading == NodeId(3) { 1 } else { 2 };
    cluster.agents.remove(at).kill().await;
    let gone = cluster.handles.remove(at);
    let leader = cluster.leader().await.clone();
    // More than a snapshot's worth of entries, in parallel so that they share their disk writes.
    let writes = (0..3_000).map(|number| {
        let leader = leader.clone();
        async move {
            leader
                .propose(note(&format!("{number}")), Duration::from_secs(60))
                .await
                .expect("committed")
        }
    });
    futures::future::join_all(writes).await;
    propose_note(&leader, "the last").await;
    let snapshot = cluster.homes[usize::try_from(leader.node_id().0 - 1).expect("small")]
        .state_dir()
        .join("raft.snapshot");
    eventually("a snapshot on disk", || snapshot.exists().then_some(())).await;
    assert!(gone.applied_index() < 1_000);

    let agent = cluster.homes[at].start(&cluster.members);
    let handle = agent.handle().await;
    sees_note(&handle, "the last").await;
    eventually("the same state", || {
        (*handle.state() == *leader.state()).then_some(())
    })
    .await;
    assert!(
        cluster.homes[at].state_dir().join("raft.snapshot").exists(),
        "it was sent a snapshot"
    );
    agent.kill().await;
    // And it starts again from that snapshot.
    let agent = cluster.homes[at].start(&cluster.members);
    sees_note(&agent.handle().await, "the last").await;
    agent.kill().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_different_member_lists_do_not_found_and_each_list_is_shown() {
    let mut homes = [Home::new("n1"), Home::new("n2")];
    let members: Vec<InitialMember> = homes.iter().map(Home::listed).collect();
    let mut other = members.clone();
    other.push(InitialMember {
        name: "n3".into(),
        peer: "127.0.0.1:1".into(),
        witness: true,
    });
    let mut first = homes[0].start(&members);
    let second = homes[1].start(&other);
    first.says("another member list").await;
    let told = first.waiting_for.borrow().join("\n");
    assert!(
        told.contains("n3=127.0.0.1:1 (witness)") && told.contains(&homes[1].address.to_string()),
        "{told}"
    );
    assert!(!first.has_started() && !second.has_started());
    first.kill().await;
    second.kill().await;
    assert!(
        !homes[0]
            .state_dir()
            .join(agent::consensus::IDENTITY_FILE)
            .exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_cluster_is_never_joined() {
    let cluster = cluster(1).await;
    let mut home = Home::new("n2");
    let mut config = home.config(&[cluster.members[0].clone(), home.listed()]);
    config.cluster_name = "other".to_owned();
    let mut agent = home.start_with(config);
    agent
        .says("is of the cluster testing, and this one of other")
        .await;
    assert!(!agent.has_started());
    agent.kill().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_outside_its_own_list_founds_nothing() {
    let mut homes = [Home::new("n1"), Home::new("n2")];
    let listed = vec![homes[0].listed()];
    let mut outsider = homes[1].start(&listed);
    outsider.says("does not answer").await;
    let founder = homes[0].start(&listed);
    founder.handle().await;
    outsider.says("pgctl member add n2").await;
    assert!(!outsider.has_started());
    outsider.kill().await;
    founder.kill().await;
}
