//! The promotion gate.

use crate::fixtures::{N1, N2, N3, at, nodes, rule, serving, told};
use agent_core::cluster::{Cause, ClusterState, Command, EpochChange, Pause, Release, SyncMode, gate};
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::TimelineId;
use agent_core::time::WallTime;

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

/// The ids of the gates that are shut.
fn shut(state: &ClusterState, change: &EpochChange) -> Vec<String> {
    gate::check(state, change)
        .into_iter()
        .filter(|gate| !gate.open)
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
fn both_standbys_of_any_one_of_two_open_it() {
    let state = serving(SyncMode::Quorum);
    let change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &change), NONE);
}

#[test]
fn one_standby_and_the_old_primary_open_it() {
    let state = serving(SyncMode::Quorum);
    let change = change(N1, &[(N1, told(2, 400)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &change), NONE);
}

#[test]
fn one_of_two_standbys_is_not_enough_for_the_commits_and_for_the_lease() {
    let state = serving(SyncMode::Quorum);
    let change = change(N2, &[(N2, told(2, 300))]);
    assert_eq!(
        shut(&state, &change),
        ["old-holder-is-fenced", "acknowledged-commits-are-kept"]
    );
}

#[test]
fn a_voter_without_a_position_counts_for_the_lease_only() {
    let state = serving(SyncMode::Quorum);
    let change = change(N2, &[(N2, told(2, 300)), (N3, Release::at(None))]);
    assert_eq!(shut(&state, &change), ["acknowledged-commits-are-kept"]);
}

#[test]
fn no_automatic_failover_while_degraded() {
    let mut state = serving(SyncMode::Quorum);
    state.sync = vec![rule(1, N1, 0, &[])];
    let change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &change), ["acknowledged-commits-are-kept"]);
}

#[test]
fn an_operator_who_accepts_the_loss_may_fail_over_while_degraded() {
    let mut state = serving(SyncMode::Quorum);
    state.sync = vec![rule(1, N1, 0, &[])];
    let mut change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 400))]);
    change.cause = Cause::ManualFailover;
    change.may_lose_bytes = Some(100);
    assert_eq!(shut(&state, &change), NONE);
}

#[test]
fn an_automatic_failover_cannot_accept_a_loss() {
    let mut state = serving(SyncMode::Quorum);
    state.sync = vec![rule(1, N1, 0, &[])];
    let mut change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    change.may_lose_bytes = Some(1);
    assert_eq!(shut(&state, &change), ["acknowledged-commits-are-kept"]);
}

#[test]
fn async_fails_over_within_its_bound_and_not_beyond() {
    let mut state = serving(SyncMode::Async);
    state.sync = vec![rule(1, N1, 0, &[])];
    state.settings.max_lag_bytes = 100;
    let mut change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    change.may_lose_bytes = Some(100);
    assert_eq!(shut(&state, &change), NONE);
    change.may_lose_bytes = Some(101);
    assert_eq!(shut(&state, &change), ["acknowledged-commits-are-kept"]);
}

#[test]
fn a_figure_above_the_bound_does_not_excuse_a_target_that_is_behind() {
    let mut state = serving(SyncMode::Async);
    state.settings.max_lag_bytes = 10;
    let mut change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 400))]);
    change.may_lose_bytes = Some(100);
    assert_eq!(shut(&state, &change), ["target-is-furthest"]);
}

