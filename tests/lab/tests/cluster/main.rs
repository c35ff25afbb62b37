//! Whole clusters of real agents and real servers, under load, with one thing going wrong at a time. Each test ends with
//! the same check: all nodes back in sync, no acknowledged row lost, never two writers.

mod agents;
mod archive;
mod bad_data;
mod bad_luck;
mod brutal;
mod disks;
mod duties;
mod exit_codes;
mod expansions;
mod failover;
mod fence_devices;
mod guard;
mod hangs;
mod in_place;
mod increments;
mod membership;
mod orders;
mod partition;
mod rejoin;
mod requests;
mod rollouts;
mod scene;
mod settings;
mod stalls;
mod standby;
mod switchover;
mod two_repositories;
mod upkeep;
mod wal_fetch;
mod witness;
