//! Fences that are kept in the replicated state: a node that an operator keeps out, and the proof that a holder's
//! machine was turned off by others (STONITH).

use super::apply::{Outcome, conflict};
use super::{Applied, ClusterState, Release};
use crate::ids::{Epoch, NodeId};
use crate::time::WallTime;
use crate::view::FenceReceipt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether the machine of a holder whose lease ran out is turned off by the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StonithMode {
    /// Never: the lease alone keeps two writers apart.
    #[default]
    None,
    /// It is tried beside the failover, which does not wait for it.
    BestEffort,
    /// No epoch is granted away from a holder before its machine is proven to be off, or its own word says that its
    /// server has ended.
    Required,
}

impl StonithMode {
    /// Every mode, weakest first.
    pub const ALL: [StonithMode; 3] = [StonithMode::None, StonithMode::BestEffort, StonithMode::Required];

    /// The mode's name in settings and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StonithMode::None => "none",
            StonithMode::BestEffort => "best_effort",
            StonithMode::Required => "required",
        }
    }
}

/// The proof that a node's whole machine was off, after the lease of an epoch was over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StonithProof {
    /// The epoch whose holder was turned off.
    pub epoch: Epoch,
    /// That holder.
    pub node: NodeId,
    /// The node whose agent did it, by name; or that an operator gave their word.
    pub by: String,
    /// What ran: the device's program or URL, without secrets.
    pub device: String,
    /// Of the last program that ran; `None` for an HTTP call and for an operator's word.
    pub exit_code: Option<i32>,
    /// The end of what it printed, without secrets; at most 500 characters.
    pub output: String,
    /// When it was begun.
    pub began: WallTime,
    /// When the device said that the machine is off.
    pub at: WallTime,
}

/// An operator keeps a node from holding the lease, and its server from running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandFence {
    /// Why; for people.
    pub reason: String,
    pub since: WallTime,
}

/// The holder's own word that its server writes nothing more: its receipt, or its pledge with a position, which it gives
/// only of a server that is in recovery or was shut down. Says which.
pub(crate) fn own_word(
    state: &ClusterState,
    receipt: Option<&FenceReceipt>,
    released: &BTreeMap<NodeId, Release>,
) -> Option<String> {
    let holder = state.holder?;
    let name = state.name_of(holder);
    let receipt = receipt.filter(|receipt| receipt.epoch == state.epoch && receipt.node == holder);
    if let Some(receipt) = receipt {
        return Some(match receipt.clean_end {
            Some(_) => format!("{name} has shut its server down cleanly"),
            None => format!("{name} has ended its server and said so"),
        });
    }
    let pledged = released
        .get(&holder)
        .is_some_and(|release| release.position.is_some());
    pledged.then(|| format!("{name} has pledged itself, and its server is a standby"))
}

impl ClusterState {
    /// The proof that the holder of the newest epoch was turned off, if there is one.
    #[must_use]
    pub fn holder_off(&self) -> Option<&StonithProof> {
        let record = self.history.back().filter(|record| record.epoch == self.epoch)?;
        record
            .stonith
            .iter()
            .rev()
            .find(|proof| Some(proof.node) == self.holder)
    }

    pub(super) fn fence_node(&mut self, node: NodeId, reason: &str, at: WallTime) -> Outcome {
        if !self.members.contains_key(&node) {
            return Err(conflict("not-a-member", format!("node {node} is not a member")));
        }
        if self.fenced.contains_key(&node) {
            return Ok(Applied::Unchanged);
        }
        let fence = HandFence {
            reason: reason.to_owned(),
            since: at,
        };
        self.fenced.insert(node, fence);
        self.record(at, "fenced-by-hand", format!("{}: {reason}", self.name_of(node)));
        Ok(Applied::Done)
    }

    pub(super) fn unfence_node(&mut self, node: NodeId, at: WallTime) -> Outcome {
        if self.fenced.remove(&node).is_none() {
            return Ok(Applied::Unchanged);
        }
        self.record(
            at,
            "unfenced",
            format!("{} may run and hold the lease again", self.name_of(node)),
        );
        Ok(Applied::Done)
    }

    pub(super) fn record_stonith(&mut self, proof: &StonithProof) -> Outcome {
        let name = self.name_of(proof.node);
        let Some(record) = self
            .history
            .iter_mut()
            .rev()
            .find(|record| record.epoch == proof.epoch && record.holder == proof.node)
        else {
            return Err(conflict(
                "not-that-holder",
                format!(
                    "{name} did not hold epoch {}: look again with `pgctl history`",
                    proof.epoch
                ),
            ));
        };
        if record.stonith.contains(proof) {
            return Ok(Applied::Unchanged);
        }
        record.stonith.push(proof.clone());
        if record.stonith.len() > PROOFS_KEPT {
            record.stonith.remove(0);
        }
        self.record(
            proof.at,
            "turned-off",
            format!(
                "{name}, the holder of epoch {}, by {} with {}",
                proof.epoch, proof.by, proof.device
            ),
        );
        Ok(Applied::Done)
    }
}

/// How many proofs are kept for one epoch.
const PROOFS_KEPT: usize = 4;
