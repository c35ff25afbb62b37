//! A node: what its agent and its server keep, on disk and in memory.

use crate::clock::{Clock, Time};
use crate::event::Event;
use crate::jobs::Job;
use crate::postgres::Server;
use agent_core::cluster::{Command, MemberKind, SyncRule};
use agent_core::decide::cluster::CoordinatorMemory;
use agent_core::decide::node::{Conf, NodeMemory};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::lease::{Holder, Voter, Watch};
use agent_core::reason::Reason;
use agent_core::time::ClockReading;
use agent_core::view::{ClusterView, FenceReceipt};
use std::time::Duration;

/// What an agent keeps on disk.
#[derive(Debug, Clone, Default)]
pub struct AgentDisk {
    pub pledge: Epoch,
    pub promise_limit: Duration,
    pub lineage: Option<Epoch>,
    pub broken: bool,
}

/// What an agent keeps in memory.
#[derive(Debug)]
pub struct Agent {
    /// Index of the newest applied entry.
    pub applied: usize,
    pub voter: Voter,
    pub holder: Option<Holder>,
    /// The deadline of the epoch before, while the same node goes on in a new one and has no majority yet.
    pub old_deadline: Option<ClockReading>,
    pub fenced: Epoch,
    pub fencing: Option<Epoch>,
    pub receipt: Option<FenceReceipt>,
    pub memory: NodeMemory,
    pub conf: Option<Conf>,
    pub reports: ClusterView,
    pub coordinator: CoordinatorMemory,
    pub switchover_seen: Option<(RequestId, bool)>,
    pub job: Option<Job>,
    pub opening: Option<Epoch>,
    pub marking: Option<SyncRule>,
    pub checkpointing: bool,
    pub proposals: Vec<(u64, Command)>,
    pub releasing: bool,
    pub look_pending: bool,
    pub coordinate_pending: bool,
    pub explain: Vec<Reason>,
    /// For the mutant that counts its lease from the answer: who has answered which renewal.
    pub answers: Vec<(u64, NodeId)>,
}

#[derive(Debug)]
pub struct Node {
    pub kind: MemberKind,
    pub clock: Clock,
    /// Counts the starts of the agent: its incarnation.
    pub life: u64,
    pub agent: Option<Agent>,
    pub disk: AgentDisk,
    /// Where its replicated state was when its agent last stopped.
    pub applied_floor: usize,
    /// The agent does nothing.
    pub frozen: bool,
    /// Neither does the server.
    pub suspended: bool,
    /// When it last went on after that: its clocks had run, and it needs a moment to see so.
    pub resumed: Option<Time>,
    pub kept: Vec<Event>,
    /// The server runs without an agent that watches its lease.
    pub unguarded: bool,
    /// When its agent was started, or went on.
    pub agent_since: Time,
    pub slow_until: Time,
    pub lag_until: Time,
    /// The process that ends the server at the lease's end; `None` where the run has no guards.
    pub guard: Option<Watch>,
    pub server: Server,
}
