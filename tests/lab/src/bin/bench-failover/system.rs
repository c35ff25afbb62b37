//! What a system must be able to do to be measured.

use std::future::Future;
use std::net::SocketAddr;

use anyhow::Result;
use lab::Mono;
use nix::sys::signal::Signal;

/// A cluster of three nodes, numbered from 0, each an agent and a server on a host of its own.
pub trait System {
    /// Starts everything from empty disks. Returns once the programs run; see [`System::in_sync`].
    fn start(&mut self) -> impl Future<Output = Result<()>>;

    /// The primary's number, once there is one and both other servers stream from it as synchronous candidates.
    ///
    /// # Errors
    /// It is not so now: says what is missing.
    fn in_sync(&self) -> impl Future<Output = Result<usize>>;

    /// Where clients reach each server.
    fn servers(&self) -> Vec<SocketAddr>;

    /// Where each agent answers health checks.
    fn health(&self) -> Vec<SocketAddr>;

    /// The path of the health check that HAProxy would ask.
    fn health_path(&self) -> &'static str {
        "/primary"
    }

    /// Cuts the power of a node, agent, server and all.
    fn power_off(&mut self, node: usize) -> Result<Mono>;

    /// Gives it back.
    fn power_on(&mut self, node: usize) -> impl Future<Output = Result<()>>;

    /// Kills the server's main process.
    fn kill_postmaster(&self, node: usize) -> Result<Mono>;

    /// Sends a signal to the agent alone.
    fn signal_agent(&self, node: usize, signal: Signal) -> Result<Mono>;

    /// Orders a change of primary, away from `node`, as an operator would, and waits for the command's end.
    fn switchover(&self, node: usize) -> impl Future<Output = Result<()>>;

    /// The processes of a node that are the agent's own (not the server's).
    fn agent_pids(&self, node: usize) -> Vec<i32>;

    /// The processes of the store that the agents need besides; empty if none.
    fn store_pids(&self) -> Vec<i32>;

    /// What to look at when something goes wrong: the ends of the logs.
    fn logs(&self) -> String;
}

/// Asks the servers themselves, so that both systems are measured by one rule: one is writable, and two stream from it
/// and count for synchronous commits.
///
/// # Errors
/// It is not so; says what was seen.
pub async fn servers_in_sync(servers: &[SocketAddr]) -> Result<usize> {
    let mut seen = Vec::new();
    for (i, server) in servers.iter().enumerate() {
        let query = "SELECT pg_is_in_recovery(), count(*) FILTER (WHERE state = 'streaming' AND sync_state IN \
                     ('quorum', 'sync')) FROM pg_stat_replication";
        let rows = match lab::sql::query(*server, query).await {
            Ok(rows) => rows,
            Err(e) => {
                seen.push(format!("{server}: {e:#}"));
                continue;
            }
        };
        let field = |i: usize| {
            rows.first()
                .and_then(|row| row.get(i)?.clone())
                .unwrap_or_default()
        };
        if field(0) == "f" && field(1) == "2" {
            return Ok(i);
        }
        seen.push(format!(
            "{server}: in recovery: {}, synchronous standbys: {}",
            field(0),
            field(1)
        ));
    }
    anyhow::bail!("{}", seen.join("; "))
}
