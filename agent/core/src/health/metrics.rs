//! `/metrics`, in Prometheus' text format. Names end in their unit; every series carries the labels `scope` and `name`.

use super::checks::Facts;
use super::{HealthSnapshot, Instants};
use crate::cluster::{Cause, DutyKind, DutyOutcome, DutyRecord};
use crate::view::Server;
use crate::vitals::{Disk, Pulse, Vitals};
use std::fmt::Write;
use std::time::Duration;

/// All series of this node.
pub(super) fn text(snapshot: &HealthSnapshot, now: Instants) -> String {
    let facts = Facts { snapshot, now };
    let mut page = Page::new(&snapshot.state.name, &snapshot.name);
    agent(&mut page, &facts);
    lease(&mut page, &facts);
    server(&mut page, &facts);
    archive(&mut page, &facts);
    cluster(&mut page, &facts);
    page.text
}

fn agent(page: &mut Page, facts: &Facts<'_>) {
    let snapshot = facts.snapshot;
    page.labelled(
        "pgctl_agent_info",
        "The agent's version.",
        [(vec![("version", snapshot.agent_version.clone())], 1.0)],
    );
    page.gauge(
        "pgctl_loop_age_seconds",
        "Time since the agent's loop last came round.",
        seconds(facts.loop_age()),
    );
    if let Some(age) = facts.probe_age() {
        page.gauge(
            "pgctl_probe_age_seconds",
            "Time since the last look at the server.",
            seconds(age),
        );
    }
    if let Some(writes) = snapshot.log_writes {
        page.gauge(
            "pgctl_raft_log_fsync_seconds",
            "How long the last write of the Raft log took to be safe on disk.",
            seconds(writes.last),
        );
        page.gauge(
            "pgctl_raft_log_fsync_p99_seconds",
            "The 99th percentile of the last 256 writes of the Raft log.",
            seconds(writes.p99),
        );
    }
    let leads = snapshot.raft_leader == Some(snapshot.node);
    page.gauge("pgctl_raft_leader", "1 on the Raft leader.", truth(leads));
}

fn lease(page: &mut Page, facts: &Facts<'_>) {
    let snapshot = facts.snapshot;
    let left = facts.lease_left();
    page.gauge(
        "pgctl_epoch",
        "The newest epoch that this node knows.",
        count(snapshot.state.epoch.0),
    );
    page.gauge(
        "pgctl_lease_held",
        "1 where this node holds the lease.",
        truth(left.is_some_and(|left| !left.is_zero())),
    );
    page.gauge(
        "pgctl_lease_left_seconds",
        "Time left of the lease; 0 without one.",
        seconds(left.unwrap_or_default()),
    );
    page.gauge(
        "pgctl_client_gate_open",
        "1 where clients may write.",
        truth(snapshot.gate_open),
    );
    page.gauge(
        "pgctl_fencing",
        "1 while the node ends its server.",
        truth(snapshot.fencing),
    );
}

fn server(page: &mut Page, facts: &Facts<'_>) {
    let shown = facts.fresh_server().ok();
    let running = matches!(shown, Some(Server::Primary(_) | Server::Standby(_)));
    page.gauge(
        "pgctl_postgres_running",
        "1 if the server answers.",
        truth(running),
    );
    let primary = matches!(shown, Some(Server::Primary(_)));
    page.gauge(
        "pgctl_postgres_primary",
        "1 if the server is out of recovery.",
        truth(primary),
    );
    if let Some(probe) = &facts.snapshot.probe {
        page.gauge(
            "pgctl_postgres_version_num",
            "server_version_num.",
            f64::from(probe.pg.version_num),
        );
        let waiting = u64::try_from(probe.pg.pending_restart.len()).unwrap_or(u64::MAX);
        page.gauge(
            "pgctl_postgres_pending_restart_settings",
            "Settings that wait for a restart.",
            count(waiting),
        );
    }
    if let Some(probe) = &facts.snapshot.probe {
        vitals(page, &probe.pg.vitals);
    }
    match shown {
        Some(Server::Primary(view)) => {
            page.gauge(
                "pgctl_postgres_timeline",
                "The current timeline.",
                f64::from(view.position.timeline.0),
            );
            page.gauge(
                "pgctl_postgres_wal_bytes",
                "End of the durable WAL.",
                count(view.position.lsn.0),
            );
            let name = |standby: &crate::view::StandbyConnection| {
                vec![("standby", standby.application_name.clone())]
            };
            let end = view.position.lsn;
            page.labelled(
                "pgctl_replication_flush_lag_bytes",
                "WAL that a connected standby does not have on disk.",
                view.standbys
                    .iter()
                    .map(|standby| (name(standby), count(end.bytes_since(standby.flush)))),
            );
            page.labelled(
                "pgctl_replication_replay_lag_bytes",
                "WAL that a connected standby has not replayed.",
                view.standbys
                    .iter()
                    .map(|standby| (name(standby), count(end.bytes_since(standby.replay)))),
            );
        }
        Some(Server::Standby(view)) => {
            page.gauge(
                "pgctl_postgres_timeline",
                "The current timeline.",
                f64::from(view.position.timeline.0),
            );
            page.gauge(
                "pgctl_postgres_wal_bytes",
                "End of the durable WAL.",
                count(view.position.lsn.0),
            );
            page.gauge(
                "pgctl_postgres_replayed_wal_bytes",
                "End of the replayed WAL.",
                count(view.replay.0),
            );
            let streams = view.receiver.as_ref().is_some_and(|receiver| receiver.streaming);
            page.gauge(
                "pgctl_postgres_streaming",
                "1 if the standby streams.",
                truth(streams),
            );
            page.gauge(
                "pgctl_postgres_replay_paused",
                "1 if replay is paused.",
                truth(view.replay_paused),
            );
            if let Some(end) = facts.primary_end(view) {
                let lag = end.bytes_since(view.replay);
                page.gauge(
                    "pgctl_postgres_replay_lag_bytes",
                    "WAL of the primary not replayed here.",
                    count(lag),
                );
            }
        }
        Some(
            Server::NoData
            | Server::Unusable { .. }
            | Server::Down
            | Server::Busy { .. }
            | Server::Starting
            | Server::Unresponsive { .. },
        )
        | None => {}
    }
}

