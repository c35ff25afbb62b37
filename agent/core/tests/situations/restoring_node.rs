//! What a node's server does while the whole cluster goes back to a point in time.

use crate::fixtures::{N1, N2, N3, NOW, at, down, node_view, observed, primary, serving, standby};
use crate::restore::{act, committed, id, reached, restoring, running, to};
use agent_core::cluster::{RestoreAct, RestorePhase, SyncMode};
use agent_core::decide::node::{NodeAction, NodeView, RestoredData, decide};
use agent_core::ids::Epoch;
use agent_core::pg::{ControlState, Position};
use agent_core::time::MonoTime;
use agent_core::view::{PgObservation, Server};

fn data(round: u32, ready: bool) -> RestoredData {
    RestoredData {
        id: id(),
        round,
        ready,
        backup: "b1".to_owned(),
    }
}

fn paused(position: Position) -> PgObservation {
    let mut pg = standby(position, false);
    if let Server::Standby(view) = &mut pg.server {
        view.replay_paused = true;
    }
    pg
}

#[track_caller]
fn assert_does(what: &str, view: &NodeView<'_>, rule: &str, action: &str) {
    let decision = decide(view);
    let did: Vec<String> = decision
        .actions
        .iter()
        .map(|action| format!("{action:?}"))
        .collect();
    assert_eq!(decision.rule, rule, "{what}: {decision:?}");
    assert!(
        did.first()
            .map_or(action.is_empty(), |did| did.starts_with(action)
                && !action.is_empty()),
        "{what}: {did:?}"
    );
}

#[test]
fn the_primary_shuts_down_and_its_standbys_wait_for_its_last_wal() {
    let state = restoring(RestorePhase::Stopping);
    let serving = primary(at(2, 300), 100, 1, &[(N2, 300), (N3, 300)]);
    assert_does(
        "the primary",
        &node_view(N1, &state, serving),
        "stop-for-restore",
        "Shutdown",
    );
    let mut crashed = node_view(N1, &state, down());
    assert_does("its agent has restarted", &crashed, "end-for-restore", "Fence");
    crashed.lease.fenced = Epoch(1);
    assert_does("it has said so", &crashed, "restore-under-way", "");
    let mut behind = node_view(N1, &state, paused(at(2, 150)));
    behind.memory.restored = Some(data(1, true));
    assert_does(
        "its agent has restarted later, and is behind",
        &behind,
        "restore-under-way",
        "",
    );
    let follower = decide(&node_view(N2, &state, standby(at(2, 300), true)));
    assert!(!follower.actions.contains(&NodeAction::Stop), "{follower:?}");
}

#[test]
fn from_then_on_no_server_runs_but_the_restored_one() {
    let state = restoring(RestorePhase::Restoring);
    for (what, pg, rule, action) in [
        (
            "a standby",
            standby(at(2, 300), false),
            "down-for-restore",
            "Stop",
        ),
        (
            "a server that is writable all the same",
            primary(at(2, 300), 100, 1, &[]),
            "down-for-restore",
            "Stop",
        ),
        (
            "one that starts",
            observed(Server::Starting, ControlState::InProduction, 2),
            "down-for-restore",
            "Stop",
        ),
        ("it is down", down(), "restore-under-way", ""),
    ] {
        assert_does(what, &node_view(N3, &state, pg), rule, action);
    }
    let mut old = node_view(N1, &state, down());
    old.lease.fenced = Epoch(1);
    assert_does(
        "the old primary does not come back",
        &old,
        "restore-under-way",
        "",
    );
}

#[test]
fn the_node_restores_recovers_and_tells() {
    let state = restoring(RestorePhase::Restoring);
    let with = |pg, restored: Option<RestoredData>| {
        let mut view = node_view(N2, &state, pg);
        view.memory.restored = restored;
        view
    };
    let starting = || observed(Server::Starting, ControlState::InProduction, 2);
    let none = || observed(Server::NoData, ControlState::ShutDown, 2);
    let by_hand = || primary(at(3, 300), 150, 1, &[]);
    let cases: [(&str, PgObservation, Option<RestoredData>, &str, &str); 10] = [
        (
            "its old standby runs",
            standby(at(2, 300), true),
            None,
            "stop-to-restore",
            "Stop",
        ),
        (
            "its old server is down",
            down(),
            None,
            "restore-in-place",
            "RestoreInPlace",
        ),
        (
            "the old data are gone from there",
            none(),
            Some(data(1, false)),
            "restore-in-place",
            "RestoreInPlace",
        ),
        (
            "half restored",
            down(),
            Some(data(1, false)),
            "restore-in-place",
            "RestoreInPlace",
        ),
        ("restored", down(), Some(data(1, true)), "start-restored", "Start"),
        (
            "it recovers",
            starting(),
            Some(data(1, true)),
            "restore-under-way",
            "",
        ),
        (
            "the archive ends before the target",
            standby(at(2, 140), false),
            Some(data(1, true)),
            "restore-under-way",
            "",
        ),
        (
            "it stands at its target",
            paused(at(2, 150)),
            Some(data(1, true)),
            "restore-reached",
            "Propose",
        ),
        (
            "promoted by hand",
            by_hand(),
            Some(data(1, true)),
            "restore-in-place",
            "RestoreInPlace",
        ),
        (
            "it stands at the last target",
            paused(at(2, 150)),
            Some(data(0, true)),
            "stop-to-restore",
            "Stop",
        ),
    ];
    for (what, pg, restored, rule, action) in cases {
        assert_does(what, &with(pg, restored), rule, action);
    }
    let mut holder = state.clone();
    holder.holder = Some(N2);
    let mut view = node_view(N2, &holder, paused(at(2, 150)));
    view.lease.valid = false;
    view.memory.restored = Some(data(1, true));
    assert_does(
        "its agent has restarted, and held the epoch",
        &view,
        "restore-reached",
        "Propose",
    );
    let mut failed = with(down(), None);
    failed.memory.job_failed_at = Some(MonoTime(NOW.0 - 100));
    assert_does("an attempt has just failed", &failed, "restore-failed", "");
    let inspecting = restoring(RestorePhase::Inspecting);
    let mut view = node_view(N2, &inspecting, paused(at(2, 150)));
    view.memory.restored = Some(data(1, true));
    assert_does("it has told", &view, "restore-under-way", "");
    // Its agent pledged when the epoch was ended: that changes nothing here.
    view.pledge = Epoch(2);
    assert_does("it has pledged", &view, "restore-under-way", "");
}

