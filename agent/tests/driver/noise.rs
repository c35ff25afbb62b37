//! Rubbish from agents that are none: reports, receipts and fence orders that were mangled on the way.

use crate::nodes::Nodes;
use agent_core::ids::NodeId;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use proto::supervision::supervision_client::SupervisionClient;
use proto::supervision::{
    BoundRequest, Envelope, ExplainRequest, FenceRequest, ReleaseRequest, ReportRequest,
};

/// No member has it.
const STRANGER: u64 = 99;
const CASES: u32 = 300;

/// A report and a receipt as they are, for faults to strike.
fn payloads(nodes: &Nodes) -> Vec<Vec<u8>> {
    let holder = nodes.log.state().holder.expect("a holder");
    let report = nodes.report(holder).expect("it has reported");
    let report = serde_json::to_vec(&report).expect("JSON");
    let receipt = br#"{"node":1,"epoch":1,"incarnation":7,"clean_end":null}"#.to_vec();
    vec![report, receipt, b"{}".to_vec(), b"[]".to_vec(), Vec::new()]
}

fn envelope(cluster_id: &str, to: NodeId) -> impl Strategy<Value = Option<Envelope>> + use<> {
    let right = Envelope {
        cluster_id: cluster_id.to_owned(),
        from: STRANGER,
        to: to.0,
    };
    let elsewhere = Envelope {
        cluster_id: "elsewhere".to_owned(),
        ..right.clone()
    };
    let nobody = Envelope {
        to: STRANGER,
        ..right.clone()
    };
    prop::sample::select(vec![None, Some(elsewhere), Some(nobody), Some(right)])
}

/// Sends it all, and finds every node as it was: nothing that a stranger says is believed, nothing ends an agent.
pub async fn changes_nothing(nodes: &Nodes) {
    let before = nodes.log.state();
    let payloads = payloads(nodes);
    let mut runner = TestRunner::new(mangled::cases(CASES));
    let mut drawn = |strategy: &BoxedStrategy<_>| strategy.new_tree(&mut runner).expect("a case").current();
    let (mut taken, mut refused) = (0_u32, 0_u32);
    for to in nodes.ids() {
        let mut client = SupervisionClient::connect(format!("http://{}", nodes.address(to)))
            .await
            .expect("it listens");
        let case = (
            envelope(&before.cluster_id, to),
            prop::sample::select(payloads.clone()).prop_flat_map(|payload| mangled::bytes(&payload)),
            any::<u64>(),
            0..5_u8,
        )
            .boxed();
        for _ in 0..mangled::cases(CASES).cases / 3 {
            let (envelope, bytes, number, which) = drawn(&case);
            // A release to a new epoch would be believed: the epoch decides, not who asks. This one is over.
            let over = number % before.epoch.0.max(1);
            let known = envelope.is_some();
            let outcome = match which {
                0 => client
                    .report(ReportRequest {
                        envelope,
                        report: bytes,
                    })
                    .await
                    .map(drop),
                1 => {
                    let ask = BoundRequest {
                        envelope,
                        next_epoch: number,
                        receipt: bytes,
                    };
                    client.bound(ask).await.map(drop)
                }
                2 => {
                    let ask = ReleaseRequest {
                        envelope,
                        epoch: over,
                        receipt: bytes,
                        wait_for_lsn: 0,
                    };
                    client.release(ask).await.map(drop)
                }
                3 => client.explain(ExplainRequest { envelope }).await.map(drop),
                _ => {
                    let ask = FenceRequest {
                        envelope,
                        node: number,
                        off: true,
                    };
                    client.fence(ask).await.map(drop)
                }
            };
            match outcome {
                Ok(()) => {
                    assert!(known, "a message without an envelope was taken");
                    taken += 1;
                }
                Err(status) => {
                    assert!(!status.message().is_empty(), "{status:?} says nothing");
                    refused += 1;
                }
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    let after = nodes.log.state();
    assert_eq!(
        (after.epoch, after.holder, after.timeline),
        (before.epoch, before.holder, before.timeline)
    );
}