#[test]
fn the_long_tail_of_an_old_timeline_is_not_ahead_of_its_successor() {
    let state = serving(SyncMode::Quorum);
    let behind = change(N2, &[(N2, told(1, 9_000)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &behind), ["target-is-furthest"]);
    let ahead = change(N3, &[(N2, told(1, 9_000)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &ahead), NONE);
}

#[test]
fn between_two_rules_both_must_be_covered() {
    let mut state = serving(SyncMode::Quorum);
    state.sync = vec![rule(1, N1, 1, &[N2]), rule(1, N1, 1, &[N3])];
    let released = [(N2, told(2, 300)), (N1, Release::at(None))];
    assert_eq!(
        shut(&state, &change(N2, &released)),
        ["acknowledged-commits-are-kept"]
    );
}

#[test]
fn the_holder_of_a_later_epoch_stands_for_the_commits_of_the_earlier() {
    let mut state = serving(SyncMode::Quorum);
    state.epoch = Epoch(2);
    state.holder = Some(N2);
    state.sync = vec![rule(1, N1, 1, &[N2, N3]), rule(2, N2, 1, &[N3])];
    let mut change = change(N2, &[(N2, told(3, 400)), (N1, Release::at(None))]);
    change.from = Epoch(2);
    change.sync = rule(3, N2, 0, &[]);
    assert_eq!(shut(&state, &change), NONE);
}

/// Epoch 2 was granted to the old primary again, with no standby, and it never got a lease.
fn granted_in_vain() -> (ClusterState, EpochChange) {
    let mut state = serving(SyncMode::Quorum);
    let reserved = state.timeline;
    state.epoch = Epoch(2);
    state.timeline = TimelineId(reserved.0 + 1);
    state.promotion = None;
    state.sync = vec![rule(1, N1, 1, &[N2]), rule(2, N1, 0, &[])];
    let holder = Release {
        left_out: true,
        ..told(reserved.0, 400)
    };
    let mut change = change(N2, &[(N1, holder), (N2, told(reserved.0, 300))]);
    change.from = Epoch(2);
    change.sync = rule(3, N2, 0, &[]);
    (state, change)
}

#[test]
fn the_rule_of_an_epoch_whose_holder_was_never_promoted_binds_nobody() {
    let (mut state, change) = granted_in_vain();
    assert_eq!(shut(&state, &change), NONE);
    let grant = Command::ChangeEpoch(Box::new(change));
    state.apply(&grant).expect("every gate stands open");
    let epochs: Vec<Epoch> = state.sync.iter().map(|rule| rule.epoch).collect();
    assert_eq!(epochs, [Epoch(1), Epoch(3)]);
}

#[test]
fn the_rule_of_an_epoch_whose_holder_may_have_been_promoted_binds() {
    let (state, mut change) = granted_in_vain();
    let silent = Release::at(None);
    let promoted = Release {
        left_out: true,
        ..told(state.timeline.0, 400)
    };
    for holder in [silent, promoted] {
        change.released.insert(N1, holder);
        assert_eq!(shut(&state, &change), ["acknowledged-commits-are-kept"]);
    }
}

#[test]
fn a_grant_that_ends_an_older_epoch_comes_too_late() {
    let mut state = serving(SyncMode::Quorum);
    state.epoch = Epoch(2);
    let late = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert!(shut(&state, &late).contains(&"epoch-is-newest".to_owned()));
}

#[test]
fn a_pause_stops_what_nobody_asked_for() {
    let mut state = serving(SyncMode::Quorum);
    state.pause = Some(Pause {
        reason: "a test".to_owned(),
        since: WallTime(0),
    });
    let mut change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &change), ["automation-is-on"]);
    change.cause = Cause::ManualFailover;
    assert_eq!(shut(&state, &change), NONE);
}

#[test]
fn a_node_marked_nofailover_or_in_maintenance_is_promoted_by_hand_only() {
    let mut state = serving(SyncMode::Quorum);
    state.maintenance.insert(N2);
    let mut change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &change), ["target-can-hold"]);
    state.maintenance.clear();
    state.members.get_mut(&N2).expect("a member").nofailover = true;
    assert_eq!(shut(&state, &change), ["target-can-hold"]);
    change.cause = Cause::ManualFailover;
    assert_eq!(shut(&state, &change), NONE);
}

#[test]
fn during_a_change_of_voters_a_majority_of_each_set_must_release() {
    let mut state = serving(SyncMode::Quorum);
    state.apply_voters(2, &[nodes(&[NodeId(4), NodeId(5), NodeId(6)])]);
    let change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300))]);
    assert_eq!(shut(&state, &change), ["old-holder-is-fenced"]);
}

#[test]
fn the_furthest_are_told_with_their_position() {
    let change = change(N2, &[(N2, told(2, 300)), (N3, told(2, 300)), (N1, told(2, 100))]);
    assert_eq!(gate::furthest(&change), Some((at(2, 300), nodes(&[N2, N3]))));
}