#[test]
fn a_step_forward_goes_on_and_a_step_back_begins_anew() {
    for (target, goes_on) in [(to(160), true), (to(140), false)] {
        let mut state = restoring(RestorePhase::Inspecting);
        act(
            &mut state,
            Some("step"),
            RestoreAct::Step {
                target: target.clone(),
            },
        )
        .expect("a step");
        let mut view = node_view(N2, &state, down());
        view.memory.restored = Some(data(1, true));
        let decision = decide(&view);
        let expected = NodeAction::RestoreInPlace {
            id: id(),
            round: 2,
            target,
            goes_on,
        };
        assert_eq!(decision.actions, [expected]);
        let stale = RestoreAct::Reached {
            id: id(),
            round: 1,
            reached: reached(at(2, 150)),
        };
        act(&mut state, None, stale).expect_err("the word on the target before");
        // Another step before that one was there: where the data stand is not known.
        act(&mut state, Some("again"), RestoreAct::Step { target: to(170) }).expect("a step");
        assert!(!running(&state).expect("it runs").goes_on());
    }
    let mut state = restoring(RestorePhase::Inspecting);
    act(&mut state, Some("step"), RestoreAct::Step { target: to(160) }).expect("a step");
    act(&mut state, Some("yes"), RestoreAct::Commit { round: 1 })
        .expect_err("what was looked at is not there any more");
}

#[test]
fn after_an_abort_the_old_data_come_back_before_anything_else() {
    let mut state = restoring(RestorePhase::Inspecting);
    act(&mut state, Some("no"), RestoreAct::Abort { why: String::new() }).expect("aborted");
    let with = |me, pg| {
        let mut view = node_view(me, &state, pg);
        view.memory.restored = Some(data(1, true));
        view
    };
    assert_does(
        "it runs",
        &with(N2, paused(at(2, 150))),
        "stop-to-put-back",
        "Stop",
    );
    assert_does("it is down", &with(N2, down()), "put-old-data-back", "PutBack");
    let none = observed(Server::NoData, ControlState::ShutDown, 2);
    assert_does(
        "nothing is there",
        &with(N2, none),
        "put-old-data-back",
        "PutBack",
    );
    let mut holder = state.clone();
    holder.holder = Some(N2);
    let mut view = node_view(N2, &holder, down());
    view.memory.restored = Some(data(1, true));
    assert_does(
        "also on the node that holds the epoch",
        &view,
        "put-old-data-back",
        "PutBack",
    );
}

#[test]
fn an_agent_that_does_not_know_the_restore_of_its_data_leaves_them_alone() {
    let state = serving(SyncMode::Quorum);
    for me in [N1, N2] {
        let mut view = node_view(me, &state, down());
        view.memory.restored = Some(data(1, true));
        assert_does("it knows the mark alone", &view, "restore-under-way", "");
    }
}

#[test]
fn the_granted_node_is_started_at_its_target_until_it_was_promoted() {
    let state = committed();
    let with = |me, pg| {
        let mut view = node_view(me, &state, pg);
        view.memory.restored = Some(data(1, true));
        view
    };
    let recovering = || observed(Server::Down, ControlState::InArchiveRecovery, 2);
    assert_does(
        "its server died",
        &with(N2, recovering()),
        "start-to-be-promoted",
        "Start",
    );
    assert_does(
        "it is promoted like any standby",
        &with(N2, paused(at(2, 150))),
        "prepare-promotion",
        "Configure",
    );
    let died = observed(Server::Down, ControlState::InProduction, 3);
    assert_does(
        "it was promoted, and died",
        &with(N2, died),
        "keep-restored",
        "KeepRestored",
    );
    let serves = primary(at(3, 200), 150, 2, &[]);
    assert_does(
        "the mark is left over",
        &with(N2, serves),
        "keep-restored",
        "KeepRestored",
    );
    let mut lost = state.clone();
    lost.holder = Some(N1);
    let mut view = node_view(N2, &lost, paused(at(2, 150)));
    view.memory.restored = Some(data(1, true));
    assert_does(
        "another one holds the next epoch",
        &view,
        "restart-without-target",
        "Stop",
    );
    view.pg = recovering();
    assert_does("and it is down", &view, "keep-restored", "KeepRestored");
}
