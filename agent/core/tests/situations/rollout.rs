//! A rollout on its way: who may say what of it, and what comes next.

use crate::fixtures::{N1, N2, request, serving};
use agent_core::cluster::{
    Applied, ClusterState, Command, ROLLOUT_BYTES_MAX, ROLLOUT_STEPS_MAX, Rejected, RolloutAct,
    RolloutLimits, RolloutPhase, RolloutPlan, RolloutStep, StepClass, StepReport, SyncMode,
};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::rollout::{
    Move, Pressure, Trouble, conflicting, lock_timeout_ms, next_batch, next_move, pause_ms, too_much, trouble,
};
use agent_core::time::WallTime;
use proptest::prelude::*;

const E1: Epoch = Epoch(1);

fn step(sql: &str, undo: &str) -> RolloutStep {
    RolloutStep {
        sql: vec![sql.to_owned()],
        undo: [undo]
            .into_iter()
            .filter(|undo| !undo.is_empty())
            .map(str::to_owned)
            .collect(),
        ..RolloutStep::default()
    }
}

fn plan(steps: usize) -> RolloutPlan {
    RolloutPlan {
        name: "0042.sql".to_owned(),
        database: "app".to_owned(),
        steps: (0..steps)
            .map(|number| {
                step(
                    &format!("ALTER TABLE t ADD c{number} int"),
                    "ALTER TABLE t DROP c",
                )
            })
            .collect(),
        ..RolloutPlan::default()
    }
}

fn rollout() -> RequestId {
    request("rollout")
}

fn act(state: &mut ClusterState, act: RolloutAct) -> Result<Applied, Rejected> {
    let request = matches!(act, RolloutAct::Start { .. }).then(rollout);
    state.apply(&Command::Rollout {
        request,
        act: Box::new(act),
        at: WallTime(7),
    })
}

fn started(steps: usize) -> ClusterState {
    let mut state = serving(SyncMode::Quorum);
    act(&mut state, RolloutAct::Start { plan: plan(steps) }).expect("started");
    state
}

fn intend(step: u32, epoch: Epoch, node: NodeId) -> RolloutAct {
    RolloutAct::Intend {
        id: rollout(),
        step,
        epoch,
        node,
    }
}

fn done(step: u32, epoch: Epoch) -> RolloutAct {
    RolloutAct::Done {
        id: rollout(),
        step,
        epoch,
        report: StepReport::default(),
    }
}

fn phase(state: &ClusterState) -> RolloutPhase {
    state.rollouts.current.as_ref().expect("a rollout").phase
}

fn of(state: &ClusterState) -> Move {
    next_move(state, N1, Some(E1))
}

fn id_of(outcome: Result<Applied, Rejected>) -> String {
    match outcome {
        Err(Rejected::Conflict { id, .. }) => id,
        other => panic!("no conflict: {other:?}"),
    }
}

#[test]
fn steps_are_intended_carried_out_and_done_one_after_the_other() {
    let mut state = started(2);
    for number in 0..2 {
        assert_eq!(of(&state), Move::Intend(number));
        assert_eq!(act(&mut state, intend(number, E1, N1)), Ok(Applied::Done));
        assert_eq!(of(&state), Move::Carry(number));
        assert_eq!(act(&mut state, done(number, E1)), Ok(Applied::Done));
    }
    assert_eq!(of(&state), Move::Finish);
    let finished = RolloutAct::Finished {
        id: rollout(),
        epoch: E1,
        fingerprint: "f".to_owned(),
    };
    assert_eq!(act(&mut state, finished), Ok(Applied::Done));
    assert_eq!((phase(&state), of(&state)), (RolloutPhase::Done, Move::Rest));
}

#[test]
fn nothing_is_done_by_whoever_does_not_hold_the_epoch_and_serve() {
    let state = started(1);
    assert_eq!(next_move(&state, N2, Some(E1)), Move::Rest);
    assert_eq!(next_move(&state, N1, None), Move::Rest);
    assert_eq!(next_move(&state, N1, Some(Epoch(2))), Move::Rest);
}

#[test]
fn a_step_is_not_done_before_it_was_intended_nor_by_an_epoch_that_is_over() {
    let mut state = started(2);
    assert_eq!(id_of(act(&mut state, done(0, E1))), "rollout-overtaken");
    assert_eq!(id_of(act(&mut state, intend(1, E1, N1))), "rollout-overtaken");
    act(&mut state, intend(0, E1, N1)).expect("intended");
    state.epoch = Epoch(2);
    assert_eq!(id_of(act(&mut state, done(0, E1))), "epoch-is-over");
    assert_eq!(id_of(act(&mut state, intend(0, E1, N1))), "epoch-is-over");
}

