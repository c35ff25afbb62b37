//! Fences by hand, and fence devices tried out.

use super::admit::member;
use super::{milliseconds, refusal};
use crate::ports::{DeviceTest, FenceDevices, Overview};
use agent_core::cluster::{ClusterState, StonithProof};
use agent_core::ids::NodeId;
use agent_core::time::WallTime;
use proto::control as wire;
use std::time::Duration;
use tonic::Status;

/// A node that has reported within this time is on.
const ALIVE: Duration = Duration::from_secs(5);
/// The longest reason that is kept, characters.
const REASON_MAX: usize = 200;

/// The node to be fenced, unless it is the primary and that was not said.
pub(super) fn target(
    state: &ClusterState,
    name: &str,
    even_primary: bool,
    what: &str,
) -> Result<NodeId, Status> {
    let node = member(state, name)?;
    if state.holder == Some(node) && !even_primary {
        return Err(refusal::conflict(
            "is-the-primary",
            format!("{name} is the primary: to {what} it is a failover, and clients notice"),
            "pgctl switchover first; or repeat with --yes-fence-primary",
        ));
    }
    Ok(node)
}

/// Why a node is fenced, as it is kept.
pub(super) fn reason(given: &str) -> String {
    let line: String = given.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        "no reason was given".to_owned()
    } else {
        line.chars().take(REASON_MAX).collect()
    }
}

/// An operator's word that the holder's machine is off.
pub(super) fn confirmed(
    state: &ClusterState,
    overview: &dyn Overview,
    name: &str,
    now: WallTime,
) -> Result<StonithProof, Status> {
    let node = member(state, name)?;
    if state.holder != Some(node) {
        return Err(refusal::conflict(
            "not-the-holder",
            format!("{name} does not hold the newest epoch: nothing waits for it to be off"),
            "see `pgctl explain` for what the cluster waits for",
        ));
    }
    if let Some(age) = overview.report_age(node).filter(|age| *age < ALIVE) {
        return Err(refusal::conflict(
            "it-is-on",
            format!("{name} has reported {} ms ago: it is not off", age.as_millis()),
            "turn the machine off first, and look at it",
        ));
    }
    Ok(StonithProof {
        epoch: state.epoch,
        node,
        by: "an operator".to_owned(),
        device: "pgctl fence confirm".to_owned(),
        exit_code: None,
        output: String::new(),
        began: now,
        at: now,
    })
}

/// Asks every other agent's devices for a node; with `off`, the first that reached its device then turns it off.
pub(super) async fn test(
    state: &ClusterState,
    devices: &dyn FenceDevices,
    node: NodeId,
    off: bool,
    raft_leader: Option<NodeId>,
) -> wire::FenceTest {
    let results = devices.test(node).await;
    let able = |by: &DeviceTest| by.error.is_empty();
    let mut turned_off = None;
    if off {
        // It would be the coordinator's task if it came to it.
        let leader = results.iter().find(|by| able(by) && Some(by.by) == raft_leader);
        if let Some(by) = leader.or_else(|| results.iter().find(|by| able(by))) {
            turned_off = Some(result(state, &devices.turn_off(node, by.by).await));
        }
    }
    wire::FenceTest {
        node: state.name_of(node),
        results: results.iter().map(|one| result(state, one)).collect(),
        turned_off,
    }
}

fn result(state: &ClusterState, test: &DeviceTest) -> wire::FenceTestResult {
    wire::FenceTestResult {
        by: state.name_of(test.by),
        power: test.power.clone(),
        device: test.device.clone(),
        output: test.output.clone(),
        error: test.error.clone(),
        elapsed_ms: milliseconds(test.elapsed),
    }
}
