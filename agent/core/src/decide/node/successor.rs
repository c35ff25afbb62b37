//! Who could take over from this node, by what it knows: asked before a working lease is given up.

use super::NodeView;
use crate::cluster::{SyncMode, SyncRule};
use crate::ids::NodeId;
use crate::pg::Position;
use crate::view::{NodeReport, Server};
use std::collections::BTreeSet;

/// The node that would take over, as far as can be told from here: the coordinator decides.
///
/// # Errors
/// Why nobody could, for people.
pub(super) fn successor(view: &NodeView<'_>) -> Result<NodeId, String> {
    let standing: Vec<(&NodeReport, Position)> = view
        .peers
        .iter()
        .filter_map(|report| match &report.pg.as_ref()?.server {
            Server::Standby(standby) => Some((report, standby.position)),
            _ => None,
        })
        .collect();
    if standing.is_empty() {
        return Err("no other node has a running server".to_owned());
    }
    let reserve = view.state.settings.disk_reserve_bytes;
    let willing = |node: NodeId| {
        let member = view.state.members.get(&node);
        member.is_some_and(|member| !member.nofailover) && !view.state.maintenance.contains(&node)
    };
    let fit = |report: &NodeReport| {
        report
            .pg
            .as_ref()
            .is_some_and(|pg| pg.vitals.fit_to_serve(reserve))
    };
    let best = standing
        .iter()
        .filter(|(report, _)| willing(report.node) && fit(report))
        .max_by_key(|(report, position)| (*position, std::cmp::Reverse(report.node)));
    let Some((report, position)) = best else {
        return Err(
            "every other node is kept out of failovers, short of disk, or in trouble itself".to_owned(),
        );
    };
    if view.state.settings.sync_mode == SyncMode::Async {
        let end = view.pg.position().unwrap_or(*position);
        let behind = end.lsn.bytes_since(position.lsn);
        if behind > view.state.settings.max_lag_bytes {
            return Err(format!(
                "{} is the furthest, and {behind} bytes behind",
                view.state.name_of(report.node)
            ));
        }
        return Ok(report.node);
    }
    let pledging: BTreeSet<NodeId> = standing.iter().map(|(report, _)| report.node).collect();
    let covered = SyncRule::possible(&view.state.sync)
        .iter()
        .all(|rule| rule.covered_by(&pledging));
    if covered {
        Ok(report.node)
    } else {
        Err("the other nodes may lack acknowledged commits".to_owned())
    }
}
