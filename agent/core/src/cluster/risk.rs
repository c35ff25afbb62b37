use super::{ClusterState, SyncMode};
use crate::ids::NodeId;
use crate::pg::Position;
use crate::view::{ClusterView, Server};
use std::collections::BTreeSet;
use std::time::Duration;

/// A report older than this says nothing about who could pledge now.
const FRESH: Duration = Duration::from_secs(3);

/// What promoting one node by order would lose, as far as can be told before it is done.
///
/// The figures are estimates for a person to decide by. What is done in the end is up to the promotion gate, which
/// counts pledges and not reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRisk {
    /// The node that would be promoted.
    pub target: NodeId,
    /// How far its durable WAL reached by its last report; `None` if it sent none, or its server does not answer.
    pub target_position: Option<Position>,
    /// How long ago the target last reported.
    pub target_age: Option<Duration>,
    /// The furthest end of the primary's WAL that is known: by its own last report, or by what a standby received.
    pub primary_position: Option<Position>,
    /// How long ago the primary last reported.
    pub primary_age: Option<Duration>,
    /// WAL that is known to exist and that the target does not have, bytes. `None`: it cannot be told, for want of one
    /// of the two positions.
    pub bytes: Option<u64>,
    /// The longest span before now whose commits may be missing on the target. `None`: it cannot be told.
    pub span: Option<Duration>,
    /// The nodes that answer are bound to have every acknowledged commit, and the target is as far as any of them:
    /// nothing acknowledged would be lost.
    pub acknowledged_is_safe: bool,
    /// The target runs, answers and could be promoted.
    pub target_ready: bool,
}

/// Works out what a failover to `target` would lose. `age` tells how old a node's report is.
#[must_use]
pub fn failover_risk(
    state: &ClusterState,
    view: &ClusterView,
    age: impl Fn(NodeId) -> Option<Duration>,
    target: NodeId,
) -> FailoverRisk {
    let report = |node: NodeId| view.reports.get(&node).map(|(_, report)| report);
    let position = |node: NodeId| report(node)?.pg.as_ref()?.position();
    let fresh = |node: NodeId| age(node).is_some_and(|age| age <= FRESH);
    let target_position = position(target);
    let primary_age = state.holder.and_then(&age);
    // A standby may know more of the primary than the primary's last report, which died with it.
    let primary_position = state.data_members().filter_map(|(node, _)| position(node)).max();
    let bytes = target_position
        .zip(primary_position)
        .map(|(here, end)| bytes_behind(here, end));
    let standing: BTreeSet<NodeId> = state
        .data_members()
        .map(|(node, _)| node)
        .filter(|node| fresh(*node) && position(*node).is_some())
        .collect();
    let furthest = standing.iter().filter_map(|node| position(*node)).max();
    let acknowledged_is_safe = standing.contains(&target)
        && target_position >= furthest
        && state.settings.sync_mode != SyncMode::Async
        && !state.sync.is_empty()
        && state.sync.iter().all(|rule| rule.covered_by(&standing));
    let replay_age = report(target).and_then(|report| match &report.pg.as_ref()?.server {
        Server::Standby(standby) => standby.replay_age_ms.map(Duration::from_millis),
        _ => None,
    });
    let span = match bytes {
        // The target has all that was heard of: only what the primary did since its last report can be missing.
        Some(0) => primary_age,
        _ => replay_age
            .zip(age(target))
            .map(|(replayed, reported)| replayed + reported)
            .max(primary_age),
    };
    let target_ready = fresh(target)
        && report(target)
            .and_then(|report| report.pg.as_ref())
            .is_some_and(|pg| matches!(pg.server, Server::Standby(_)));
    FailoverRisk {
        target,
        target_position,
        target_age: age(target),
        primary_position,
        primary_age,
        bytes,
        span: if acknowledged_is_safe {
            Some(Duration::ZERO)
        } else {
            span
        },
        acknowledged_is_safe,
        target_ready,
    }
}

