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

impl SyncRule {
    /// Every rule that a commit may have been acknowledged under while the `recorded` ones, oldest first, may be in force.
    ///
    /// While a server reads its configuration again, some of its walsenders go by the old rule and some by the new. Each
    /// counts whoever counts itself in, but asks for its own number: so for a moment it may be the lower number, of the
    /// members of both. One such rule is added for each server that has more than one recorded.
    #[must_use]
    pub fn possible(recorded: &[SyncRule]) -> Vec<SyncRule> {
        let mut rules = recorded.to_vec();
        for same_server in recorded.chunk_by(|a, b| a.primary == b.primary) {
            let waiting = || same_server.iter().filter(|rule| rule.k > 0);
            if let (Some(newest), Some(k)) = (waiting().next_back(), waiting().map(|rule| rule.k).min())
                && waiting().count() > 1
            {
                let members = waiting().flat_map(|rule| rule.members.iter().copied()).collect();
                rules.push(SyncRule {
                    k,
                    members,
                    ..newest.clone()
                });
            }
        }
        rules
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
    fn between_two_rules_the_lower_number_of_all_members_may_be_enough() {
        let walk = [rule(1, &[3]), rule(2, &[3, 5])];
        let possible = SyncRule::possible(&walk);
        assert_eq!(possible.len(), 3);
        assert!(walk.iter().all(|rule| rule.covered_by(&set(&[3]))));
        assert!(
            !possible.iter().all(|rule| rule.covered_by(&set(&[3]))),
            "a walsender that still asks for one may have counted node 5"
        );
        assert!(possible.iter().all(|rule| rule.covered_by(&set(&[3, 5]))));
    }

    #[test]
    fn one_rule_alone_or_one_that_asks_nobody_mixes_with_nothing() {
        assert_eq!(SyncRule::possible(&[rule(1, &[2, 3])]).len(), 1);
        assert_eq!(SyncRule::possible(&[rule(0, &[]), rule(1, &[2])]).len(), 2);
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
