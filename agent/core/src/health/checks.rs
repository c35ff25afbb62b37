//! The conditions behind each status code, as reasons with ids of their own.

use super::{Endpoint, HealthSnapshot, Instants, Query};
use crate::cluster::MemberKind;
use crate::pg::Lsn;
use crate::reason::Reason;
use crate::view::{PrimaryView, Server, StandbyView};
use std::time::Duration;

/// A look at the server, or a turn of the loop, older than this is no longer believed: 3 s, or the length of the lease
/// where that is longer.
pub const PROBE_MAX_AGE: Duration = Duration::from_secs(3);

/// `/primary` turns 503 this part of the lease before its end (one tenth): a client that is told yes still gets there.
pub const LEASE_MARGIN_PART: u32 = 10;

type Check = Result<(), Reason>;

/// The first condition of `endpoint` that is not met; `None` if all are and the answer is 200.
pub(super) fn first_shut(
    endpoint: Endpoint,
    query: &Query,
    snapshot: &HealthSnapshot,
    now: Instants,
) -> Option<Reason> {
    let facts = Facts { snapshot, now };
    let met = match endpoint {
        Endpoint::Primary => facts.tagged(query).and_then(|()| facts.primary()),
        Endpoint::Leader => facts.tagged(query).and_then(|()| facts.leader()),
        Endpoint::StandbyLeader => Err(shut("no-standby-cluster", "this is no standby cluster")),
        Endpoint::Replica => facts.tagged(query).and_then(|()| facts.replica(query)),
        Endpoint::ReadOnly => facts
            .tagged(query)
            .and_then(|()| facts.primary().or_else(|_| facts.replica(query))),
        Endpoint::Sync | Endpoint::Quorum => facts.tagged(query).and_then(|()| facts.sync(query)),
        Endpoint::ReadOnlySync | Endpoint::ReadOnlyQuorum => facts
            .tagged(query)
            .and_then(|()| facts.primary().or_else(|_| facts.sync(query))),
        Endpoint::Async => facts.tagged(query).and_then(|()| facts.asynchronous(query)),
        Endpoint::Health => facts.server_answers(),
        Endpoint::Liveness => facts.loop_turns(),
        Endpoint::Readiness => facts.ready(query),
        Endpoint::Node | Endpoint::Cluster | Endpoint::History | Endpoint::Config | Endpoint::Metrics => {
            Ok(())
        }
    };
    met.err()
}

fn shut(id: &str, found: impl Into<String>) -> Reason {
    Reason::shut(id, found, "")
}

/// A snapshot at an instant, and what can be asked of it.
pub(super) struct Facts<'a> {
    pub(super) snapshot: &'a HealthSnapshot,
    pub(super) now: Instants,
}

impl<'a> Facts<'a> {
    /// The oldest age at which a probe or the loop's last turn is believed.
    pub(super) fn max_age(&self) -> Duration {
        PROBE_MAX_AGE.max(self.snapshot.state.settings.timing.lease())
    }

    /// How long ago the server was last looked at.
    pub(super) fn probe_age(&self) -> Option<Duration> {
        self.snapshot
            .probe
            .as_ref()
            .map(|probe| self.now.mono.since(probe.at))
    }

    /// How long ago the loop last came round.
    pub(super) fn loop_age(&self) -> Duration {
        self.now.mono.since(self.snapshot.heartbeat)
    }

    /// Time left of the lease, if this node holds the one of the newest epoch; zero once it is over.
    pub(super) fn lease_left(&self) -> Option<Duration> {
        let state = &self.snapshot.state;
        let lease = self.snapshot.lease?;
        let mine = lease.epoch == state.epoch && state.holder == Some(self.snapshot.node);
        mine.then(|| self.now.reading.until_any(lease.deadline))
    }

