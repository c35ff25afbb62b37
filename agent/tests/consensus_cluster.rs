//! Three real nodes over loopback: founding, losing leaders, restarting, and never losing what was acknowledged.

mod consensus_support;

use agent::consensus::{ConsensusHandle, RaftHealth};
use agent::ports::{Consensus, ProposeError};
use agent_core::cluster::{Applied, Command, Settings};
use agent_core::ids::{NodeId, RequestId};
use agent_core::time::WallTime;
use consensus_support::*;
use std::collections::BTreeSet;
use std::time::Duration;

fn homes<const N: usize>() -> [Home; N] {
    std::array::from_fn(|number| Home::new(&format!("n{}", number + 1)))
}

fn listed(homes: &[Home]) -> Vec<agent::consensus::InitialMember> {
    homes.iter().map(Home::listed).collect()
}

async fn started(agents: &[Agent]) -> Vec<ConsensusHandle> {
    let mut handles = Vec::new();
    for agent in agents {
        handles.push(agent.handle().await);
    }
    handles
}

async fn founded(handle: &ConsensusHandle) -> String {
    eventually("a founded cluster", || {
        Some(handle.state().cluster_id.clone()).filter(|id| !id.is_empty())
    })
    .await
}

fn refs(handles: &[ConsensusHandle]) -> Vec<&ConsensusHandle> {
    handles.iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_leads_on_while_nothing_is_written() {
    let mut homes = homes::<1>();
    let members = listed(&homes);
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    founded(&handle).await;
    eventually("the only voter to lead", || handle.leads().then_some(())).await;
    // Nobody is there to answer it, so nothing but time passes: more of it than any lease has.
    let until = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < until {
        assert!(handle.leads(), "the only voter has lost the lead to nobody");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_found_one_cluster_in_whatever_order_they_start() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut homes = homes::<3>();
        let members = listed(&homes);
        let mut agents: Vec<(usize, Agent)> = Vec::new();
        for at in order {
            agents.push((at, homes[at].start(&members)));
            if agents.len() < 3 {
                agents
                    .last_mut()
                    .expect("just pushed")
                    .1
                    .says("does not answer")
                    .await;
            }
        }
        agents.sort_by_key(|(at, _)| *at);
        let agents: Vec<Agent> = agents.into_iter().map(|(_, agent)| agent).collect();
        let handles = started(&agents).await;
        let mut ids = BTreeSet::new();
        for (at, handle) in handles.iter().enumerate() {
            ids.insert(founded(handle).await);
            assert_eq!(
                handle.node_id(),
                NodeId(at as u64 + 1),
                "numbers follow the names"
            );
        }
        assert_eq!(ids.len(), 1);
        let state = handles[0].state();
        assert_eq!(state.members.len(), 3);
        assert_eq!(state.next_node, 4);
        assert_eq!(state.secrets.replication_password.len(), 64);
        assert_eq!(
            state.voters.all().len(),
            3,
            "the voters of the lease are those of Raft"
        );
        for agent in agents {
            agent.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_alone_founds_a_cluster_of_one() {
    let mut homes = homes::<1>();
    let members = listed(&homes);
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    founded(&handle).await;
    propose_note(&handle, "alone").await;
    agent.kill().await;
    let agent = homes[0].start(&members);
    sees_note(&agent.handle().await, "alone").await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_killed_in_the_middle_completes_the_same_cluster_when_it_is_back() {
    let mut homes = homes::<3>();
    let members = listed(&homes);
    // The founder finds both others, so it begins; one is killed at some moment of it, then the founder.
    for delay in [0, 5, 20, 60, 150, 400] {
        for home in &homes {
            if home.state_dir().exists() {
                home.wipe();
            }
        }
        let second = homes[1].start(&members);
        let third = homes[2].start(&members);
        let first = homes[0].start(&members);
        let begun = homes[0].state_dir().join(agent::consensus::IDENTITY_FILE);
        eventually("the founder's identity", || begun.exists().then_some(())).await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        third.kill().await;
        first.kill().await;
        let begun_id = std::fs::read_to_string(&begun).expect("identity");

        let third = homes[2].start(&members);
        let first = homes[0].start(&members);
        let agents = [first, second, third];
        let handles = started(&agents).await;
        for handle in &handles {
            let id = founded(handle).await;
            assert!(
                begun_id.contains(&id),
                "killed after {delay} ms: {id} is not in {begun_id}"
            );
        }
        propose_note(&handles[0], "whole").await;
        for handle in &handles {
            sees_note(handle, "whole").await;
        }
        for agent in agents {
            agent.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_node_is_asked_a_change_goes_through_the_leader_and_its_answer_comes_back() {
    let mut homes = homes::<3>();
    let members = listed(&homes);
    let agents: Vec<Agent> = homes.iter_mut().map(|home| home.start(&members)).collect();
    let handles = started(&agents).await;
    founded(&handles[2]).await;
    for (at, handle) in handles.iter().enumerate() {
        let text = format!("from {at}");
        propose_note(handle, &text).await;
        for other in &handles {
            sees_note(other, &text).await;
        }
        // A refusal of the state machine comes back as it is.
        let end = Command::ChangeSettings {
            request: RequestId(format!("bad {at}")),
            settings: Box::new(Settings {
                sync_standbys: 99,
                ..Settings::default()
            }),
            at: WallTime(0),
        };
        let refused = handle.propose(end, Duration::from_secs(20)).await;
        assert!(matches!(refused, Err(ProposeError::Rejected(_))), "{refused:?}");
    }
    // The same request sent twice, to different nodes, is done once.
    let pause = |reason: &str| Command::Pause {
        request: RequestId("pause".into()),
        reason: reason.to_owned(),
        at: WallTime(0),
    };
    let first = handles[0].propose(pause("first"), Duration::from_secs(20)).await;
    let second = handles[1].propose(pause("second"), Duration::from_secs(20)).await;
    assert_eq!(first, Ok(Applied::Done));
    assert_eq!(second, first);
    let reason = eventually("the pause", || handles[1].state().pause.clone())
        .await
        .reason;
    assert_eq!(reason, "first");
    for agent in agents {
        agent.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_leaders_are_killed_and_when_all_are_killed_at_once() {
    let mut homes = homes::<3>();
    let members = listed(&homes);
    let mut agents: Vec<Option<Agent>> = homes.iter_mut().map(|home| Some(home.start(&members))).collect();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut handles = Vec::new();
        for agent in agents.iter().flatten() {
            handles.push(agent.handle().await);
        }
        let leading = leader(&refs(&handles)).await.clone();
        let text = format!("before {round}");
        propose_note(&leading, &text).await;
        acknowledged.push(text);
        let at = usize::try_from(leading.node_id().0 - 1).expect("small");
        agents[at].take().expect("running").kill().await;
        // The other two go on without it.
        let rest: Vec<_> = handles
            .iter()
            .filter(|handle| handle.node_id() != leading.node_id())
            .collect();
        let text = format!("during {round}");
        propose_note(rest[0], &text).await;
        assert_ne!(leader(&rest).await.node_id(), leading.node_id());
        acknowledged.push(text);
        agents[at] = Some(homes[at].start(&members));
        let back = agents[at].as_ref().expect("started").handle().await;
        for text in &acknowledged {
            sees_note(&back, text).await;
        }
    }
    for agent in &mut agents {
        agent.take().expect("running").kill().await;
    }
    let agents: Vec<Agent> = homes.iter_mut().map(|home| home.start(&members)).collect();
    for handle in started(&agents).await {
        for text in &acknowledged {
            sees_note(&handle, text).await;
        }
    }
    for agent in agents {
        agent.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_takes_nothing_and_says_so_in_time() {
    let mut homes = homes::<3>();
    let members = listed(&homes);
    let mut agents: Vec<Agent> = homes.iter_mut().map(|home| home.start(&members)).collect();
    let handles = started(&agents).await;
    founded(&handles[0]).await;
    propose_note(&handles[0], "together").await;
    let alone = agents.remove(0);
    for agent in agents {
        agent.kill().await;
    }
    let handle = alone.handle().await;
    eventually("the leadership to lapse", || (!handle.leads()).then_some(())).await;
    let refused = handle.propose(note("alone"), Duration::from_millis(700)).await;
    assert!(
        matches!(
            refused,
            Err(ProposeError::NoLeader { .. } | ProposeError::Unknown { .. })
        ),
        "{refused:?}"
    );
    assert!(!notes(&handle).contains(&"alone".to_owned()));
    alone.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_down_raft_is_reported_as_stopped_and_refuses_with_that_reason() {
    let mut homes = homes::<1>();
    let members = listed(&homes);
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    founded(&handle).await;
    let mut health = handle.health();
    assert_eq!(*health.borrow(), RaftHealth::Running);
    handle.shutdown().await;
    tokio::time::timeout(
        PATIENCE,
        health.wait_for(|now| matches!(now, RaftHealth::Stopped { .. })),
    )
    .await
    .expect("in time")
    .expect("reported");
    assert!(!handle.leads());
    let refused = handle.propose(note("late"), Duration::from_secs(5)).await;
    assert!(
        matches!(refused, Err(ProposeError::Stopped { .. })),
        "{refused:?}"
    );
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_end_hands_the_leadership_over() {
    let mut homes = homes::<3>();
    let members = listed(&homes);
    let agents: Vec<Agent> = homes.iter_mut().map(|home| home.start(&members)).collect();
    let handles = started(&agents).await;
    founded(&handles[0]).await;
    let leading = leader(&refs(&handles)).await.clone();
    propose_note(&leading, "settled").await;
    for handle in &handles {
        sees_note(handle, "settled").await;
    }
    leading.give_leadership_away().await;
    let next = eventually("another leader", || {
        handles
            .iter()
            .find(|handle| handle.leads() && handle.node_id() != leading.node_id())
    })
    .await;
    // The old one hears of it a message later.
    eventually("the old leader to know", || (!leading.leads()).then_some(())).await;
    propose_note(next, "after").await;
    for agent in agents {
        agent.kill().await;
    }
}
