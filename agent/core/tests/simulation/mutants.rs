//! What the protocol would be without one of its clauses. Each must show in a bounded number of runs.

use crate::world::World;
use agent_core::cluster::{ClusterState, Command, SyncRule};
use agent_core::pg::TimelineId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    PromiseAsShortAsLease,
    PromiseTakenBack,
    DeadlineFromTheAnswer,
    ExtendedAfterItsEnd,
    NoFenceAtLeaseEnd,
    NoQuarantine,
    ReleaseNotDurable,
    ReleaseWhileBound,
    RenewAfterFence,
    ReceiptEndsQuarantine,
    ReceiptCoversLaterIncarnations,
    OldVotersDroppedAtOnce,
    EpochWithoutCompare,
    PromoteWithoutLease,
    GateWithoutQuorum,
    DegradedCountsAsCovered,
    RulePublishedAfterApply,
    WalkEndsWithoutMark,
    OldRulesDroppedAtGrant,
    TimelineNotReserved,
    PositionWithoutTimeline,
    UpstreamKeptOnPledge,
    NameWithoutEpoch,
    GateBeforeFirstRow,
    OnlyPostmasterKilled,
    StandbyWithoutRule,
    PledgedVoterRenews,
    HolderNeverGivesUp,
    NoPledgeRepair,
    RuleReplacedAtBegin,
    GuardSleeps,
}

impl Mutant {
    /// Too rare to be waited for. Either needs a receipt of one life of the agent and a lease of its next one under the
    /// same epoch, and a server that was promoted once under an epoch is fenced before it is promoted again: so the
    /// first life must have been fenced between its grant and its promotion, and the second must have its lease before
    /// anybody acts on the receipt. The tests of the voter hold these clauses, one by one.
    pub const RARE: [Mutant; 2] = [
        Mutant::ReceiptEndsQuarantine,
        Mutant::ReceiptCoversLaterIncarnations,
    ];

    /// Those that must be caught.
    pub const ALL: [Mutant; 29] = [
        Mutant::PromiseAsShortAsLease,
        Mutant::PromiseTakenBack,
        Mutant::DeadlineFromTheAnswer,
        Mutant::ExtendedAfterItsEnd,
        Mutant::NoFenceAtLeaseEnd,
        Mutant::NoQuarantine,
        Mutant::ReleaseNotDurable,
        Mutant::ReleaseWhileBound,
        Mutant::RenewAfterFence,
        Mutant::OldVotersDroppedAtOnce,
        Mutant::EpochWithoutCompare,
        Mutant::PromoteWithoutLease,
        Mutant::GateWithoutQuorum,
        Mutant::DegradedCountsAsCovered,
        Mutant::RulePublishedAfterApply,
        Mutant::WalkEndsWithoutMark,
        Mutant::OldRulesDroppedAtGrant,
        Mutant::TimelineNotReserved,
        Mutant::PositionWithoutTimeline,
        Mutant::UpstreamKeptOnPledge,
        Mutant::NameWithoutEpoch,
        Mutant::GateBeforeFirstRow,
        Mutant::OnlyPostmasterKilled,
        Mutant::StandbyWithoutRule,
        Mutant::PledgedVoterRenews,
        Mutant::HolderNeverGivesUp,
        Mutant::NoPledgeRepair,
        Mutant::RuleReplacedAtBegin,
        Mutant::GuardSleeps,
    ];

    /// What the mutants of the gate show it instead of the recorded rules.
    pub fn coordinators_state(mutant: Option<Mutant>, state: &ClusterState) -> Option<ClusterState> {
        let mut state = match mutant? {
            Mutant::GateWithoutQuorum | Mutant::DegradedCountsAsCovered => state.clone(),
            _ => return None,
        };
        forget_rules(mutant, &mut state.sync);
        Some(state)
    }

    /// What the mutants of `apply` leave behind.
    pub fn after_apply(
        mutant: Option<Mutant>,
        before: &ClusterState,
        command: &Command,
        after: &mut ClusterState,
        accepted: bool,
    ) {
        if let (Some(Mutant::RuleReplacedAtBegin), Command::SyncBegin { rule, .. }, true) =
            (mutant, command, accepted)
        {
            after.sync = vec![rule.clone()];
        }
        let Command::ChangeEpoch(change) = command else {
            return;
        };
        if !accepted {
            if mutated_gate(mutant) {
                after.sync.clone_from(&before.sync);
            }
            return;
        }
        match mutant {
            Some(Mutant::OldRulesDroppedAtGrant) => after.sync.drain(..after.sync.len() - 1).count(),
            Some(Mutant::TimelineNotReserved) => {
                let own = change
                    .released
                    .get(&change.to)
                    .and_then(|release| release.position);
                if let Some(own) = own {
                    after.timeline = TimelineId(own.timeline.0 + 1);
                }
                0
            }
            Some(Mutant::GateWithoutQuorum | Mutant::DegradedCountsAsCovered) => {
                let newest = after.sync.last().cloned();
                after.sync.clone_from(&before.sync);
                after.sync.extend(newest);
                0
            }
            _ => 0,
        };
    }
}

fn mutated_gate(mutant: Option<Mutant>) -> bool {
    matches!(
        mutant,
        Some(Mutant::GateWithoutQuorum | Mutant::DegradedCountsAsCovered)
    )
}

fn forget_rules(mutant: Option<Mutant>, rules: &mut Vec<SyncRule>) {
    rules.retain(|rule| mutant != Some(Mutant::GateWithoutQuorum) && rule.k > 0);
}

impl World {
    /// The command as the mutants of `apply` take it.
    pub fn mutated(&self, command: &Command, state: &mut ClusterState) -> Command {
        let mut command = command.clone();
        if let Command::ChangeEpoch(change) = &mut command {
            if self.mutant == Some(Mutant::EpochWithoutCompare) {
                change.from = state.epoch;
                change.sync.epoch = state.epoch.next();
            }
            if mutated_gate(self.mutant) {
                forget_rules(self.mutant, &mut state.sync);
            }
        }
        command
    }
}
