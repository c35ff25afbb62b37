//! What Raft's type parameters are in this house.

use agent_core::cluster::{Applied, Command, Rejected};
use agent_core::ids::NodeId;
use openraft::RaftTypeConfig;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The candidate or leader that a vote names: the term, and the node within it.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// An entry's place in the log, and the leader that put it there.
pub type LogId = openraft::LogId<LeaderId>;
/// What a node has promised to follow.
pub type Vote = openraft::impls::Vote<LeaderId>;
/// What an entry holds: a command, a membership, or nothing.
pub type Payload = openraft::EntryPayload<Proposal, u64, RaftNode>;
/// One entry of the log.
pub type Entry = openraft::Entry<LeaderId, Payload>;
/// Who votes and who only listens.
pub type Membership = openraft::Membership<u64, RaftNode>;
/// A membership and the entry that holds it.
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, RaftNode>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, RaftNode>;
/// A snapshot: the replicated state as JSON, and what it covers.
pub type Snapshot = openraft::Snapshot<LeaderId, u64, RaftNode, Vec<u8>>;

openraft::declare_raft_types!(
    /// The types with which the agent runs Raft.
    pub RaftTypes:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = RaftNode,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
);

/// Raft as the agent runs it.
pub type Raft = openraft::Raft<RaftTypes, super::StateMachine>;

/// Any set of Raft types that differs from [`RaftTypes`] at most in its runtime: the simulator brings its own.
pub trait HouseTypes:
    RaftTypeConfig<
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = RaftNode,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
    >
{
}

impl<C> HouseTypes for C where
    C: RaftTypeConfig<
            D = Proposal,
            R = Answer,
            NodeId = u64,
            Node = RaftNode,
            Term = u64,
            LeaderId = LeaderId,
            Vote = Vote,
            Payload = Payload,
            Entry = Entry,
        >
{
}

/// A command as Raft carries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variant's name alone: a command may hold passwords.
        let debug = format!("{:?}", self.0);
        let name = debug
            .split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default();
        f.write_str(name)
    }
}

/// What the state machine answers to an entry; `None` for an entry without a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answer(pub Option<Result<Applied, Rejected>>);

/// A node as the Raft membership lists it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    pub name: String,
    /// `host:port` of the agent's gRPC port when the node was let in; the replicated state knows a newer one.
    pub peer: String,
}

/// The number of a node as the core writes it.
pub(super) fn core_id(raft: u64) -> NodeId {
    NodeId(raft)
}
