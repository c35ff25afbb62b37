//! The first epoch.

use super::{ClusterAction, CoordinatorView, candidate};
use crate::cluster::{Cause, Command, EpochChange, Release};
use crate::decide::Decision;
use crate::ids::NodeId;
use crate::pg::{ControlState, SystemId};
use crate::reason::Reason;
use crate::view::Server;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn decide(view: &CoordinatorView<'_>) -> Decision<ClusterAction> {
    match view.state.creator {
        None => choose(view),
        Some(creator) => grant(view, creator),
    }
}

/// Chooses the node that creates the database: the one that brings data, if there is one. Every data node must have
/// reported, or a node with data could come too late.
fn choose(view: &CoordinatorView<'_>) -> Decision<ClusterAction> {
    let data_nodes: Vec<NodeId> = view.state.data_members().map(|(id, _)| id).collect();
    let seen = |node: NodeId| view.fresh(node).and_then(|report| report.pg.as_ref());
    let silent: Vec<String> = data_nodes
        .iter()
        .filter(|node| seen(**node).is_none())
        .map(|node| view.name(*node))
        .collect();
    if !silent.is_empty() || data_nodes.is_empty() {
        return Decision::wait(
            "wait-for-data-nodes",
            Reason::shut(
                "data-nodes-reported",
                format!("not heard of: {}", silent.join(", ")),
                "start their agents",
            ),
        );
    }
    let with_data: BTreeMap<NodeId, SystemId> = data_nodes
        .iter()
        .filter_map(|node| Some((*node, seen(*node)?.system_id()?)))
        .collect();
    let systems: BTreeSet<SystemId> = with_data.values().copied().collect();
    if systems.len() > 1 {
        let list: Vec<String> = with_data
            .iter()
            .map(|(node, system)| format!("{} has {system}", view.name(*node)))
            .collect();
        return Decision::wait(
            "several-databases",
            Reason::shut(
                "one-database",
                format!(
                    "the data directories belong to different databases: {}",
                    list.join(", ")
                ),
                "nothing was touched: leave one of them, and give the other agents empty data directories",
            ),
        );
    }
    // Of several copies of one database the primary's is taken: the furthest checkpoint not made in recovery.
    let best = with_data.keys().copied().max_by_key(|node| {
        let control = seen(*node).and_then(|pg| pg.control);
        let in_recovery = control.is_some_and(|c| {
            matches!(
                c.state,
                ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery
            )
        });
        (
            !in_recovery,
            control.map(|c| (c.timeline, c.checkpoint)),
            std::cmp::Reverse(*node),
        )
    });
    let node = best.or_else(|| data_nodes.iter().copied().min());
    match node {
        Some(node) => Decision::act(
            "choose-creator",
            ClusterAction::Propose(Command::ChooseCreator { node, at: view.wall }),
        ),
        None => Decision::rest("no-data-node"),
    }
}

fn grant(view: &CoordinatorView<'_>, creator: NodeId) -> Decision<ClusterAction> {
    let standby = view
        .fresh(creator)
        .and_then(|report| report.pg.as_ref())
        .and_then(|pg| match &pg.server {
            Server::Standby(standby)
                if view.state.system_id.is_some() && pg.system_id() == view.state.system_id =>
            {
                Some(standby)
            }
            _ => None,
        });
    let Some(standby) = standby else {
        return Decision::wait(
            "wait-for-creator",
            Reason::shut(
                "database-exists",
                format!("{} creates the database", view.name(creator)),
                format!(
                    "it is done; if it does not end, read the log of {}",
                    view.name(creator)
                ),
            ),
        );
    };
    let released = BTreeMap::from([(creator, Release::at(Some(standby.position)))]);
    let change = EpochChange {
        from: view.state.epoch,
        to: creator,
        cause: Cause::Creation,
        why: format!("{} has the database", view.name(creator)),
        sync: candidate::rule_for(view, creator, &BTreeMap::new()),
        released,
        receipt: None,
        may_lose_bytes: None,
        at: view.wall,
    };
    Decision::act(
        "first-epoch",
        ClusterAction::Propose(Command::ChangeEpoch(Box::new(change))),
    )
}
