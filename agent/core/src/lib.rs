//! The pure core of pgctl: what the cluster has agreed on, and what follows from it.
//!
//! Nothing here reads a clock, touches a file or a socket, or waits. Time is an argument, inputs are values, and
//! every function gives the same answer for the same arguments on every node, in every run, so the whole of it runs
//! in a simulator (`tests/simulation.rs`).
//!
//! Rooms, from the ground up:
//!
//! | room | holds |
//! |---|---|
//! | [`pg`] | PostgreSQL's vocabulary: LSN, timeline, control file |
//! | [`ids`], [`time`] | node ids, epochs; instants and the two clocks of a lease |
//! | [`schedule`] | when something is due that recurs |
//! | [`timing`] | the timing profiles and the inequality that they must meet |
//! | [`cluster`] | the replicated state, its commands, and `apply` |
//! | [`lease`] | the two sides of the majority lease: holder and voter |
//! | [`view`], [`vitals`] | observations: all that a decision may look at |
//! | [`decide`] | what the cluster should commit next; what a node's PostgreSQL should do next |
//! | [`rollout`] | what to do next for a schema change that is carried out step by step |
//! | [`health`] | answers to the HTTP endpoints |
//! | [`reason`] | the words in which the core explains itself |
#![forbid(unsafe_code)]

pub mod cluster;
pub mod decide;
pub mod health;
pub mod ids;
pub mod lease;
pub mod pg;
pub mod reason;
pub mod rollout;
pub mod sabotage;
pub mod schedule;
pub mod time;
pub mod timing;
pub mod view;
pub mod vitals;
pub mod watchdog;
