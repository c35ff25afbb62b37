//! Clients: what they ask for, and what they remember of it.
//!
//! A read counts only if it is *confirmed*: it runs in a transaction that also writes to the WAL, so that its commit waits
//! for the standbys as any write does, and everything it saw lies before it. Plain reads on an old primary are stale until
//! its fence, which the documentation says and no checker holds against it.

mod append;
mod bank;
mod client;
mod link;
mod procedure;
mod read_after_write;
mod register;
mod set;
mod tables;

pub use append::Append;
pub use bank::{ACCOUNTS, Bank, TOTAL};
pub use client::{Attempt, Client, Live, Seen, Timing, Workload};
pub use link::{Failed, Link, Route, Rows};
pub use procedure::Procedure;
pub use read_after_write::ReadAfterWrite;
pub use register::Register;
pub use set::Set;
pub use tables::{Last, prepare, read_last};

/// Which workload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Inserts into a set.
    Set,
    /// Registers: read, write, compare-and-set.
    Register,
    /// Transactions that append to lists and read them.
    Append,
    /// Transfers between accounts.
    Bank,
    /// Inserts, and looks for them at standbys.
    ReadAfterWrite,
    /// A procedure that commits.
    Procedure,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Kind; 6] = [
        Kind::Set,
        Kind::Register,
        Kind::Append,
        Kind::Bank,
        Kind::ReadAfterWrite,
        Kind::Procedure,
    ];

    /// Whether a client of this kind goes this way. A procedure is called on one server, to see what that server does with it;
    /// whoever looks at standbys writes where all others write.
    pub fn takes(self, route: &Route) -> bool {
        match self {
            Kind::Procedure => route.is_loyal(),
            Kind::ReadAfterWrite => !route.is_loyal(),
            _ => true,
        }
    }

    /// As the command line and the report call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Register => "register",
            Kind::Append => "append",
            Kind::Bank => "bank",
            Kind::ReadAfterWrite => "read-after-write",
            Kind::Procedure => "procedure",
        }
    }
}
