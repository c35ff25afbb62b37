use super::{DutyChange, Member, Secrets, Settings, StonithProof, SyncRule};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::pg::{Lsn, Position, SystemId, TimelineId};
use crate::time::WallTime;
use crate::view::FenceReceipt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A change of the replicated state. Appended to only: an old log must stay readable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// The first entry of a cluster.
    Found {
        cluster_id: String,
        name: String,
        members: BTreeMap<NodeId, Member>,
        settings: Box<Settings>,
        secrets: Secrets,
    },
    /// Gives a new member its number. It joins the Raft group afterwards.
    AddMember {
        request: RequestId,
        member: Member,
        at: WallTime,
    },
    /// Forgets a member. It has left the Raft group before.
    RemoveMember {
        request: RequestId,
        node: NodeId,
        at: WallTime,
    },
    /// An agent tells under which addresses it is reached.
    AnnounceMember {
        node: NodeId,
        member: Member,
    },
    /// The holder renews by the newest membership.
    VotersSettled {
        version: u64,
    },
    /// Names the node that creates the database, or whose data the cluster takes over.
    ChooseCreator {
        node: NodeId,
        at: WallTime,
    },
    /// The database exists.
    AdoptSystem {
        node: NodeId,
        system_id: SystemId,
        at: WallTime,
    },
    /// Grants a new epoch: the only way to a new primary.
    ChangeEpoch(Box<EpochChange>),
    /// The holder serves clients: a row of this epoch is acknowledged by the synchronous set.
    OpenGate {
        epoch: Epoch,
        timeline: TimelineId,
        lsn: Lsn,
        at: WallTime,
    },
    /// The first record of the walk to another synchronous set: from now on a failover must satisfy both.
    SyncBegin {
        rule: SyncRule,
        after: SyncRule,
        at: WallTime,
    },
    /// The second: every commit acknowledged under an older rule is on `k` members of this one.
    SyncDone {
        rule: SyncRule,
        at: WallTime,
    },
    ChangeSettings {
        request: RequestId,
        settings: Box<Settings>,
        at: WallTime,
    },
    Pause {
        request: RequestId,
        reason: String,
        at: WallTime,
    },
    Resume {
        request: RequestId,
        at: WallTime,
    },
    Maintenance {
        request: RequestId,
        node: NodeId,
        on: bool,
        at: WallTime,
    },
    StartSwitchover {
        request: RequestId,
        to: NodeId,
        at: WallTime,
    },
    /// Checks and checkpoint are done: the old primary shall shut down.
    StopForSwitchover {
        request: RequestId,
        at: WallTime,
    },
    EndSwitchover {
        request: RequestId,
        why: String,
        at: WallTime,
    },
    OrderFailover {
        request: RequestId,
        to: NodeId,
        accept_data_loss: bool,
        at: WallTime,
    },
    DropFailoverOrder {
        request: RequestId,
        why: String,
        at: WallTime,
    },
    /// Something that an operator should find in the events later.
    Note {
        kind: String,
        text: String,
        at: WallTime,
    },
    /// Gives a member whose agent lost its state a fresh number under its old name. The old number has left the Raft
    /// group before.
    ReplaceMember {
        request: RequestId,
        old: NodeId,
        member: Member,
        at: WallTime,
    },
    /// Keeps a node from holding the lease and from running its server, until it is unfenced.
    FenceNode {
        request: RequestId,
        node: NodeId,
        reason: String,
        at: WallTime,
    },
    UnfenceNode {
        request: RequestId,
        node: NodeId,
        at: WallTime,
    },
    /// The holder of an epoch was turned off. `request`: an operator's word for it, instead of a device's.
    RecordStonith {
        request: Option<RequestId>,
        proof: Box<StonithProof>,
    },
    /// Something happens to a rollout. `request`: an operator's.
    Rollout {
        request: Option<RequestId>,
        act: Box<super::RolloutAct>,
        at: WallTime,
    },
    /// Scheduled work is claimed, sealed, ended or given up.
    Duty(Box<DutyChange>),
    /// Something happens to a restore of the whole cluster. `request`: an operator's.
    Restore {
        request: Option<RequestId>,
        act: Box<super::RestoreAct>,
        at: WallTime,
    },
}

