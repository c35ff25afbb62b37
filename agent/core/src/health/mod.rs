//! Answers to the HTTP endpoints: what a load balancer, a probe or a monitor is told, worked out at the moment it asks.
//!
//! Everything here is a function of one [`HealthSnapshot`] and the time of the request. Nothing is answered from a
//! verdict that somebody stored earlier, so a hung loop, a hung server or a lease that is no longer renewed turns a 200
//! into a 503 by the mere passing of time.
//!
//! Paths, parameters and status codes are those of Patroni's REST API, so that existing HAProxy files keep working;
//! `docs/http.md` lists them, and where the meaning is stricter.

mod body;
mod checks;
mod endpoint;
mod metrics;
mod query;

#[cfg(test)]
mod tests;

pub use checks::{LEASE_MARGIN_PART, PROBE_MAX_AGE};
pub use endpoint::Endpoint;
pub use query::{BadParameter, Query};

use crate::cluster::ClusterState;
use crate::ids::{Epoch, NodeId};
use crate::time::{ClockReading, MonoTime};
use crate::view::{ClusterView, PgObservation};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long this node's writes of the Raft log take until they are safe on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogWrites {
    /// The last one.
    pub last: Duration,
    /// The 99th percentile, by nearest rank, of the newest ones: at most [`LogWrites::KEPT`].
    pub p99: Duration,
}

impl LogWrites {
    /// How many writes the percentile is of.
    pub const KEPT: usize = 256;

    /// Of the times of the newest writes, the newest last.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Option<LogWrites> {
        let mut times: Vec<Duration> = times.into_iter().collect();
        let last = *times.last()?;
        times.sort_unstable();
        let rank = (times.len() * 99).div_ceil(100);
        Some(LogWrites {
            last,
            p99: times[rank - 1],
        })
    }
}

/// All that the HTTP answers of one node are made of. The driver publishes a new one with every look at the server,
/// every turn of its loop and every renewal of the lease; cloning it is cheap.
#[derive(Debug, Clone)]
pub struct HealthSnapshot {
    /// This node's number.
    pub node: NodeId,
    /// This node's name, known before the cluster's state is.
    pub name: String,
    /// The newest replicated state that this node has applied.
    pub state: Arc<ClusterState>,
    /// The newest look at this node's own PostgreSQL; `None` on a witness, and before the first look.
    pub probe: Option<Probe>,
    /// This node's side of the lease, where it holds one.
    pub lease: Option<HeldLease>,
    /// A row of this node's epoch is acknowledged by the synchronous set: clients may be let in.
    pub gate_open: bool,
    /// This node is ending its server because its lease is over.
    pub fencing: bool,
    /// When the driver's loop last came round.
    pub heartbeat: MonoTime,
    /// The newest reports of all nodes, as this node has them.
    pub view: Arc<ClusterView>,
    /// The Raft leader as far as this node knows.
    pub raft_leader: Option<NodeId>,
    /// How long writes of the Raft log take to be safe on disk; `None` before the first.
    pub log_writes: Option<LogWrites>,
    /// The agent's version.
    pub agent_version: String,
}

/// One look at the server, and when it was taken.
#[derive(Debug, Clone)]
pub struct Probe {
    /// When the look began.
    pub at: MonoTime,
    /// What it showed.
    pub pg: Arc<PgObservation>,
}

/// A lease that this node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLease {
    /// The epoch that it is of.
    pub epoch: Epoch,
    /// When it is over, by whichever of the holder's clocks says so first.
    pub deadline: ClockReading,
}

/// The time of a request, on each clock that an answer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instants {
    /// For the lease.
    pub reading: ClockReading,
    /// For the age of a probe and of the loop's last turn.
    pub mono: MonoTime,
}

/// What is sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAnswer {
    /// The HTTP status code.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The body of a GET; HEAD and OPTIONS get the headers alone.
    pub body: String,
}

const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl HealthAnswer {
    fn json(status: u16, body: &Value) -> HealthAnswer {
        HealthAnswer {
            status,
            content_type: JSON,
            body: body.to_string(),
        }
    }
}

/// Answers a request for `path` with the raw query string `query` (without the question mark).
///
/// A path that is not known is 404, a parameter that is not understood 400; both say what would be.
#[must_use]
pub fn respond(path: &str, query: &str, snapshot: &HealthSnapshot, now: Instants) -> HealthAnswer {
    let Some(endpoint) = Endpoint::of_path(path) else {
        return HealthAnswer::json(404, &json!({ "error": "no such path", "paths": Endpoint::PATHS }));
    };
    match Query::parse(query) {
        Ok(query) => answer(endpoint, &query, snapshot, now),
        Err(bad) => HealthAnswer::json(
            400,
            &json!({ "error": bad.to_string(), "parameter": bad.parameter }),
        ),
    }
}

/// Answers one endpoint.
#[must_use]
pub fn answer(endpoint: Endpoint, query: &Query, snapshot: &HealthSnapshot, now: Instants) -> HealthAnswer {
    match endpoint {
        Endpoint::Cluster => HealthAnswer::json(200, &body::cluster(snapshot, now)),
        Endpoint::History => HealthAnswer::json(200, &body::history(snapshot)),
        Endpoint::Config => HealthAnswer::json(200, &body::settings(snapshot)),
        Endpoint::Metrics => HealthAnswer {
            status: 200,
            content_type: METRICS,
            body: metrics::text(snapshot, now),
        },
        Endpoint::Node => HealthAnswer::json(200, &body::node(snapshot, now, None)),
        Endpoint::Primary
        | Endpoint::Leader
        | Endpoint::StandbyLeader
        | Endpoint::Replica
        | Endpoint::ReadOnly
        | Endpoint::Sync
        | Endpoint::Async
        | Endpoint::Quorum
        | Endpoint::ReadOnlySync
        | Endpoint::ReadOnlyQuorum
        | Endpoint::Health
        | Endpoint::Liveness
        | Endpoint::Readiness => {
            let shut = checks::first_shut(endpoint, query, snapshot, now);
            let status = if shut.is_none() { 200 } else { 503 };
            HealthAnswer::json(status, &body::node(snapshot, now, shut.as_ref()))
        }
    }
}
