//! The driver over real servers, a real lease and real calls between agents; only the consensus is replaced by a log
//! that all nodes share, so that these tests are about what follows from a decision and not about how it is agreed on.

mod nodes;
mod noise;
mod shared_log;

use agent_core::cluster::{Command, SwitchoverPhase};
use agent_core::ids::{NodeId, RequestId};
use agent_core::time::WallTime;
use agent_core::view::Server;
use nodes::{Nodes, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_created_loses_its_primary_and_switches_over() {
    let Some(mut nodes) = Nodes::start(3).await else {
        return;
    };
    wait("a primary with both standbys in sync", || nodes.settled(2)).await;
    let first = nodes.log.state().holder.expect("a holder");

    // The server is killed, its agent lives: another takes over, and the old one comes back as a standby.
    let epoch = nodes.log.state().epoch;
    nodes.kill_postmaster(first);
    wait("another primary", || {
        nodes.log.state().epoch > epoch && nodes.log.state().promotion.is_some()
    })
    .await;
    let second = nodes.log.state().holder.expect("a holder");
    assert_ne!(first, second, "a server in sync was there to take over");
    wait("all in sync again", || nodes.settled(2)).await;

    noise::changes_nothing(&nodes).await;
    wait("all still in sync", || nodes.settled(2)).await;

    // Back, on purpose.
    let request = RequestId("switch".to_owned());
    let start = Command::StartSwitchover {
        request,
        to: first,
        at: WallTime(0),
    };
    nodes
        .log
        .state_mut(|state| state.apply(&start))
        .expect("accepted");
    assert_eq!(
        nodes.log.state().switchover.as_ref().map(|s| s.phase),
        Some(SwitchoverPhase::Preparing)
    );
    wait("the switchover to end", || nodes.log.state().switchover.is_none()).await;
    let outcome = nodes.log.state().last_switchover.clone().expect("an outcome");
    assert!(outcome.succeeded, "{}", outcome.message);
    wait("all in sync once more", || nodes.settled(2)).await;
    assert_eq!(nodes.log.state().holder, Some(first));

    // Exactly one server is writable.
    let writable: Vec<NodeId> = nodes
        .ids()
        .filter(|id| matches!(nodes.server(*id), Some(Server::Primary(_))))
        .collect();
    assert_eq!(writable, [first]);
    nodes.stop().await;
}
