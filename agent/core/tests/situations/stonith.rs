//! Machines that others turn off, and nodes that an operator keeps out.

use crate::fixtures::{
    N1, N2, N3, NOW, coordinator_view, down, node_view, nodes, primary, report, request, round, rule,
    serving, standby, told,
};
use agent_core::cluster::{
    Applied, Cause, ClusterState, Command, EpochChange, Release, StonithMode, StonithProof, SyncMode, gate,
};
use agent_core::decide::cluster::{ClusterAction, CoordinatorView, StonithProgress, decide};
use agent_core::decide::node::{self, NodeAction};
use agent_core::ids::{Epoch, NodeId};
use agent_core::time::{MonoTime, WallTime};
use agent_core::view::{FenceReceipt, NodeReport, WatchdogReport, WatchdogState};

fn requiring() -> ClusterState {
    let mut state = serving(SyncMode::Quorum);
    state.settings.stonith = StonithMode::Required;
    state
}

fn proof(epoch: u64, node: NodeId) -> StonithProof {
    StonithProof {
        epoch: Epoch(epoch),
        node,
        by: "n2".to_owned(),
        device: "a device".to_owned(),
        exit_code: Some(2),
        output: "Status: OFF".to_owned(),
        began: WallTime(1),
        at: WallTime(2),
    }
}

fn record(state: &mut ClusterState, proof: StonithProof) {
    let proof = Box::new(proof);
    state
        .apply(&Command::RecordStonith { request: None, proof })
        .expect("that node held that epoch");
}

fn change(to: NodeId, released: &[(NodeId, Release)]) -> EpochChange {
    let followers: Vec<NodeId> = released
        .iter()
        .map(|(node, _)| *node)
        .filter(|node| *node != to)
        .collect();
    EpochChange {
        from: Epoch(1),
        to,
        cause: Cause::Failover,
        why: "a test".to_owned(),
        released: released.iter().copied().collect(),
        receipt: None,
        sync: rule(2, to, 1, &followers),
        may_lose_bytes: None,
        at: WallTime(0),
    }
}

fn to_n2() -> EpochChange {
    change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))])
}

fn receipt(epoch: u64, node: NodeId) -> FenceReceipt {
    FenceReceipt {
        epoch: Epoch(epoch),
        node,
        incarnation: 1,
        clean_end: None,
    }
}

fn shut(state: &ClusterState, change: &EpochChange) -> Vec<String> {
    let gates = gate::check(state, change).into_iter().filter(|gate| !gate.open);
    gates
        .inspect(|gate| {
            assert!(
                !gate.next.is_empty(),
                "{} does not say what would open it",
                gate.id
            )
        })
        .map(|gate| gate.id)
        .collect()
}

const NONE: [&str; 0] = [];

#[test]
fn the_end_of_the_lease_opens_the_gate_unless_stonith_is_required() {
    let mut state = serving(SyncMode::Quorum);
    for mode in [StonithMode::None, StonithMode::BestEffort] {
        state.settings.stonith = mode;
        assert_eq!(shut(&state, &to_n2()), NONE, "{mode:?}");
    }
    assert_eq!(shut(&requiring(), &to_n2()), ["old-holder-is-off"]);
}

#[test]
fn a_proof_of_this_epoch_and_holder_opens_it_and_no_other_does() {
    let mut state = requiring();
    let strangers = [proof(1, N3), proof(2, N1), proof(0, N1)];
    for stranger in strangers {
        let proof = Box::new(stranger.clone());
        let refused = state.apply(&Command::RecordStonith { request: None, proof });
        assert!(refused.is_err(), "{stranger:?} was taken");
    }
    assert_eq!(shut(&state, &to_n2()), ["old-holder-is-off"]);
    record(&mut state, proof(1, N1));
    assert_eq!(shut(&state, &to_n2()), NONE);
}

#[test]
fn a_proof_does_not_end_the_lease() {
    let mut state = requiring();
    record(&mut state, proof(1, N1));
    let alone = change(N2, &[(N2, told(2, 300))]);
    assert!(shut(&state, &alone).contains(&"old-holder-is-fenced".to_owned()));
}