    /// The server as the newest look showed it, if that look is new enough to be believed.
    pub(super) fn fresh_server(&self) -> Result<&'a Server, Reason> {
        const ID: &str = "probe-is-fresh";
        let Some(probe) = &self.snapshot.probe else {
            return Err(shut(
                ID,
                if self.is_witness() {
                    "a witness has no server"
                } else {
                    "no look was taken yet"
                },
            ));
        };
        let age = self.now.mono.since(probe.at);
        if age > self.max_age() {
            return Err(shut(
                ID,
                format!("the server was last looked at {} ms ago", age.as_millis()),
            ));
        }
        Ok(&probe.pg.server)
    }

    /// Whether this node is a witness.
    pub(super) fn is_witness(&self) -> bool {
        let member = self.snapshot.state.members.get(&self.snapshot.node);
        member.is_some_and(|member| member.kind == MemberKind::Witness)
    }

    fn primary(&self) -> Check {
        self.leader()?;
        if !self.snapshot.gate_open {
            return Err(shut(
                "client-gate-is-open",
                "no row of this epoch is acknowledged by the synchronous set yet",
            ));
        }
        if self.running_primary()?.read_only {
            return Err(shut("server-takes-writes", "default_transaction_read_only is on"));
        }
        Ok(())
    }

    fn leader(&self) -> Check {
        const ID: &str = "lease-is-held";
        let state = &self.snapshot.state;
        if self.snapshot.fencing {
            return Err(shut("not-fencing", "this node is ending its server"));
        }
        let Some(left) = self.lease_left() else {
            let holder = state
                .holder
                .map_or_else(|| "no node".to_owned(), |node| state.name_of(node));
            return Err(shut(ID, format!("epoch {} is held by {holder}", state.epoch)));
        };
        let margin = state.settings.timing.lease() / LEASE_MARGIN_PART;
        if left <= margin {
            return Err(shut(
                ID,
                format!("the lease has {} ms left, too few to serve", left.as_millis()),
            ));
        }
        Ok(())
    }

    fn running_primary(&self) -> Result<&'a PrimaryView, Reason> {
        match self.fresh_server()? {
            Server::Primary(primary) => Ok(primary),
            other => Err(shut(
                "server-is-primary",
                format!("the server is {}", condition(other)),
            )),
        }
    }

    fn standby(&self) -> Result<&'a StandbyView, Reason> {
        match self.fresh_server()? {
            Server::Standby(standby) => Ok(standby),
            other => Err(shut(
                "server-is-standby",
                format!("the server is {}", condition(other)),
            )),
        }
    }

    fn replica(&self, query: &Query) -> Check {
        let standby = self.standby()?;
        if self.snapshot.state.restores.running.is_some() {
            return Err(shut(
                "no-restore-in-the-way",
                "the cluster is being restored: what can be read is for those who look at it",
            ));
        }
        let member = self.snapshot.state.members.get(&self.snapshot.node);
        let kept_out = member
            .and_then(|member| member.tags.get("noloadbalance"))
            .is_some_and(|tag| tag == "true");
        if kept_out {
            return Err(shut("takes-load", "the tag noloadbalance is set"));
        }
        if query.streaming {
            streams(standby)?;
        }
        self.near_enough(standby, query.lag_bytes, query.by_received)
    }

    fn sync(&self, query: &Query) -> Check {
        self.replica(query)?;
        streams(self.standby()?)?;
        if self.in_synchronous_set() {
            Ok(())
        } else {
            Err(shut(
                "in-synchronous-set",
                "this node is not in the synchronous set",
            ))
        }
    }

    fn asynchronous(&self, query: &Query) -> Check {
        self.replica(query)?;
        if self.in_synchronous_set() {
            Err(shut(
                "outside-synchronous-set",
                "this node is in the synchronous set",
            ))
        } else {
            Ok(())
        }
    }

    fn server_answers(&self) -> Check {
        match self.fresh_server()? {
            Server::Primary(_) | Server::Standby(_) => Ok(()),
            other => Err(shut(
                "server-answers",
                format!("the server is {}", condition(other)),
            )),
        }
    }

    fn loop_turns(&self) -> Check {
        // Who paused the automation may be debugging the agent: nothing shall restart it under their hands.
        if self.snapshot.state.pause.is_some() || self.loop_age() <= self.max_age() {
            return Ok(());
        }
        Err(shut(
            "loop-turns",
            format!(
                "the agent's loop last came round {} ms ago",
                self.loop_age().as_millis()
            ),
        ))
    }

    fn ready(&self, query: &Query) -> Check {
        if self.is_witness() {
            return self.loop_turns();
        }
        let Err(not_primary) = self.primary() else {
            return Ok(());
        };
        if matches!(self.fresh_server()?, Server::Primary(_)) {
            return Err(not_primary);
        }
        let standby = self.standby()?;
        streams(standby)?;
        let bound = query
            .lag_bytes
            .unwrap_or(self.snapshot.state.settings.max_lag_bytes);
        self.near_enough(standby, Some(bound), query.by_received)
    }

    fn tagged(&self, query: &Query) -> Check {
        let tags = self
            .snapshot
            .state
            .members
            .get(&self.snapshot.node)
            .map(|member| &member.tags);
        for (name, wanted) in &query.tags {
            let found = tags.and_then(|tags| tags.get(name));
            if found != Some(wanted) {
                let found = found.map_or("not set", String::as_str);
                return Err(shut(
                    "tags-match",
                    format!("the tag {name} is {found}, not {wanted}"),
                ));
            }
        }
        Ok(())
    }

    fn near_enough(&self, standby: &StandbyView, bound: Option<u64>, by_received: bool) -> Check {
        const ID: &str = "lag-is-within-bound";
        let Some(bound) = bound else { return Ok(()) };
        let here = if by_received {
            standby.position.lsn
        } else {
            standby.replay
        };
        match self.primary_end(standby) {
            None => Err(shut(
                ID,
                "nothing was heard of the primary's WAL, so the lag is unknown",
            )),
            Some(end) if end.bytes_since(here) > bound => Err(shut(
                ID,
                format!("{} bytes behind, {bound} are allowed", end.bytes_since(here)),
            )),
            Some(_) => Ok(()),
        }
    }

    /// The furthest end of the primary's WAL that this node heard of: by the holder's report, or by its own walreceiver.
    pub(super) fn primary_end(&self, standby: &StandbyView) -> Option<Lsn> {
        let told = standby.receiver.as_ref().map(|receiver| receiver.latest_end);
        self.holder_end().max(told)
    }

    /// The end of the WAL of the running primary, as its last report tells.
    pub(super) fn holder_end(&self) -> Option<Lsn> {
        let (_, report) = self.snapshot.view.reports.get(&self.snapshot.state.holder?)?;
        match &report.pg.as_ref()?.server {
            Server::Primary(primary) => Some(primary.position.lsn),
            _ => None,
        }
    }

    /// Whether commits of the newest epoch may wait for this node.
    pub(super) fn in_synchronous_set(&self) -> bool {
        let rule = self.snapshot.state.sync_rule();
        rule.is_some_and(|rule| rule.k > 0 && rule.members.contains(&self.snapshot.node))
    }
}

fn streams(standby: &StandbyView) -> Check {
    if standby
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.streaming)
    {
        Ok(())
    } else {
        Err(shut("streams", "the standby does not stream from its upstream"))
    }
}

/// A server's condition in a few words.
pub(super) fn condition(server: &Server) -> String {
    match server {
        Server::NoData => "without data".to_owned(),
        Server::Unusable { why } => format!("unusable: {why}"),
        Server::Down => "down".to_owned(),
        Server::Busy { job } => format!("busy with {job}"),
        Server::Starting => "starting".to_owned(),
        Server::Standby(_) => "a standby".to_owned(),
        Server::Primary(_) => "a primary".to_owned(),
        Server::Unresponsive { why } => format!("not answering: {why}"),
    }
}
