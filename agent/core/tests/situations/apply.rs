//! What commands do to the replicated state.

use crate::fixtures::{N1, N2, N3, founded, member, nodes, request, rule, serving, told};
use agent_core::cluster::{
    Applied, Cause, ClusterState, Command, Duty, DutyChange, DutyKind, DutyOutcome, DutyRecord, EpochChange,
    MemberKind, Rejected, Secrets, Settings, StonithProof, SyncMode, SyncRule,
};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::pg::{Lsn, SystemId, TimelineId};
use agent_core::time::WallTime;
use proptest::prelude::*;

fn grant(to: NodeId, from: u64, lsn: u64) -> Command {
    let followers: Vec<NodeId> = [N1, N2, N3].into_iter().filter(|node| *node != to).collect();
    Command::ChangeEpoch(Box::new(EpochChange {
        from: Epoch(from),
        to,
        cause: Cause::Failover,
        why: "a test".to_owned(),
        released: [(N1, told(2, lsn)), (N2, told(2, lsn)), (N3, told(2, lsn))].into(),
        receipt: None,
        sync: rule(from + 1, to, 1, &followers),
        may_lose_bytes: None,
        at: WallTime(0),
    }))
}

fn conflict(outcome: Result<Applied, Rejected>) -> String {
    match outcome {
        Err(Rejected::Conflict { id, message }) => {
            assert!(!message.is_empty());
            id
        }
        other => panic!("no conflict: {other:?}"),
    }
}

#[test]
fn a_grant_raises_the_epoch_and_reserves_a_timeline_that_nobody_has_seen() {
    let mut state = serving(SyncMode::Quorum);
    assert_eq!(
        state.apply(&grant(N2, 1, 300)),
        Ok(Applied::Epoch { epoch: Epoch(2) })
    );
    assert_eq!(state.timeline, TimelineId(3));
    assert_eq!(state.promotion, None);
    assert_eq!(
        state.sync.len(),
        2,
        "the old rule counts until its commits are under the new one"
    );
}

#[test]
fn of_two_coordinators_one_wins() {
    let mut state = serving(SyncMode::Quorum);
    state.apply(&grant(N2, 1, 300)).expect("the first");
    let before = state.clone();
    assert!(matches!(
        state.apply(&grant(N3, 1, 300)),
        Err(Rejected::Gate { .. })
    ));
    assert_eq!(state, before);
}

#[test]
fn the_gate_of_an_epoch_that_is_over_does_not_open() {
    let mut state = serving(SyncMode::Quorum);
    state.apply(&grant(N2, 1, 300)).expect("granted");
    let late = Command::OpenGate {
        epoch: Epoch(1),
        timeline: TimelineId(2),
        lsn: Lsn(1),
        at: WallTime(0),
    };
    assert_eq!(conflict(state.apply(&late)), "epoch-is-over");
}

#[test]
fn a_walk_that_was_overtaken_is_refused() {
    let mut state = serving(SyncMode::Quorum);
    let begin = |after: SyncRule| Command::SyncBegin {
        rule: rule(1, N1, 1, &[N2]),
        after,
        at: WallTime(0),
    };
    assert_eq!(
        conflict(state.apply(&begin(rule(1, N1, 1, &[N3])))),
        "sync-walk-overtaken"
    );
    assert_eq!(state.apply(&begin(rule(1, N1, 1, &[N2, N3]))), Ok(Applied::Done));
    let done = |members: &[NodeId]| Command::SyncDone {
        rule: rule(1, N1, 1, members),
        at: WallTime(0),
    };
    assert_eq!(conflict(state.apply(&done(&[N2, N3]))), "sync-walk-overtaken");
    assert_eq!(state.apply(&done(&[N2])), Ok(Applied::Done));
    assert_eq!(state.sync, [rule(1, N1, 1, &[N2])]);
}

#[test]
fn an_order_to_the_holder_is_refused() {
    let order = |to| Command::OrderFailover {
        request: RequestId(format!("r{to}")),
        to,
        accept_data_loss: false,
        at: WallTime(0),
    };
    let mut state = serving(SyncMode::Quorum);
    assert_eq!(conflict(state.apply(&order(N1))), "already-primary");
    assert_eq!(conflict(state.apply(&order(NodeId(9)))), "not-a-member");
    assert_eq!(state.apply(&order(N2)), Ok(Applied::Done));
    assert_eq!(
        conflict(founded(SyncMode::Quorum).apply(&order(N2))),
        "no-primary"
    );
}

