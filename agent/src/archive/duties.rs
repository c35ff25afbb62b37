//! Scheduled work that the cluster has given to this node: done, told of, and thrown away if it is taken from it.

use super::backups::{self, Claimed};
use super::upkeep::{self, Read};
use super::{Archive, drill, dumps};
use crate::ports::{Consensus, ProposeError};
use crate::wall_time::stamp;
use agent_core::cluster::{ClusterState, Command, Duty, DutyChange, DutyKind, DutyOutcome, DutyRecord};
use agent_core::ids::NodeId;
use agent_core::time::WallTime;
use futures::future::{BoxFuture, FutureExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often it is looked whether work was taken away, when nothing else tells.
const LOOK: Duration = Duration::from_secs(1);
/// How long one attempt to have a command committed may take.
const PROPOSAL: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);

/// What a run came to: what to tell of it, or why it failed.
type Outcome = Result<Done, String>;

/// A run that came to its end.
#[derive(Clone)]
struct Done {
    text: String,
    /// What was found is not right.
    alarm: bool,
}

impl From<String> for Done {
    fn from(text: String) -> Done {
        Done { text, alarm: false }
    }
}

/// One run on this node.
struct Work {
    duty: Duty,
    /// Whether this node held the epoch when it began: what is copied from a standby is not gone on with on a primary.
    held: bool,
    task: JoinHandle<Outcome>,
    /// How it ended, until the cluster was told.
    ended: Option<Outcome>,
}

