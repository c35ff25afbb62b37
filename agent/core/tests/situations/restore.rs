//! The whole cluster goes back to a point in time: who may be promoted, and what counts afterwards.

use crate::fixtures::{
    N1, N2, N3, at, coordinator_view, nodes, report, request, round, rule, serving, standby, told,
};
use agent_core::cluster::{
    Applied, Cause, ClusterState, Command, EpochChange, InPlaceRestore, Rejected, Release, RestoreAct,
    RestorePhase, RestorePoint, RestoreReached, RestoreTarget, SyncMode, gate,
};
use agent_core::decide::cluster::{ClusterAction, CoordinatorView};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::pg::{Lsn, Position};
use agent_core::time::WallTime;
use agent_core::view::FenceReceipt;
use proptest::prelude::*;

pub fn to(lsn: u64) -> RestoreTarget {
    RestoreTarget {
        point: RestorePoint::Lsn(Lsn(lsn)),
        exclusive: false,
        backup: None,
        timeline: None,
    }
}

pub fn act(state: &mut ClusterState, by: Option<&str>, act: RestoreAct) -> Result<Applied, Rejected> {
    state.apply(&Command::Restore {
        request: by.map(request),
        act: Box::new(act),
        at: WallTime(1_000),
    })
}

pub fn id() -> RequestId {
    request("back")
}

pub fn reached(position: Position) -> RestoreReached {
    RestoreReached {
        position,
        backup: "b1".to_owned(),
        replay_age_ms: Some(400),
        at: WallTime(0),
    }
}

/// n1 served epoch 1 on timeline 2; n2 restores, and has come so far.
pub fn restoring(phase: RestorePhase) -> ClusterState {
    let mut state = serving(SyncMode::Quorum);
    let steps = [
        (
            Some("back"),
            RestoreAct::Begin {
                node: N2,
                target: to(150),
            },
        ),
        (
            None,
            RestoreAct::Stopped {
                id: id(),
                released: nodes(&[N1, N2]),
            },
        ),
        (
            None,
            RestoreAct::Reached {
                id: id(),
                round: 1,
                reached: reached(at(2, 150)),
            },
        ),
        (Some("yes"), RestoreAct::Commit { round: 1 }),
    ];
    for (by, step) in steps {
        if running(&state).is_some_and(|running| running.phase == phase) {
            break;
        }
        act(&mut state, by, step).expect("the way there");
    }
    assert_eq!(running(&state).map(|running| running.phase), Some(phase));
    state
}

pub fn running(state: &ClusterState) -> Option<&InPlaceRestore> {
    state.restores.running.as_ref()
}

fn grant(cause: Cause, to: NodeId, released: &[(NodeId, Release)]) -> EpochChange {
    EpochChange {
        from: Epoch(1),
        to,
        cause,
        why: "test".to_owned(),
        released: released.iter().copied().collect(),
        receipt: None,
        sync: rule(2, to, 0, &[]),
        may_lose_bytes: None,
        at: WallTime(0),
    }
}

fn left_out(release: Release) -> Release {
    Release {
        left_out: true,
        ..release
    }
}

pub fn committed() -> ClusterState {
    let mut state = restoring(RestorePhase::Committing);
    let change = grant(
        Cause::Restore,
        N2,
        &[
            (N1, left_out(told(2, 300))),
            (N2, told(2, 150)),
            (N3, left_out(told(2, 300))),
        ],
    );
    state
        .apply(&Command::ChangeEpoch(Box::new(change)))
        .expect("the committed restore is granted");
    state
}

#[test]
fn nothing_is_touched_before_a_majority_has_pledged() {
    let mut state = restoring(RestorePhase::Stopping);
    let alone = RestoreAct::Stopped {
        id: id(),
        released: nodes(&[N2]),
    };
    act(&mut state, None, alone).expect_err("one of three is no majority");
    assert_eq!(
        running(&state).map(|running| running.phase),
        Some(RestorePhase::Stopping)
    );
    let other = RestoreAct::Stopped {
        id: request("another"),
        released: nodes(&[N1, N2]),
    };
    act(&mut state, None, other).expect_err("the word on another restore");
}

#[test]
fn while_it_is_under_way_nobody_else_is_granted_an_epoch() {
    let all = [(N1, told(2, 300)), (N2, told(2, 300)), (N3, told(2, 300))];
    for phase in [
        RestorePhase::Stopping,
        RestorePhase::Restoring,
        RestorePhase::Inspecting,
        RestorePhase::Committing,
    ] {
        let state = restoring(phase);
        for cause in [
            Cause::Failover,
            Cause::Switchover,
            Cause::ManualFailover,
            Cause::Renewal,
            Cause::PledgeRepair,
        ] {
            for node in [N1, N2, N3] {
                let change = grant(cause, node, &all);
                assert!(
                    !gate::is_open(&gate::check(&state, &change)),
                    "{phase:?} {cause:?} {node}"
                );
            }
        }
        let committed = [(N1, told(2, 300)), (N2, told(2, 150))].map(|(node, release)| match node {
            N2 => (node, release),
            _ => (node, left_out(release)),
        });
        let open = gate::is_open(&gate::check(&state, &grant(Cause::Restore, N2, &committed)));
        assert_eq!(open, phase == RestorePhase::Committing, "{phase:?}");
    }
}

