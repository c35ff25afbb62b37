//! What the cluster commits next.

use crate::fixtures::{
    N1, N2, N3, NOW, SYSTEM, at, coordinator_view, down, founded, observed, primary, report, request, round,
    serving, standby, told, well,
};
use agent_core::cluster::{Cause, ClusterState, Command, EpochChange, Pause, SwitchoverPhase, SyncMode};
use agent_core::decide::cluster::{ClusterAction, CoordinatorView, decide};
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{ControlState, SystemId};
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::{FenceReceipt, NodeReport, Server};
use std::time::Duration;

#[track_caller]
fn assert_rule(view: &CoordinatorView<'_>, rule: &str) -> Vec<ClusterAction> {
    let decision = decide(view);
    assert_eq!(decision.rule, rule, "{decision:?}");
    decision.actions
}

fn granted(actions: Vec<ClusterAction>) -> EpochChange {
    match actions.into_iter().next() {
        Some(ClusterAction::Propose(Command::ChangeEpoch(change))) => *change,
        other => panic!("no grant: {other:?}"),
    }
}

fn empty(node: NodeId) -> NodeReport {
    report(node, observed(Server::NoData, ControlState::ShutDown, 1))
}

fn all_well() -> Vec<NodeReport> {
    vec![
        well(N1, 1, primary(at(2, 300), 100, 1, &[(N2, 300), (N3, 300)])),
        report(N2, standby(at(2, 300), true)),
        report(N3, standby(at(2, 300), true)),
    ]
}

fn receipt() -> FenceReceipt {
    FenceReceipt {
        epoch: Epoch(1),
        node: N1,
        incarnation: 1,
        clean_end: None,
    }
}

/// n1 was ended, and these have pledged.
fn after_the_fence<'a>(
    state: &'a ClusterState,
    released: &[(NodeId, agent_core::cluster::Release)],
) -> CoordinatorView<'a> {
    let reports = vec![
        report(N2, standby(at(2, 300), false)),
        report(N3, standby(at(2, 300), false)),
    ];
    let mut view = coordinator_view(N2, state, reports);
    view.memory.receipt = Some(receipt());
    view.memory.round = Some(round(2, released));
    view
}

#[test]
fn nobody_creates_a_database_before_every_data_node_has_reported() {
    let state = founded(SyncMode::Quorum);
    let view = coordinator_view(N1, &state, vec![empty(N1), empty(N2)]);
    assert!(assert_rule(&view, "wait-for-data-nodes").is_empty());
}

#[test]
fn the_creator_is_the_node_that_brings_data() {
    let state = founded(SyncMode::Quorum);
    let with_data = report(N3, observed(Server::Down, ControlState::ShutDown, 1));
    let view = coordinator_view(N1, &state, vec![empty(N1), empty(N2), with_data]);
    let actions = assert_rule(&view, "choose-creator");
    assert!(
        matches!(
            &actions[..],
            [ClusterAction::Propose(Command::ChooseCreator { node: N3, .. })]
        ),
        "{actions:?}"
    );
}

#[test]
fn two_databases_are_refused() {
    let state = founded(SyncMode::Quorum);
    let mut other = observed(Server::Down, ControlState::ShutDown, 1);
    other.control.as_mut().expect("has data").system_id = SystemId(SYSTEM.0 + 1);
    let with_data = report(N1, observed(Server::Down, ControlState::ShutDown, 1));
    let view = coordinator_view(N1, &state, vec![with_data, report(N2, other), empty(N3)]);
    assert!(assert_rule(&view, "several-databases").is_empty());
}

#[test]
fn while_all_is_well_nothing_is_done() {
    let state = serving(SyncMode::Quorum);
    assert!(assert_rule(&coordinator_view(N2, &state, all_well()), "holder-is-well").is_empty());
}

#[test]
fn a_silent_holder_is_not_deposed_before_a_majority_says_that_it_is_free() {
    let state = serving(SyncMode::Quorum);
    let mut reports = all_well();
    reports[1].voter.bound_for = Duration::ZERO;
    let mut view = coordinator_view(N2, &state, reports);
    let actions = assert_rule(&view, "ask-the-voters");
    assert!(
        matches!(&actions[..], [ClusterAction::AskBound { next: Epoch(2), .. }]),
        "{actions:?}"
    );
    view.memory.bound.insert(N2, (NOW, Duration::ZERO));
    assert!(assert_rule(&view, "holder-is-well").is_empty());
    view.memory.bound.insert(N3, (NOW, Duration::ZERO));
    let actions = assert_rule(&view, "begin-release");
    assert!(
        matches!(&actions[..], [ClusterAction::AskRelease { epoch: Epoch(2), .. }]),
        "{actions:?}"
    );
}

#[test]
fn a_receipt_begins_the_release_at_once() {
    let state = serving(SyncMode::Quorum);
    let mut view = coordinator_view(N2, &state, all_well());
    view.memory.receipt = Some(receipt());
    assert_rule(&view, "begin-release");
}

