//! A server that lives and does not work.

use crate::fixtures::{
    N1, N2, N3, NOW, at, coordinator_view, down, node_view, observed, primary, report, round, serving,
    standby, told,
};
use agent_core::cluster::{ClusterState, Command, Pause, Release, Switchover, SwitchoverPhase, SyncMode};
use agent_core::decide::Decision;
use agent_core::decide::cluster::{self, ClusterAction};
use agent_core::decide::node::{Conf, NodeAction, NodeView, decide, give_way};
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::ControlState;
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::{FenceReceipt, NodeReport, Server};
use agent_core::vitals::{Connections, Disk, Pulse, Vitals};

const GIB: u64 = 1 << 30;

fn silent(ms: u64) -> Pulse {
    Pulse {
        silent_ms: ms,
        why: "no answer".to_owned(),
    }
}

fn disk(free: u64) -> Disk {
    Disk {
        wal: true,
        data: true,
        path: "/data".to_owned(),
        free_bytes: Some(free),
        total_bytes: 100 * GIB,
        ..Disk::default()
    }
}

fn peer(node: NodeId, free: u64) -> NodeReport {
    let mut pg = standby(at(2, 300), true);
    pg.vitals.disks = vec![disk(free)];
    report(node, pg)
}

/// n1 serves in good order, n2 and n3 follow with all the room in the world; then `vitals` are seen of n1.
fn serves(state: &ClusterState, vitals: Vitals) -> NodeView<'_> {
    let mut view = node_view(N1, state, primary(at(2, 300), 100, 1, &[(N2, 300), (N3, 300)]));
    view.conf = Some(Conf {
        upstream: None,
        slot: None,
        synchronous_standby_names: "ANY 1 (\"n2_e1\", \"n3_e1\")".to_owned(),
        slot_budget_bytes: 16 << 30,
    });
    view.memory.gate = Some(Epoch(1));
    view.peers = vec![peer(N2, 50 * GIB), peer(N3, 50 * GIB)];
    view.pg.vitals = vitals;
    view
}

fn hung(ms: u64) -> Vitals {
    Vitals {
        fresh: silent(ms),
        ..Vitals::default()
    }
}

fn stalled(ms: u64) -> Vitals {
    Vitals {
        // What waits for the disk is silent as well.
        commit: silent(ms),
        disks: vec![Disk {
            pulse: silent(ms),
            ..disk(50 * GIB)
        }],
        ..Vitals::default()
    }
}

fn full() -> Vitals {
    Vitals {
        disks: vec![disk(1 << 20)],
        ..Vitals::default()
    }
}

#[track_caller]
fn assert_fenced(view: &NodeView<'_>, rule: &str) {
    let decision = decide(view);
    assert_eq!(decision.rule, rule, "{decision:?}");
    assert!(
        matches!(&decision.actions[..], [NodeAction::Fence { epoch: Epoch(1), .. }]),
        "{decision:?}"
    );
    // The watchman comes to the same.
    assert_eq!(
        give_way(view).map(|decision| decision.rule).as_deref(),
        Some(rule)
    );
}