#[test]
fn the_grant_is_for_what_was_inspected_and_needs_the_old_epoch_released() {
    let state = restoring(RestorePhase::Committing);
    type Told<'a> = &'a [(NodeId, Release)];
    let cases: [(&str, NodeId, Told<'_>); 5] = [
        (
            "it is further than what was inspected",
            N2,
            &[(N1, left_out(told(2, 300))), (N2, told(2, 151))],
        ),
        (
            "it is short of it",
            N2,
            &[(N1, left_out(told(2, 300))), (N2, told(2, 149))],
        ),
        (
            "another node",
            N3,
            &[(N2, left_out(told(2, 150))), (N3, told(2, 150))],
        ),
        ("no majority has released", N2, &[(N2, told(2, 150))]),
        (
            "its position is left out",
            N2,
            &[(N1, told(2, 300)), (N2, left_out(told(2, 150)))],
        ),
    ];
    for (what, node, released) in cases {
        let change = grant(Cause::Restore, node, released);
        assert!(!gate::is_open(&gate::check(&state, &change)), "{what}");
    }
    let late = grant(
        Cause::Restore,
        N2,
        &[(N1, left_out(told(2, 300))), (N2, told(2, 150))],
    );
    let mut aborted = state.clone();
    act(&mut aborted, Some("no"), RestoreAct::Abort { why: String::new() }).expect("aborted");
    assert!(
        !gate::is_open(&gate::check(&aborted, &late)),
        "it was aborted meanwhile"
    );
}

#[test]
fn an_abort_leaves_the_epoch_its_rules_and_its_commits_as_they_were() {
    let before = serving(SyncMode::Quorum);
    for phase in [
        RestorePhase::Stopping,
        RestorePhase::Restoring,
        RestorePhase::Inspecting,
        RestorePhase::Committing,
    ] {
        let mut state = restoring(phase);
        act(&mut state, Some("no"), RestoreAct::Abort { why: String::new() }).expect("aborted");
        assert_eq!(
            (state.epoch, state.holder, &state.sync, state.restores.line),
            (before.epoch, before.holder, &before.sync, None),
            "{phase:?}"
        );
        assert_eq!(state.restores.ended(&id()), Some(false));
    }
}

#[test]
fn after_the_commit_only_data_of_the_restored_line_are_promoted() {
    let mut state = committed();
    assert_eq!(
        (state.holder, state.epoch, state.timeline.0),
        (Some(N2), Epoch(2), 3)
    );
    assert!(running(&state).is_none());
    let next = |to, released: &[(NodeId, Release)]| {
        let mut change = grant(Cause::Failover, to, released);
        change.from = Epoch(2);
        change.sync = rule(3, to, 0, &[]);
        change
    };
    // n2 dies before it was promoted: the others are further, on the line that was given up.
    let old = next(N1, &[(N1, told(2, 300)), (N3, told(2, 300))]);
    assert!(!gate::is_open(&gate::check(&state, &old)));
    let itself = next(N2, &[(N1, left_out(told(2, 300))), (N2, told(2, 150))]);
    assert!(gate::is_open(&gate::check(&state, &itself)));
    let mut accepted = next(N1, &[(N1, told(2, 300)), (N3, told(2, 300))]);
    accepted.cause = Cause::ManualFailover;
    accepted.may_lose_bytes = Some(150);
    assert!(
        gate::is_open(&gate::check(&state, &accepted)),
        "there is a way out, by hand"
    );
    state
        .apply(&Command::ChangeEpoch(Box::new(accepted)))
        .expect("granted");
    assert_eq!(state.restores.line, None, "the old line counts again");
}

#[test]
fn the_coordinator_takes_no_old_data_for_the_furthest() {
    let state = committed();
    let reports = vec![
        report(N1, standby(at(2, 300), false)),
        report(N2, standby(at(2, 150), false)),
    ];
    let mut view = coordinator_view(N1, &state, reports);
    view.memory.receipt = Some(FenceReceipt {
        epoch: Epoch(2),
        node: N2,
        incarnation: 1,
        clean_end: None,
    });
    view.memory.round = Some(round(
        3,
        &[(N1, told(2, 300)), (N2, told(2, 150)), (N3, told(2, 300))],
    ));
    let change = granted(&view);
    assert_eq!(change.to, N2);
}

fn granted(view: &CoordinatorView<'_>) -> EpochChange {
    let decision = agent_core::decide::cluster::decide(view);
    match decision.actions.first() {
        Some(ClusterAction::Propose(Command::ChangeEpoch(change))) => change.as_ref().clone(),
        other => panic!("no grant: {other:?}, {decision:?}"),
    }
}

#[test]
fn the_coordinator_ends_the_epoch_waits_and_grants() {
    let receipt = FenceReceipt {
        epoch: Epoch(1),
        node: N1,
        incarnation: 1,
        clean_end: Some(at(2, 310)),
    };
    let with = |state: &ClusterState, released: Option<&[(NodeId, Release)]>| {
        let mut view = coordinator_view(N3, state, vec![report(N2, standby(at(2, 150), false))]);
        view.memory.receipt = Some(receipt);
        view.memory.round = released.map(|released| round(2, released));
        agent_core::decide::cluster::decide(&view)
    };
    let stopping = restoring(RestorePhase::Stopping);
    assert_eq!(with(&stopping, None).rule, "release-for-restore");
    assert_eq!(
        with(&stopping, Some(&[(N3, told(2, 300))])).rule,
        "wait-for-pledges"
    );
    let two = [(N1, told(2, 310)), (N3, told(2, 300))];
    assert_eq!(with(&stopping, Some(&two)).rule, "restore-stopped");
    for phase in [RestorePhase::Restoring, RestorePhase::Inspecting] {
        let decision = with(&restoring(phase), Some(&two));
        assert_eq!(
            (decision.rule.as_str(), decision.actions.len()),
            ("restore-under-way", 0),
            "{phase:?}"
        );
    }
    let committing = restoring(RestorePhase::Committing);
    assert_eq!(
        with(&committing, Some(&two)).rule,
        "wait-for-pledges",
        "n2 has not told where it stands"
    );
    let decision = with(
        &committing,
        Some(&[(N1, told(2, 310)), (N2, told(2, 150)), (N3, told(2, 300))]),
    );
    assert_eq!(decision.rule, "grant-epoch", "{decision:?}");
}

#[test]
fn what_cannot_be_begun_is_refused() {
    let begin = |node| RestoreAct::Begin {
        node,
        target: to(150),
    };
    let mut state = serving(SyncMode::Quorum);
    act(&mut state, Some("a"), begin(NodeId(9))).expect_err("no member");
    act(&mut state, None, begin(N2)).expect_err("nobody's request");
    act(&mut state, Some("b"), begin(N2)).expect("begun");
    act(&mut state, Some("c"), begin(N3)).expect_err("one at a time");
    let other = Command::StartSwitchover {
        request: request("s"),
        to: N2,
        at: WallTime(0),
    };
    state
        .apply(&other)
        .expect_err("nothing else is ordered meanwhile");
    let remove = Command::RemoveMember {
        request: request("r"),
        node: N2,
        at: WallTime(0),
    };
    state.apply(&remove).expect_err("it restores");
    act(&mut state, Some("d"), RestoreAct::Commit { round: 1 }).expect_err("nothing was reached");
}

/// Any word on a restore, mostly on the one that `restoring` begins.
pub fn any_act() -> impl Strategy<Value = Command> {
    let node = || prop_oneof![Just(N1), Just(N2), Just(N3)];
    let id = || prop_oneof![3 => Just(id()), 1 => Just(request("another"))];
    let target = || (100..400_u64).prop_map(to);
    let act = prop_oneof![
        2 => (node(), target()).prop_map(|(node, target)| RestoreAct::Begin { node, target }),
        2 => (id(), proptest::collection::btree_set(node(), 0..4))
            .prop_map(|(id, released)| RestoreAct::Stopped { id, released }),
        2 => (id(), 0..4_u32, 100..400_u64)
            .prop_map(|(id, round, lsn)| RestoreAct::Reached { id, round, reached: reached(at(2, lsn)) }),
        1 => (id(), 0..4_u32).prop_map(|(id, round)| RestoreAct::Trouble { id, round, why: "x".to_owned() }),
        1 => target().prop_map(|target| RestoreAct::Step { target }),
        2 => (0..4_u32).prop_map(|round| RestoreAct::Commit { round }),
        1 => Just(RestoreAct::Abort { why: String::new() }),
    ];
    let by = prop_oneof![
        2 => Just(None),
        2 => Just(Some(request("back"))),
        1 => (0..9_u32).prop_map(|number| Some(request(&number.to_string()))),
    ];
    (by, act).prop_map(|(request, act)| Command::Restore {
        request,
        act: Box::new(act),
        at: WallTime(0),
    })
}
