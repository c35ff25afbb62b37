use crate::ids::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// When a commit of an epoch counts as acknowledged: after `primary` and `k` of `members` have it on disk.
///
/// A set of nodes that have pledged to take no more WAL from that primary holds every acknowledged commit if the
/// primary itself is one of them, or if they are so many that every group of `k` members meets them:
/// `|R ∩ S| >= |S| - k + 1`. The same condition leaves fewer than `k` members that could still acknowledge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRule {
    /// The epoch under which the rule is in force.
    pub epoch: Epoch,
    /// The holder of that epoch.
    pub primary: NodeId,
    /// How many members must have a commit. Zero: none has to (asynchronous, or degraded).
    pub k: u32,
    /// The members whose word counts.
    pub members: BTreeSet<NodeId>,
}

impl SyncRule {
    /// Whether the pledged nodes `released` are bound to hold every commit acknowledged under this rule.
    #[must_use]
    pub fn covered_by(&self, released: &BTreeSet<NodeId>) -> bool {
        released.contains(&self.primary) || self.shortfall(released) == Some(0)
    }

    /// How many more members would have to pledge; `None` if no number of them would do.
    #[must_use]
    pub fn shortfall(&self, released: &BTreeSet<NodeId>) -> Option<usize> {
        let k = usize::try_from(self.k).unwrap_or(usize::MAX);
        if k == 0 || k > self.members.len() {
            return None;
        }
        let needed = self.members.len() - k + 1;
        Some(needed.saturating_sub(self.members.intersection(released).count()))
    }

    /// The value of `synchronous_standby_names` for this rule. `name` gives a member's `application_name`, which
    /// carries the epoch. Empty where no standby has to acknowledge; unsatisfiable, never empty, where more have to
    /// than there are.
    #[must_use]
    pub fn synchronous_standby_names(&self, name: impl Fn(NodeId) -> String) -> String {
        if self.k == 0 {
            return String::new();
        }
        if self.members.is_empty() {
            return UNSATISFIABLE.to_owned();
        }
        let names: Vec<String> = self
            .members
            .iter()
            .map(|id| format!("\"{}\"", name(*id)))
            .collect();
        format!("ANY {} ({})", self.k, names.join(", "))
    }
}

/// A `synchronous_standby_names` that no standby answers to: what every server but a promoted one runs with, so that
/// a server which turns writable before its rule is in force acknowledges nothing.
pub const UNSATISFIABLE: &str = "ANY 1 (\"pgctl_no_such_standby\")";

impl SyncRule {
    /// See [`UNSATISFIABLE`].
    #[must_use]
    pub fn unsatisfiable() -> String {
        UNSATISFIABLE.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn rule(k: u32, members: &[u64]) -> SyncRule {
        SyncRule {
            epoch: Epoch(5),
            primary: NodeId(1),
            k,
            members: set(members),
        }
    }

    #[test]
    fn any_one_of_two_needs_both_pledges() {
        assert!(!rule(1, &[2, 3]).covered_by(&set(&[2])));
        assert!(rule(1, &[2, 3]).covered_by(&set(&[2, 3])));
    }

    #[test]
    fn any_two_of_three_needs_two_pledges() {
        assert!(!rule(2, &[2, 3, 4]).covered_by(&set(&[2])));
        assert!(rule(2, &[2, 3, 4]).covered_by(&set(&[2, 4])));
    }

    #[test]
    fn the_old_primary_itself_has_all_of_its_commits() {
        assert!(rule(1, &[2, 3]).covered_by(&set(&[1])));
    }

    #[test]
    fn a_degraded_rule_is_covered_by_its_primary_alone() {
        assert!(!rule(0, &[]).covered_by(&set(&[2, 3])));
        assert!(rule(0, &[]).covered_by(&set(&[1])));
    }

    #[test]
    fn names_carry_the_epoch_and_an_unmeetable_rule_is_never_empty() {
        let name = |id: NodeId| format!("n{id}_e5");
        assert_eq!(
            rule(1, &[2, 3]).synchronous_standby_names(name),
            "ANY 1 (\"n2_e5\", \"n3_e5\")"
        );
        assert_eq!(rule(0, &[2]).synchronous_standby_names(name), "");
        assert_eq!(rule(1, &[]).synchronous_standby_names(name), UNSATISFIABLE);
    }
}
