//! What other nodes say may be anything: an agent of another version, a broken one, or somebody who is no agent.

use crate::fixtures::{
    N1, N2, N3, at, coordinator_view, node_view, primary, report, round, serving, standby, told, well,
};
use agent_core::cluster::{Command, SyncMode, gate};
use agent_core::decide;
use agent_core::decide::cluster::ClusterAction;
use agent_core::view::NodeReport;
use proptest::prelude::*;

/// The reports of a healthy cluster, each of them mangled, as far as they can still be read.
fn mangled() -> impl Strategy<Value = Vec<NodeReport>> {
    let texts: Vec<_> = [
        well(N1, 1, primary(at(2, 300), 100, 1, &[(N2, 300), (N3, 300)])),
        report(N2, standby(at(2, 300), true)),
        report(N3, standby(at(2, 300), false)),
    ]
    .iter()
    .map(|report| mangled::text(&serde_json::to_string(report).expect("plain data")))
    .collect();
    texts.prop_map(|texts| {
        texts
            .iter()
            .filter_map(|text| serde_json::from_str(text).ok())
            .collect()
    })
}

proptest! {
    /// Reports alone never grant anything: that takes releases, which nodes are asked for one by one.
    #[test]
    fn no_report_moves_the_coordinator_to_a_grant_by_itself(reports in mangled(), me in 0..2_usize) {
        let state = serving(SyncMode::Quorum);
        let view = coordinator_view([N2, N3][me], &state, reports);
        let decision = decide::cluster::decide(&view);
        for action in &decision.actions {
            prop_assert!(
                !matches!(action, ClusterAction::Propose(Command::ChangeEpoch(_))),
                "{:?}", decision
            );
        }
    }

    #[test]
    fn with_releases_every_grant_passes_its_gate_whatever_is_reported(
        reports in mangled(),
        lsns in (0..400_u64, 0..400_u64),
    ) {
        let mut state = serving(SyncMode::Quorum);
        let mut view = coordinator_view(N2, &state, reports);
        view.memory.round = Some(round(2, &[(N2, told(2, lsns.0)), (N3, told(2, lsns.1))]));
        let decision = decide::cluster::decide(&view);
        let granted = decision.actions.into_iter().find_map(|action| match action {
            ClusterAction::Propose(Command::ChangeEpoch(change)) => Some(change),
            _ => None,
        });
        if let Some(change) = granted {
            prop_assert!(gate::is_open(&gate::check(&state, &change)), "{:?}", change);
            prop_assert!(state.apply(&Command::ChangeEpoch(change)).is_ok());
        }
    }

    #[test]
    fn a_node_decides_whatever_the_others_report(reports in mangled(), holder in any::<bool>()) {
        let state = serving(SyncMode::Quorum);
        let (me, own) = if holder {
            (N1, primary(at(2, 300), 100, 1, &[(N2, 300)]))
        } else {
            (N2, standby(at(2, 300), true))
        };
        let mut view = node_view(me, &state, own);
        view.holder = reports.iter().find(|report| report.node == N1).cloned();
        view.peers = reports;
        let decision = decide::node::decide(&view);
        prop_assert!(!decision.rule.is_empty());
    }
}