/// Nothing is done, and this reason is told with these words.
#[track_caller]
fn assert_only_named(view: &NodeView<'_>, id: &str, words: &[&str]) {
    let decision: Decision<NodeAction> = decide(view);
    assert!(decision.actions.is_empty(), "{decision:?}");
    assert_eq!(give_way(view), None);
    let reason = decision.reasons.iter().find(|reason| reason.id == id);
    let reason = reason.unwrap_or_else(|| panic!("{id} is not told: {decision:?}"));
    assert!(!reason.open);
    let text = format!("{} | {}", reason.found, reason.next);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn one_slow_answer_is_not_even_named_and_a_late_one_does_nothing() {
    let state = serving(SyncMode::Quorum);
    let decision = decide(&serves(&state, hung(999)));
    assert!(
        decision.actions.is_empty() && decision.reasons.is_empty(),
        "{decision:?}"
    );
    assert_only_named(
        &serves(&state, hung(4_999)),
        "server-works",
        &["4.9 s", "n2 could take over"],
    );
}

#[test]
fn primary_that_answers_no_new_session_is_ended() {
    let state = serving(SyncMode::Quorum);
    assert_fenced(&serves(&state, hung(5_000)), "server-hangs");
    let mut view = serves(&state, hung(5_000));
    view.pg.server = Server::Unresponsive { why: String::new() };
    assert_fenced(&view, "server-hangs");
}

#[test]
fn each_of_the_three_probes_is_enough() {
    let state = serving(SyncMode::Quorum);
    let kept = Vitals {
        kept: silent(5_000),
        ..Vitals::default()
    };
    let commit = Vitals {
        commit: silent(5_000),
        ..Vitals::default()
    };
    for vitals in [kept, commit, hung(5_000)] {
        assert_fenced(&serves(&state, vitals), "server-hangs");
    }
}

#[test]
fn hung_primary_that_nobody_can_replace_is_started_again_with_growing_patience() {
    let state = serving(SyncMode::Quorum);
    let mut view = serves(&state, hung(5_000));
    view.peers.clear();
    assert_fenced(&view, "server-hangs");
    view.pg.vitals.hangs = 1;
    assert_only_named(
        &view,
        "server-works",
        &["after 10.0 s", "it then starts again here"],
    );
    view.pg.vitals.fresh = silent(10_000);
    assert_fenced(&view, "server-hangs");
    // With somebody to replace it there is no need for patience.
    view.pg.vitals.fresh = silent(5_000);
    view.peers = vec![peer(N2, GIB), peer(N3, GIB)];
    assert_fenced(&view, "server-hangs");
}

#[test]
fn nothing_is_done_to_a_hung_primary_while_somebody_is_at_work_on_it() {
    let mut paused = serving(SyncMode::Quorum);
    paused.pause = Some(Pause {
        reason: "a debugger".to_owned(),
        since: WallTime(0),
    });
    assert_only_named(&serves(&paused, hung(60_000)), "server-works", &["pgctl resume"]);
    let mut maintained = serving(SyncMode::Quorum);
    maintained.maintenance.insert(N1);
    assert_only_named(
        &serves(&maintained, hung(60_000)),
        "server-works",
        &["maintenance"],
    );
    let mut stopping = serving(SyncMode::Quorum);
    stopping.switchover = Some(Switchover {
        request: crate::fixtures::request("r"),
        from: N1,
        to: N2,
        epoch: Epoch(1),
        phase: SwitchoverPhase::Stopping,
        since: WallTime(0),
    });
    assert_eq!(give_way(&serves(&stopping, hung(60_000))), None);
}

#[test]
fn without_a_lease_there_is_nothing_to_give_up() {
    let state = serving(SyncMode::Quorum);
    let mut view = serves(&state, hung(60_000));
    view.lease.valid = false;
    assert_eq!(give_way(&view), None);
    view.lease.valid = true;
    view.lease.fenced = Epoch(1);
    assert_eq!(give_way(&view), None);
}

#[test]
fn primary_whose_disk_stalls_gives_way_only_to_somebody() {
    let state = serving(SyncMode::Quorum);
    assert_only_named(
        &serves(&state, stalled(2_999)),
        "disk-takes-writes",
        &["n2 takes over"],
    );
    assert_fenced(&serves(&state, stalled(3_000)), "disk-stalls");
    let mut alone = serves(&state, stalled(60_000));
    alone.peers.clear();
    // Not as hung either, although nothing commits: a restart mends no disk.
    assert_only_named(&alone, "disk-takes-writes", &["nobody takes over"]);
}

#[test]
fn disk_that_stalls_elsewhere_too_is_no_reason_to_move() {
    let state = serving(SyncMode::Quorum);
    let mut view = serves(&state, stalled(60_000));
    for peer in &mut view.peers {
        let pg = peer.pg.as_mut().expect("a server");
        pg.vitals = stalled(60_000);
    }
    assert_only_named(
        &view,
        "disk-takes-writes",
        &["nobody takes over", "in trouble itself"],
    );
}

#[test]
fn who_could_take_over_has_every_acknowledged_commit_and_may_be_promoted() {
    let mut state = serving(SyncMode::Quorum);
    let mut view = serves(&state, stalled(3_000));
    // ANY 1 (n2, n3): one of them alone may lack what the other acknowledged.
    view.peers.pop();
    assert_only_named(&view, "disk-takes-writes", &["may lack acknowledged commits"]);
    for node in [N2, N3] {
        state.members.get_mut(&node).expect("a member").nofailover = true;
    }
    assert_only_named(
        &serves(&state, stalled(3_000)),
        "disk-takes-writes",
        &["kept out"],
    );
    let degraded = {
        let mut state = serving(SyncMode::Quorum);
        for rule in &mut state.sync {
            rule.k = 0;
        }
        state
    };
    let mut view = serves(&degraded, stalled(3_000));
    view.conf
        .as_mut()
        .expect("configured")
        .synchronous_standby_names
        .clear();
    view.pg.server = Server::Unresponsive { why: String::new() };
    assert_only_named(&view, "disk-takes-writes", &["may lack"]);
}

#[test]
fn in_async_mode_a_stall_is_worth_no_more_than_the_lag_that_is_allowed() {
    let mut state = serving(SyncMode::Async);
    for rule in &mut state.sync {
        rule.k = 0;
    }
    state.settings.max_lag_bytes = 1_000;
    let mut view = serves(&state, stalled(3_000));
    view.pg = primary(at(2, 1_300), 100, 1, &[]);
    view.pg.vitals = stalled(3_000);
    assert_eq!(
        give_way(&view).map(|decision| decision.rule).as_deref(),
        Some("disk-stalls")
    );
    view.pg = primary(at(2, 1_301), 100, 1, &[]);
    view.pg.vitals = stalled(3_000);
    assert_eq!(give_way(&view), None);
}

#[test]
fn exhausted_connections_are_no_failure() {
    let state = serving(SyncMode::Quorum);
    let vitals = Vitals {
        connections: Some(Connections { used: 42, limit: 42 }),
        ..Vitals::default()
    };
    let view = serves(&state, vitals);
    assert_only_named(&view, "connections-are-free", &["42 of 42", "pooler"]);
    assert_eq!(decide(&view).rule, "primary-serves");
}

#[test]
fn full_wal_volume_moves_the_primary_to_a_node_with_room() {
    let state = serving(SyncMode::Quorum);
    let mut view = serves(&state, full());
    let started = |view: &NodeView<'_>| match decide(view).actions.into_iter().next() {
        Some(NodeAction::Propose(Command::StartSwitchover { to, request, .. })) => Some((to, request)),
        _ => None,
    };
    assert_eq!(started(&view).map(|(to, _)| to), Some(N2));
    // n2 has as little.
    view.peers[0] = peer(N2, 1 << 20);
    assert_eq!(started(&view).map(|(to, _)| to), Some(N3));
    // Enough not to be full itself is not enough to take over.
    view.peers[1] = peer(N3, 100 << 20);
    assert_only_named(&view, "disk-has-room", &["the primary stays", "make room"]);
}