#[test]
fn the_receipt_of_a_former_life_does_not_depose_the_present_one() {
    let state = serving(SyncMode::Quorum);
    let mut reports = all_well();
    reports[0].incarnation = 2;
    let mut view = coordinator_view(N2, &state, reports);
    view.memory.receipt = Some(receipt());
    assert_rule(&view, "holder-is-well");
}

#[test]
fn the_node_that_is_furthest_becomes_the_primary() {
    let state = serving(SyncMode::Quorum);
    let view = after_the_fence(&state, &[(N2, told(2, 300)), (N3, told(2, 301))]);
    let change = granted(assert_rule(&view, "grant-epoch"));
    assert_eq!((change.to, change.cause), (N3, Cause::Failover));
    assert_eq!((change.sync.k, change.sync.members.len()), (1, 1));
}

#[test]
fn a_failed_holder_with_a_longer_tail_is_left_out_where_the_others_have_all_commits() {
    let state = serving(SyncMode::Quorum);
    let view = after_the_fence(
        &state,
        &[(N1, told(2, 900)), (N2, told(2, 300)), (N3, told(2, 300))],
    );
    let change = granted(assert_rule(&view, "grant-epoch"));
    assert_eq!(change.to, N2);
    assert!(change.released.contains_key(&N1), "its vote still counts");
    let view = after_the_fence(&state, &[(N1, told(2, 900)), (N2, told(2, 300))]);
    assert_eq!(
        granted(assert_rule(&view, "grant-epoch")).to,
        N1,
        "without it a commit could be lost"
    );
}

#[test]
fn a_node_in_maintenance_that_is_ahead_does_not_stop_the_others() {
    let mut state = serving(SyncMode::Quorum);
    state.maintenance.insert(N1);
    let view = after_the_fence(
        &state,
        &[(N1, told(2, 900)), (N2, told(2, 300)), (N3, told(2, 300))],
    );
    assert_eq!(granted(assert_rule(&view, "grant-epoch")).to, N2);
}