#[test]
fn the_proof_of_one_epoch_says_nothing_of_the_next() {
    let mut state = requiring();
    record(&mut state, proof(1, N1));
    state
        .apply(&Command::ChangeEpoch(Box::new(to_n2())))
        .expect("open");
    assert_eq!(
        state.history[0].stonith,
        [proof(1, N1)],
        "it stays in the history"
    );
    let mut next = change(N3, &[(N1, told(2, 300)), (N3, told(2, 300))]);
    next.from = Epoch(2);
    next.sync = rule(3, N3, 1, &[N1]);
    assert!(shut(&state, &next).contains(&"old-holder-is-off".to_owned()));
}

#[test]
fn the_holders_own_word_opens_it() {
    let state = requiring();
    let mut told_so = to_n2();
    told_so.receipt = Some(receipt(1, N1));
    assert_eq!(shut(&state, &told_so), NONE, "its receipt");
    for other in [receipt(0, N1), receipt(1, N3)] {
        told_so.receipt = Some(other);
        assert_eq!(shut(&state, &told_so), ["old-holder-is-off"], "{other:?}");
    }
    let pledged = change(N2, &[(N1, told(2, 300)), (N2, told(2, 300))]);
    assert_eq!(
        shut(&state, &pledged),
        NONE,
        "its pledge, with its server in recovery"
    );
    let voter_only = change(
        N2,
        &[(N1, Release::at(None)), (N2, told(2, 300)), (N3, told(2, 300))],
    );
    assert_eq!(
        shut(&state, &voter_only),
        ["old-holder-is-off"],
        "its vote alone says nothing of its server"
    );
}

#[test]
fn an_operators_failover_waits_for_the_proof_as_well() {
    let mut by_hand = to_n2();
    by_hand.cause = Cause::ManualFailover;
    by_hand.may_lose_bytes = Some(100);
    assert_eq!(shut(&requiring(), &by_hand), ["old-holder-is-off"]);
}

fn lost_holder(state: &ClusterState) -> CoordinatorView<'_> {
    let reports: Vec<NodeReport> = vec![
        report(N2, standby(at_300(), false)),
        report(N3, standby(at_300(), false)),
    ];
    let mut view = coordinator_view(N2, state, reports);
    view.memory.round = Some(round(2, &[(N2, told(2, 300)), (N3, told(2, 300))]));
    view
}

fn at_300() -> agent_core::pg::Position {
    crate::fixtures::at(2, 300)
}

fn turns_off(view: &CoordinatorView<'_>) -> bool {
    let decision = decide(view);
    decision.actions.iter().any(|action| {
        matches!(
            action,
            ClusterAction::TurnOff {
                node: N1,
                epoch: Epoch(1)
            }
        )
    })
}

fn grants(view: &CoordinatorView<'_>) -> bool {
    let decision = decide(view);
    decision
        .actions
        .iter()
        .any(|action| matches!(action, ClusterAction::Propose(Command::ChangeEpoch(_))))
}

#[test]
fn a_lost_holder_is_turned_off_and_nobody_is_promoted_before() {
    let mut state = requiring();
    let view = lost_holder(&state);
    assert!(turns_off(&view) && !grants(&view), "{:?}", decide(&view));
    record(&mut state, proof(1, N1));
    let view = lost_holder(&state);
    assert!(!turns_off(&view) && grants(&view), "{:?}", decide(&view));
}

#[test]
fn best_effort_turns_off_and_does_not_wait() {
    let mut state = serving(SyncMode::Quorum);
    state.settings.stonith = StonithMode::BestEffort;
    let view = lost_holder(&state);
    assert!(turns_off(&view) && grants(&view), "{:?}", decide(&view));
}

#[test]
fn without_stonith_nobody_is_turned_off() {
    let state = serving(SyncMode::Quorum);
    assert!(!turns_off(&lost_holder(&state)));
}

#[test]
fn a_holder_that_has_given_its_receipt_is_not_turned_off() {
    let state = requiring();
    let mut view = lost_holder(&state);
    view.memory.receipt = Some(receipt(1, N1));
    assert!(!turns_off(&view) && grants(&view), "{:?}", decide(&view));
}

