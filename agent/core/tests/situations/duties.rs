//! Scheduled work: when it is due, who does it, and that nothing is done twice.

use crate::fixtures::{
    N1, N2, N3, NOW, at, coordinator_view, primary, report, request, serving, standby, well,
};
use agent_core::cluster::{
    Applied, ClusterState, Command, Duty, DutyChange, DutyKind, DutyOutcome, DutyRecord, Rejected, Settings,
    SyncMode,
};
use agent_core::decide::cluster::{ClusterAction, CoordinatorView, decide, is_heard_of};
use agent_core::ids::NodeId;
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::{ArchiveReport, NodeReport};

const HOUR: u64 = 3_600_000;
/// 02:00 on some day.
const DUE: WallTime = WallTime(20_000 * 24 * HOUR + 2 * HOUR);
const MINUTE: u64 = 60_000;

fn after(ms: u64) -> WallTime {
    WallTime(DUE.0 + ms)
}

/// A backup is due at two each night, since long.
fn scheduled(change: impl FnOnce(&mut Settings)) -> ClusterState {
    let mut state = serving(SyncMode::Quorum);
    let mut settings = Settings {
        backup_schedule: "0 2 * * *".to_owned(),
        ..state.settings.clone()
    };
    change(&mut settings);
    let command = Command::ChangeSettings {
        request: request("schedule"),
        settings: Box::new(settings),
        at: WallTime(DUE.0 - 48 * HOUR),
    };
    state.apply(&command).expect("a schedule");
    state
}

fn archiving(mut report: NodeReport) -> NodeReport {
    report.archive = Some(ArchiveReport::default());
    report
}

fn reports() -> Vec<NodeReport> {
    vec![
        archiving(well(N1, 1, primary(at(2, 900), 100, 1, &[(N2, 900), (N3, 900)]))),
        archiving(report(N2, standby(at(2, 900), true))),
        archiving(report(N3, standby(at(2, 850), true))),
    ]
}

fn seen<'a>(state: &'a ClusterState, reports: Vec<NodeReport>, wall: WallTime) -> CoordinatorView<'a> {
    let mut view = coordinator_view(N1, state, reports);
    view.wall = wall;
    view
}

fn changes(view: &CoordinatorView<'_>) -> Vec<DutyChange> {
    let decided = decide(view).actions;
    let changes = decided.into_iter().filter_map(|action| match action {
        ClusterAction::Propose(Command::Duty(change)) => Some(*change),
        _ => None,
    });
    changes.collect()
}

#[track_caller]
fn claim(view: &CoordinatorView<'_>) -> Duty {
    match changes(view).as_slice() {
        [DutyChange::Claim { duty }] => duty.clone(),
        other => panic!("{other:?} instead of a claim: {:?}", decide(view)),
    }
}

fn apply(state: &mut ClusterState, change: DutyChange) -> Result<Applied, Rejected> {
    state.apply(&Command::Duty(Box::new(change)))
}

fn ended(duty: &Duty, outcome: DutyOutcome, at: WallTime) -> DutyChange {
    DutyChange::End {
        record: DutyRecord {
            kind: duty.kind,
            id: duty.id.clone(),
            node: format!("n{}", duty.node),
            due: Some(duty.due),
            attempt: duty.attempt,
            began: duty.claimed_at,
            ended: at,
            outcome,
            text: "a test".to_owned(),
        },
    }
}

#[test]
fn a_standby_claims_what_is_due_and_nobody_before() {
    let state = scheduled(|_| ());
    assert_eq!(changes(&seen(&state, reports(), after(0)))[..].len(), 1);
    let before = WallTime(DUE.0 - 1);
    // What was due the day before is beyond its window.
    assert!(matches!(
        changes(&seen(&state, reports(), before))[..],
        [DutyChange::Skip { .. }]
    ));
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    assert_eq!((duty.node, duty.due, duty.attempt), (N2, DUE, 1));
    let unscheduled = serving(SyncMode::Quorum);
    assert!(changes(&seen(&unscheduled, reports(), after(0))).is_empty());
}

#[test]
fn what_was_due_before_the_schedule_was_set_is_let_be() {
    let mut state = scheduled(|_| ());
    state.duties.since.insert(DutyKind::Backup, after(1));
    assert!(changes(&seen(&state, reports(), after(MINUTE))).is_empty());
    assert_eq!(
        claim(&seen(&state, reports(), after(24 * HOUR))).due,
        after(24 * HOUR)
    );
}

