//! The consensus room (in progress).

mod config;
mod state_machine;
pub mod store;
pub mod types;
mod wire;

pub use config::{InitialMember, RaftTiming, StartConfig};
pub use state_machine::{StateMachine, StateView};
