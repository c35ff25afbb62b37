//! Real clusters on one machine, for the demo, the tests and the benchmarks.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use lab::{Cluster, Lab, Target, Writer, WriterOptions, verify};
//!
//! let lab = Lab::with_hosts()?; // networks to cut; Lab::new() shares loopback
//! let mut cluster = Cluster::builder(&lab, "demo").data_nodes(3).timing("lan-fast").build()?;
//! cluster.start().await?;
//! let first = cluster.wait_all_in_sync(Duration::from_secs(60)).await?;
//!
//! Writer::prepare(cluster.node(&first).pg_address()?).await?;
//! let writer = Writer::start(Target::Hosts(cluster.pg_addresses()), WriterOptions::default());
//! writer.wait_for_acks(100, Duration::from_secs(30)).await?;
//!
//! let cut = cluster.node_mut(&first).power_off()?; // agent, server, shared memory: all gone at once
//! let back = writer.wait_for_ack_after(cut, Duration::from_secs(30)).await?;
//! cluster.node_mut(&first).start().await?; // and again from its disk
//! let second = cluster.wait_all_in_sync(Duration::from_secs(60)).await?;
//! cluster.isolate(&second)?; // also: cut, cut_one_way, mute, deafen, isolate_from_peers; heal
//! cluster.heal()?;
//!
//! let history = writer.stop().await;
//! println!("{:?} without a write, back at {}", history.longest_gap(cut).length(), back.server);
//! let primary = cluster.wait_for_primary(Duration::from_secs(60)).await?;
//! let verdict = verify(cluster.node(&primary).pg_address()?, &history).await?;
//! assert!(verdict.is_clean() && history.two_writers().is_none(), "{verdict:?}");
//! # Ok(()) }
//! ```
//!
//! What is where:
//!
//! | to | see |
//! |---|---|
//! | make a place, clean up after it | [`Lab`]: a folder, ports or a switch; all of it goes when the last clone goes, or with the process, however that ends |
//! | run nodes | [`Cluster`], [`Node`]: start, power off, signals to the agent or the server, health endpoints, `pgctl` |
//! | run anything else on a machine of its own | [`Host`]: power on and off, freeze and thaw, run programs |
//! | break the network | methods of [`Cluster`]; needs [`Lab::with_hosts`] and root |
//! | write, and know what was acknowledged | [`Writer`], [`History`], [`verify()`] |
//! | go through a proxy | [`Haproxy`], which runs the file that we ship |
//! | wait | [`wait_until`]: for a condition, with a deadline, and it tells what it saw last |
//!
//! Nodes' agents come from `PGCTL_BIN_DIR` or the target folder of the running program; servers from
//! `PGCTL_TEST_PG_BINDIRS` or `/usr/lib/postgresql`. Everything lives below `PGCTL_LAB_DIR` or the system's folder for
//! temporary files.

pub mod binaries;
pub mod children;
mod clock;
mod cluster;
mod condition;
mod haproxy;
mod host;
pub mod http;
mod interrupt;
mod lab;
mod network;
mod node;
pub mod node_config;
mod os_user;
mod ports;
pub mod processes;
mod program;
pub mod sql;
mod workload;

use std::time::Duration;

pub use clock::Mono;
pub use cluster::{Cluster, ClusterBuilder};
pub use condition::wait_until;
pub use haproxy::{Backend, Haproxy};
pub use host::Host;
pub use interrupt::interrupted;
pub use lab::{CONTROL_GROUPS, Lab};
pub use network::{End, Network, PortOfHost, Shape};
pub use node::Node;
pub use os_user::OsUser;
pub use ports::free_port;
pub use program::Program;
pub use workload::{Ack, Gap, History, Target, Verdict, Writer, WriterOptions, verify};

/// How long anything may take that takes a moment on an idle machine: far longer, for machines that are not idle.
pub const DEADLINE: Duration = Duration::from_secs(60);
