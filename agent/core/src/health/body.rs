//! The JSON bodies. Field names are Patroni's where Patroni has the fact; what is our own stands under `pgctl`.

use super::checks::Facts;
use super::{HealthSnapshot, Instants};
use crate::cluster::{Member, MemberKind};
use crate::ids::NodeId;
use crate::reason::Reason;
use crate::view::{NodeReport, PgObservation, PrimaryView, Server, StandbyView};
use serde_json::{Map, Value, json};

/// All about this node; `shut` is the condition that made the answer a 503.
pub(super) fn node(snapshot: &HealthSnapshot, now: Instants, shut: Option<&Reason>) -> Value {
    let facts = Facts { snapshot, now };
    let state = &snapshot.state;
    let mut body = Map::new();
    let pg = snapshot.probe.as_ref().map(|probe| probe.pg.as_ref());
    body.insert(
        "state".to_owned(),
        json!(pg.map_or("unknown", |pg| patroni_state(&pg.server))),
    );
    body.insert("role".to_owned(), json!(role(facts.is_witness(), pg)));
    if let Some(pg) = pg {
        describe_server(&mut body, pg);
    }
    if let Some(pause) = &state.pause {
        body.insert("pause".to_owned(), json!(true));
        body.insert("pause_reason".to_owned(), json!(pause.reason));
    }
    if state.holder.is_none() {
        body.insert("cluster_unlocked".to_owned(), json!(true));
    }
    if facts.in_synchronous_set() {
        body.insert("quorum_standby".to_owned(), json!(true));
    }
    if let Some(member) = state.members.get(&snapshot.node)
        && !member.tags.is_empty()
    {
        body.insert("tags".to_owned(), json!(member.tags));
    }
    if let Some(id) = state.system_id {
        body.insert("database_system_identifier".to_owned(), json!(id.to_string()));
    }
    body.insert(
        "patroni".to_owned(),
        json!({ "version": snapshot.agent_version, "scope": state.name, "name": snapshot.name }),
    );
    body.insert("pgctl".to_owned(), own_facts(&facts));
    body.insert(
        "reason".to_owned(),
        shut.map_or(
            Value::Null,
            |reason| json!({ "id": reason.id, "found": reason.found }),
        ),
    );
    Value::Object(body)
}

fn own_facts(facts: &Facts<'_>) -> Value {
    let snapshot = facts.snapshot;
    let state = &snapshot.state;
    json!({
        "version": snapshot.agent_version,
        "node": snapshot.node,
        "epoch": state.epoch,
        "holder": state.holder.map(|node| state.name_of(node)),
        "lease_left_ms": facts.lease_left().map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        "gate_open": snapshot.gate_open,
        "fencing": snapshot.fencing,
        "probe_age_ms": facts.probe_age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        "loop_age_ms": u64::try_from(facts.loop_age().as_millis()).unwrap_or(u64::MAX),
        "sync_mode": state.settings.sync_mode,
        "maintenance": state.maintenance.contains(&snapshot.node),
        "raft_leader": snapshot.raft_leader.map(|node| state.name_of(node)),
    })
}

fn describe_server(body: &mut Map<String, Value>, pg: &PgObservation) {
    body.insert("server_version".to_owned(), json!(pg.version_num));
    if !pg.pending_restart.is_empty() {
        body.insert("pending_restart".to_owned(), json!(true));
        body.insert("pending_restart_settings".to_owned(), json!(pg.pending_restart));
    }
    if let Some(trouble) = &pg.trouble {
        body.insert("trouble".to_owned(), json!(trouble));
    }
    match &pg.server {
        Server::Primary(primary) => {
            body.insert("timeline".to_owned(), json!(primary.position.timeline));
            body.insert("xlog".to_owned(), json!({ "location": primary.position.lsn.0 }));
            body.insert("replication".to_owned(), replication(primary));
        }
        Server::Standby(standby) => {
            body.insert("timeline".to_owned(), json!(standby.position.timeline));
            body.insert("replication_state".to_owned(), json!(replication_state(standby)));
            body.insert(
                "xlog".to_owned(),
                json!({
                    "received_location": standby.position.lsn.0,
                    "replayed_location": standby.replay.0,
                    "replay_age_ms": standby.replay_age_ms,
                    "paused": standby.replay_paused,
                }),
            );
        }
        Server::NoData
        | Server::Unusable { .. }
        | Server::Down
        | Server::Busy { .. }
        | Server::Starting
        | Server::Unresponsive { .. } => {}
    }
}

fn replication(primary: &PrimaryView) -> Value {
    let rows = primary.standbys.iter().map(|standby| {
        json!({
            "application_name": standby.application_name,
            "state": if standby.streaming { "streaming" } else { "catchup" },
            "sync_state": standby.sync_state,
            "flush_lag_bytes": primary.position.lsn.bytes_since(standby.flush),
            "replay_lag_bytes": primary.position.lsn.bytes_since(standby.replay),
        })
    });
    Value::Array(rows.collect())
}