#[test]
fn the_receipt_of_a_former_life_proves_nothing_of_the_present_one() {
    let state = requiring();
    let mut view = lost_holder(&state);
    view.memory.receipt = Some(receipt(1, N1));
    let mut later = report(N1, down());
    later.incarnation = 2;
    view.reports.reports.insert(N1, (MonoTime(0), later));
    // It may have been promoted in its later life: nothing is granted on that word, and the machine is turned off.
    assert!(!grants(&view) && turns_off(&view), "{:?}", decide(&view));
}

#[test]
fn the_coordinator_does_not_turn_its_own_machine_off() {
    let state = requiring();
    let mut view = lost_holder(&state);
    view.me = N1;
    assert!(!turns_off(&view));
}

#[test]
fn one_attempt_at_a_time_and_a_pause_after_one_that_failed() {
    let state = requiring();
    let mut view = lost_holder(&state);
    let attempt = StonithProgress {
        epoch: Epoch(1),
        ..StonithProgress::default()
    };
    view.memory.stonith = Some(attempt.clone());
    assert!(!turns_off(&view), "one is under way");
    let failed = |ended: MonoTime| StonithProgress {
        tries: 7,
        ended: Some(ended),
        failure: Some("no route to the device".to_owned()),
        ..attempt.clone()
    };
    view.memory.stonith = Some(failed(NOW));
    assert!(!turns_off(&view), "the pause has only begun");
    let explained = decide(&view).reasons;
    assert!(
        explained.iter().any(
            |reason| reason.id == "fence-device-works" && reason.found.contains("no route to the device")
        ),
        "{explained:?}"
    );
    view.memory.stonith = Some(failed(MonoTime(NOW.0 - state.settings.stonith_pause_ms)));
    assert!(turns_off(&view), "required never gives up");
    let mut best_effort = state.clone();
    best_effort.settings.stonith = StonithMode::BestEffort;
    let mut gave_up = lost_holder(&best_effort);
    gave_up.memory.stonith = view.memory.stonith.clone();
    assert!(!turns_off(&gave_up));
}

#[test]
fn a_machine_that_was_turned_off_does_not_take_its_epoch_up_again() {
    let mut state = requiring();
    state.promotion = None;
    record(&mut state, proof(1, N1));
    let view = node_view(N1, &state, standby(crate::fixtures::at(1, 100), false));
    let decision = node::decide(&view);
    assert_eq!(decision.rule, "turned-off-in-this-epoch");
    assert!(matches!(
        &decision.actions[..],
        [NodeAction::Fence { epoch: Epoch(1), .. }]
    ));
}

fn fence(state: &mut ClusterState, node: NodeId) {
    let fence = Command::FenceNode {
        request: request(&format!("fence {node}")),
        node,
        reason: "bad memory".to_owned(),
        at: WallTime(5),
    };
    assert_eq!(state.apply(&fence), Ok(Applied::Done));
}

#[test]
fn a_node_fenced_by_hand_is_never_granted_an_epoch_not_even_by_hand() {
    let mut state = serving(SyncMode::Quorum);
    fence(&mut state, N2);
    let mut change = to_n2();
    assert_eq!(shut(&state, &change), ["target-can-hold"]);
    change.cause = Cause::ManualFailover;
    assert_eq!(shut(&state, &change), ["target-can-hold"]);
    let unfence = Command::UnfenceNode {
        request: request("u"),
        node: N2,
        at: WallTime(6),
    };
    assert_eq!(state.apply(&unfence), Ok(Applied::Done));
    assert_eq!(shut(&state, &change), NONE);
}

#[test]
fn the_coordinator_chooses_another_node_than_the_one_fenced_by_hand() {
    let mut state = serving(SyncMode::Quorum);
    fence(&mut state, N2);
    let mut view = lost_holder(&state);
    view.memory.receipt = Some(receipt(1, N1));
    let decision = decide(&view);
    let granted = decision.actions.iter().find_map(|action| match action {
        ClusterAction::Propose(Command::ChangeEpoch(change)) => {
            Some((change.to, change.sync.members.clone()))
        }
        _ => None,
    });
    assert_eq!(granted, Some((N3, nodes(&[]))), "{decision:?}");
}