fn archive(page: &mut Page, facts: &Facts<'_>) {
    let snapshot = facts.snapshot;
    let done = &snapshot.state.duties.last_done;
    for (kind, metric, help) in [
        (
            DutyKind::Backup,
            "pgctl_backup_last_success_timestamp_seconds",
            "When the last backup was complete, seconds since 1970.",
        ),
        (
            DutyKind::Drill,
            "pgctl_drill_last_success_timestamp_seconds",
            "When a backup was last restored as a drill, seconds since 1970.",
        ),
        (
            DutyKind::Dump,
            "pgctl_dump_last_success_timestamp_seconds",
            "When databases were last dumped by the schedule, seconds since 1970.",
        ),
        (
            DutyKind::Expire,
            "pgctl_expire_last_success_timestamp_seconds",
            "When retention was last carried out by the schedule, seconds since 1970.",
        ),
        (
            DutyKind::Verify,
            "pgctl_verify_last_success_timestamp_seconds",
            "When a share of the repositories was last read and found whole, seconds since 1970.",
        ),
    ] {
        if let Some(record) = done.get(&kind) {
            page.gauge(metric, help, count(record.ended.0 / 1_000));
        }
    }
    if let Some(record) = done.get(&DutyKind::Drill) {
        page.gauge(
            "pgctl_drill_last_duration_seconds",
            "How long the last drill took.",
            count(record.ended.0.saturating_sub(record.began.0) / 1_000),
        );
    }
    let read = |record: &&DutyRecord| {
        record.kind == DutyKind::Verify && matches!(record.outcome, DutyOutcome::Done | DutyOutcome::Alarm)
    };
    if let Some(record) = snapshot.state.duties.records.iter().rev().find(read) {
        page.gauge(
            "pgctl_verify_alarm",
            "1 if the last scheduled reading of the repositories found damage that could not be mended.",
            count(u64::from(record.outcome == DutyOutcome::Alarm)),
        );
    }
    let own = snapshot.view.reports.get(&snapshot.node);
    let Some(report) = own.and_then(|(_, report)| report.archive.as_ref()) else {
        return;
    };
    page.gauge(
        "pgctl_archive_ready_files",
        "WAL files that the server waits to have archived.",
        count(report.ready),
    );
    page.gauge(
        "pgctl_archive_oldest_ready_seconds",
        "For how long the oldest of them has waited; 0 without one.",
        seconds(Duration::from_millis(report.oldest_ready_ms.unwrap_or(0))),
    );
    page.gauge(
        "pgctl_archive_archived_files",
        "Files archived since the agent started.",
        count(report.archived),
    );
    page.gauge(
        "pgctl_archive_failed_files",
        "Files that were not archived when the server asked, since the agent started.",
        count(report.failed),
    );
    page.gauge(
        "pgctl_archive_quarantined_files",
        "Files that differed from what was archived already, since the agent started.",
        count(report.quarantined),
    );
    if let Some(missing) = report.missing_segments {
        page.gauge(
            "pgctl_archive_missing_segments",
            "Segments that the repositories lack, at the last look; on the primary's node only.",
            count(missing),
        );
    }
    page.gauge(
        "pgctl_archive_given_up_segments",
        "Segments that this node did not archive because wal_queue_max_bytes was exceeded, since its agent started.",
        count(report.given_up),
    );
}

