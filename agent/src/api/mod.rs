//! The agent's faces to the outside: gRPC for `pgctl`, HTTP for load balancers, probes and monitors.

pub mod control;
pub mod http;
mod late;
mod listen;

#[cfg(test)]
mod http_tests;

pub use late::Late;
pub use listen::{BindError, listen};
