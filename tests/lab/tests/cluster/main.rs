//! Whole clusters of real agents and real servers, under load, with one thing going wrong at a time. Each test ends with
//! the same check: all nodes back in sync, no acknowledged row lost, never two writers.

mod agents;
mod bad_luck;
mod failover;
mod partition;
mod scene;
mod switchover;
mod witness;