#[test]
fn no_automatic_failover_while_degraded_and_the_reason_is_told() {
    let mut state = serving(SyncMode::Quorum);
    state.sync = vec![crate::fixtures::rule(1, N1, 0, &[])];
    let view = after_the_fence(&state, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    let decision = decide(&view);
    assert_eq!(decision.rule, "wait-for-the-gate");
    let shut: Vec<&str> = decision
        .reasons
        .iter()
        .filter(|r| !r.open)
        .map(|r| r.id.as_str())
        .collect();
    assert_eq!(shut, ["acknowledged-commits-are-kept"]);
}

#[test]
fn a_paused_cluster_stays_without_a_primary() {
    let mut state = serving(SyncMode::Quorum);
    state.pause = Some(Pause {
        reason: "a test".to_owned(),
        since: WallTime(0),
    });
    let view = after_the_fence(&state, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert!(assert_rule(&view, "paused").is_empty());
}

#[test]
fn only_failovers_that_follow_each_other_wait_and_each_waits_longer() {
    let mut state = serving(SyncMode::Quorum);
    state.epoch = Epoch(2);
    let mut view = coordinator_view(N2, &state, vec![report(N2, standby(at(2, 300), false))]);
    view.memory.epoch_since = Some(MonoTime(NOW.0 - 5_000));
    for node in [N2, N3] {
        view.memory.bound.insert(node, (NOW, Duration::ZERO));
    }
    assert_ne!(
        decide(&view).rule,
        "no-flapping",
        "one failure after a stable epoch is answered at once"
    );
    view.memory.short_epochs = 4;
    let decision = decide(&view);
    assert_eq!(decision.rule, "no-flapping");
    assert_eq!(decision.wake_at.map(|(at, _)| at), Some(MonoTime(NOW.0 + 11_000)));
}

#[test]
fn a_coordinator_asks_again_for_pledges_that_do_not_suffice() {
    let state = serving(SyncMode::Quorum);
    let mut view = after_the_fence(&state, &[(N2, told(2, 300))]);
    assert!(assert_rule(&view, "wait-for-the-gate").is_empty());
    view.memory.round.as_mut().expect("a round").asked = MonoTime(NOW.0 - 300);
    assert_rule(&view, "ask-release-again");
}

fn switching(mode: SyncMode) -> ClusterState {
    let mut state = serving(mode);
    let start = Command::StartSwitchover {
        request: request("r"),
        to: N3,
        at: WallTime(0),
    };
    state.apply(&start).expect("a switchover starts");
    state
}

#[test]
fn switchover_stops_the_old_primary_once_it_has_made_its_checkpoint() {
    let state = switching(SyncMode::Quorum);
    let mut reports = all_well();
    let view = coordinator_view(N2, &state, reports.clone());
    assert!(assert_rule(&view, "switchover-preparing").is_empty());
    reports[0].prepared_for = Some(request("r"));
    let actions = assert_rule(&coordinator_view(N2, &state, reports), "switchover-stop");
    assert!(matches!(
        &actions[..],
        [ClusterAction::Propose(Command::StopForSwitchover { .. })]
    ));
}

#[test]
fn switchover_does_not_stop_the_old_primary_while_its_target_would_release_nothing() {
    let state = switching(SyncMode::Quorum);
    let mut reports = all_well();
    reports[0].prepared_for = Some(request("r"));
    reports[2].voter.quarantine = Duration::from_millis(1);
    assert!(
        assert_rule(
            &coordinator_view(N2, &state, reports.clone()),
            "switchover-preparing"
        )
        .is_empty()
    );
    reports[2].voter.quarantine = Duration::ZERO;
    reports[1].voter.quarantine = Duration::from_millis(1);
    assert_rule(&coordinator_view(N2, &state, reports.clone()), "switchover-stop");
    reports[0].voter.quarantine = Duration::from_millis(1);
    assert!(assert_rule(&coordinator_view(N2, &state, reports), "switchover-preparing").is_empty());
}

#[test]
fn switchover_aborts_when_the_target_lags() {
    let state = switching(SyncMode::Quorum);
    let mut reports = all_well();
    reports[0] = well(
        N1,
        1,
        primary(at(2, 64 << 20), 100, 1, &[(N2, 64 << 20), (N3, 300)]),
    );
    reports[0].prepared_for = Some(request("r"));
    let mut view = coordinator_view(N2, &state, reports);
    view.memory.switchover_since = Some(NOW);
    assert!(assert_rule(&view, "switchover-preparing").is_empty());
    view.memory.switchover_since = Some(MonoTime(NOW.0 - 30_000));
    let actions = assert_rule(&view, "switchover-aborted");
    assert!(matches!(
        &actions[..],
        [ClusterAction::Propose(Command::EndSwitchover { .. })]
    ));
}

#[test]
fn a_switchover_prefers_its_target_among_equals_and_never_loses_a_commit_for_it() {
    let mut state = switching(SyncMode::Quorum);
    state.switchover.as_mut().expect("under way").phase = SwitchoverPhase::Stopping;
    let view = after_the_fence(
        &state,
        &[(N1, told(2, 300)), (N2, told(2, 300)), (N3, told(2, 300))],
    );
    let change = granted(assert_rule(&view, "grant-epoch"));
    assert_eq!((change.to, change.cause), (N3, Cause::Switchover));
    let view = after_the_fence(
        &state,
        &[(N1, told(2, 300)), (N2, told(2, 300)), (N3, told(2, 200))],
    );
    let change = granted(assert_rule(&view, "grant-epoch"));
    assert_ne!(change.to, N3);
    assert_eq!(change.cause, Cause::Failover);
}

#[test]
fn an_order_that_its_gate_never_lets_through_is_dropped() {
    let mut state = serving(SyncMode::Quorum);
    let order = Command::OrderFailover {
        request: request("r"),
        to: N2,
        accept_data_loss: false,
        at: WallTime(0),
    };
    state.apply(&order).expect("an order");
    let mut view = after_the_fence(&state, &[(N2, told(2, 200)), (N3, told(2, 300))]);
    assert_rule(&view, "wait-for-the-gate");
    view.memory.round.as_mut().expect("a round").started = MonoTime(NOW.0 - 30_000);
    let actions = assert_rule(&view, "failover-order-dropped");
    assert!(matches!(
        &actions[..],
        [ClusterAction::Propose(Command::DropFailoverOrder { .. })]
    ));
}

#[test]
fn stray_pledge_is_mended_and_the_holder_goes_on() {
    let state = serving(SyncMode::Quorum);
    let mut reports = all_well();
    reports[2].pledge = Epoch(2);
    let mut view = coordinator_view(N2, &state, reports);
    view.memory.stray_pledge_since = Some(MonoTime(NOW.0 - 10_000));
    let change = granted(assert_rule(&view, "mend-stray-pledge"));
    assert_eq!((change.to, change.cause), (N1, Cause::PledgeRepair));
    let mut after = state.clone();
    after
        .apply(&Command::ChangeEpoch(Box::new(change)))
        .expect("its gate is open");
    assert_eq!(
        (after.epoch, after.holder, after.timeline),
        (Epoch(2), Some(N1), state.timeline)
    );
}

#[test]
fn cold_start_brings_back_a_holder_whose_commits_nobody_else_has() {
    let mut state = serving(SyncMode::Quorum);
    state.sync = vec![crate::fixtures::rule(1, N1, 0, &[])];
    let mut view = after_the_fence(
        &state,
        &[(N1, told(2, 300)), (N2, told(2, 200)), (N3, told(2, 200))],
    );
    view.reports.reports.insert(N1, (NOW, report(N1, down())));
    assert_eq!(granted(assert_rule(&view, "grant-epoch")).to, N1);
}