#[test]
fn one_claim_wins_and_a_done_one_is_not_done_again() {
    let mut state = scheduled(|_| ());
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    let other = Duty {
        node: N3,
        id: "other".to_owned(),
        ..duty.clone()
    };
    assert_eq!(
        apply(&mut state, DutyChange::Claim { duty: duty.clone() }),
        Ok(Applied::Done)
    );
    assert!(apply(&mut state, DutyChange::Claim { duty: other.clone() }).is_err());
    assert!(
        changes(&seen(&state, reports(), after(2 * MINUTE))).is_empty(),
        "it runs"
    );
    apply(&mut state, ended(&duty, DutyOutcome::Done, after(3 * MINUTE))).expect("ends");
    assert!(
        changes(&seen(&state, reports(), after(4 * MINUTE))).is_empty(),
        "it is done"
    );
    assert!(
        apply(&mut state, DutyChange::Claim { duty: other }).is_err(),
        "it is done"
    );
    assert_eq!(
        claim(&seen(&state, reports(), after(24 * HOUR))).due,
        after(24 * HOUR)
    );
}

#[test]
fn a_lost_node_loses_its_claim_and_another_takes_it_over() {
    let mut state = scheduled(|_| ());
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
    let without = || {
        reports()
            .into_iter()
            .filter(|report| report.node != N2)
            .collect::<Vec<_>>()
    };
    let silent = |since: u64| {
        let mut view = seen(&state, without(), after(2 * MINUTE));
        view.memory
            .duty_silent_since
            .insert(DutyKind::Backup, MonoTime(NOW.0 - since));
        view
    };
    assert!(changes(&silent(29_000)).is_empty(), "it may come back");
    let lost = changes(&silent(30_000));
    assert!(
        matches!(&lost[..], [DutyChange::End { record }] if record.outcome == DutyOutcome::Lost && record.id == duty.id),
        "{lost:?}"
    );
    for change in lost {
        apply(&mut state, change).expect("taken away");
    }
    assert!(
        changes(&seen(&state, without(), after(2 * MINUTE + 1))).is_empty(),
        "not at once"
    );
    let second = claim(&seen(&state, without(), after(4 * MINUTE)));
    assert_eq!((second.node, second.attempt, second.due), (N3, 2, DUE));
    assert_ne!(second.id, duty.id);
    // The first one comes back: what it has made is not used.
    apply(&mut state, DutyChange::Claim { duty: second.clone() }).expect("claimed");
    let seal = |duty: &Duty| DutyChange::Seal {
        kind: duty.kind,
        id: duty.id.clone(),
        node: duty.node,
    };
    assert!(apply(&mut state, seal(&duty)).is_err());
    assert_eq!(
        apply(&mut state, ended(&duty, DutyOutcome::Done, after(5 * MINUTE))),
        Ok(Applied::Unchanged)
    );
    assert_eq!(apply(&mut state, seal(&second)), Ok(Applied::Done));
    assert!(state.duties.running[&DutyKind::Backup].sealed);
}

#[test]
fn a_sealed_claim_is_waited_for_longer() {
    let mut state = scheduled(|_| ());
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    let (kind, id, node) = (duty.kind, duty.id.clone(), duty.node);
    apply(&mut state, DutyChange::Claim { duty }).expect("claimed");
    apply(&mut state, DutyChange::Seal { kind, id, node }).expect("sealed");
    let mut view = seen(&state, reports(), after(2 * MINUTE));
    view.memory
        .duty_silent_since
        .insert(kind, MonoTime(NOW.0 - 60_000));
    assert!(changes(&view).is_empty());
}

#[test]
fn attempts_that_fail_are_repeated_elsewhere_and_not_for_ever() {
    let mut state = scheduled(|_| ());
    let mut wall = after(MINUTE);
    let mut nodes = Vec::new();
    for _ in 0..5 {
        let duty = claim(&seen(&state, reports(), wall));
        nodes.push(duty.node);
        apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
        apply(&mut state, ended(&duty, DutyOutcome::Failed, wall)).expect("ended");
        wall = WallTime(wall.0 + 5 * MINUTE);
    }
    assert_eq!(nodes[..2], [N2, N3], "another node is asked first");
    let gives_up = changes(&seen(&state, reports(), wall));
    assert!(matches!(&gives_up[..], [DutyChange::Skip { .. }]), "{gives_up:?}");
    for change in gives_up {
        apply(&mut state, change).expect("given up");
    }
    assert!(changes(&seen(&state, reports(), wall)).is_empty());
}

