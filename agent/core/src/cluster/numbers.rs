//! Numbers that only go up: those of members, and of timelines. A command may hold any number, and must stop nobody.

use super::apply::conflict;
use super::{ClusterState, EpochChange, Rejected};
use crate::ids::NodeId;
use crate::pg::TimelineId;

/// The number of the member after `node`.
pub(super) fn number_after(node: NodeId) -> Result<u64, Rejected> {
    node.0.checked_add(1).ok_or_else(|| {
        conflict(
            "numbers-used-up",
            format!("no number is left for a member after {node}: the cluster must be founded anew"),
        )
    })
}

impl ClusterState {
    /// A number of its own for each promotion: two promotions from one timeline must never share one.
    pub(super) fn timeline_after(&self, change: &EpochChange) -> Result<TimelineId, Rejected> {
        let told = change.released.values().filter_map(|release| release.position);
        let highest = told
            .map(|position| position.timeline)
            .fold(self.timeline, TimelineId::max);
        highest.0.checked_add(1).map(TimelineId).ok_or_else(|| {
            conflict(
                "timelines-used-up",
                format!("a node says that its WAL lies on timeline {highest}, and there is none after it: reinit that node"),
            )
        })
    }
}
