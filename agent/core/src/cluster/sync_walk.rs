//! The two records of each change of the synchronous set.

use super::apply::{Outcome, conflict};
use super::{Applied, ClusterState, SyncRule};
use crate::time::WallTime;

impl ClusterState {
    pub(super) fn sync_begin(&mut self, rule: &SyncRule, after: &SyncRule, at: WallTime) -> Outcome {
        if rule.epoch != self.epoch || Some(rule.primary) != self.holder || self.sync.last() != Some(after) {
            return Err(conflict(
                "sync-walk-overtaken",
                "the synchronous set has changed meanwhile",
            ));
        }
        if self.sync.last() == Some(rule) {
            return Ok(Applied::Unchanged);
        }
        self.sync.push(rule.clone());
        let text = if rule.k == 0 {
            "no standby is left in sync: commits wait for nobody, and no failover happens by itself"
                .to_owned()
        } else {
            let members: Vec<String> = rule.members.iter().map(|node| self.name_of(*node)).collect();
            format!("any {} of {} shall acknowledge", rule.k, members.join(", "))
        };
        self.record(
            at,
            if rule.k == 0 {
                "sync-degraded"
            } else {
                "sync-changes"
            },
            text,
        );
        Ok(Applied::Done)
    }

    pub(super) fn sync_done(&mut self, rule: &SyncRule, at: WallTime) -> Outcome {
        if self.sync.last() != Some(rule) || rule.epoch != self.epoch {
            return Err(conflict(
                "sync-walk-overtaken",
                "the synchronous set has changed meanwhile",
            ));
        }
        if self.sync.len() == 1 {
            return Ok(Applied::Unchanged);
        }
        self.sync = vec![rule.clone()];
        self.record(at, "sync-changed", self.synchronous_standby_names(rule));
        Ok(Applied::Done)
    }
}
