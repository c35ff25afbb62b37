//! Switchover and failover.

use crate::api::progress::{Kind, Watched, stage};
use agent_core::cluster::{Cause, ClusterState, Command};
use agent_core::ids::{Epoch, RequestId};
use agent_core::time::WallTime;
use proto::control as wire;
use proto::control::control_server::Control;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use super::rig::*;

#[tokio::test]
async fn a_switchover_without_a_target_goes_to_the_furthest_synchronous_standby_and_is_told_to_its_end() {
    let rig = rig();
    let mut stream = rig.switchover("s1", "").await.expect("started");
    let told = next(&mut stream).await;
    assert_eq!(told.phase, "preparing");
    assert!(told.message.contains("n3"), "{}", told.message);
    let request = RequestId("s1".to_owned());
    rig.consensus
        .apply(&Command::StopForSwitchover {
            request,
            at: WallTime(2),
        })
        .expect("applied");
    assert_eq!(next(&mut stream).await.phase, "stopping");
    rig.grant(N3, Cause::Switchover);
    assert_eq!(next(&mut stream).await.phase, "granted");
    rig.open_gate();
    let told = next(&mut stream).await;
    let outcome = told.outcome.expect("the end");
    assert!(outcome.succeeded);
    assert_eq!(
        (outcome.from.as_str(), outcome.to.as_str(), outcome.epoch),
        ("n1", "n3", 6)
    );
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn an_aborted_switchover_says_why() {
    let rig = rig();
    let mut stream = rig.switchover("s1", "n2").await.expect("started");
    assert_eq!(next(&mut stream).await.phase, "preparing");
    let request = RequestId("s1".to_owned());
    rig.consensus
        .apply(&Command::EndSwitchover {
            request,
            why: "n2 lags".to_owned(),
            at: WallTime(2),
        })
        .expect("applied");
    let told = next(&mut stream).await;
    assert_eq!(
        (told.phase.as_str(), told.message.as_str()),
        ("failed", "n2 lags")
    );
    assert!(!told.outcome.expect("the end").succeeded);
}

#[tokio::test]
async fn the_same_switchover_sent_twice_is_one_switchover() {
    let rig = rig();
    let _first = rig.switchover("s1", "n2").await.expect("started");
    // Meanwhile n2 would no longer do: the second request must not be judged by that.
    rig.silence(N2);
    let mut second = rig.switchover("s1", "n2").await.expect("joined");
    assert_eq!(next(&mut second).await.phase, "preparing");
    assert_eq!(rig.consensus.proposals(), 1);
    rig.grant(N2, Cause::Switchover);
    rig.open_gate();
    let mut third = rig.switchover("s1", "n2").await.expect("joined after its end");
    assert!(next(&mut third).await.outcome.expect("the end").succeeded);
}

#[tokio::test]
async fn targets_that_cannot_be_are_refused_before_anything_is_begun() {
    let rig = rig();
    for (to, id) in [
        ("n9", "not-a-member"),
        ("w4", "witness"),
        ("n1", "already-primary"),
    ] {
        refused(rig.switchover("s1", to).await, Code::FailedPrecondition, id);
    }
    rig.silence(N2);
    refused(
        rig.switchover("s1", "n2").await,
        Code::FailedPrecondition,
        "target-is-gone",
    );
    rig.silence(N3);
    refused(
        rig.switchover("s1", "").await,
        Code::FailedPrecondition,
        "no-target",
    );
    assert_eq!(rig.consensus.proposals(), 0);
}

#[tokio::test]
async fn a_second_switchover_is_refused_while_one_is_under_way() {
    let rig = rig();
    let _first = rig.switchover("s1", "n2").await.expect("started");
    refused(
        rig.switchover("s2", "n3").await,
        Code::FailedPrecondition,
        "switchover-running",
    );
}

#[tokio::test]
async fn a_failover_that_may_lose_commits_is_refused_with_the_figures_until_that_is_accepted() {
    let rig = rig();
    rig.silence(N1);
    rig.silence(N3);
    let preview = wire::PreviewFailoverRequest { to: "n2".to_owned() };
    let risk = rig
        .service
        .preview_failover(Request::new(preview))
        .await
        .expect("a preview")
        .into_inner();
    assert_eq!(
        (risk.bytes_at_risk, risk.span_at_risk_ms),
        (Some(0x100), Some(60_000))
    );
    assert!(!risk.acknowledged_is_safe && risk.target_ready);
    let status = rig.failover("n2", false).await.expect_err("refused");
    assert!(status.message().contains("256 bytes"), "{}", status.message());
    refused(
        rig.failover("n2", false).await,
        Code::FailedPrecondition,
        "data-loss-not-accepted",
    );
    let mut stream = rig.failover("n2", true).await.expect("ordered");
    assert_eq!(next(&mut stream).await.phase, "ordered");
    rig.grant(N2, Cause::ManualFailover);
    assert_eq!(next(&mut stream).await.phase, "granted");
    rig.open_gate();
    assert!(next(&mut stream).await.outcome.expect("the end").succeeded);
}

#[tokio::test]
async fn a_failover_that_loses_nothing_acknowledged_needs_no_consent() {
    let rig = rig();
    rig.silence(N1);
    refused(
        rig.failover("n1", true).await,
        Code::FailedPrecondition,
        "already-primary",
    );
    let mut stream = rig.failover("n3", false).await.expect("ordered");
    assert_eq!(next(&mut stream).await.phase, "ordered");
}

#[tokio::test]
async fn a_dropped_failover_order_is_told_as_failed() {
    let rig = rig();
    let mut stream = rig.failover("n3", true).await.expect("ordered");
    assert_eq!(next(&mut stream).await.phase, "ordered");
    let request = RequestId("f1".to_owned());
    rig.consensus
        .apply(&Command::DropFailoverOrder {
            request,
            why: "n3 went away".to_owned(),
            at: WallTime(3),
        })
        .expect("applied");
    let told = next(&mut stream).await;
    assert_eq!(
        (told.phase.as_str(), told.message.as_str()),
        ("failed", "n3 went away")
    );
}

#[test]
fn a_request_that_this_node_has_not_applied_yet_is_waited_for() {
    let state = ClusterState::default();
    for kind in [Kind::Switchover, Kind::Failover] {
        let request = RequestId("x".to_owned());
        let watched = Watched {
            request,
            kind,
            from: None,
            to: N2,
            epoch: Epoch(0),
        };
        assert_eq!(stage(&state, &watched), None);
    }
}
