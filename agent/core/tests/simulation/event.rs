//! What happens: messages, timers, steps of servers, and their queue.

use crate::clock::Time;
use crate::faults::Trouble;
use crate::postgres::Step;
use crate::raft::RaftEvent;
use crate::wal::Place;
use agent_core::cluster::{Command, Release, SyncRule};
use agent_core::ids::{Epoch, RequestId};
use agent_core::lease::RenewAnswer;
use agent_core::pg::Lsn;
use agent_core::view::{FenceReceipt, NodeReport};
use std::time::Duration;

/// What agents say to each other.
#[derive(Debug, Clone)]
pub enum Msg {
    Renew {
        epoch: Epoch,
        round: u64,
        incarnation: u64,
        promise: Duration,
    },
    Renewed {
        epoch: Epoch,
        round: u64,
        incarnation: u64,
        answer: RenewAnswer,
    },
    Receipt(FenceReceipt),
    Report(Box<NodeReport>),
    AskBound {
        next: Epoch,
        receipt: Option<FenceReceipt>,
    },
    Bound {
        next: Epoch,
        bound: Duration,
    },
    AskRelease {
        epoch: Epoch,
        receipt: Option<FenceReceipt>,
        wait_for: Option<Lsn>,
    },
    Released {
        epoch: Epoch,
        release: Option<Release>,
    },
    Propose {
        ticket: u64,
        command: Box<Command>,
    },
    Proposed {
        ticket: u64,
        accepted: bool,
    },
}

/// A node's question to release, on its way through the node.
#[derive(Debug, Clone)]
pub struct Releasing {
    pub asker: usize,
    pub epoch: Epoch,
    pub receipt: Option<FenceReceipt>,
    pub wait_for: Option<Lsn>,
    pub since: Time,
}

/// What an agent has set its clock for.
#[derive(Debug, Clone)]
pub enum Timer {
    Tick,
    Look,
    Coordinate,
    Report,
    Renew {
        epoch: Epoch,
    },
    Deadline,
    Kill {
        epoch: Epoch,
    },
    JobDone {
        token: u64,
    },
    Release(Releasing),
    PledgeSafe(Releasing),
    Cut(Releasing),
    ProposalLost {
        ticket: u64,
    },
    Mark {
        rule: SyncRule,
        from_zero: bool,
        life: u64,
    },
    RowAcknowledged {
        epoch: Epoch,
        place: Place,
    },
    CheckpointMade {
        request: RequestId,
    },
}

#[derive(Debug, Clone)]
pub enum Event {
    Deliver {
        from: usize,
        to: usize,
        msg: Msg,
    },
    Agent {
        node: usize,
        life: u64,
        timer: Timer,
    },
    Server {
        node: usize,
        life: u64,
        step: Step,
    },
    Wal {
        to: usize,
        conn: u64,
        place: Place,
    },
    Flushed {
        to: usize,
        conn: u64,
        lsn: u64,
        sent: Time,
    },
    /// A guard looks at its clock.
    Guard {
        node: usize,
    },
    /// A guard has ended the server.
    Guarded {
        node: usize,
        epoch: Epoch,
    },
    Raft(RaftEvent),
    Client,
    Trouble(Trouble),
    Converged,
}

/// An event in the queue: earliest first, and of one instant in the order in which they were made.
pub struct Scheduled {
    pub at: Time,
    pub order: u64,
    pub event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
