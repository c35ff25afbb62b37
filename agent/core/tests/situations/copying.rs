//! Where a node without data gets its copy from.

use crate::fixtures::{N1, N2, N3, NOW, at, node_view, observed, primary, report, serving, standby};
use agent_core::cluster::{ClusterState, SyncMode};
use agent_core::decide::node::{BackupSight, NodeAction, NodeView, Rung, decide};
use agent_core::pg::{ControlState, Lsn, TimelineId};
use agent_core::view::{NodeReport, Server, Upstream};

const MIB: u64 = 1 << 20;

fn backup() -> BackupSight {
    BackupSight {
        id: "b1".to_owned(),
        timeline: TimelineId(2),
        start: Lsn(150),
        stop: Lsn(200),
        bytes: 40 * MIB,
    }
}

/// n3 streams from n1 under the name of epoch 1.
fn following(epoch: u64) -> NodeReport {
    let mut pg = standby(at(2, 300), true);
    if let Server::Standby(view) = &mut pg.server {
        view.upstream = Some(Upstream {
            host: "n1".to_owned(),
            port: 5432,
            application_name: format!("n3_e{epoch}"),
        });
    }
    report(N3, pg)
}

/// n2 has no data, n1 serves and has written up to `end`, and n3 streams.
fn empty(state: &ClusterState, end: u64) -> NodeView<'_> {
    let mut view = node_view(N2, state, observed(Server::NoData, ControlState::ShutDown, 1));
    view.holder = Some(report(N1, primary(at(2, end), 100, 1, &[(N3, end)])));
    view.peers = vec![
        report(N1, primary(at(2, end), 100, 1, &[(N3, end)])),
        following(1),
    ];
    view.backup = Some(Some(backup()));
    view
}

#[track_caller]
fn source(view: &NodeView<'_>) -> String {
    let decision = decide(view);
    match decision.actions.as_slice() {
        [NodeAction::Restore { backup, .. }] => format!("backup {backup}"),
        [NodeAction::Copy { from, .. }] => from.host.clone(),
        [] => decision.rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backup_spares_both_servers() {
    let state = serving(SyncMode::Quorum);
    assert_eq!(source(&empty(&state, 300)), "backup b1");
}

#[test]
fn nobody_copies_before_somebody_has_looked_for_a_backup() {
    let state = serving(SyncMode::Quorum);
    let mut view = empty(&state, 300);
    view.backup = None;
    assert_eq!(source(&view), "look-for-a-backup");
}

#[test]
fn without_a_fitting_backup_a_standby_is_copied() {
    let state = serving(SyncMode::Quorum);
    let mut view = empty(&state, 300);
    view.backup = Some(None);
    assert_eq!(source(&view), "n3", "there is none");
    view.backup = Some(Some(BackupSight {
        timeline: TimelineId(1),
        stop: Lsn(101),
        ..backup()
    }));
    assert_eq!(source(&view), "n3", "it was taken beyond the fork");
    view.backup = Some(Some(BackupSight {
        timeline: TimelineId(1),
        start: Lsn(50),
        stop: Lsn(100),
        ..backup()
    }));
    assert_eq!(source(&view), "backup b1", "it was taken before the fork");
    let far = empty(&state, 300 * MIB);
    assert_eq!(
        source(&far),
        "n3",
        "there is more WAL to replay than a copy has bytes"
    );
    let mut far = empty(&state, 300 * MIB);
    far.backup = Some(Some(BackupSight {
        bytes: 400 * MIB,
        ..backup()
    }));
    assert_eq!(source(&far), "backup b1", "a copy would cost more");
    let mut failed = empty(&state, 300);
    failed.memory.failed_rungs.insert(Rung::Repository);
    assert_eq!(source(&failed), "n3");
}

#[test]
fn the_primary_is_copied_where_no_standby_will_do() {
    let mut state = serving(SyncMode::Quorum);
    let mut view = empty(&state, 300);
    view.backup = Some(None);
    view.memory.failed_rungs.insert(Rung::Standby);
    assert_eq!(source(&view), "n1", "the copy of a standby failed");
    let decision = decide(&view);
    assert!(
        decision
            .reasons
            .iter()
            .any(|reason| reason.found.contains("the last copy of one failed")),
        "{decision:?}"
    );
    let alone = |peers: Vec<NodeReport>| {
        let mut view = empty(&state, 300);
        view.backup = Some(None);
        view.peers = peers;
        source(&view)
    };
    assert_eq!(alone(Vec::new()), "n1");
    assert_eq!(
        alone(vec![following(0)]),
        "n1",
        "it follows under the name of an older epoch"
    );
    assert_eq!(
        alone(vec![report(N3, standby(at(2, 300), false))]),
        "n1",
        "it does not stream"
    );
    let mut ailing = following(1);
    ailing.pg.as_mut().expect("has a server").vitals.crashes = 5;
    assert_eq!(alone(vec![ailing]), "n1");
    state.maintenance.insert(N3);
    let mut view = empty(&state, 300);
    view.backup = Some(None);
    assert_eq!(source(&view), "n1", "n3 is in maintenance");
}

#[test]
fn a_copy_that_failed_is_not_repeated_at_once() {
    let state = serving(SyncMode::Quorum);
    let mut view = empty(&state, 300);
    view.memory.job_failed_at = Some(NOW);
    assert_eq!(source(&view), "copy-failed");
}