fn vitals(page: &mut Page, vitals: &Vitals) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a silence of 2^53 ms is longer than any clock runs"
    )]
    let silence = |pulse: &Pulse| pulse.silent_ms as f64 / 1000.0;
    let probes = [
        ("kept", &vitals.kept),
        ("fresh", &vitals.fresh),
        ("commit", &vitals.commit),
    ];
    page.labelled(
        "pgctl_probe_silent_seconds",
        "How long a probe of the server has been without an answer; 0 if the last one came.",
        probes.map(|(name, pulse)| (vec![("probe", name.to_owned())], silence(pulse))),
    );
    if let Some(connections) = vitals.connections {
        page.gauge(
            "pgctl_postgres_connections_used",
            "Sessions of clients.",
            f64::from(connections.used),
        );
        page.gauge(
            "pgctl_postgres_connections_limit",
            "Sessions that clients may have, without the reserved ones.",
            f64::from(connections.limit),
        );
    }
    page.gauge(
        "pgctl_postgres_crashes",
        "Starts of the server within the last two minutes that did not last.",
        f64::from(vitals.crashes),
    );
    let volume = |disk: &Disk| {
        vec![
            ("volume", disk.purpose().replace(' ', "-")),
            ("path", disk.path.clone()),
        ]
    };
    let disks = || vitals.disks.iter();
    page.labelled(
        "pgctl_disk_write_silent_seconds",
        "How long a write to the disk has been under way; 0 if the last one ended.",
        disks().map(|disk| (volume(disk), silence(&disk.pulse))),
    );
    page.labelled(
        "pgctl_disk_free_bytes",
        "Room for the server on the volume.",
        disks().filter_map(|disk| Some((volume(disk), count(disk.free_bytes?)))),
    );
    page.labelled(
        "pgctl_disk_size_bytes",
        "The size of the volume.",
        disks().map(|disk| (volume(disk), count(disk.total_bytes))),
    );
    page.labelled(
        "pgctl_disk_ballast_bytes",
        "What is kept allocated to be given up when the volume is full.",
        disks().map(|disk| (volume(disk), count(disk.ballast_bytes))),
    );
}

fn cluster(page: &mut Page, facts: &Facts<'_>) {
    let state = &facts.snapshot.state;
    page.gauge(
        "pgctl_paused",
        "1 while automation is off.",
        truth(state.pause.is_some()),
    );
    page.gauge(
        "pgctl_maintenance",
        "1 while this node is left out.",
        truth(state.maintenance.contains(&facts.snapshot.node)),
    );
    page.gauge(
        "pgctl_in_synchronous_set",
        "1 if commits may wait for this node.",
        truth(facts.in_synchronous_set()),
    );
    if let Some(rule) = state.sync_rule() {
        page.gauge(
            "pgctl_synchronous_standbys_required",
            "How many standbys must have a commit.",
            f64::from(rule.k),
        );
    }
    let causes = [
        (Cause::Creation, "creation"),
        (Cause::Failover, "failover"),
        (Cause::Switchover, "switchover"),
        (Cause::ManualFailover, "manual-failover"),
        (Cause::Renewal, "renewal"),
        (Cause::PledgeRepair, "pledge-repair"),
        (Cause::Restore, "restore"),
    ];
    let granted = causes.map(|(cause, name)| {
        let times = state
            .history
            .iter()
            .filter(|record| record.cause == cause)
            .count();
        (
            vec![("cause", name.to_owned())],
            count(u64::try_from(times).unwrap_or(u64::MAX)),
        )
    });
    page.labelled(
        "pgctl_recent_epochs",
        "Epochs among the last hundred, by cause.",
        granted,
    );
    if let Some(last) = state.history.back() {
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 fit into 53 bits"
        )]
        let at = last.granted_at.0 as f64 / 1000.0;
        page.gauge(
            "pgctl_last_epoch_timestamp_seconds",
            "When the newest epoch was granted, Unix time.",
            at,
        );
    }
    page.labelled(
        "pgctl_member_up",
        "1 if a node's report arrived lately.",
        state.members.iter().map(|(node, member)| {
            let fresh = facts
                .snapshot
                .view
                .fresh(*node, facts.now.mono, facts.max_age())
                .is_some();
            (vec![("member", member.name.clone())], truth(fresh))
        }),
    );
}

struct Page {
    text: String,
    scope: String,
    name: String,
}

impl Page {
    fn new(scope: &str, name: &str) -> Page {
        Page {
            text: String::with_capacity(8 * 1024),
            scope: escaped(scope),
            name: escaped(name),
        }
    }

    fn gauge(&mut self, metric: &str, help: &str, value: f64) {
        self.labelled(metric, help, [(Vec::new(), value)]);
    }

    fn labelled(
        &mut self,
        metric: &str,
        help: &str,
        series: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        let text = &mut self.text;
        // Writing into a String cannot fail.
        let _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} gauge");
        for (labels, value) in series {
            let _ = write!(text, "{metric}{{scope=\"{}\",name=\"{}\"", self.scope, self.name);
            for (label, content) in labels {
                let _ = write!(text, ",{label}=\"{}\"", escaped(&content));
            }
            let _ = writeln!(text, "}} {value}");
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has floats only; beyond 2^53 the last digits do not matter"
)]
fn count(number: u64) -> f64 {
    number as f64
}
