//! What a node's server does next.

use crate::fixtures::{
    N1, N2, NOW, at, down, founded, node_view, observed, primary, report, request, rule, serving, standby,
};
use agent_core::cluster::{Command, Pause, SyncMode};
use agent_core::decide::node::{Conf, NodeAction, NodeView, decide};
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{ControlState, Lsn, SystemId};
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::Server;

/// The rule that fires, and a word for each action.
fn rule_and_actions(view: &NodeView<'_>) -> (String, Vec<String>) {
    let decision = decide(view);
    let words = decision
        .actions
        .iter()
        .map(|action| format!("{action:?}"))
        .map(|text| text.split([' ', '(', '{']).next().unwrap_or_default().to_owned());
    (decision.rule.clone(), words.collect())
}

#[track_caller]
fn assert_decides(view: &NodeView<'_>, rule: &str, actions: &[&str]) {
    let (fired, did) = rule_and_actions(view);
    assert_eq!(fired, rule);
    assert_eq!(did, actions);
}

fn writable_conf(names: &str) -> Conf {
    Conf {
        upstream: None,
        slot: None,
        synchronous_standby_names: names.to_owned(),
        slot_budget_bytes: 16 << 30,
    }
}

#[test]
fn a_data_directory_of_another_cluster_is_refused_and_not_touched() {
    let state = serving(SyncMode::Quorum);
    let mut pg = down();
    pg.control.as_mut().expect("has data").system_id = SystemId(7);
    assert_decides(&node_view(N2, &state, pg), "foreign-data", &[]);
}

#[test]
fn the_creator_creates_and_the_others_wait() {
    let mut state = founded(SyncMode::Quorum);
    state.creator = Some(N1);
    let empty = || observed(Server::NoData, ControlState::ShutDown, 1);
    assert_decides(
        &node_view(N1, &state, empty()),
        "create-the-database",
        &["CreateDatabase"],
    );
    assert_decides(&node_view(N2, &state, empty()), "another-node-creates", &[]);
}

#[test]
fn a_standby_becomes_primary_only_with_a_valid_lease() {
    let mut state = serving(SyncMode::Quorum);
    state.promotion = None;
    let mut view = node_view(N1, &state, standby(at(1, 100), false));
    view.conf = Some(writable_conf("ANY 1 (\"n2_e1\", \"n3_e1\")"));
    assert_decides(&view, "promote", &["Promote"]);
    view.lease.valid = false;
    assert_decides(&view, "no-lease-yet", &[]);
    view.lease.valid = true;
    view.lease.epoch = Epoch(0);
    assert_decides(&view, "no-lease-yet", &[]);
}

#[test]
fn the_rule_is_in_the_configuration_before_the_promotion() {
    let mut state = serving(SyncMode::Quorum);
    state.promotion = None;
    let view = node_view(N1, &state, standby(at(1, 100), false));
    assert_decides(&view, "prepare-promotion", &["Configure"]);
}

#[test]
fn a_holder_that_lost_wal_since_its_grant_is_not_promoted() {
    let mut state = serving(SyncMode::Quorum);
    state.promotion = None;
    state.timeline = agent_core::pg::TimelineId(3);
    state.granted_at = Some(at(2, 300));
    let view = node_view(N1, &state, standby(at(2, 299), false));
    assert_decides(&view, "behind-its-grant", &["Fence"]);
}

#[test]
fn a_server_that_was_promoted_and_fell_back_needs_an_epoch_of_its_own() {
    let state = serving(SyncMode::Quorum);
    assert_decides(
        &node_view(N1, &state, standby(at(2, 300), false)),
        "promoted-once-already",
        &["Fence"],
    );
}

#[test]
fn a_primary_whose_server_died_gives_its_receipt() {
    let state = serving(SyncMode::Quorum);
    assert_decides(&node_view(N1, &state, down()), "server-died", &["Fence"]);
}

#[test]
fn after_the_fence_the_server_starts_as_a_standby_and_waits() {
    let state = serving(SyncMode::Quorum);
    let mut view = node_view(N1, &state, down());
    view.lease.fenced = Epoch(1);
    assert_decides(&view, "start-to-be-promoted", &["Start"]);
    view.pg = standby(at(2, 300), false);
    assert_decides(&view, "needs-a-new-epoch", &[]);
}

#[test]
fn primary_cut_off_from_the_majority_is_ended_when_nobody_confirms_it() {
    let state = serving(SyncMode::Quorum);
    let mut view = node_view(N1, &state, primary(at(2, 300), 100, 1, &[]));
    view.lease.valid = false;
    assert_decides(&view, "adopting", &[]);
    view.memory.adopting_since = Some(NOW);
    assert_decides(&view, "adopting", &[]);
    view.memory.adopting_since = Some(MonoTime(NOW.0 - 2_000));
    assert_decides(&view, "adoption-failed", &["Fence"]);
}

#[test]
fn a_writable_server_of_a_node_that_does_not_hold_the_epoch_is_ended() {
    let state = serving(SyncMode::Quorum);
    let view = node_view(N2, &state, primary(at(1, 300), 50, 0, &[]));
    assert_decides(&view, "writable-without-the-epoch", &["Fence"]);
}