fn replication_state(standby: &StandbyView) -> &'static str {
    match &standby.receiver {
        Some(receiver) if receiver.streaming => "streaming",
        _ => "in archive recovery",
    }
}

/// The members, in the form of Patroni's `/cluster`.
pub(super) fn cluster(snapshot: &HealthSnapshot, now: Instants) -> Value {
    let facts = Facts { snapshot, now };
    let members: Vec<Value> = snapshot
        .state
        .members
        .iter()
        .map(|(node, member)| member_row(&facts, *node, member))
        .collect();
    json!({
        "scope": snapshot.state.name,
        "members": members,
        "pause": snapshot.state.pause.is_some(),
        "epoch": snapshot.state.epoch,
    })
}

fn member_row(facts: &Facts<'_>, node: NodeId, member: &Member) -> Value {
    let state = &facts.snapshot.state;
    let report = facts.snapshot.view.reports.get(&node);
    let age = report.map(|(at, _)| facts.now.mono.since(*at));
    let known = age.is_some_and(|age| age <= facts.max_age());
    let pg = report
        .filter(|_| known)
        .and_then(|(_, report): &(_, NodeReport)| report.pg.as_ref());
    let (host, port) = member.postgres.rsplit_once(':').unwrap_or(("", ""));
    let in_sync = state
        .sync_rule()
        .is_some_and(|rule| rule.k > 0 && rule.members.contains(&node));
    let role = match (member.kind, state.holder == Some(node)) {
        (MemberKind::Witness, _) => "witness",
        (MemberKind::Data, true) => "leader",
        (MemberKind::Data, false) if in_sync => "quorum_standby",
        (MemberKind::Data, false) => "replica",
    };
    let shown = match (member.kind, pg) {
        (MemberKind::Witness, _) if known => "running",
        (
            _,
            Some(PgObservation {
                server: Server::Standby(standby),
                ..
            }),
        ) => replication_state(standby),
        (_, Some(pg)) => patroni_state(&pg.server),
        (_, None) => "unknown",
    };
    let mut row = Map::new();
    row.insert("name".to_owned(), json!(member.name));
    row.insert("role".to_owned(), json!(role));
    row.insert("state".to_owned(), json!(shown));
    row.insert(
        "api_url".to_owned(),
        json!(format!("http://{}/patroni", member.http)),
    );
    if member.kind == MemberKind::Data {
        row.insert("host".to_owned(), json!(host));
        row.insert("port".to_owned(), json!(port.parse::<u16>().ok()));
        let position = pg.and_then(PgObservation::position);
        row.insert(
            "timeline".to_owned(),
            json!(position.map(|position| position.timeline)),
        );
        if state.holder != Some(node) {
            let lag = facts
                .holder_end()
                .zip(position)
                .map(|(end, here)| end.bytes_since(here.lsn));
            row.insert("lag".to_owned(), lag.map_or(json!("unknown"), |lag| json!(lag)));
        }
    }
    if !member.tags.is_empty() {
        row.insert("tags".to_owned(), json!(member.tags));
    }
    row.insert(
        "report_age_ms".to_owned(),
        json!(age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
    );
    Value::Object(row)
}

/// The epochs, oldest first.
pub(super) fn history(snapshot: &HealthSnapshot) -> Value {
    let rows = snapshot.state.history.iter().map(|record| {
        json!({
            "epoch": record.epoch,
            "timeline": record.timeline,
            "lsn": record.position.map(|position| position.lsn.0),
            "reason": record.why,
            "cause": record.cause,
            "granted_at_ms": record.granted_at,
            "opened_at_ms": record.opened_at,
            "new_leader": record.holder_name,
            "may_have_lost_bytes": record.may_have_lost_bytes,
        })
    });
    Value::Array(rows.collect())
}

/// The cluster's settings.
pub(super) fn settings(snapshot: &HealthSnapshot) -> Value {
    serde_json::to_value(&snapshot.state.settings).unwrap_or(Value::Null)
}

fn role(witness: bool, pg: Option<&PgObservation>) -> &'static str {
    match pg.map(|pg| &pg.server) {
        _ if witness => "witness",
        Some(Server::Primary(_)) => "primary",
        Some(Server::Standby(_)) => "replica",
        Some(
            Server::NoData
            | Server::Unusable { .. }
            | Server::Down
            | Server::Busy { .. }
            | Server::Starting
            | Server::Unresponsive { .. },
        )
        | None => "uninitialized",
    }
}

/// The word that Patroni's `state` has for a server's condition.
fn patroni_state(server: &Server) -> &'static str {
    match server {
        Server::NoData | Server::Down => "stopped",
        Server::Unusable { .. } => "start failed",
        Server::Busy { job } if job == "initdb" => "initializing new cluster",
        Server::Busy { .. } => "creating replica",
        Server::Starting => "starting",
        Server::Standby(_) | Server::Primary(_) => "running",
        Server::Unresponsive { .. } => "crashed",
    }
}
