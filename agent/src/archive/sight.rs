//! What of the replicated state counts for the archive.

use agent_core::cluster::ClusterState;
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{Lsn, TimelineId};

/// A look at the replicated state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    pub epoch: u64,
    /// Tells this cluster's agents from others'.
    pub cluster_id: String,
    /// The newest timeline that was reserved.
    pub timeline: TimelineId,
    /// Whether this node holds the newest epoch.
    pub holds: bool,
    /// Whether this node is to follow a primary. One that has pledged to a later epoch, or is to be promoted, is not: its
    /// WAL stays as it is.
    pub follows: bool,
    /// `host:port` of the holder's agent.
    pub holder: Option<String>,
    /// `host:port` of the other data nodes' agents, the holder's last: it has the most to do.
    pub peers: Vec<String>,
    /// The newest epoch that was written under, and where the row is that says so.
    pub promotion: Option<(u64, Lsn)>,
    /// The operator's own check of a restored server, and the database that it is for.
    pub drill_sql: String,
    pub drill_database: String,
    /// How many bytes of WAL may wait here before the oldest is given up; 0: never.
    pub queue_max: u64,
    /// Backups whose making the cluster has given to a node.
    pub under_way: Vec<String>,
    /// The timelines that were reserved, oldest first, with where their owners stood: they begin there or later.
    pub grants: Vec<(TimelineId, Lsn)>,
}

impl Sight {
    /// As `me` sees it, which has pledged to `pledge`.
    #[must_use]
    pub fn of(state: &ClusterState, me: NodeId, pledge: Epoch) -> Sight {
        let holder = state.holder.and_then(|holder| state.members.get(&holder));
        let grants = state.history.iter().map(|record| {
            let stood = record.position.map_or(Lsn(0), |position| position.lsn);
            (record.timeline, stood)
        });
        let standbys = state
            .data_members()
            .filter(|(id, _)| *id != me && state.holder != Some(*id))
            .map(|(_, member)| member);
        let holds = state.holder == Some(me);
        let peers = standbys.chain(holder.filter(|_| !holds));
        Sight {
            epoch: state.epoch.0,
            cluster_id: state.cluster_id.clone(),
            timeline: state.timeline,
            holds,
            follows: holder.is_some() && !holds && pledge <= state.epoch && !state.fenced.contains_key(&me),
            holder: holder.map(|member| member.peer.clone()),
            peers: peers.map(|member| member.peer.clone()).collect(),
            promotion: state
                .promotion
                .map(|promotion| (promotion.epoch.0, promotion.lsn)),
            drill_sql: state.settings.drill_sql.clone(),
            drill_database: state.settings.drill_database.clone(),
            queue_max: state.settings.wal_queue_max_bytes,
            under_way: state
                .duties
                .running
                .values()
                .map(|duty| duty.id.clone())
                .collect(),
            grants: grants.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::cluster::{Member, MemberKind};

    #[test]
    fn only_a_standby_that_has_not_pledged_follows() {
        let member = |name: &str, kind| Member {
            name: name.to_owned(),
            kind,
            peer: format!("{name}:1"),
            http: String::new(),
            postgres: String::new(),
            tags: Default::default(),
            nofailover: false,
        };
        let mut state = ClusterState {
            epoch: Epoch(5),
            holder: Some(NodeId(1)),
            members: [
                (NodeId(1), member("n1", MemberKind::Data)),
                (NodeId(2), member("n2", MemberKind::Data)),
                (NodeId(3), member("n3", MemberKind::Data)),
                (NodeId(4), member("w", MemberKind::Witness)),
            ]
            .into(),
            ..ClusterState::default()
        };
        let follows = |state: &ClusterState, me, pledge| Sight::of(state, NodeId(me), Epoch(pledge)).follows;
        assert!(follows(&state, 2, 5), "a standby");
        assert!(!follows(&state, 2, 6), "it has pledged");
        assert!(!follows(&state, 1, 5), "the holder, promoted or not yet");
        let peers = Sight::of(&state, NodeId(2), Epoch(5)).peers;
        assert_eq!(peers, ["n3:1", "n1:1"], "standbys first, and no witness");
        state.holder = None;
        assert!(!follows(&state, 2, 5), "there is nobody to follow");
    }
}
