mod fence;
mod noise;
mod orders;
mod rig;

use crate::ports::{Consensus, ProposeError};
use agent_core::cluster::{Command, Settings};
use agent_core::time::WallTime;
use proto::control as wire;
use proto::control::control_server::Control;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use rig::*;

#[tokio::test]
async fn the_cluster_is_shown_with_what_was_heard_of_each_node() {
    let rig = rig();
    rig.silence(N2);
    let shown = rig
        .service
        .get_cluster(Request::new(wire::GetClusterRequest {}))
        .await
        .expect("shown")
        .into_inner();
    assert_eq!(
        (shown.name.as_str(), shown.epoch, shown.holder.as_str()),
        ("demo", 5, "n1")
    );
    assert!(shown.writable);
    assert_eq!(
        (shown.answered_by.as_str(), shown.raft_leader.as_str()),
        ("n3", "n2")
    );
    let states: Vec<(&str, &str, Option<u64>)> = shown
        .members
        .iter()
        .map(|member| (member.role.as_str(), member.state.as_str(), member.lag_bytes))
        .collect();
    assert_eq!(
        states,
        [
            ("primary", "running", None),
            ("standby", "silent", Some(0x100)),
            ("standby", "streaming", Some(0)),
            ("witness", "unknown", None)
        ]
    );
}

#[tokio::test]
async fn the_cluster_is_not_writable_once_the_holders_report_is_older_than_its_lease() {
    let rig = rig();
    rig.silence(N1);
    let shown = rig
        .service
        .get_cluster(Request::new(wire::GetClusterRequest {}))
        .await
        .expect("shown")
        .into_inner();
    assert!(!shown.writable);
}

#[tokio::test]
async fn failures_of_the_consensus_reach_the_client_as_what_they_are() {
    let rig = rig();
    let pause = || {
        Request::new(wire::PauseRequest {
            request: "p1".to_owned(),
            reason: "work".to_owned(),
        })
    };
    let fail = |error| *rig.consensus.failure.lock().expect("no panic") = Some(error);
    fail(ProposeError::NoLeader {
        waited: Duration::from_secs(1),
        detail: "test".to_owned(),
    });
    refused(
        rig.service.pause(pause()).await,
        Code::Unavailable,
        "no-raft-leader",
    );
    fail(ProposeError::Unknown {
        detail: "test".to_owned(),
    });
    refused(rig.service.pause(pause()).await, Code::Unknown, "outcome-unknown");
}

#[tokio::test]
async fn pause_resume_and_maintenance_say_whether_they_changed_anything() {
    let rig = rig();
    let resume = |id: &str| {
        Request::new(wire::ResumeRequest {
            request: id.to_owned(),
        })
    };
    let pause = wire::PauseRequest {
        request: "p1".to_owned(),
        reason: "work".to_owned(),
    };
    assert!(
        rig.service
            .pause(Request::new(pause))
            .await
            .expect("paused")
            .into_inner()
            .changed
    );
    assert_eq!(
        rig.consensus
            .state()
            .pause
            .as_ref()
            .map(|pause| pause.reason.clone()),
        Some("work".to_owned())
    );
    assert!(
        rig.service
            .resume(resume("r1"))
            .await
            .expect("resumed")
            .into_inner()
            .changed
    );
    assert!(
        !rig.service
            .resume(resume("r2"))
            .await
            .expect("resumed")
            .into_inner()
            .changed
    );
    let maintenance = |name: &str| {
        Request::new(wire::MaintenanceRequest {
            request: format!("m-{name}"),
            name: name.to_owned(),
            on: true,
        })
    };
    assert!(
        rig.service
            .maintenance(maintenance("n2"))
            .await
            .expect("done")
            .into_inner()
            .changed
    );
    refused(
        rig.service.maintenance(maintenance("n22")).await,
        Code::FailedPrecondition,
        "not-a-member",
    );
}

#[tokio::test]
async fn requests_without_an_id_of_their_own_are_refused() {
    let rig = rig();
    for id in ["", "two words", &"x".repeat(65)] {
        refused(
            rig.switchover(id, "n2").await,
            Code::InvalidArgument,
            "bad-request-id",
        );
    }
}