#[test]
fn the_primary_and_members_of_the_synchronous_set_are_not_removed() {
    let mut state = serving(SyncMode::Quorum);
    let remove = |node| Command::RemoveMember {
        request: RequestId(format!("r{node}")),
        node,
        at: WallTime(0),
    };
    assert_eq!(conflict(state.apply(&remove(N1))), "holder-stays");
    assert_eq!(conflict(state.apply(&remove(N2))), "in-synchronous-set");
}

#[test]
fn a_number_is_never_given_twice() {
    let mut state = founded(SyncMode::Quorum);
    let add = |id: &str| Command::AddMember {
        request: request(id),
        member: member("n4", MemberKind::Data),
        at: WallTime(0),
    };
    assert_eq!(state.apply(&add("a")), Ok(Applied::Member { node: NodeId(4) }));
    assert_eq!(
        state.apply(&add("a")),
        Ok(Applied::Member { node: NodeId(4) }),
        "the same request again"
    );
    let remove = Command::RemoveMember {
        request: request("b"),
        node: NodeId(4),
        at: WallTime(0),
    };
    state.apply(&remove).expect("removed");
    assert_eq!(state.apply(&add("c")), Ok(Applied::Member { node: NodeId(5) }));
}

#[test]
fn the_last_timeline_and_the_last_number_are_refused_and_change_nothing() {
    let mut state = serving(SyncMode::Quorum);
    let before = state.clone();
    let Command::ChangeEpoch(mut change) = grant(N2, 1, 300) else {
        unreachable!("a grant")
    };
    change.released.insert(N2, told(u32::MAX, 300));
    change.released.remove(&N3);
    assert!(state.apply(&Command::ChangeEpoch(change)).is_err());
    assert_eq!(state, before);
    let found = Command::Found {
        cluster_id: "c".to_owned(),
        name: "test".to_owned(),
        members: [(NodeId(u64::MAX), member("n1", MemberKind::Data))].into(),
        settings: Box::default(),
        secrets: Secrets::default(),
    };
    let mut nothing = ClusterState::default();
    assert_eq!(conflict(nothing.apply(&found)), "numbers-used-up");
    assert_eq!(nothing, ClusterState::default());
}

fn any_node() -> impl Strategy<Value = NodeId> {
    prop_oneof![30 => 0..6_u64, 1 => Just(u64::MAX)].prop_map(NodeId)
}

fn any_request() -> impl Strategy<Value = RequestId> {
    (0..12_u32).prop_map(|number| RequestId(format!("r{number}")))
}

fn any_rule() -> impl Strategy<Value = SyncRule> {
    (
        0..5_u64,
        any_node(),
        0..3_u32,
        proptest::collection::btree_set(any_node(), 0..3),
    )
        .prop_map(|(epoch, primary, k, members)| SyncRule {
            epoch: Epoch(epoch),
            primary,
            k,
            members,
        })
}

fn any_change() -> impl Strategy<Value = Command> {
    let cause = prop_oneof![
        Just(Cause::Creation),
        Just(Cause::Failover),
        Just(Cause::Switchover),
        Just(Cause::ManualFailover),
        Just(Cause::PledgeRepair),
    ];
    let timeline = prop_oneof![30 => 0..4_u32, 1 => u32::MAX - 1..=u32::MAX];
    let release = (any_node(), timeline, 0..500_u64).prop_map(|(node, t, lsn)| (node, told(t, lsn)));
    let loss = proptest::option::of(0..100_u64);
    let released = proptest::collection::btree_map(any_node(), release.prop_map(|(_, r)| r), 0..4);
    (
        prop_oneof![30 => 0..5_u64, 1 => Just(u64::MAX)],
        any_node(),
        cause,
        released,
        any_rule(),
        loss,
        any::<bool>(),
    )
        .prop_map(|(from, to, cause, released, sync, may_lose_bytes, fits)| {
            let sync = if fits {
                SyncRule {
                    epoch: Epoch(from.wrapping_add(1)),
                    primary: to,
                    ..sync
                }
            } else {
                sync
            };
            Command::ChangeEpoch(Box::new(EpochChange {
                from: Epoch(from),
                to,
                cause,
                why: String::new(),
                released,
                receipt: None,
                sync,
                may_lose_bytes,
                at: WallTime(0),
            }))
        })
}