#[test]
fn the_primary_is_taken_only_where_that_is_allowed() {
    let bad = |node: NodeId, why: &str| -> Vec<NodeReport> {
        let mut all = reports();
        for report in all.iter_mut().filter(|report| {
            if node == N1 {
                report.node != N1
            } else {
                report.node == node
            }
        }) {
            match why {
                "no repository" => report.archive = None,
                "does not stream" => {
                    *report = archiving(crate::fixtures::report(report.node, standby(at(2, 900), false)))
                }
                _ => *report = archiving(crate::fixtures::report(report.node, standby(at(2, 1), true))),
            }
        }
        all
    };
    let state = scheduled(|settings| settings.backup_lag_bytes = 100);
    assert_eq!(
        claim(&seen(&state, bad(N2, "no repository"), after(MINUTE))).node,
        N3
    );
    assert_eq!(
        claim(&seen(&state, bad(N2, "does not stream"), after(MINUTE))).node,
        N3
    );
    assert_eq!(claim(&seen(&state, bad(N2, "behind"), after(MINUTE))).node, N3);
    let early = seen(&state, bad(N1, "behind"), after(MINUTE));
    assert!(changes(&early).is_empty());
    let reason = decide(&early).reasons.pop().expect("says why");
    assert!(
        reason.found.contains("n2: it is 899 bytes behind"),
        "{}",
        reason.found
    );
    assert_eq!(
        claim(&seen(&state, bad(N1, "behind"), after(11 * MINUTE))).node,
        N1
    );
    let never = scheduled(|settings| {
        settings.backup_lag_bytes = 100;
        assert!(settings.assign("backup_from", "standby-only").is_ok());
    });
    assert!(changes(&seen(&never, bad(N1, "behind"), after(11 * MINUTE))).is_empty());
    let at_once = scheduled(|settings| {
        settings.backup_lag_bytes = 100;
        assert!(settings.assign("backup_from", "any").is_ok());
    });
    assert_eq!(claim(&seen(&at_once, bad(N1, "behind"), after(MINUTE))).node, N1);
}

#[test]
fn nodes_that_are_left_out_are_not_asked() {
    let mut state = scheduled(|_| ());
    state.maintenance.insert(N2);
    assert_eq!(claim(&seen(&state, reports(), after(MINUTE))).node, N3);
    state.maintenance.clear();
    // n2 alone keeps the commits that clients wait for.
    state.sync = vec![crate::fixtures::rule(1, N1, 1, &[N2])];
    assert_eq!(claim(&seen(&state, reports(), after(MINUTE))).node, N3);
}

#[test]
fn the_beginning_is_put_off_within_the_window_and_by_no_more() {
    let state = scheduled(|settings| settings.backup_jitter_minutes = 30);
    let begins = |minute: u64| !changes(&seen(&state, reports(), after(minute * MINUTE))).is_empty();
    assert!(begins(30), "by half an hour at most");
    let first = (0..=30).find(|minute| begins(*minute)).expect("it begins");
    assert!((first..=30).all(begins), "and stays due");
    let narrow = scheduled(|settings| settings.backup_window_minutes = 10);
    let late = changes(&seen(&narrow, reports(), after(10 * MINUTE)));
    assert!(
        matches!(&late[..], [DutyChange::Skip { due: DUE, .. }]),
        "{late:?}"
    );
}

#[test]
fn an_agent_that_was_restarted_has_forgotten_its_work() {
    let state = scheduled(|_| ());
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    let mut at_work = archiving(report(N2, standby(at(2, 900), true)));
    assert!(!is_heard_of(&duty, None));
    assert!(!is_heard_of(&duty, Some(&at_work)), "it does not speak of it");
    at_work.archive = Some(ArchiveReport {
        duties: vec![duty.id.clone()],
        ..ArchiveReport::default()
    });
    assert!(is_heard_of(&duty, Some(&at_work)));
    at_work.incarnation += 1;
    assert!(!is_heard_of(&duty, Some(&at_work)));
}

#[test]
fn a_clock_that_was_ahead_once_does_not_stop_backups_for_ever() {
    let mut state = scheduled(|_| ());
    state.duties.handled.insert(DutyKind::Backup, after(1_000 * HOUR));
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
    apply(&mut state, ended(&duty, DutyOutcome::Done, after(2 * MINUTE))).expect("ended");
    assert!(changes(&seen(&state, reports(), after(3 * MINUTE))).is_empty());
}

#[test]
fn a_failover_comes_first() {
    let state = scheduled(|_| ());
    let mut view = seen(&state, reports(), after(MINUTE));
    view.reports.reports.remove(&N1);
    for report in view.reports.reports.values_mut() {
        report.1.voter.bound_for = std::time::Duration::ZERO;
    }
    assert_eq!(decide(&view).rule, "ask-the-voters");
}

