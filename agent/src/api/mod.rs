//! The agent's faces to the outside: gRPC for `pgctl`, HTTP for load balancers, probes and monitors.

pub mod control;
pub mod http;
mod listen;

#[cfg(test)]
mod http_tests;

pub use listen::{BindError, listen};
