//! One PostgreSQL instance under control.
//!
//! This room decides nothing. It answers what the server is ([`Instance::observe`]) and does what it is told, each
//! operation being safe to repeat after a crash of the agent at any point of it.
//!
//! *Invariant:* a server is only ever started as a standby; [`Instance::promote`] is the one way to a primary.
//! *Invariant:* nothing here deletes data that a server has written: what is in the way is renamed and named.
//! *Invariant:* no wall clock; every wait has a deadline on the client's side.

mod error;
mod instance;

pub use error::PgError;
pub use instance::{
    Credentials, Instance, InstanceConfig, KillFailed, KillReport, Overridden, RewindReport, ServerConf,
    SlotView, StopMode, Stopped, TreeKiller,
};