fn any_proof() -> impl Strategy<Value = StonithProof> {
    (0..5_u64, any_node()).prop_map(|(epoch, node)| StonithProof {
        epoch: Epoch(epoch),
        node,
        by: "n9".to_owned(),
        device: "a device".to_owned(),
        exit_code: Some(2),
        output: String::new(),
        began: WallTime(0),
        at: WallTime(0),
    })
}

fn any_duty() -> impl Strategy<Value = DutyChange> {
    let kind = prop_oneof![
        Just(DutyKind::Backup),
        Just(DutyKind::Drill),
        Just(DutyKind::Verify)
    ];
    let outcome = prop_oneof![
        Just(DutyOutcome::Done),
        Just(DutyOutcome::Failed),
        Just(DutyOutcome::Lost),
        Just(DutyOutcome::Alarm)
    ];
    (kind, any_node(), 0..3_u64, 0..3_u32, 0..5_u8, outcome).prop_map(
        |(kind, node, due, attempt, what, outcome)| {
            let (id, due) = (format!("{due}-{attempt}"), WallTime(due));
            match what {
                0 => DutyChange::Claim {
                    duty: Duty {
                        kind,
                        id,
                        node,
                        incarnation: 1,
                        due,
                        attempt,
                        claimed_at: WallTime(5),
                        sealed: false,
                    },
                },
                1 => DutyChange::Seal { kind, id, node },
                2 => DutyChange::End {
                    record: DutyRecord {
                        kind,
                        id,
                        node: String::new(),
                        due: (attempt > 0).then_some(due),
                        attempt,
                        began: WallTime(0),
                        ended: WallTime(0),
                        outcome,
                        text: String::new(),
                    },
                },
                3 => DutyChange::Order {
                    kind,
                    why: String::new(),
                    at: due,
                },
                _ => DutyChange::Skip {
                    kind,
                    due,
                    why: String::new(),
                    at: WallTime(5),
                },
            }
        },
    )
}

fn any_command() -> impl Strategy<Value = Command> {
    let at = WallTime(0);
    prop_oneof![
        2 => any_duty().prop_map(|change| Command::Duty(Box::new(change))),
        4 => any_change(),
        1 => (any_request(), any_node()).prop_map(move |(request, node)| Command::AddMember {
            request,
            member: member(&format!("m{node}"), MemberKind::Data),
            at,
        }),
        1 => (any_request(), any_node())
            .prop_map(move |(request, node)| Command::RemoveMember { request, node, at }),
        1 => (0..4_u64).prop_map(|version| Command::VotersSettled { version }),
        1 => any_node().prop_map(move |node| Command::ChooseCreator { node, at }),
        1 => any_node()
            .prop_map(move |node| Command::AdoptSystem { node, system_id: SystemId(1), at }),
        2 => (0..5_u64).prop_map(move |epoch| Command::OpenGate {
            epoch: Epoch(epoch),
            timeline: TimelineId(2),
            lsn: Lsn(7),
            at,
        }),
        2 => (any_rule(), any_rule()).prop_map(move |(rule, after)| Command::SyncBegin { rule, after, at }),
        2 => any_rule().prop_map(move |rule| Command::SyncDone { rule, at }),
        1 => (any_request(), 0..3_u64).prop_map(move |(request, version)| Command::ChangeSettings {
            request,
            settings: Box::new(Settings { version, ..Settings::default() }),
            at,
        }),
        1 => any_request().prop_map(move |request| Command::Pause { request, reason: String::new(), at }),
        1 => any_request().prop_map(move |request| Command::Resume { request, at }),
        1 => (any_request(), any_node(), any::<bool>())
            .prop_map(move |(request, node, on)| Command::Maintenance { request, node, on, at }),
        2 => (any_request(), any_node())
            .prop_map(move |(request, to)| Command::StartSwitchover { request, to, at }),
        1 => any_request().prop_map(move |request| Command::StopForSwitchover { request, at }),
        1 => any_request()
            .prop_map(move |request| Command::EndSwitchover { request, why: String::new(), at }),
        2 => (any_request(), any_node(), any::<bool>()).prop_map(
            move |(request, to, accept_data_loss)| Command::OrderFailover { request, to, accept_data_loss, at }
        ),
        1 => any_request()
            .prop_map(move |request| Command::DropFailoverOrder { request, why: String::new(), at }),
        1 => any_node().prop_map(|node| Command::Found {
            cluster_id: format!("c{node}"),
            name: "again".to_owned(),
            members: [(node, member("m", MemberKind::Data))].into(),
            settings: Box::default(),
            secrets: Secrets::default(),
        }),
        1 => (any_node(), any_node()).prop_map(|(node, name)| Command::AnnounceMember {
            node,
            member: member(&format!("m{name}"), MemberKind::Data),
        }),
        1 => any_node().prop_map(move |node| Command::Note {
            kind: "test".to_owned(),
            text: format!("of {node}"),
            at,
        }),
        1 => (any_request(), any_node(), any_node()).prop_map(move |(request, old, name)| {
            Command::ReplaceMember { request, old, member: member(&format!("n{name}"), MemberKind::Data), at }
        }),
        1 => (any_request(), any_node())
            .prop_map(move |(request, node)| Command::FenceNode { request, node, reason: String::new(), at }),
        1 => (any_request(), any_node())
            .prop_map(move |(request, node)| Command::UnfenceNode { request, node, at }),
        2 => (proptest::option::of(any_request()), any_proof())
            .prop_map(|(request, proof)| Command::RecordStonith { request, proof: Box::new(proof) }),
        6 => crate::rollout::any_act(),
        6 => crate::restore::any_act(),
    ]
}

