//! The consensus room: what the cluster has agreed on, and how it agrees.
//!
//! It owns the Raft group of the agents: this node's votes, log and snapshot on disk, its messages to the other
//! agents, its place in the group, and the replicated state that follows from the log. *Raft leader* and *term* are
//! words of this room only. It knows nothing of PostgreSQL and nothing of leases: a Raft leader has no right to write.
//!
//! Invariants:
//!
//! * **C-1** Nothing is acknowledged to a peer that a crash of this node could undo ([`store`]).
//! * **C-2** A number is given to one agent, once. An agent without its state gets a fresh one (`admission.rs`,
//!   `identity.rs`).
//! * **C-3** A cluster is founded once: by the first of a member list that all its members share (`founding.rs`).
//! * **C-4** A message of another cluster, or for another number, changes nothing (`rpc.rs`).
//! * **C-5** Applying an entry reads nothing but the entry and the state (`state_machine.rs`).
//! * **C-6** A Raft core that has stopped or does not answer is reported, never mistaken for a quiet one
//!   (`supervisor.rs`).
//!
//! Where to begin: [`ConsensusRoom`] (`room.rs`), then [`ConsensusHandle`] (`handle.rs`).

mod admission;
mod channels;
mod config;
mod founding;
mod handle;
mod identity;
mod join;
mod membership;
mod network;
mod node;
mod room;
mod rpc;
mod server;
mod state_machine;
pub mod store;
mod supervisor;
pub mod types;
mod wire;

pub use channels::{CallError, MESSAGE_MAX, PeerChannels};
pub use config::{InitialMember, RaftTiming, StartConfig};
pub use handle::ConsensusHandle;
pub use identity::{IDENTITY_FILE, Identity, IdentityError};
pub use room::{ConsensusRoom, StartError};
pub use rpc::RaftRpc;
pub use server::peer_server;
pub use state_machine::{SnapshotBuilder, StateMachine, StateView};
pub use supervisor::RaftHealth;
pub use wire::WireError;
