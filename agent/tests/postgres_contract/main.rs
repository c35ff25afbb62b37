//! The contract of the `postgres` room, against real servers of every version found.
//!
//! Set `PGCTL_TEST_PG_BINDIRS` to a colon-separated list of folders with server programs; without it every
//! `/usr/lib/postgresql/*/bin` is used. Each test runs once for each version.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bench;
mod configuration;
mod data_directories;
mod processes;
mod pulses;
mod rejoin;
mod replication;
mod rollouts;