/// Whether the invariants of the replicated state hold from one state to the next.
fn holds(before: &ClusterState, after: &ClusterState) -> bool {
    let step = after.epoch == before.epoch || after.epoch == before.epoch.next();
    let timeline = after.timeline >= before.timeline;
    let rules = after.holder.is_none() || !after.sync.is_empty();
    let numbers = after.next_node >= before.next_node;
    step && timeline && rules && numbers
}

proptest! {
    #[test]
    fn no_sequence_of_commands_panics_or_breaks_an_invariant(
        commands in proptest::collection::vec(any_command(), 1..60),
        from_nothing in any::<bool>(),
    ) {
        let mut state = if from_nothing { ClusterState::default() } else { serving(SyncMode::Quorum) };
        for command in &commands {
            let before = state.clone();
            let outcome = state.apply(command);
            prop_assert!(holds(&before, &state), "{command:?}: {before:?} -> {state:?}");
            if outcome.is_err() {
                let mut same = state.clone();
                same.requests.clone_from(&before.requests);
                prop_assert_eq!(&same, &before, "a refused command changes something: {:?}", command);
            }
            let mut again = state.clone();
            let second = again.apply(command);
            if command.request().is_some() {
                prop_assert_eq!(&second, &outcome);
                prop_assert_eq!(&again, &state);
            }
            prop_assert_eq!(again.epoch, state.epoch, "granted twice: {:?}", command);
        }
    }

    #[test]
    fn voters_may_change_in_any_order(
        changes in proptest::collection::vec((0..9_u64, proptest::collection::btree_set(any_node(), 0..4)), 1..20),
    ) {
        let mut state = serving(SyncMode::Quorum);
        for (version, set) in changes {
            state.apply_voters(version, std::slice::from_ref(&set));
            let all = state.voters.all();
            prop_assert!(set.is_subset(&all));
            prop_assert!(!state.voters.majority(&nodes(&[])));
        }
    }

    /// A command that was read from somewhere, with other numbers and names in it than anybody meant.
    #[test]
    fn a_mangled_command_that_is_still_one_breaks_nothing(
        commands in proptest::collection::vec(any_command(), 1..6).prop_flat_map(|commands| {
            let mangled: Vec<_> = commands
                .iter()
                .map(|command| mangled::text(&serde_json::to_string(command).expect("plain data")))
                .collect();
            mangled
        }),
    ) {
        let mut state = serving(SyncMode::Quorum);
        for command in commands.iter().filter_map(|text| serde_json::from_str::<Command>(text).ok()) {
            let before = state.clone();
            // Whatever it says.
            let _ = state.apply(&command);
            prop_assert!(holds(&before, &state), "{command:?}: {before:?} -> {state:?}");
            let text = serde_json::to_string(&state).expect("plain data");
            prop_assert_eq!(serde_json::from_str::<ClusterState>(&text).expect("read back"), state.clone());
        }
    }
}
