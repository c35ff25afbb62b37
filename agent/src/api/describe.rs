//! The cluster as `pgctl` shows it: the replicated state with what was last heard of each node.

use super::milliseconds;
use crate::ports::{Consensus, Overview};
use agent_core::cluster::{
    Cause, ClusterState, EpochRecord, FailoverRisk, Member, MemberKind, SwitchoverPhase, SyncMode,
    sync_mode_name,
};
use agent_core::decide::node::AILMENTS;
use agent_core::ids::NodeId;
use agent_core::pg::{Lsn, Position};
use agent_core::reason::Reason;
use agent_core::view::{
    ClusterView, FenceLayer, FenceLayerState, NodeReport, PgObservation, Server, WatchdogReport,
    WatchdogState,
};
use agent_core::vitals::Disk;
use proto::control as wire;
use std::time::Duration;

/// A report older than this counts as silence.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// What is known of the cluster here, now.
pub(super) fn cluster(consensus: &dyn Consensus, overview: &dyn Overview) -> wire::Cluster {
    let state = consensus.state();
    let view = overview.view();
    let facts = Facts {
        state: &state,
        view: &view,
        raft_leader: consensus.raft_leader(),
        overview,
    };
    let name = |node: NodeId| state.name_of(node);
    wire::Cluster {
        name: state.name.clone(),
        cluster_id: state.cluster_id.clone(),
        system_id: state.system_id.map(|id| id.to_string()).unwrap_or_default(),
        epoch: state.epoch.0,
        holder: state.holder.map(name).unwrap_or_default(),
        timeline: state.timeline.0,
        writable: facts.writable(),
        raft_leader: facts.raft_leader.map(name).unwrap_or_default(),
        members: state
            .members
            .iter()
            .map(|(node, member)| facts.member(*node, member))
            .collect(),
        restore: state
            .restores
            .running
            .as_ref()
            .map_or_else(String::new, |running| {
                format!("{} on {}", running.phase.name(), name(running.node))
            }),
        sync: Some(sync_set(&state)),
        pause: state.pause.as_ref().map(|pause| wire::PauseState {
            reason: pause.reason.clone(),
            since_unix_ms: pause.since.0,
        }),
        switchover: state.switchover.as_ref().map(|running| wire::SwitchoverState {
            request: running.request.0.clone(),
            from: name(running.from),
            to: name(running.to),
            phase: phase_name(running.phase).to_owned(),
            since_unix_ms: running.since.0,
        }),
        last_switchover: state
            .last_switchover
            .as_ref()
            .map(|last| wire::SwitchoverOutcome {
                request: last.request.0.clone(),
                from: name(last.from),
                to: name(last.to),
                succeeded: last.succeeded,
                message: last.message.clone(),
            }),
        failover_order: state.failover_order.as_ref().map(|order| wire::FailoverOrder {
            request: order.request.0.clone(),
            to: name(order.to),
            accept_data_loss: order.accept_data_loss,
            since_unix_ms: order.since.0,
        }),
        history: state.history.iter().map(epoch_record).collect(),
        answered_by: name(consensus.node_id()),
        applied_index: consensus.applied_index(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

struct Facts<'a> {
    state: &'a ClusterState,
    view: &'a ClusterView,
    raft_leader: Option<NodeId>,
    overview: &'a dyn Overview,
}

impl Facts<'_> {
    fn report(&self, node: NodeId) -> Option<&NodeReport> {
        self.view.reports.get(&node).map(|(_, report)| report)
    }

    fn writable(&self) -> bool {
        let Some(holder) = self.state.holder else {
            return false;
        };
        let held = self.report(holder).and_then(|report| report.holder);
        let age = self.overview.report_age(holder);
        held.zip(age)
            .is_some_and(|(held, age)| held.epoch == self.state.epoch && held.gate_open && held.left > age)
    }

    fn primary_end(&self) -> Option<Lsn> {
        let holder = self.state.holder?;
        match &self.report(holder)?.pg.as_ref()?.server {
            Server::Primary(primary) => Some(primary.position.lsn),
            _ => None,
        }
    }

    fn member(&self, node: NodeId, member: &Member) -> wire::Member {
        let report = self.report(node);
        let age = self.overview.report_age(node);
        let pg = report.and_then(|report| report.pg.as_ref());
        let server = pg.map(|pg| &pg.server);
        let position = pg.and_then(PgObservation::position);
        let standby = match server {
            Some(Server::Standby(standby)) => Some(standby),
            _ => None,
        };
        let end = self.primary_end();
        let behind = |here: Option<Lsn>| end.zip(here).map(|(end, here)| end.bytes_since(here));
        let held = report
            .and_then(|report| report.holder)
            .filter(|held| held.epoch == self.state.epoch);
        let fencing = report.and_then(|report| report.fencing.as_ref());
        wire::Member {
            id: node.0,
            name: member.name.clone(),
            kind: kind_name(member.kind).to_owned(),
            role: role(member.kind, server).to_owned(),
            state: condition(member.kind, age, server).to_owned(),
            peer: member.peer.clone(),
            http: member.http.clone(),
            postgres: member.postgres.clone(),
            tags: member.tags.clone(),
            nofailover: member.nofailover,
            maintenance: self.state.maintenance.contains(&node),
            holder: self.state.holder == Some(node),
            raft_leader: self.raft_leader == Some(node),
            voter: self.state.voters.all().contains(&node),
            in_sync_set: self
                .state
                .sync_rule()
                .is_some_and(|rule| rule.k > 0 && rule.members.contains(&node)),
            timeline: position.map(|position| position.timeline.0),
            lsn: position.map(|position| position.lsn.to_string()),
            replay_lsn: standby.map(|standby| standby.replay.to_string()),
            lag_bytes: standby.and_then(|standby| behind(Some(standby.position.lsn))),
            replay_lag_bytes: standby.and_then(|standby| behind(Some(standby.replay))),
            replay_age_ms: standby.and_then(|standby| standby.replay_age_ms),
            upstream: standby
                .and_then(|standby| standby.upstream.as_ref())
                .map(|upstream| format!("{}:{}", upstream.host, upstream.port))
                .unwrap_or_default(),
            report_age_ms: age.map(milliseconds),
            trouble: pg.and_then(|pg| pg.trouble.clone()).unwrap_or_default(),
            pending_restart: pg.map(|pg| pg.pending_restart.clone()).unwrap_or_default(),
            version_num: pg.map(|pg| pg.version_num).unwrap_or_default(),
            agent_version: report
                .map(|report| report.agent_version.clone())
                .unwrap_or_default(),
            lease_left_ms: held.map(|held| milliseconds(held.left.saturating_sub(age.unwrap_or_default()))),
            gate_open: held.map(|held| held.gate_open),
            applied_index: report.map(|report| report.applied).unwrap_or_default(),
            disks: pg
                .map(|pg| pg.vitals.disks.iter().map(disk).collect())
                .unwrap_or_default(),
            ailments: report.map(ailments).unwrap_or_default(),
            fenced: self.state.fenced.get(&node).map(|fence| wire::FenceState {
                reason: fence.reason.clone(),
                since_unix_ms: fence.since.0,
            }),
            watchdog: report.and_then(|report| report.watchdog.as_ref()).map(watchdog),
            guard: fencing.map(|fencing| fence_layer(&fencing.guard)),
            kernel_lease: fencing.map(|fencing| fence_layer(&fencing.kernel_lease)),
        }
    }
}

fn disk(disk: &Disk) -> wire::Disk {
    wire::Disk {
        path: disk.path.clone(),
        data: disk.data,
        wal: disk.wal,
        free_bytes: disk.free_bytes,
        total_bytes: disk.total_bytes,
        ballast_bytes: disk.ballast_bytes,
    }
}

/// What the node's own decision found by its probes.
fn ailments(report: &NodeReport) -> Vec<String> {
    let ails = |reason: &&Reason| AILMENTS.contains(&reason.id.as_str()) && !reason.open;
    report
        .explain
        .iter()
        .filter(ails)
        .map(|reason| reason.found.clone())
        .collect()
}

fn sync_set(state: &ClusterState) -> wire::SyncSet {
    let rule = state.sync_rule();
    let required = rule.map(|rule| rule.k).unwrap_or_default();
    wire::SyncSet {
        mode: sync_mode_name(state.settings.sync_mode).to_owned(),
        required,
        members: rule
            .map(|rule| rule.members.iter().map(|node| state.name_of(*node)).collect())
            .unwrap_or_default(),
        changing: state.sync_unsettled(),
        degraded: state.settings.sync_mode != SyncMode::Async && required < state.settings.sync_standbys,
    }
}

fn epoch_record(record: &EpochRecord) -> wire::EpochRecord {
    wire::EpochRecord {
        epoch: record.epoch.0,
        holder: record.holder_name.clone(),
        cause: cause_name(record.cause).to_owned(),
        why: record.why.clone(),
        proof: record.proof.clone(),
        timeline: record.timeline.0,
        lsn: record.position.map(|position| position.lsn.to_string()),
        granted_at_unix_ms: record.granted_at.0,
        opened_at_unix_ms: record.opened_at.map(|at| at.0),
        may_have_lost_bytes: record.may_have_lost_bytes,
        stonith: record
            .stonith
            .iter()
            .map(|proof| wire::StonithProof {
                node: record.holder_name.clone(),
                by: proof.by.clone(),
                device: proof.device.clone(),
                exit_code: proof.exit_code,
                output: proof.output.clone(),
                began_at_unix_ms: proof.began.0,
                at_unix_ms: proof.at.0,
            })
            .collect(),
    }
}

fn fence_layer(layer: &FenceLayer) -> wire::FenceLayer {
    let state = match layer.state {
        FenceLayerState::On => "on",
        FenceLayerState::Off => "off",
        FenceLayerState::Missing => "missing",
    };
    wire::FenceLayer {
        state: state.to_owned(),
        detail: layer.detail.clone(),
    }
}

fn watchdog(report: &WatchdogReport) -> wire::WatchdogState {
    let state = match report.state {
        WatchdogState::Armed => "armed",
        WatchdogState::Ready => "ready",
        WatchdogState::Absent => "absent",
    };
    wire::WatchdogState {
        state: state.to_owned(),
        required: report.required,
        timeout_s: report.timeout_s,
        detail: report.detail.clone(),
    }
}

/// One gate of a decision.
pub(super) fn gate(reason: Reason) -> wire::Gate {
    wire::Gate {
        id: reason.id,
        open: reason.open,
        found: reason.found,
        next: reason.next,
    }
}

/// What a failover would lose.
pub(super) fn risk(state: &ClusterState, risk: &FailoverRisk) -> wire::FailoverRisk {
    let lsn = |position: Option<Position>| position.map(|position| position.lsn.to_string());
    wire::FailoverRisk {
        to: state.name_of(risk.target),
        target_lsn: lsn(risk.target_position),
        target_timeline: risk.target_position.map(|position| position.timeline.0),
        target_report_age_ms: risk.target_age.map(milliseconds),
        primary_lsn: lsn(risk.primary_position),
        primary_report_age_ms: risk.primary_age.map(milliseconds),
        bytes_at_risk: risk.bytes,
        span_at_risk_ms: risk.span.map(milliseconds),
        acknowledged_is_safe: risk.acknowledged_is_safe,
        target_ready: risk.target_ready,
    }
}

fn kind_name(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Data => "data",
        MemberKind::Witness => "witness",
    }
}