/// Does what this node has claimed, for as long as the archive is there.
pub(super) async fn run(archive: Weak<Archive>, consensus: Arc<dyn Consensus>, incarnation: u64) {
    let mut states = consensus.watch();
    let mut works: BTreeMap<DutyKind, Work> = BTreeMap::new();
    loop {
        let state = states.borrow_and_update().clone();
        let me = consensus.node_id();
        let Some(archive) = archive.upgrade() else { return };
        settle(&consensus, &state, me, &mut works).await;
        for duty in state.duties.running.values().filter(|duty| duty.node == me) {
            if works.contains_key(&duty.kind) {
                continue;
            }
            if duty.incarnation != incarnation {
                let why = "its agent was restarted meanwhile".to_owned();
                end(&consensus, &state, duty, Err(why)).await;
                continue;
            }
            tracing::info!(duty = duty.id, attempt = duty.attempt, "scheduled work begins");
            let work = begin(&archive, &consensus, &state, duty.clone());
            let held = state.holder == Some(me);
            works.insert(
                duty.kind,
                Work {
                    duty: duty.clone(),
                    held,
                    task: tokio::spawn(work),
                    ended: None,
                },
            );
        }
        archive.reports.send_modify(|report| {
            report.duties = works.values().map(|work| work.duty.id.clone()).collect();
        });
        drop(archive);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

/// Ends what is over, and breaks off what this node may not go on with.
async fn settle(
    consensus: &Arc<dyn Consensus>,
    state: &ClusterState,
    me: NodeId,
    works: &mut BTreeMap<DutyKind, Work>,
) {
    let kinds: Vec<DutyKind> = works.keys().copied().collect();
    for kind in kinds {
        let Some(work) = works.get_mut(&kind) else {
            continue;
        };
        let claimed = state.duties.running.get(&kind);
        let ours = claimed.is_some_and(|duty| duty.id == work.duty.id && duty.node == me);
        let stop = if !ours {
            Some("it was taken from this node")
        } else if (state.holder == Some(me)) != work.held && !kind.needs_no_server() {
            Some("this node has another role now")
        } else if state.maintenance.contains(&me) || state.fenced.contains_key(&me) {
            Some("this node was taken out of service")
        } else {
            None
        };
        if work.ended.is_none() {
            if let Some(why) = stop {
                work.task.abort();
                // What it holds (a program that copies, a scratch directory) is let go before anybody is told.
                let _ = (&mut work.task).await;
                tracing::warn!(duty = work.duty.id, why, "scheduled work is broken off");
                work.ended = Some(Err(why.to_owned()));
            } else if work.task.is_finished() {
                let joined = (&mut work.task).await;
                work.ended = Some(joined.unwrap_or_else(|error| Err(error.to_string())));
            }
        }
        let Some(outcome) = work.ended.clone() else {
            continue;
        };
        if !ours || end(consensus, state, &work.duty, outcome).await {
            works.remove(&kind);
        }
    }
}

fn begin(
    archive: &Arc<Archive>,
    consensus: &Arc<dyn Consensus>,
    state: &ClusterState,
    duty: Duty,
) -> BoxFuture<'static, Outcome> {
    let archive = Arc::clone(archive);
    match duty.kind {
        DutyKind::Backup => {
            let rate = (state.settings.backup_rate_mb > 0)
                .then(|| state.settings.backup_rate_mb.saturating_mul(1024));
            let earlier = state.duties.attempts_for(duty.kind, duty.due);
            let earlier = earlier.map(|record| record.id.clone()).collect();
            let (seal_with, sealed) = (Arc::clone(consensus), duty.clone());
            let claimed = Claimed {
                earlier,
                seal: Box::new(move || seal(Arc::clone(&seal_with), sealed.clone()).boxed()),
            };
            async move { Ok(backups::claimed(archive, duty.id, rate, claimed).await?.into()) }.boxed()
        }
        DutyKind::Drill => async move { Ok(drill::newest(&archive, &duty.id).await?.into()) }.boxed(),
        DutyKind::Dump => {
            let names = state.settings.dump_databases.split(',');
            let names = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let keep = state.settings.dump_keep as usize;
            async move { Ok(dumps::claimed(archive, duty.id, names, keep).await?.into()) }.boxed()
        }
        DutyKind::Expire => async move { Ok(upkeep::expire_all(archive).await?.into()) }.boxed(),
        DutyKind::Verify => {
            let percent = state.settings.verify_share_percent;
            async move {
                Ok(match upkeep::verify_share(archive, percent).await? {
                    Read::Whole(text) => text.into(),
                    Read::Wrong(text) => Done { text, alarm: true },
                })
            }
            .boxed()
        }
    }
}

/// Asks the cluster whether the work is still this node's; from then on its result counts.
async fn seal(consensus: Arc<dyn Consensus>, duty: Duty) -> Result<(), String> {
    let command = Command::Duty(Box::new(DutyChange::Seal {
        kind: duty.kind,
        id: duty.id.clone(),
        node: duty.node,
    }));
    loop {
        match consensus.propose(command.clone(), PROPOSAL).await {
            Ok(_) => return Ok(()),
            Err(ProposeError::Rejected(rejected)) => return Err(rejected.to_string()),
            Err(error) => tracing::warn!(%error, "the cluster could not be asked yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells the cluster; false if it could not be told, so that it is told again.
async fn end(consensus: &Arc<dyn Consensus>, state: &ClusterState, duty: &Duty, outcome: Outcome) -> bool {
    let record = DutyRecord {
        kind: duty.kind,
        id: duty.id.clone(),
        node: state.name_of(duty.node),
        due: Some(duty.due),
        attempt: duty.attempt,
        began: duty.claimed_at,
        ended: stamp(),
        outcome: match &outcome {
            Ok(done) if done.alarm => DutyOutcome::Alarm,
            Ok(_) => DutyOutcome::Done,
            Err(_) => DutyOutcome::Failed,
        },
        text: outcome.map_or_else(|why| why, |done| done.text),
    };
    let command = Command::Duty(Box::new(DutyChange::End { record }));
    match consensus.propose(command, PROPOSAL).await {
        Ok(_) | Err(ProposeError::Rejected(_)) => true,
        Err(error) => {
            tracing::warn!(%error, "the end of scheduled work could not be told yet");
            false
        }
    }
}

/// Lets the cluster know of what an operator had done, and that it came off.
pub(super) async fn done_by_hand(
    consensus: &Arc<dyn Consensus>,
    kind: DutyKind,
    id: &str,
    text: String,
    began_ms: u64,
) {
    let record = DutyRecord {
        kind,
        id: id.to_owned(),
        node: consensus.state().name_of(consensus.node_id()),
        due: None,
        attempt: 1,
        began: WallTime(began_ms),
        ended: stamp(),
        outcome: DutyOutcome::Done,
        text,
    };
    let command = Command::Duty(Box::new(DutyChange::End { record }));
    if let Err(error) = consensus.propose(command, PROPOSAL).await {
        tracing::warn!(%error, "the cluster could not be told");
    }
}