#[test]
fn a_primary_fenced_by_hand_ends_its_server_and_gives_its_receipt() {
    let mut state = serving(SyncMode::Quorum);
    fence(&mut state, N1);
    let serves = primary(crate::fixtures::at(2, 300), 100, 1, &[(N2, 300)]);
    let mut view = node_view(N1, &state, serves);
    let decision = node::decide(&view);
    assert!(matches!(
        &decision.actions[..],
        [NodeAction::Fence { epoch: Epoch(1), .. }]
    ));
    view.lease.fenced = Epoch(1);
    view.pg = down();
    let decision = node::decide(&view);
    assert!(decision.actions.is_empty(), "{decision:?}");
    assert_eq!(decision.reasons[0].id, "not-fenced-by-hand");
}

#[test]
fn a_standby_fenced_by_hand_is_stopped_and_not_started_even_while_paused() {
    let mut state = serving(SyncMode::Quorum);
    fence(&mut state, N2);
    state.pause = Some(agent_core::cluster::Pause {
        reason: "a test".to_owned(),
        since: WallTime(0),
    });
    let decision = node::decide(&node_view(N2, &state, standby(at_300(), true)));
    assert!(
        matches!(&decision.actions[..], [NodeAction::Stop]),
        "{decision:?}"
    );
    let decision = node::decide(&node_view(N2, &state, down()));
    assert!(decision.actions.is_empty(), "{decision:?}");
}

#[test]
fn a_node_that_lost_its_state_stays_fenced_under_its_new_number() {
    let mut state = serving(SyncMode::Quorum);
    fence(&mut state, N3);
    state.sync = vec![rule(1, N1, 1, &[N2])];
    let replace = Command::ReplaceMember {
        request: request("r"),
        old: N3,
        member: state.members[&N3].clone(),
        at: WallTime(7),
    };
    let Ok(Applied::Member { node }) = state.apply(&replace) else {
        panic!("it is replaced");
    };
    assert_eq!(state.fenced.keys().copied().collect::<Vec<_>>(), [node]);
}

fn watchdog(state: WatchdogState, required: bool) -> Option<WatchdogReport> {
    Some(WatchdogReport {
        required,
        timeout_s: 1,
        state,
        detail: "no such device".to_owned(),
    })
}

#[test]
fn a_required_watchdog_is_armed_before_the_promotion() {
    let mut state = serving(SyncMode::Quorum);
    state.promotion = None;
    let mut view = node_view(N1, &state, standby(crate::fixtures::at(1, 100), false));
    let goes_on = |view: &node::NodeView<'_>| node::decide(view).rule;
    for (watchdog, rule) in [
        (None, "prepare-promotion"),
        (watchdog(WatchdogState::Absent, false), "prepare-promotion"),
        (watchdog(WatchdogState::Armed, true), "prepare-promotion"),
        (watchdog(WatchdogState::Ready, true), "watchdog-not-armed-yet"),
        (watchdog(WatchdogState::Absent, true), "watchdog-cannot-be-armed"),
    ] {
        view.watchdog.clone_from(&watchdog);
        assert_eq!(goes_on(&view), rule, "{watchdog:?}");
    }
}

#[test]
fn a_node_without_the_watchdog_that_it_requires_is_granted_nothing() {
    let state = serving(SyncMode::Quorum);
    let mut view = lost_holder(&state);
    view.memory.receipt = Some(receipt(1, N1));
    let without = |view: &mut CoordinatorView<'_>, node: NodeId| {
        let (_, report) = view.reports.reports.get_mut(&node).expect("it has reported");
        report.watchdog = watchdog(WatchdogState::Absent, true);
    };
    without(&mut view, N2);
    let to = decide(&view).actions.iter().find_map(|action| match action {
        ClusterAction::Propose(Command::ChangeEpoch(change)) => Some(change.to),
        _ => None,
    });
    assert_eq!(to, Some(N3));
    without(&mut view, N3);
    let decision = decide(&view);
    assert!(!grants(&view), "{decision:?}");
    assert!(
        decision
            .reasons
            .iter()
            .any(|reason| reason.id == "watchdog-armed" && !reason.open)
    );
}