#[test]
fn after_a_failover_the_steps_are_looked_for_and_the_one_that_was_begun_is_begun_anew() {
    let mut state = started(2);
    act(&mut state, intend(0, E1, N1)).expect("intended");
    act(&mut state, done(0, E1)).expect("done");
    act(&mut state, intend(1, E1, N1)).expect("intended");
    state.epoch = Epoch(2);
    state.holder = Some(N2);
    let next = |state: &ClusterState| next_move(state, N2, Some(Epoch(2)));
    assert_eq!(next(&state), Move::Verify);
    let verified = |kept| RolloutAct::Verified {
        id: rollout(),
        epoch: Epoch(2),
        kept,
    };
    let mut intact = state.clone();
    act(&mut intact, verified(1)).expect("all there");
    assert_eq!(next(&intact), Move::Intend(1), "the intent is another node's");
    // What an asynchronous failover has lost is done again.
    act(&mut state, verified(0)).expect("lost");
    assert_eq!(next(&state), Move::Intend(0));
    assert!(
        state
            .events
            .iter()
            .any(|event| event.kind == "rollout-steps-lost")
    );
}

#[test]
fn a_rollout_that_was_done_is_looked_for_again_and_reopened_if_it_was_lost() {
    let mut state = started(1);
    act(&mut state, intend(0, E1, N1)).expect("intended");
    act(&mut state, done(0, E1)).expect("done");
    let finished = RolloutAct::Finished {
        id: rollout(),
        epoch: E1,
        fingerprint: String::new(),
    };
    act(&mut state, finished).expect("finished");
    state.epoch = Epoch(2);
    assert_eq!(next_move(&state, N1, Some(Epoch(2))), Move::Verify);
    let verified = RolloutAct::Verified {
        id: rollout(),
        epoch: Epoch(2),
        kept: 0,
    };
    act(&mut state, verified).expect("lost");
    assert_eq!(phase(&state), RolloutPhase::Running);
    assert_eq!(next_move(&state, N1, Some(Epoch(2))), Move::Intend(0));
}

#[test]
fn one_at_a_time_and_the_ended_ones_are_remembered_without_their_text() {
    let mut state = started(1);
    let second = Command::Rollout {
        request: Some(request("second")),
        act: Box::new(RolloutAct::Start { plan: plan(1) }),
        at: WallTime(8),
    };
    assert_eq!(id_of(state.clone().apply(&second)), "rollout-under-way");
    act(
        &mut state,
        RolloutAct::Abort {
            id: rollout(),
            undo: false,
        },
    )
    .expect("aborting");
    assert_eq!(of(&state), Move::EndAbort);
    let aborted = RolloutAct::Aborted {
        id: rollout(),
        epoch: E1,
        message: String::new(),
    };
    act(&mut state, aborted).expect("aborted");
    state.apply(&second).expect("the second");
    assert_eq!(state.rollouts.past.len(), 1);
    assert_eq!(state.rollouts.past[0].phase, RolloutPhase::Aborted);
}

#[test]
fn what_is_too_large_for_the_replicated_state_is_refused() {
    let mut state = serving(SyncMode::Quorum);
    let mut large = plan(1);
    large.steps[0].sql[0] = "x".repeat(ROLLOUT_BYTES_MAX);
    for plan in [plan(0), plan(ROLLOUT_STEPS_MAX + 1), large] {
        let mut fresh = state.clone();
        assert_eq!(id_of(act(&mut fresh, RolloutAct::Start { plan })), "bad-rollout");
    }
    act(
        &mut state,
        RolloutAct::Start {
            plan: plan(ROLLOUT_STEPS_MAX),
        },
    )
    .expect("as many as allowed");
}