#[test]
fn a_pledged_standby_is_cut_off_and_stays_so() {
    let state = serving(SyncMode::Quorum);
    let mut view = node_view(N2, &state, standby(at(2, 300), true));
    view.pledge = Epoch(2);
    assert_decides(&view, "cut-off-as-pledged", &["Configure"]);
}

#[test]
fn standby_ahead_of_the_new_primary_is_rewound() {
    let mut state = serving(SyncMode::Quorum);
    state.granted_at = Some(at(1, 100));
    let mut view = node_view(N2, &state, standby(at(1, 150), false));
    assert_decides(&view, "compare-with-the-primary", &[]);
    view.holder = Some(report(N1, primary(at(2, 300), 100, 1, &[])));
    assert_decides(&view, "stop-to-rewind", &["StopDiverged"]);
    view.pg = down();
    view.memory.diverged = Some(Epoch(1));
    assert_decides(&view, "rewind", &["Rewind"]);
    view.memory.rewind_failed = Some(Epoch(1));
    assert_decides(&view, "set-data-aside", &["SetDataAside"]);
    view.pg = observed(Server::NoData, ControlState::ShutDown, 1);
    assert_decides(&view, "copy-from-primary", &["Copy"]);
}

#[test]
fn standby_on_the_line_of_the_new_primary_follows_without_a_rewind() {
    let mut state = serving(SyncMode::Quorum);
    state.granted_at = Some(at(1, 100));
    let mut view = node_view(N2, &state, standby(at(1, 100), false));
    assert_decides(&view, "follow", &["Configure"]);
    view.pg = standby(at(1, 90), false);
    view.holder = Some(report(N1, primary(at(2, 300), 100, 1, &[])));
    assert_decides(&view, "follow", &["Configure"]);
}

#[test]
fn a_rewind_waits_until_the_new_primary_has_its_timeline_on_disk() {
    let state = serving(SyncMode::Quorum);
    let mut view = node_view(N2, &state, down());
    view.memory.diverged = Some(Epoch(1));
    let mut young = primary(at(2, 300), 100, 1, &[]);
    young.control.as_mut().expect("has data").timeline = agent_core::pg::TimelineId(1);
    view.holder = Some(report(N1, young));
    assert_decides(&view, "wait-to-rewind", &[]);
}

#[test]
fn in_strict_mode_the_first_copy_is_made_before_the_gate_is_open() {
    let mut state = serving(SyncMode::Strict);
    state.promotion = None;
    let mut view = node_view(N2, &state, observed(Server::NoData, ControlState::ShutDown, 1));
    view.holder = Some(report(N1, primary(at(2, 300), 100, 1, &[])));
    assert_decides(&view, "copy-from-primary", &["Copy"]);
}

#[test]
fn nothing_is_copied_from_a_server_on_an_older_timeline() {
    let mut state = serving(SyncMode::Quorum);
    state.timeline = agent_core::pg::TimelineId(3);
    let mut view = node_view(N2, &state, observed(Server::NoData, ControlState::ShutDown, 1));
    view.holder = Some(report(N1, primary(at(2, 300), 100, 1, &[])));
    assert_decides(&view, "wait-for-a-source", &[]);
}

#[test]
fn a_paused_cluster_does_not_start_servers() {
    let mut state = serving(SyncMode::Quorum);
    state.pause = Some(Pause {
        reason: "a test".to_owned(),
        since: WallTime(0),
    });
    assert_decides(&node_view(N2, &state, down()), "paused", &[]);
}

/// n1 serves with its rule in force and its gate open, and sees these standbys.
fn steady<'a>(
    state: &'a agent_core::cluster::ClusterState,
    names: &str,
    standbys: &[(NodeId, u64)],
) -> NodeView<'a> {
    let mut view = node_view(N1, state, primary(at(2, 300), 100, 1, standbys));
    view.conf = Some(writable_conf(names));
    view.memory.gate = Some(Epoch(1));
    view
}

const BOTH: &str = "ANY 1 (\"n2_e1\", \"n3_e1\")";

#[test]
fn with_all_standbys_there_is_nothing_to_do() {
    let state = serving(SyncMode::Quorum);
    assert_decides(
        &steady(&state, BOTH, &[(N2, 300), (NodeId(3), 300)]),
        "primary-serves",
        &[],
    );
}

#[test]
fn a_lost_standby_leaves_the_set_when_its_time_is_over_and_not_before() {
    let state = serving(SyncMode::Quorum);
    let mut view = steady(&state, BOTH, &[(N2, 300)]);
    view.memory.absent_since.insert(NodeId(3), MonoTime(NOW.0 - 999));
    assert_decides(&view, "primary-serves", &[]);
    assert_eq!(decide(&view).wake_at.map(|(at, _)| at), Some(MonoTime(NOW.0 + 1)));
    view.memory
        .absent_since
        .insert(NodeId(3), MonoTime(NOW.0 - 1_000));
    let decision = decide(&view);
    let expected = rule(1, N1, 1, &[N2]);
    assert!(
        matches!(&decision.actions[..],
            [NodeAction::Propose(Command::SyncBegin { rule, .. })] if *rule == expected),
        "{decision:?}"
    );
}