fn phase_name(phase: SwitchoverPhase) -> &'static str {
    match phase {
        SwitchoverPhase::Preparing => "preparing",
        SwitchoverPhase::Stopping => "stopping",
    }
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Creation => "creation",
        Cause::Failover => "failover",
        Cause::Switchover => "switchover",
        Cause::ManualFailover => "manual-failover",
        Cause::Renewal => "renewal",
        Cause::PledgeRepair => "pledge-repair",
        Cause::Restore => "restore",
    }
}

fn role(kind: MemberKind, server: Option<&Server>) -> &'static str {
    match (kind, server) {
        (MemberKind::Witness, _) => "witness",
        (MemberKind::Data, Some(Server::Primary(_))) => "primary",
        (MemberKind::Data, Some(Server::Standby(_))) => "standby",
        (MemberKind::Data, _) => "unknown",
    }
}

fn condition(kind: MemberKind, age: Option<Duration>, server: Option<&Server>) -> &'static str {
    match (age, server) {
        (None, _) => "unknown",
        (Some(age), _) if age > SILENT_AFTER => "silent",
        (Some(_), None) if kind == MemberKind::Witness => "running",
        (Some(_), None) => "unknown",
        (Some(_), Some(server)) => match server {
            Server::Primary(_) => "running",
            Server::Standby(standby) => match &standby.receiver {
                Some(receiver) if receiver.streaming => "streaming",
                Some(_) => "catching-up",
                None => "running",
            },
            Server::Starting => "starting",
            Server::Down => "down",
            Server::NoData => "no-data",
            Server::Unusable { .. } => "unusable",
            Server::Busy { .. } => "busy",
            Server::Unresponsive { .. } => "unresponsive",
        },
    }
}