#[test]
fn hand_over_for_room_is_asked_for_once_a_minute_and_never_beside_an_order() {
    let state = serving(SyncMode::Quorum);
    let request = |now: u64| {
        let mut view = serves(&state, full());
        view.now = MonoTime(now);
        match decide(&view).actions.into_iter().next() {
            Some(NodeAction::Propose(Command::StartSwitchover { request, .. })) => request,
            other => panic!("no switchover: {other:?}"),
        }
    };
    assert_eq!(request(120_000), request(179_999));
    assert_ne!(request(179_999), request(180_000));
    let mut asked = serving(SyncMode::Quorum);
    asked
        .requests
        .push_back((request(NOW.0), Ok(agent_core::cluster::Applied::Done)));
    assert_only_named(&serves(&asked, full()), "disk-has-room", &["n2 takes over"]);
    let mut paused = serving(SyncMode::Quorum);
    paused.pause = Some(Pause {
        reason: "a test".to_owned(),
        since: WallTime(0),
    });
    assert_only_named(&serves(&paused, full()), "disk-has-room", &["make room"]);
}

#[test]
fn full_volume_of_data_alone_moves_nobody() {
    let state = serving(SyncMode::Quorum);
    let mut vitals = full();
    vitals.disks[0].wal = false;
    vitals.disks.push(Disk {
        data: false,
        ..disk(50 * GIB)
    });
    assert_only_named(&serves(&state, vitals), "disk-has-room", &["(data)", "make room"]);
}

#[test]
fn holder_whose_server_dies_at_each_start_makes_room_for_another() {
    let mut state = serving(SyncMode::Quorum);
    state.promotion = None;
    state.timeline = agent_core::pg::TimelineId(3);
    let mut view = node_view(N1, &state, down());
    view.pg.vitals.crashes = 2;
    assert_eq!(decide(&view).rule, "start-to-be-promoted");
    view.pg.vitals.crashes = 3;
    assert_eq!(decide(&view).rule, "holder-crash-loops");
    assert!(matches!(&decide(&view).actions[..], [NodeAction::Fence { .. }]));
}