#[tokio::test]
async fn settings_change_from_the_version_that_was_read_and_only_as_a_whole() {
    let rig = rig();
    let change = |id: &str, version, assignments| {
        Request::new(wire::ChangeSettingsRequest {
            request: id.to_owned(),
            version,
            assignments,
        })
    };
    let wan = || vec![assignment("timing", "wan"), assignment("sync_mode", "strict")];
    let changed = rig
        .service
        .change_settings(change("c1", 0, wan()))
        .await
        .expect("changed")
        .into_inner();
    assert_eq!(changed.version, 1);
    assert_eq!(rig.consensus.state().settings.timing.lease_ms, 8_000);
    let again = rig
        .service
        .change_settings(change("c1", 0, wan()))
        .await
        .expect("the same again")
        .into_inner();
    assert_eq!(again.version, 1);
    refused(
        rig.service.change_settings(change("c2", 0, wan())).await,
        Code::Aborted,
        "settings-changed",
    );
    let half = vec![
        assignment("sync_mode", "async"),
        assignment("timing.promise_ms", "100"),
    ];
    refused(
        rig.service.change_settings(change("c3", 1, half)).await,
        Code::InvalidArgument,
        "bad-settings",
    );
    assert_eq!(
        rig.consensus.state().settings.sync_mode,
        agent_core::cluster::SyncMode::Strict
    );
    refused(
        rig.service.change_settings(change("c4", 1, Vec::new())).await,
        Code::InvalidArgument,
        "nothing-to-change",
    );
}

#[tokio::test]
async fn a_check_tells_everything_and_changes_nothing() {
    let rig = rig();
    let check = |assignments| Request::new(wire::CheckSettingsRequest { assignments });
    let told = rig.service.check_settings(check(vec![
        assignment("sync_standby", "2"),
        assignment("timing", "fast"),
    ]));
    let told = told.await.expect("checked").into_inner();
    assert_eq!(told.problems.len(), 2);
    assert!(
        told.problems[0].contains("did you mean sync_standbys?"),
        "{:?}",
        told.problems
    );
    let told = rig
        .service
        .check_settings(check(vec![assignment("timing.promise_ms", "2000")]));
    let told = told.await.expect("checked").into_inner();
    assert!(told.timing.iter().any(|check| !check.holds) && !told.problems.is_empty());
    assert_eq!(rig.consensus.state().settings, Settings::default());
}

#[tokio::test]
async fn members_are_added_and_removed_with_care() {
    let rig = rig();
    let add = |name: &str, peer: &str| {
        Request::new(wire::AddMemberRequest {
            request: format!("add-{name}"),
            name: name.to_owned(),
            peer: peer.to_owned(),
            ..wire::AddMemberRequest::default()
        })
    };
    assert_eq!(
        rig.service
            .add_member(add("n5", "n5:7432"))
            .await
            .expect("added")
            .into_inner()
            .id,
        5
    );
    assert_eq!(
        rig.service
            .add_member(add("n5", "n5:7432"))
            .await
            .expect("the same again")
            .into_inner()
            .id,
        5
    );
    refused(
        rig.service.add_member(add("N6", "n6:7432")).await,
        Code::InvalidArgument,
        "bad-name",
    );
    refused(
        rig.service.add_member(add("n6", "n6")).await,
        Code::InvalidArgument,
        "bad-peer",
    );
    refused(
        rig.service.add_member(add("n6", "n2:7432")).await,
        Code::FailedPrecondition,
        "peer-taken",
    );
    refused(
        rig.service.add_member(add("n2", "n9:7432")).await,
        Code::FailedPrecondition,
        "name-taken",
    );
    let remove = |name: &str| {
        Request::new(wire::RemoveMemberRequest {
            request: format!("remove-{name}"),
            name: name.to_owned(),
        })
    };
    refused(
        rig.service.remove_member(remove("n1")).await,
        Code::FailedPrecondition,
        "holder-stays",
    );
    refused(
        rig.service.remove_member(remove("n2")).await,
        Code::FailedPrecondition,
        "in-synchronous-set",
    );
    rig.service.remove_member(remove("n5")).await.expect("removed");
    rig.service
        .remove_member(remove("n5"))
        .await
        .expect("the same again");
    refused(
        rig.service.remove_member(remove("n7")).await,
        Code::FailedPrecondition,
        "not-a-member",
    );
}

#[tokio::test]
async fn events_are_told_from_a_number_on_and_followed() {
    let rig = rig();
    let note = |text: &str| {
        let command = Command::Note {
            kind: "note".to_owned(),
            text: text.to_owned(),
            at: WallTime(7),
        };
        rig.consensus.apply(&command).expect("applied");
    };
    note("zero");
    note("one");
    let events = |from, follow| {
        rig.service
            .events(Request::new(wire::EventsRequest { from, follow }))
    };
    let told: Vec<_> = events(1, false).await.expect("told").into_inner().collect().await;
    assert_eq!(told.len(), 1);
    let mut stream = events(2, true).await.expect("told").into_inner();
    note("two");
    let told = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    let told = told.expect("in time").expect("an event").expect("no error");
    assert_eq!((told.number, told.text.as_str()), (2, "two"));
}

#[tokio::test]
async fn explain_has_the_coordinators_gates_and_each_nodes_own() {
    let rig = rig();
    let told = rig
        .service
        .explain(Request::new(wire::ExplainRequest {}))
        .await
        .expect("told")
        .into_inner();
    assert_eq!(told.cluster[0].id, "lease-is-over");
    let own = told.nodes.iter().find(|node| node.node == "n3").expect("itself");
    assert_eq!(own.gates[0].id, "follows-holder");
}
