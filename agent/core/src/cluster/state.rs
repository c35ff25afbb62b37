use super::{HandFence, LeaseVoters, Settings, StonithProof, SyncRule};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::pg::{Lsn, SystemId, TimelineId};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Everything that must survive the loss of any minority of the nodes, and nothing else: no lease renewal, no
/// observation and no progress is kept here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterState {
    /// A UUID, chosen once; agents of another cluster are refused by it.
    pub cluster_id: String,
    /// The operator's name for the cluster.
    pub name: String,
    /// The database cluster's identity, once there is one.
    pub system_id: Option<SystemId>,
    pub members: BTreeMap<NodeId, Member>,
    /// The number that the next new member gets.
    pub next_node: u64,
    /// Whose majorities support a lease.
    pub voters: LeaseVoters,
    pub settings: Settings,
    pub secrets: Secrets,
    /// The node that creates the database, until there is one.
    pub creator: Option<NodeId>,
    /// The newest epoch.
    pub epoch: Epoch,
    /// Who holds it.
    pub holder: Option<NodeId>,
    /// The timeline number that is reserved for it.
    pub timeline: TimelineId,
    /// Where the holder stood when the epoch was granted: its promotion forks off here or later.
    pub granted_at: Option<crate::pg::Position>,
    /// Set once the holder wrote a row under this epoch that the synchronous set has acknowledged.
    pub promotion: Option<Promotion>,
    /// Every rule under which commits may be acknowledged or not yet covered, oldest first. The last is in force.
    pub sync: Vec<SyncRule>,
    /// The last epochs, oldest first.
    pub history: VecDeque<EpochRecord>,
    pub pause: Option<Pause>,
    /// Nodes that are left out of every automatic decision.
    pub maintenance: BTreeSet<NodeId>,
    /// Nodes that an operator keeps from holding the lease and from running a server.
    #[serde(default)]
    pub fenced: BTreeMap<NodeId, HandFence>,
    pub switchover: Option<Switchover>,
    /// How the last switchover ended.
    pub last_switchover: Option<SwitchoverOutcome>,
    /// A failover that the operator ordered and that has not happened yet.
    pub failover_order: Option<FailoverOrder>,
    /// Schema changes that are carried out step by step.
    #[serde(default)]
    pub rollouts: super::Rollouts,
    /// Work that recurs by a schedule.
    #[serde(default)]
    pub duties: super::Duties,
    /// Restores of the whole cluster in place.
    #[serde(default)]
    pub restores: super::Restores,
    /// Requests that were carried out lately, oldest first, so that the same one sent twice is done once.
    pub requests: VecDeque<(RequestId, Result<super::Applied, super::Rejected>)>,
    /// What happened lately, oldest first.
    pub events: VecDeque<Event>,
    /// The number of the next event.
    pub next_event: u64,
}

/// One agent and, but for a witness, the PostgreSQL beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The operator's name, unique in the cluster.
    pub name: String,
    pub kind: MemberKind,
    /// `host:port` of the agent's gRPC port; lease renewals use the UDP port of the same number.
    pub peer: String,
    /// `host:port` of the agent's HTTP port, once the agent has told it.
    pub http: String,
    /// `host:port` of PostgreSQL as clients and standbys reach it; empty on a witness.
    pub postgres: String,
    /// Free tags, for health checks.
    pub tags: BTreeMap<String, String>,
    /// Never to be promoted by itself.
    pub nofailover: bool,
}

/// Whether a member keeps data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberKind {
    /// Has a PostgreSQL.
    Data,
    /// Only votes.
    Witness,
}

/// The passwords of the roles that the agents use, made when the cluster is created.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    pub replication_password: String,
    pub rewind_password: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// The point at which an epoch's holder became writable for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    pub epoch: Epoch,
    pub timeline: TimelineId,
    /// The end of the first row written under the epoch.
    pub lsn: Lsn,
}