#[test]
fn what_needs_no_server_is_done_by_a_node_that_no_backup_would_be_taken_from() {
    let state = scheduled(|settings| {
        settings.backup_schedule.clear();
        settings.verify_schedule = "0 2 * * *".to_owned();
        settings.backup_lag_bytes = 0;
    });
    let mut behind = reports();
    behind.retain(|report| report.node != N2);
    let duty = claim(&seen(&state, behind, after(MINUTE)));
    assert_eq!((duty.kind, duty.node), (DutyKind::Verify, N3));
    let mut alone = reports();
    alone.retain(|report| report.node == N1);
    assert_eq!(
        claim(&seen(&state, alone, after(MINUTE))).node,
        N1,
        "the primary, if need be"
    );
    let mut without = reports();
    for report in &mut without {
        report.archive = None;
    }
    let waits = decide(&seen(&state, without, after(MINUTE)));
    assert_eq!(waits.rule, "duty-waits");
}

#[test]
fn what_waits_for_a_standby_holds_nothing_else_up() {
    let state = scheduled(|settings| {
        settings.backup_lag_bytes = 100;
        settings.expire_schedule = "0 2 * * *".to_owned();
    });
    let mut behind = reports();
    for report in behind.iter_mut().filter(|report| report.node != N1) {
        *report = archiving(crate::fixtures::report(report.node, standby(at(2, 1), true)));
    }
    assert_eq!(claim(&seen(&state, behind, after(MINUTE))).kind, DutyKind::Expire);
}

#[test]
fn an_alarm_is_told_and_not_tried_again() {
    let mut state = scheduled(|settings| {
        settings.backup_schedule.clear();
        settings.verify_schedule = "0 2 * * *".to_owned();
    });
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
    apply(&mut state, ended(&duty, DutyOutcome::Alarm, after(2 * MINUTE))).expect("ended");
    assert!(changes(&seen(&state, reports(), after(HOUR))).is_empty());
    assert!(
        !state.duties.last_done.contains_key(&DutyKind::Verify),
        "it is no success"
    );
    assert!(state.events.iter().any(|event| event.kind == "verify-alarm"));
}

#[test]
fn what_was_ordered_is_done_without_a_schedule_and_until_it_comes_off() {
    let mut state = scheduled(|settings| settings.backup_schedule.clear());
    let order = |at| DutyChange::Order {
        kind: DutyKind::Backup,
        why: "a hole".to_owned(),
        at,
    };
    assert_eq!(apply(&mut state, order(after(0))), Ok(Applied::Done));
    assert_eq!(apply(&mut state, order(after(1))), Ok(Applied::Unchanged), "once");
    let mut wall = after(MINUTE);
    for attempt in 1..=8 {
        let duty = claim(&seen(&state, reports(), wall));
        assert_eq!((duty.due, duty.attempt), (after(0), attempt));
        apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
        apply(&mut state, ended(&duty, DutyOutcome::Failed, wall)).expect("ended");
        wall = WallTime(wall.0 + 30 * MINUTE);
    }
    // Days later as well, and though a later time has been seen to.
    wall = WallTime(wall.0 + 72 * HOUR);
    state
        .duties
        .handled
        .insert(DutyKind::Backup, WallTime(wall.0 - MINUTE));
    let duty = claim(&seen(&state, reports(), wall));
    apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
    apply(
        &mut state,
        ended(
            &Duty {
                claimed_at: wall,
                ..duty
            },
            DutyOutcome::Done,
            wall,
        ),
    )
    .expect("ended");
    assert!(state.duties.ordered.is_empty());
    assert!(changes(&seen(&state, reports(), WallTime(wall.0 + HOUR))).is_empty());
}

#[test]
fn a_backup_that_began_before_the_order_is_not_what_was_ordered() {
    let mut state = scheduled(|_| ());
    let duty = claim(&seen(&state, reports(), after(MINUTE)));
    apply(&mut state, DutyChange::Claim { duty: duty.clone() }).expect("claimed");
    let order = DutyChange::Order {
        kind: DutyKind::Backup,
        why: "a hole".to_owned(),
        at: after(2 * MINUTE),
    };
    apply(&mut state, order).expect("ordered");
    apply(&mut state, ended(&duty, DutyOutcome::Done, after(3 * MINUTE))).expect("ended");
    assert_eq!(
        claim(&seen(&state, reports(), after(4 * MINUTE))).due,
        after(2 * MINUTE)
    );
}
