//! What stands in the answers.

use super::rig::*;
use crate::health::*;

#[test]
fn what_is_not_understood_is_refused_and_named() {
    let (status, body) = ask("/primry", &serving(), NOW);
    assert_eq!(status, 404);
    assert!(
        body["paths"]
            .as_array()
            .is_some_and(|paths| paths.contains(&json!("/primary")))
    );
    for (request, parameter) in [
        ("/replica?lag=lots", "lag"),
        ("/replica?lga=1", "lga"),
        ("/x/../primary?", ""),
    ] {
        let (status, body) = ask(request, &following(), NOW);
        assert_eq!(status, if parameter.is_empty() { 404 } else { 400 });
        assert_eq!(body["parameter"].as_str().unwrap_or_default(), parameter);
    }
}

#[test]
fn every_listed_path_is_known() {
    for path in Endpoint::PATHS {
        assert!(Endpoint::of_path(path).is_some(), "{path}");
    }
}

#[test]
fn the_body_has_the_fields_that_monitors_read() {
    let (_, body) = ask("/patroni", &serving(), NOW);
    assert_eq!(body["state"], "running");
    assert_eq!(body["role"], "primary");
    assert_eq!(body["server_version"], 150_018);
    assert_eq!(body["timeline"], 3);
    assert_eq!(body["xlog"]["location"], 0x2000);
    assert_eq!(body["replication"][0]["sync_state"], "quorum");
    assert_eq!(body["patroni"]["scope"], "demo");
    assert_eq!(body["pgctl"]["lease_left_ms"], 2000);
    let (_, body) = ask("/patroni", &following(), NOW);
    assert_eq!(body["role"], "replica");
    assert_eq!(body["xlog"]["replayed_location"], 0x1F00);
    assert_eq!(body["replication_state"], "streaming");
}

#[test]
fn the_cluster_lists_every_member_also_those_that_are_silent() {
    let (status, body) = ask("/cluster", &following(), NOW);
    assert_eq!(status, 200);
    let row = |index: usize| &body["members"][index];
    assert_eq!(
        (row(0)["role"].as_str(), row(0)["state"].as_str()),
        (Some("leader"), Some("running"))
    );
    assert_eq!(
        (row(1)["role"].as_str(), row(1)["lag"].as_u64()),
        (Some("quorum_standby"), Some(0))
    );
    assert_eq!(
        (row(2)["state"].as_str(), row(2)["lag"].as_str()),
        (Some("unknown"), Some("unknown"))
    );
    assert_eq!(row(3)["role"], "witness");
}

#[test]
fn metrics_are_well_formed_and_follow_the_lease() {
    let metric = |now| {
        let page = respond("/metrics", "", &serving(), now);
        assert_eq!(page.status, 200);
        for line in page.body.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(
                name.starts_with("pgctl_") && name.contains("{scope=\"demo\",name=\"n1\""),
                "{line}"
            );
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        let line = page
            .body
            .lines()
            .find(|line| line.starts_with("pgctl_lease_left_seconds{"))
            .map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
    };
    assert_eq!(metric(NOW), Some(2.0));
    assert_eq!(metric(later(Duration::from_secs(5))), Some(0.0));
}

#[test]
fn labels_are_escaped() {
    let mut odd = state();
    odd.name = "de\"mo\\\n".to_owned();
    let page = respond(
        "/metrics",
        "",
        &HealthSnapshot {
            state: Arc::new(odd),
            ..serving()
        },
        NOW,
    )
    .body;
    assert!(page.contains(r#"scope="de\"mo\\\n""#), "{page}");
}
