//! What of the replicated state counts for the archive.

use agent_core::cluster::ClusterState;
use agent_core::ids::NodeId;
use agent_core::pg::{Lsn, TimelineId};

/// A look at the replicated state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    pub epoch: u64,
    /// The newest timeline that was reserved.
    pub timeline: TimelineId,
    /// Whether this node holds the newest epoch.
    pub holds: bool,
    /// `host:port` of the holder's agent.
    pub holder: Option<String>,
    /// The timelines that were reserved, oldest first, with where their owners stood: they begin there or later.
    pub grants: Vec<(TimelineId, Lsn)>,
}

impl Sight {
    /// As `me` sees it.
    #[must_use]
    pub fn of(state: &ClusterState, me: NodeId) -> Sight {
        let holder = state.holder.and_then(|holder| state.members.get(&holder));
        let grants = state.history.iter().map(|record| {
            let stood = record.position.map_or(Lsn(0), |position| position.lsn);
            (record.timeline, stood)
        });
        Sight {
            epoch: state.epoch.0,
            timeline: state.timeline,
            holds: state.holder == Some(me),
            holder: holder.map(|member| member.peer.clone()),
            grants: grants.collect(),
        }
    }
}