/// Across timelines the LSNs still tell how much WAL there is beyond the target's end.
fn bytes_behind(here: Position, end: Position) -> u64 {
    if here >= end {
        0
    } else {
        end.lsn.bytes_since(here.lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::{choose_target, fit_for_switchover};
    use super::*;
    use crate::cluster::{Member, MemberKind, SyncRule};
    use crate::ids::Epoch;
    use crate::pg::{Lsn, TimelineHistory, TimelineId};
    use crate::time::MonoTime;
    use crate::view::{NodeReport, PgObservation, PrimaryView, Receiver, StandbyView, VoterReport};
    use std::collections::BTreeMap;

    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);
    const N3: NodeId = NodeId(3);
    const W4: NodeId = NodeId(4);

    fn at(timeline: u32, lsn: u64) -> Position {
        Position {
            timeline: TimelineId(timeline),
            lsn: Lsn(lsn),
        }
    }

    fn state(k: u32, members: &[NodeId]) -> ClusterState {
        let member = |node: NodeId| Member {
            name: format!("n{node}"),
            kind: if node == W4 {
                MemberKind::Witness
            } else {
                MemberKind::Data
            },
            peer: String::new(),
            http: String::new(),
            postgres: String::new(),
            tags: BTreeMap::new(),
            nofailover: false,
        };
        ClusterState {
            members: [N1, N2, N3, W4]
                .into_iter()
                .map(|node| (node, member(node)))
                .collect(),
            epoch: Epoch(5),
            holder: Some(N1),
            sync: vec![SyncRule {
                epoch: Epoch(5),
                primary: N1,
                k,
                members: members.iter().copied().collect(),
            }],
            ..ClusterState::default()
        }
    }

    fn report(node: NodeId, server: Server) -> NodeReport {
        NodeReport {
            node,
            incarnation: 1,
            pg: Some(PgObservation {
                server,
                control: None,
                version_num: 150_000,
                postmaster_pid: None,
                trouble: None,
                pending_restart: Vec::new(),
                vitals: Default::default(),
            }),
            voter: VoterReport::default(),
            holder: None,
            pledge: Epoch(5),
            applied: 0,
            prepared_for: None,
            explain: Vec::new(),
            agent_version: String::new(),
            watchdog: None,
            fencing: None,
            archive: None,
        }
    }

    fn standby(position: Position) -> Server {
        Server::Standby(StandbyView {
            position,
            replay: position.lsn,
            replay_age_ms: Some(4_000),
            upstream: None,
            receiver: Some(Receiver {
                streaming: true,
                latest_end: position.lsn,
            }),
            replay_paused: false,
        })
    }

    fn primary(position: Position) -> Server {
        Server::Primary(PrimaryView {
            position,
            history: TimelineHistory {
                timeline: position.timeline,
                switches: Vec::new(),
            },
            synchronous_standby_names: String::new(),
            standbys: Vec::new(),
            read_only: false,
        })
    }

    /// What was heard of nodes, each so many seconds ago.
    struct Heard(Vec<(u64, NodeId, Server)>);

    impl Heard {
        fn view(&self) -> ClusterView {
            let reports = self
                .0
                .iter()
                .map(|(_, node, server)| (*node, (MonoTime(0), report(*node, server.clone()))));
            ClusterView {
                reports: reports.collect(),
            }
        }
        fn age(&self, node: NodeId) -> Option<Duration> {
            self.0
                .iter()
                .find(|(_, heard, _)| *heard == node)
                .map(|(age, _, _)| Duration::from_secs(*age))
        }
        fn risk(&self, state: &ClusterState, target: NodeId) -> FailoverRisk {
            failover_risk(state, &self.view(), |node| self.age(node), target)
        }
    }

    #[test]
    fn a_target_that_is_behind_risks_the_bytes_that_others_are_known_to_have() {
        let heard = Heard(vec![
            (60, N1, primary(at(3, 0x5000))),
            (1, N2, standby(at(3, 0x4000))),
            (60, N3, standby(at(3, 0x6000))),
        ]);
        let risk = heard.risk(&state(1, &[N2, N3]), N2);
        assert_eq!(risk.bytes, Some(0x2000));
        assert_eq!(risk.span, Some(Duration::from_secs(60)));
        assert!(!risk.acknowledged_is_safe && risk.target_ready);
    }

    #[test]
    fn nothing_acknowledged_is_at_risk_where_the_answering_nodes_meet_every_quorum_and_the_target_is_furthest()
     {
        let heard = Heard(vec![
            (60, N1, primary(at(3, 0x5000))),
            (1, N2, standby(at(3, 0x4000))),
            (1, N3, standby(at(3, 0x4800))),
        ]);
        let state = state(1, &[N2, N3]);
        assert!(heard.risk(&state, N3).acknowledged_is_safe);
        assert_eq!(heard.risk(&state, N3).span, Some(Duration::ZERO));
        assert!(!heard.risk(&state, N2).acknowledged_is_safe, "n3 is ahead of it");
    }

    #[test]
    fn a_degraded_or_asynchronous_cluster_always_has_something_at_risk() {
        let heard = Heard(vec![
            (60, N1, primary(at(3, 0x5000))),
            (1, N2, standby(at(3, 0x5000))),
        ]);
        assert!(!heard.risk(&state(0, &[]), N2).acknowledged_is_safe);
        let mut asynchronous = state(1, &[N2]);
        assert!(heard.risk(&asynchronous, N2).acknowledged_is_safe);
        asynchronous.settings.sync_mode = SyncMode::Async;
        let risk = heard.risk(&asynchronous, N2);
        assert_eq!(
            (risk.acknowledged_is_safe, risk.bytes, risk.span),
            (false, Some(0), Some(Duration::from_secs(60)))
        );
    }

    #[test]
    fn what_cannot_be_told_is_not_told_as_nothing() {
        let heard = Heard(vec![(1, N2, Server::Down)]);
        let risk = heard.risk(&state(1, &[N2, N3]), N2);
        assert_eq!((risk.bytes, risk.span, risk.target_ready), (None, None, false));
        assert!(!risk.acknowledged_is_safe);
    }

    #[test]
    fn a_long_tail_on_an_old_timeline_is_not_ahead_of_a_newer_one() {
        let heard = Heard(vec![
            (60, N1, primary(at(2, 0x9000))),
            (1, N2, standby(at(3, 0x4000))),
        ]);
        assert_eq!(heard.risk(&state(1, &[N2]), N2).bytes, Some(0));
    }

    #[test]
    fn the_target_of_a_switchover_is_the_furthest_fit_standby_of_the_set() {
        let heard = Heard(vec![
            (0, N1, primary(at(3, 0x5000))),
            (1, N2, standby(at(3, 0x4000))),
            (1, N3, standby(at(3, 0x5000))),
        ]);
        let choose = |state: &ClusterState| choose_target(state, &heard.view(), |node| heard.age(node));
        assert_eq!(choose(&state(1, &[N2, N3])), Ok(N3));
        assert_eq!(choose(&state(1, &[N2])), Ok(N2), "n3 is not in the set");
        let mut held_back = state(1, &[N2, N3]);
        held_back.maintenance.insert(N3);
        assert_eq!(choose(&held_back), Ok(N2));
        held_back.members.get_mut(&N2).expect("a member").nofailover = true;
        let unfit = choose(&held_back).expect_err("nobody is left");
        assert!(
            unfit.found.contains("n2 is marked nofailover") && unfit.found.contains("n3 is in maintenance")
        );
    }

    #[test]
    fn each_unfit_target_is_refused_for_its_own_reason() {
        let silent = Server::Standby(match standby(at(3, 1)) {
            Server::Standby(view) => StandbyView {
                receiver: None,
                ..view
            },
            other => panic!("{other:?}"),
        });
        for (heard, target, id) in [
            (vec![], NodeId(9), "not-a-member"),
            (vec![], W4, "witness"),
            (vec![], N1, "already-primary"),
            (vec![], N2, "target-is-gone"),
            (vec![(6, N2, standby(at(3, 1)))], N2, "target-is-gone"),
            (vec![(1, N2, Server::Starting)], N2, "target-is-no-standby"),
            (vec![(1, N2, silent)], N2, "target-does-not-stream"),
        ] {
            let heard = Heard(heard);
            let fit = fit_for_switchover(&state(1, &[N2]), &heard.view(), |node| heard.age(node), target)
                .map(|_| ());
            assert_eq!(fit.map_err(|unfit| unfit.id), Err(id));
        }
    }
}
