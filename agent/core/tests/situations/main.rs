//! Tables of situations: what a node's server does next, what the cluster commits next, what the gate says, and what a
//! command does to the replicated state.

mod ailing;
mod apply;
mod coordinator;
mod copying;
mod duties;
mod fixtures;
mod gate;
mod mangled_reports;
mod node;
mod restore;
mod restoring_node;
mod rollout;
mod stonith;
