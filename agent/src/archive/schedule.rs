//! Scheduled work, as `pgctl` shows it.

use agent_core::cluster::{ClusterState, DutyKind, DutyOutcome, DutyRecord};
use agent_core::schedule::Schedule;
use agent_core::time::WallTime;
use proto::archive::{RunningWork, ScheduleReply, ScheduledWork, WorkRecord};

/// What the cluster has agreed on, and when it is due next after `now`.
pub(super) fn shown(state: &ClusterState, now: WallTime) -> ScheduleReply {
    let work = DutyKind::ALL.into_iter().map(|kind| {
        let schedule = kind.schedule(&state.settings);
        let next = Schedule::parse(schedule).ok().flatten();
        let running = state.duties.running.get(&kind).map(|duty| RunningWork {
            id: duty.id.clone(),
            node: state.name_of(duty.node),
            attempt: duty.attempt,
            due_unix_ms: duty.due.0,
            claimed_at_unix_ms: duty.claimed_at.0,
        });
        ScheduledWork {
            kind: kind.name().to_owned(),
            schedule: schedule.to_owned(),
            next_due_unix_ms: next.and_then(|next| next.next_after(now.0)),
            running,
            last_done: state.duties.last_done.get(&kind).map(record),
        }
    });
    ScheduleReply {
        work: work.collect(),
        records: state.duties.records.iter().map(record).collect(),
    }
}

fn record(record: &DutyRecord) -> WorkRecord {
    let outcome = match record.outcome {
        DutyOutcome::Done => "done",
        DutyOutcome::Failed => "failed",
        DutyOutcome::Lost => "lost",
        DutyOutcome::Skipped => "skipped",
        DutyOutcome::Alarm => "alarm",
    };
    WorkRecord {
        kind: record.kind.name().to_owned(),
        id: record.id.clone(),
        node: record.node.clone(),
        due_unix_ms: record.due.map(|due| due.0),
        attempt: record.attempt,
        began_unix_ms: record.began.0,
        ended_unix_ms: record.ended.0,
        outcome: outcome.to_owned(),
        text: record.text.clone(),
    }
}
