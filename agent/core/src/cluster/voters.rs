use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The sets of voters whose majorities support a lease.
///
/// While the Raft group changes its membership there is more than one, and a renewal or a release needs a majority
/// of *each*. An old set is dropped only when the holder has said that it renews by the newest one
/// ([`LeaseVoters::settle`]): otherwise a holder that lags behind by two changes could renew by a set that need not
/// meet the one its successor asked.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseVoters {
    /// The Raft log index of the newest membership.
    pub version: u64,
    /// Oldest first; the last one or two are the current membership.
    pub sets: Vec<BTreeSet<NodeId>>,
    /// How many sets at the end of `sets` make up the current membership: two while Raft itself is in between.
    pub current: usize,
}

impl LeaseVoters {
    /// Takes over a membership that Raft has committed at `version`.
    pub fn install(&mut self, version: u64, membership: &[BTreeSet<NodeId>], keep_old: bool) {
        if !keep_old {
            self.sets.clear();
        }
        self.sets.retain(|set| !membership.contains(set));
        self.sets.extend(membership.iter().cloned());
        self.current = membership.len();
        self.version = version;
    }

    /// Drops the sets that are no longer part of the membership; `version` must be the newest.
    pub fn settle(&mut self, version: u64) -> bool {
        if version != self.version {
            return false;
        }
        self.sets.drain(..self.sets.len().saturating_sub(self.current));
        true
    }

    /// Whether sets of an older membership are still waited for.
    #[must_use]
    pub fn unsettled(&self) -> bool {
        self.sets.len() > self.current
    }

    /// Whether `nodes` hold a majority in every set. Never true while no set is known.
    #[must_use]
    pub fn majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.sets.is_empty()
            && self
                .sets
                .iter()
                .all(|set| set.intersection(nodes).count() * 2 > set.len())
    }

    /// Every node that is a voter in some set.
    #[must_use]
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.sets.iter().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_majority_is_needed_in_the_old_and_in_the_new_set_until_the_holder_has_moved_on() {
        let mut voters = LeaseVoters::default();
        voters.install(1, &[set(&[1, 2, 3])], true);
        voters.install(2, &[set(&[1, 2, 3]), set(&[3, 4, 5])], true);
        voters.install(3, &[set(&[3, 4, 5])], true);
        assert!(
            !voters.majority(&set(&[3, 4, 5])),
            "the first set may still support the holder"
        );
        assert!(voters.majority(&set(&[2, 3, 4])));
        assert!(
            !voters.settle(2),
            "an answer to an older membership settles nothing"
        );
        assert!(voters.settle(3));
        assert!(voters.majority(&set(&[4, 5])));
        assert!(!voters.unsettled());
    }

    #[test]
    fn no_voters_are_no_majority() {
        assert!(!LeaseVoters::default().majority(&set(&[1, 2, 3])));
    }

    #[test]
    fn half_is_not_a_majority() {
        let mut voters = LeaseVoters::default();
        voters.install(1, &[set(&[1, 2, 3, 4])], true);
        assert!(!voters.majority(&set(&[1, 2])));
    }
}
