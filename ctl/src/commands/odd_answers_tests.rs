//! Answers of an agent that is broken, of another version, or no agent at all.

use super::{dsn, history, list, status, topology};
use crate::failure::Failure;
use crate::output;
use proptest::prelude::*;
use prost::Message;
use proto::control::{
    Cluster, EpochRecord, FailoverOrder, FenceLayer, Member, PauseState, StonithProof, SwitchoverState,
    SyncSet,
};

/// With something in everything that is shown.
fn cluster() -> Cluster {
    let member = |name: &str, upstream: &str| Member {
        name: name.to_owned(),
        kind: "data".to_owned(),
        role: "standby".to_owned(),
        state: "silent".to_owned(),
        postgres: format!("{name}:5432"),
        upstream: upstream.to_owned(),
        holder: name == "n1",
        lsn: Some("0/3000148".to_owned()),
        lag_bytes: Some(70_000),
        report_age_ms: Some(61_000),
        lease_left_ms: Some(1_500),
        trouble: "no route".to_owned(),
        guard: Some(FenceLayer::default()),
        kernel_lease: Some(FenceLayer::default()),
        ..Member::default()
    };
    let proof = StonithProof {
        node: "n1".to_owned(),
        exit_code: Some(2),
        output: "Status: OFF".to_owned(),
        at_unix_ms: 1_800_000_000_000,
        ..StonithProof::default()
    };
    Cluster {
        name: "demo".to_owned(),
        epoch: 7,
        holder: "n1".to_owned(),
        members: vec![member("n1", ""), member("n2", "n1:5432"), member("n3", "n2:5432")],
        sync: Some(SyncSet {
            required: 1,
            members: vec!["n2".to_owned()],
            ..SyncSet::default()
        }),
        pause: Some(PauseState::default()),
        switchover: Some(SwitchoverState::default()),
        failover_order: Some(FailoverOrder::default()),
        history: vec![EpochRecord {
            epoch: 7,
            granted_at_unix_ms: 1_800_000_000_000,
            opened_at_unix_ms: Some(1_700_000_000_000),
            may_have_lost_bytes: Some(9),
            stonith: vec![proof],
            ..EpochRecord::default()
        }],
        ..Cluster::default()
    }
}

proptest! {
    #[test]
    fn any_answer_that_can_be_read_can_be_shown(bytes in mangled::bytes(&cluster().encode_to_vec())) {
        let Ok(cluster) = Cluster::decode(bytes.as_slice()) else {
            return Ok(());
        };
        prop_assert!(list::headline(&cluster).contains(&cluster.name));
        prop_assert!(cluster.members.iter().map(list::row).all(|row| row.len() == 10));
        prop_assert_eq!(topology::tree(&cluster).len(), cluster.members.len(), "each is shown once");
        prop_assert!(!status::lines(&cluster).is_empty());
        for record in &cluster.history {
            prop_assert_eq!(history::row(record).len(), 9);
            for proof in &record.stonith {
                prop_assert!(history::turned_off(record.epoch, proof).contains(&proof.device));
            }
        }
        prop_assert!(dsn::hosts(&cluster).len() <= cluster.members.len());
        let json = output::plain(&serde_json::to_string_pretty(&cluster).expect("plain data"));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }

    /// A word of an agent's has an id; only the id says that nothing is in doubt.
    #[test]
    fn any_refusal_is_an_agents_word_or_none(
        code in 0..20_i32,
        message in mangled::any_text(0..40),
        id in proptest::option::of(mangled::text("outcome-unknown")),
        next in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
    ) {
        let mut status = tonic::Status::new(tonic::Code::from_i32(code), message.clone());
        let id = id.and_then(|id| Some((id.parse::<tonic::metadata::AsciiMetadataValue>().ok()?, id)));
        if let Some((value, _)) = &id {
            status.metadata_mut().insert("pgctl-id", value.clone());
        }
        if let Some(next) = &next {
            let value = tonic::metadata::BinaryMetadataValue::from_bytes(next);
            status.metadata_mut().insert_bin("pgctl-next-bin", value);
        }
        match Failure::of_agent(&status) {
            None => prop_assert!(id.is_none_or(|(value, _)| value.to_str().is_err())),
            Some(failure) => {
                let in_doubt = id.is_some_and(|(_, id)| id == "outcome-unknown");
                prop_assert_eq!(failure.code(), if in_doubt { 3 } else { 1 });
            }
        }
    }
}