/// Why an epoch was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The database was created or taken over.
    Creation,
    /// The holder failed.
    Failover,
    /// An operator asked for another primary.
    Switchover,
    /// An operator ordered a node to be promoted.
    ManualFailover,
    /// The same node again: its server failed and no other node can take over, or it comes back.
    Renewal,
    /// The same node goes on in a new epoch, without a stop, because a voter had pledged for one.
    PledgeRepair,
    /// An operator committed a restore of the whole cluster to a point in time.
    Restore,
}

/// A node's word that it supports no epoch below the one that is asked for, safe on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The end of its durable WAL, read after its walreceiver had ended; `None` from a witness, and from a node whose
    /// server does not run.
    pub position: Option<Position>,
    /// The position counts for nothing but as a proof that the node was never promoted in its epoch: the others that
    /// have pledged keep every acknowledged commit without it, and it is not to be the next holder.
    #[serde(default)]
    pub left_out: bool,
}

impl Release {
    /// The word of a node whose durable WAL ends at `position`.
    #[must_use]
    pub fn at(position: Option<Position>) -> Release {
        Release {
            position,
            left_out: false,
        }
    }

    /// The position, unless it is left out.
    #[must_use]
    pub fn counted(&self) -> Option<Position> {
        self.position.filter(|_| !self.left_out)
    }
}

/// The grant of an epoch, with all that its gate looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochChange {
    /// The epoch that ends: the grant is refused unless it is still the newest.
    pub from: Epoch,
    /// The new holder.
    pub to: NodeId,
    pub cause: Cause,
    /// The rule of the coordinator that fired, and what it saw; for people.
    pub why: String,
    /// Who has pledged for the new epoch.
    pub released: BTreeMap<NodeId, Release>,
    /// The old holder's proof that its server has ended, if there is one.
    pub receipt: Option<FenceReceipt>,
    /// The rule for commits of the new epoch.
    pub sync: SyncRule,
    /// Acknowledged commits may be lost: the operator's order, or a lag within the bound of `async` mode.
    pub may_lose_bytes: Option<u64>,
    pub at: WallTime,
}

impl Command {
    /// The same command with its time filled in, for commands that the core made: it has no clock.
    #[must_use]
    pub fn at(mut self, now: WallTime) -> Command {
        match &mut self {
            Command::AddMember { at, .. }
            | Command::RemoveMember { at, .. }
            | Command::ReplaceMember { at, .. }
            | Command::ChooseCreator { at, .. }
            | Command::AdoptSystem { at, .. }
            | Command::OpenGate { at, .. }
            | Command::SyncBegin { at, .. }
            | Command::SyncDone { at, .. }
            | Command::ChangeSettings { at, .. }
            | Command::Pause { at, .. }
            | Command::Resume { at, .. }
            | Command::Maintenance { at, .. }
            | Command::StartSwitchover { at, .. }
            | Command::StopForSwitchover { at, .. }
            | Command::EndSwitchover { at, .. }
            | Command::OrderFailover { at, .. }
            | Command::DropFailoverOrder { at, .. }
            | Command::FenceNode { at, .. }
            | Command::UnfenceNode { at, .. }
            | Command::Rollout { at, .. }
            | Command::Restore { at, .. }
            | Command::Note { at, .. } => *at = now,
            Command::ChangeEpoch(change) => change.at = now,
            Command::RecordStonith { proof, .. } => proof.at = now,
            Command::Duty(change) => change.stamp(now),
            Command::Found { .. } | Command::AnnounceMember { .. } | Command::VotersSettled { .. } => {}
        }
        self
    }
}