#[test]
fn without_standbys_quorum_degrades_and_strict_waits() {
    let degrade = |mode| {
        let state = serving(mode);
        let mut view = steady(&state, BOTH, &[]);
        for node in [N2, NodeId(3)] {
            view.memory.absent_since.insert(node, MonoTime(0));
        }
        decide(&view).actions
    };
    assert!(matches!(&degrade(SyncMode::Quorum)[..],
            [NodeAction::Propose(Command::SyncBegin { rule, .. })] if rule.k == 0 && rule.members.is_empty()));
    assert!(degrade(SyncMode::Strict).is_empty());
}

#[test]
fn a_new_rule_is_recorded_before_the_server_is_told() {
    let mut state = serving(SyncMode::Quorum);
    state.sync.push(rule(1, N1, 1, &[N2]));
    assert_decides(
        &steady(&state, BOTH, &[(N2, 300)]),
        "configure-primary",
        &["Configure"],
    );
}

#[test]
fn an_old_rule_is_dropped_only_when_the_mark_is_everywhere() {
    let mut state = serving(SyncMode::Quorum);
    let newer = rule(1, N1, 1, &[N2]);
    state.sync.push(newer.clone());
    let mut view = steady(&state, "ANY 1 (\"n2_e1\")", &[(N2, 300)]);
    assert_decides(&view, "mark-the-wal", &["MarkSync"]);
    view.memory.sync_mark = Some((newer.clone(), Lsn(301)));
    assert_decides(&view, "wait-for-the-mark", &[]);
    view.memory.sync_mark = Some((newer, Lsn(300)));
    assert_decides(&view, "synchronous-set-changed", &["Propose"]);
}

#[test]
fn the_gate_opens_by_a_row_before_clients_are_served() {
    let state = serving(SyncMode::Quorum);
    let mut view = steady(&state, BOTH, &[(N2, 300), (NodeId(3), 300)]);
    view.memory.gate = None;
    assert_decides(&view, "open-the-gate", &["OpenGate"]);
}

#[test]
fn in_a_switchover_the_old_primary_makes_its_checkpoint_and_then_stops() {
    let mut state = serving(SyncMode::Quorum);
    let start = Command::StartSwitchover {
        request: request("r"),
        to: N2,
        at: WallTime(0),
    };
    state.apply(&start).expect("a switchover starts");
    let standbys = [(N2, 300), (NodeId(3), 300)];
    assert_decides(
        &steady(&state, BOTH, &standbys),
        "checkpoint-for-switchover",
        &["Checkpoint"],
    );
    let stop = Command::StopForSwitchover {
        request: request("r"),
        at: WallTime(0),
    };
    state.apply(&stop).expect("it is under way");
    assert_decides(
        &steady(&state, BOTH, &standbys),
        "stop-for-switchover",
        &["Shutdown"],
    );
}

#[test]
fn a_primary_that_is_ordered_to_yield_is_ended() {
    let mut state = serving(SyncMode::Quorum);
    let order = Command::OrderFailover {
        request: request("r"),
        to: N2,
        accept_data_loss: false,
        at: WallTime(0),
    };
    state.apply(&order).expect("an order");
    let mut view = steady(&state, BOTH, &[(N2, 300)]);
    assert_decides(&view, "primary-serves", &[]);
    view.peers = vec![report(N2, down())];
    assert_decides(&view, "primary-serves", &[]);
    view.peers = vec![report(N2, standby(at(2, 300), true))];
    assert_decides(&view, "ordered-to-yield", &["Fence"]);
}

#[test]
fn data_that_a_rewind_has_left_half_done_is_never_started() {
    let mut ahead = founded(SyncMode::Quorum);
    ahead.creator = Some(N1);
    let mut view = node_view(N1, &ahead, down());
    view.memory.broken = true;
    assert_decides(&view, "data-broken", &[]);
    let state = serving(SyncMode::Quorum);
    let mut view = node_view(N2, &state, down());
    view.memory.broken = true;
    assert_decides(&view, "wait-for-a-source", &[]);
    let mut granted = serving(SyncMode::Quorum);
    granted.promotion = None;
    granted.timeline = agent_core::pg::TimelineId(3);
    let mut view = node_view(N1, &granted, down());
    view.memory.broken = true;
    assert_decides(&view, "holder-cannot-start", &["Fence"]);
    view.lease.fenced = Epoch(1);
    assert_decides(&view, "data-broken", &[]);
}

#[test]
fn a_holder_whose_server_does_not_start_makes_room_for_another() {
    let mut state = serving(SyncMode::Quorum);
    state.promotion = None;
    state.timeline = agent_core::pg::TimelineId(3);
    let mut view = node_view(N1, &state, down());
    assert_decides(&view, "start-to-be-promoted", &["Start"]);
    view.memory.job_failed_at = Some(NOW);
    assert_decides(&view, "holder-cannot-start", &["Fence"]);
}
