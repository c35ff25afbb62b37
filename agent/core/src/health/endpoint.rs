/// What a path asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Would a write be accepted here, now?
    Primary,
    /// Does this node hold the lease, whether or not its clients are let in yet?
    Leader,
    /// Is this the leader of a standby cluster? There are none: always 503.
    StandbyLeader,
    /// Is this a running standby, near enough to the primary?
    Replica,
    /// Can this node be read from: the primary or a standby?
    ReadOnly,
    /// A standby of the synchronous set that streams?
    Sync,
    /// A standby outside of the synchronous set?
    Async,
    /// The same as [`Endpoint::Sync`]: our synchronous sets are quorums.
    Quorum,
    /// The primary, or a standby of the synchronous set?
    ReadOnlySync,
    /// The same as [`Endpoint::ReadOnlySync`].
    ReadOnlyQuorum,
    /// Does the server answer?
    Health,
    /// Does the agent's loop turn?
    Liveness,
    /// Is this node of use: the primary, or a standby that streams and keeps up?
    Readiness,
    /// All about this node, always 200.
    Node,
    /// The members.
    Cluster,
    /// The epochs.
    History,
    /// The cluster's settings.
    Config,
    /// For Prometheus.
    Metrics,
}

impl Endpoint {
    /// Every path that is answered, with `/primary` for the plain `/`.
    pub const PATHS: [&str; 25] = [
        "/",
        "/primary",
        "/read-write",
        "/leader",
        "/standby-leader",
        "/replica",
        "/read-only",
        "/sync",
        "/synchronous",
        "/async",
        "/asynchronous",
        "/quorum",
        "/read-only-sync",
        "/read-only-quorum",
        "/health",
        "/liveness",
        "/readiness",
        "/patroni",
        "/status",
        "/cluster",
        "/history",
        "/config",
        "/metrics",
        "/master",
        "/standby_leader",
    ];

    /// The endpoint of a path; one slash at its end is forgiven.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Endpoint> {
        let path = if path.len() > 1 {
            path.strip_suffix('/').unwrap_or(path)
        } else {
            path
        };
        Some(match path {
            // The last is an old name that load balancers still ask for.
            "/" | "/primary" | "/read-write" | "/master" => Endpoint::Primary,
            "/leader" => Endpoint::Leader,
            "/standby-leader" | "/standby_leader" => Endpoint::StandbyLeader,
            "/replica" => Endpoint::Replica,
            "/read-only" => Endpoint::ReadOnly,
            "/sync" | "/synchronous" => Endpoint::Sync,
            "/async" | "/asynchronous" => Endpoint::Async,
            "/quorum" => Endpoint::Quorum,
            "/read-only-sync" => Endpoint::ReadOnlySync,
            "/read-only-quorum" => Endpoint::ReadOnlyQuorum,
            "/health" => Endpoint::Health,
            "/liveness" => Endpoint::Liveness,
            "/readiness" => Endpoint::Readiness,
            "/patroni" | "/status" => Endpoint::Node,
            "/cluster" => Endpoint::Cluster,
            "/history" => Endpoint::History,
            "/config" => Endpoint::Config,
            "/metrics" => Endpoint::Metrics,
            _ => return None,
        })
    }
}