/// One epoch, for `pgctl history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub epoch: Epoch,
    pub holder: NodeId,
    pub holder_name: String,
    pub cause: super::Cause,
    /// The rule of the coordinator that fired, and what it saw.
    pub why: String,
    /// The gates that stood open, in words.
    pub proof: Vec<String>,
    pub timeline: TimelineId,
    /// Where the holder stood at the grant.
    pub position: Option<crate::pg::Position>,
    pub granted_at: WallTime,
    /// When the gate opened for clients; `None` while it has not.
    pub opened_at: Option<WallTime>,
    /// Bytes of acknowledged WAL that the operator, or `async` mode, accepted to lose at most.
    pub may_have_lost_bytes: Option<u64>,
    /// Proofs that this epoch's holder was turned off, oldest first.
    #[serde(default)]
    pub stonith: Vec<StonithProof>,
}

/// Automation is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub reason: String,
    pub since: WallTime,
}

/// A planned change of primary that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    pub request: RequestId,
    pub from: NodeId,
    pub to: NodeId,
    /// The epoch that it ends.
    pub epoch: Epoch,
    pub phase: SwitchoverPhase,
    pub since: WallTime,
}

/// How far a switchover has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchoverPhase {
    /// Checks and a checkpoint; the old primary serves clients.
    Preparing,
    /// The old primary closes its gate and shuts down.
    Stopping,
}

/// How a switchover ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverOutcome {
    pub request: RequestId,
    pub from: NodeId,
    pub to: NodeId,
    pub succeeded: bool,
    /// For a person: what happened, and if it failed what is true now.
    pub message: String,
}

/// The operator's order to promote one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverOrder {
    pub request: RequestId,
    pub to: NodeId,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// Acknowledged commits may be lost; the operator was told how many bytes and agreed.
    pub accept_data_loss: bool,
    pub since: WallTime,
}

/// Something that happened, for `pgctl events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one with each event of the cluster.
    pub number: u64,
    pub at: WallTime,
    /// A stable kebab-case kind.
    pub kind: String,
    pub text: String,
}

/// How much of each list is kept.
pub(super) const HISTORY_KEPT: usize = 100;
pub(super) const EVENTS_KEPT: usize = 500;
pub(super) const REQUESTS_KEPT: usize = 100;

impl ClusterState {
    /// The member called `name`.
    #[must_use]
    pub fn member_named(&self, name: &str) -> Option<(NodeId, &Member)> {
        self.members
            .iter()
            .find(|(_, member)| member.name == name)
            .map(|(id, member)| (*id, member))
    }

    /// A node's name, or its number where it is no member.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> String {
        self.members
            .get(&node)
            .map_or_else(|| format!("node {node}"), |member| member.name.clone())
    }

    /// The members that have a PostgreSQL.
    pub fn data_members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.kind == MemberKind::Data)
            .map(|(id, member)| (*id, member))
    }

    /// The `application_name` under which `node` follows the holder of `epoch`.
    #[must_use]
    pub fn application_name(&self, node: NodeId, epoch: Epoch) -> String {
        format!("{}_e{epoch}", self.name_of(node))
    }

    /// The name of the physical slot that is kept for `node`: its name in the letters that slots allow, and its number.
    #[must_use]
    pub fn slot_name(&self, node: NodeId) -> String {
        let name = self.name_of(node).to_ascii_lowercase();
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(40)
            .collect();
        format!("pgctl_{safe}_{node}")
    }

    /// The rule under which commits are acknowledged now.
    #[must_use]
    pub fn sync_rule(&self) -> Option<&SyncRule> {
        self.sync.last()
    }

    /// Whether the synchronous set is in the middle of a change, or an older epoch is not covered yet.
    #[must_use]
    pub fn sync_unsettled(&self) -> bool {
        self.sync.len() > 1
    }

    /// The value of `synchronous_standby_names` for `rule`.
    #[must_use]
    pub fn synchronous_standby_names(&self, rule: &SyncRule) -> String {
        rule.synchronous_standby_names(|id| self.application_name(id, rule.epoch))
    }

    pub(super) fn record(&mut self, at: WallTime, kind: &str, text: String) {
        self.events.push_back(Event {
            number: self.next_event,
            at,
            kind: kind.to_owned(),
            text,
        });
        self.next_event += 1;
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
    }
}