#[test]
fn standby_that_dies_again_and_again_is_started_after_pauses() {
    let state = serving(SyncMode::Quorum);
    let mut view = node_view(N2, &state, down());
    let mut starts = |crashes, ago| {
        view.pg.vitals.crashes = crashes;
        view.pg.vitals.crashed_ms_ago = Some(ago);
        let decision = decide(&view);
        let told = decision
            .reasons
            .iter()
            .any(|reason| reason.id == "server-stays-up");
        assert_eq!(told, crashes >= 3);
        (!decision.actions.is_empty(), decision.wake_at.map(|(at, _)| at))
    };
    assert_eq!(starts(2, 0), (true, None));
    assert_eq!(starts(3, 1_000), (false, Some(MonoTime(NOW.0 + 4_000))));
    assert_eq!(starts(3, 5_000), (true, None));
    assert_eq!(starts(4, 9_999), (false, Some(MonoTime(NOW.0 + 1))));
    assert_eq!(starts(60, 29_000), (false, Some(MonoTime(NOW.0 + 1_000))));
    assert_eq!(starts(60, 30_000), (true, None));
}

#[test]
fn hung_standby_is_named_and_left_alone() {
    let state = serving(SyncMode::Quorum);
    let mut pg = observed(
        Server::Unresponsive { why: String::new() },
        ControlState::InArchiveRecovery,
        2,
    );
    pg.vitals = hung(60_000);
    assert_only_named(
        &node_view(N2, &state, pg),
        "server-works",
        &["restart the server"],
    );
}

#[test]
fn hung_server_that_was_writable_without_the_epoch_is_ended() {
    let state = serving(SyncMode::Quorum);
    let mut pg = observed(
        Server::Unresponsive { why: String::new() },
        ControlState::InProduction,
        2,
    );
    pg.vitals = hung(4_999);
    assert!(decide(&node_view(N2, &state, pg.clone())).actions.is_empty());
    pg.vitals = hung(5_000);
    let decision = decide(&node_view(N2, &state, pg));
    assert_eq!(decision.rule, "hung-without-the-epoch");
    assert!(matches!(
        &decision.actions[..],
        [NodeAction::Fence { epoch: Epoch(0), .. }]
    ));
}

/// To whom the coordinator grants the next epoch when n1 was ended, all have pledged, and these are their vitals.
fn granted_to(released: &[(NodeId, Release)], vitals: [Vitals; 3]) -> (NodeId, usize) {
    let state = serving(SyncMode::Quorum);
    let mut reports = Vec::new();
    for (node, vitals) in [N1, N2, N3].into_iter().zip(vitals) {
        let mut pg = standby(at(2, 300), false);
        pg.vitals = vitals;
        reports.push(report(node, pg));
    }
    let mut view = coordinator_view(N2, &state, reports);
    view.memory.receipt = Some(FenceReceipt {
        epoch: Epoch(1),
        node: N1,
        incarnation: 1,
        clean_end: None,
    });
    view.memory.round = Some(round(2, released));
    let decision = cluster::decide(&view);
    match decision.actions.into_iter().next() {
        Some(ClusterAction::Propose(Command::ChangeEpoch(change))) => (change.to, change.sync.members.len()),
        other => panic!("{}: {other:?}", decision.rule),
    }
}

#[test]
fn next_primary_is_a_node_whose_disk_has_room_and_the_other_still_counts_for_commits() {
    let all = [(N1, told(2, 300)), (N2, told(2, 300)), (N3, told(2, 300))];
    let well = Vitals::default;
    assert_eq!(granted_to(&all, [well(), well(), well()]).0, N2);
    assert_eq!(granted_to(&all, [well(), full(), well()]), (N3, 1));
    assert_eq!(granted_to(&all, [well(), stalled(5_000), well()]).0, N3);
    let looping = Vitals {
        crashes: 3,
        ..Vitals::default()
    };
    assert_eq!(granted_to(&all, [well(), looping, well()]).0, N3);
}

#[test]
fn primary_that_ran_out_of_disk_stays_where_no_other_has_room() {
    let all = [(N1, told(2, 301)), (N2, told(2, 300)), (N3, told(2, 300))];
    assert_eq!(granted_to(&all, [full(), full(), full()]).0, N1);
    assert_eq!(granted_to(&all, [full(), full(), Vitals::default()]).0, N3);
}

#[test]
fn node_short_of_disk_still_takes_over_where_it_alone_has_every_commit() {
    let ahead = [(N2, told(2, 300)), (N3, told(2, 299))];
    assert_eq!(
        granted_to(&ahead, [Vitals::default(), full(), Vitals::default()]).0,
        N2
    );
}