#[test]
fn an_abort_cleans_up_what_was_begun_and_undoes_what_was_done_where_that_was_asked_for() {
    let mut state = started(2);
    act(&mut state, intend(0, E1, N1)).expect("intended");
    act(&mut state, done(0, E1)).expect("done");
    act(&mut state, intend(1, E1, N1)).expect("intended");
    act(
        &mut state,
        RolloutAct::Abort {
            id: rollout(),
            undo: true,
        },
    )
    .expect("can be undone");
    assert_eq!(of(&state), Move::CleanUp(1));
    let mut refused = started(1);
    refused.rollouts.current.as_mut().expect("a rollout").plan.steps[0]
        .undo
        .clear();
    act(&mut refused, intend(0, E1, N1)).expect("intended");
    let undo = RolloutAct::Abort {
        id: rollout(),
        undo: true,
    };
    assert_eq!(id_of(act(&mut refused, undo)), "cannot-be-undone");
    act(
        &mut refused,
        RolloutAct::Abort {
            id: rollout(),
            undo: false,
        },
    )
    .expect("aborting");
    // The clean-up ends with the intent: the step had no effect.
    let mut clean = state.clone();
    let cleaned = RolloutAct::Cleaned {
        id: rollout(),
        step: 1,
        epoch: E1,
    };
    act(&mut clean, cleaned).expect("cleaned");
    assert_eq!(of(&clean), Move::Undo(0));
    let undone = RolloutAct::Undone {
        id: rollout(),
        step: 0,
        epoch: E1,
    };
    act(&mut clean, undone).expect("undone");
    assert_eq!(of(&clean), Move::EndAbort);
}

#[test]
fn a_step_that_was_refused_waits_for_an_operator_and_is_tried_again() {
    let mut state = started(1);
    act(&mut state, intend(0, E1, N1)).expect("intended");
    let failed = RolloutAct::Failed {
        id: rollout(),
        step: 0,
        epoch: E1,
        why: "duplicate key".to_owned(),
    };
    act(&mut state, failed).expect("failed");
    assert_eq!((phase(&state), of(&state)), (RolloutPhase::Failed, Move::Rest));
    act(&mut state, RolloutAct::Resume { id: rollout() }).expect("resumed");
    assert_eq!(of(&state), Move::Intend(0));
}

#[test]
fn a_pause_lets_what_was_begun_be_done_and_begins_nothing() {
    let mut state = started(2);
    act(&mut state, intend(0, E1, N1)).expect("intended");
    act(&mut state, RolloutAct::Pause { id: rollout() }).expect("paused");
    assert_eq!(of(&state), Move::Rest);
    act(&mut state, done(0, E1)).expect("it was under way");
    assert_eq!((phase(&state), of(&state)), (RolloutPhase::Paused, Move::Rest));
    act(&mut state, RolloutAct::Resume { id: rollout() }).expect("resumed");
    assert_eq!(of(&state), Move::Intend(1));
}

#[test]
fn locks_are_waited_for_briefly_and_others_errors_are_not_retried() {
    assert_eq!(trouble(Some("55P03")), Trouble::Locked);
    assert_eq!(trouble(Some("40P01")), Trouble::Locked);
    assert_eq!(trouble(None), Trouble::Lost);
    assert_eq!(trouble(Some("57P01")), Trouble::Lost);
    assert_eq!(trouble(Some("08006")), Trouble::Lost);
    assert_eq!(trouble(Some("42P01")), Trouble::Refused);
    assert_eq!(
        trouble(Some("57014")),
        Trouble::Refused,
        "somebody has cancelled it"
    );
    for number in 0..40 {
        assert!(
            (100..1000).contains(&lock_timeout_ms(number)),
            "below deadlock_timeout"
        );
        assert!(pause_ms(number, 999) <= 10_000);
        assert!(pause_ms(number, 0) >= 10);
    }
    assert_eq!(conflicting("AccessShareLock"), ["AccessExclusiveLock"]);
    assert_eq!(conflicting("AccessExclusiveLock").len(), 8);
    assert!(!conflicting("ShareLock").contains(&"ShareLock"));
    assert!(!conflicting("ShareUpdateExclusiveLock").contains(&"RowExclusiveLock"));
}

