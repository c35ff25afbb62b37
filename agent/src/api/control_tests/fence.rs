//! Fences by hand, fence devices tried out, and watchdogs that settings must leave room for.

use super::rig::{N1, N2, refused, rig};
use crate::ports::Consensus;
use agent_core::view::{WatchdogReport, WatchdogState};
use proto::control as wire;
use proto::control::control_server::Control;
use tonic::{Code, Request};

fn fence(name: &str, even_primary: bool) -> Request<wire::FenceNodeRequest> {
    Request::new(wire::FenceNodeRequest {
        request: format!("f-{name}-{even_primary}"),
        name: name.to_owned(),
        reason: " memory\nerrors ".to_owned(),
        even_primary,
    })
}

#[tokio::test]
async fn a_standby_is_fenced_and_unfenced_and_shown_so() {
    let rig = rig();
    let changed = rig.service.fence_node(fence("n2", false)).await.expect("fenced");
    assert!(changed.into_inner().changed);
    assert_eq!(rig.consensus.state().fenced[&N2].reason, "memory errors");
    let cluster = rig.service.get_cluster(Request::new(wire::GetClusterRequest {}));
    let cluster = cluster.await.expect("an answer").into_inner();
    let shown = cluster
        .members
        .iter()
        .find(|member| member.name == "n2")
        .expect("a member");
    assert_eq!(shown.fenced.as_ref().expect("fenced").reason, "memory errors");
    let unfence = |id: &str| {
        Request::new(wire::UnfenceNodeRequest {
            request: id.to_owned(),
            name: "n2".to_owned(),
        })
    };
    let first = rig.service.unfence_node(unfence("u1")).await.expect("unfenced");
    assert!(first.into_inner().changed);
    let again = rig.service.unfence_node(unfence("u2")).await.expect("it is so");
    assert!(!again.into_inner().changed);
}

#[tokio::test]
async fn the_primary_is_fenced_only_where_that_was_said() {
    let rig = rig();
    let unsaid = rig.service.fence_node(fence("n1", false)).await;
    refused(unsaid, Code::FailedPrecondition, "is-the-primary");
    rig.service.fence_node(fence("n1", true)).await.expect("said");
    assert!(rig.consensus.state().fenced.contains_key(&N1));
}

#[tokio::test]
async fn an_operators_word_counts_only_of_a_lost_primary() {
    let rig = rig();
    let confirm = |name: &str| {
        Request::new(wire::ConfirmOffRequest {
            request: format!("c-{name}"),
            name: name.to_owned(),
        })
    };
    let standby = rig.service.confirm_off(confirm("n2")).await;
    refused(standby, Code::FailedPrecondition, "not-the-holder");
    let alive = rig.service.confirm_off(confirm("n1")).await;
    refused(alive, Code::FailedPrecondition, "it-is-on");
    rig.grant(N1, agent_core::cluster::Cause::Failover);
    rig.silence(N1);
    rig.service
        .confirm_off(confirm("n1"))
        .await
        .expect("its word is taken");
    let state = rig.consensus.state();
    assert_eq!(state.holder_off().expect("recorded").by, "an operator");
}

fn test(name: &str, off: bool, even_primary: bool) -> Request<wire::TestFenceRequest> {
    Request::new(wire::TestFenceRequest {
        name: name.to_owned(),
        off,
        even_primary,
    })
}

#[tokio::test]
async fn every_other_agent_is_asked_and_one_that_reaches_the_device_turns_off() {
    let rig = rig();
    let asked = rig.service.test_fence(test("n1", false, false)).await;
    let asked = asked.expect("to ask does no harm").into_inner();
    let who: Vec<&str> = asked.results.iter().map(|result| result.by.as_str()).collect();
    assert_eq!(who, ["n2", "n3"]);
    assert_eq!(asked.results[0].power, "on");
    assert_eq!(asked.results[1].error, "no route");
    assert_eq!(asked.turned_off, None);
    let unsaid = rig.service.test_fence(test("n1", true, false)).await;
    refused(unsaid, Code::FailedPrecondition, "is-the-primary");
    let turned = rig.service.test_fence(test("n1", true, true)).await;
    let turned = turned.expect("said").into_inner().turned_off.expect("done");
    assert_eq!((turned.by.as_str(), turned.power.as_str()), ("n2", "off"));
    let nobody = rig.service.test_fence(test("n2", true, false)).await;
    let nobody = nobody.expect("asked").into_inner();
    assert_eq!(nobody.turned_off, None, "n2 is the only one that reaches devices");
}

#[tokio::test]
async fn settings_that_leave_a_required_watchdog_no_room_are_refused_with_the_arithmetic() {
    let rig = rig();
    let with_watchdog = |required| {
        let mut reports = rig.overview.reports.lock().expect("no panic");
        let (_, report) = reports.get_mut(&N2).expect("a report");
        report.watchdog = Some(WatchdogReport {
            required,
            timeout_s: 1,
            state: WatchdogState::Ready,
            detail: "/dev/watchdog".to_owned(),
        });
    };
    let assignments = vec![wire::Assignment {
        key: "timing".to_owned(),
        value: "lan-fast".to_owned(),
    }];
    let check = || {
        let assignments = assignments.clone();
        rig.service
            .check_settings(Request::new(wire::CheckSettingsRequest { assignments }))
    };
    assert!(
        check().await.expect("checked").into_inner().watchdog.is_empty(),
        "none is configured"
    );
    with_watchdog(false);
    let checked = check().await.expect("checked").into_inner();
    assert!(
        checked.problems.is_empty(),
        "it is not required: {:?}",
        checked.problems
    );
    let broken = checked
        .watchdog
        .iter()
        .find(|check| !check.holds)
        .expect("the arithmetic");
    assert!(broken.rule.contains("watchdog of n2"), "{broken:?}");
    with_watchdog(true);
    let checked = check().await.expect("checked").into_inner();
    assert!(checked.problems[0].contains("n2"), "{:?}", checked.problems);
    let change = wire::ChangeSettingsRequest {
        request: "s1".to_owned(),
        version: rig.consensus.state().settings.version,
        assignments: assignments.clone(),
    };
    let changed = rig.service.change_settings(Request::new(change)).await;
    refused(changed, Code::InvalidArgument, "bad-settings");
}
