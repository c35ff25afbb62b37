//! The agent's faces to the outside: gRPC for `pgctl`, HTTP for load balancers, probes and monitors.

pub mod control;