#[test]
fn a_backfill_waits_for_whoever_suffers_and_finds_the_size_that_fits() {
    let limits = RolloutLimits::default();
    assert_eq!(too_much(&Pressure::default(), &limits), None);
    let behind = limits.lag_bytes + 1;
    for (pressure, word) in [
        (
            Pressure {
                lag_bytes: behind,
                ..Pressure::default()
            },
            "replay",
        ),
        (
            Pressure {
                lag_bytes: 1,
                lag_ms: 2000,
                ..Pressure::default()
            },
            "behind",
        ),
        (
            Pressure {
                slot_lag_bytes: behind * 4,
                ..Pressure::default()
            },
            "slot",
        ),
        (
            Pressure {
                lock_waiters: 1,
                ..Pressure::default()
            },
            "locks",
        ),
        (
            Pressure {
                commit_ms: 2000,
                ..Pressure::default()
            },
            "commit",
        ),
        (
            Pressure {
                archive_queue: 100,
                ..Pressure::default()
            },
            "archived",
        ),
        (
            Pressure {
                vacuum: true,
                ..Pressure::default()
            },
            "autovacuum",
        ),
        (
            Pressure {
                live_rows: 1_000_000,
                dead_rows: 400_001,
                ..Pressure::default()
            },
            "dead rows",
        ),
        (
            Pressure {
                free_bytes: Some(9 << 30),
                volume_bytes: 1 << 40,
                ..Pressure::default()
            },
            "make room",
        ),
    ] {
        let why = too_much(&pressure, &limits).expect(word);
        assert!(why.contains(word), "{why}");
    }
    let idle = Pressure {
        lag_ms: 60_000,
        ..Pressure::default()
    };
    assert_eq!(too_much(&idle, &limits), None, "nothing was written for a minute");
    let small = Pressure {
        live_rows: 1_000,
        dead_rows: 90_000,
        free_bytes: Some(2 << 30),
        volume_bytes: 10 << 30,
        ..Pressure::default()
    };
    assert_eq!(
        too_much(&small, &limits),
        None,
        "a small table, and a fifth of a small volume"
    );
    assert_eq!(next_batch(1000, 500, &limits), 1000);
    assert_eq!(next_batch(1000, 1, &limits), 2000, "at most twice as many");
    assert_eq!(next_batch(1000, 60_000, &limits), 250, "at least a quarter");
    assert_eq!(next_batch(10, 60_000, &limits), 10);
}

fn any_class() -> impl Strategy<Value = StepClass> {
    prop_oneof![
        3 => Just(StepClass::Transaction),
        1 => Just(StepClass::Outside),
        1 => Just(StepClass::DropIndex { index: "i".to_owned(), if_exists: false }),
    ]
}

fn any_plan() -> impl Strategy<Value = RolloutPlan> {
    proptest::collection::vec(any_class(), 0..4).prop_map(|classes| RolloutPlan {
        steps: classes
            .into_iter()
            .map(|class| RolloutStep {
                class,
                ..step("SELECT 1", "SELECT 2")
            })
            .collect(),
        ..RolloutPlan::default()
    })
}

/// Any order or word, also those that make no sense.
pub fn any_act() -> impl Strategy<Value = Command> {
    let id = || (0..3_u32).prop_map(|number| RequestId(format!("r{number}")));
    let epoch = || (0..4_u64).prop_map(Epoch);
    let step = || 0..3_u32;
    let report = || {
        any::<u64>().prop_map(|stall_ms| StepReport {
            stall_ms,
            ..StepReport::default()
        })
    };
    let act = prop_oneof![
        3 => any_plan().prop_map(|plan| RolloutAct::Start { plan }),
        1 => id().prop_map(|id| RolloutAct::Pause { id }),
        1 => id().prop_map(|id| RolloutAct::Resume { id }),
        1 => (id(), any::<bool>()).prop_map(|(id, undo)| RolloutAct::Abort { id, undo }),
        4 => (id(), step(), epoch(), 0..4_u64)
            .prop_map(|(id, step, epoch, node)| RolloutAct::Intend { id, step, epoch, node: NodeId(node) }),
        4 => (id(), step(), epoch(), report())
            .prop_map(|(id, step, epoch, report)| RolloutAct::Done { id, step, epoch, report }),
        1 => (id(), step(), epoch())
            .prop_map(|(id, step, epoch)| RolloutAct::Failed { id, step, epoch, why: String::new() }),
        1 => (id(), epoch(), step()).prop_map(|(id, epoch, kept)| RolloutAct::Verified { id, epoch, kept }),
        1 => (id(), step(), epoch()).prop_map(|(id, step, epoch)| RolloutAct::Undone { id, step, epoch }),
        1 => (id(), step(), epoch()).prop_map(|(id, step, epoch)| RolloutAct::Cleaned { id, step, epoch }),
        1 => (id(), epoch())
            .prop_map(|(id, epoch)| RolloutAct::Finished { id, epoch, fingerprint: String::new() }),
        1 => (id(), epoch())
            .prop_map(|(id, epoch)| RolloutAct::Aborted { id, epoch, message: String::new() }),
    ];
    (proptest::option::of(id()), act).prop_map(|(request, act)| Command::Rollout {
        request,
        act: Box::new(act),
        at: WallTime(0),
    })
}
