//! What this node's PostgreSQL should do next.
//!
//! There is one way to become primary: a server is always started as a standby and is promoted under a grant
//! ([`primary`]). A server that is found writable without one is ended. Everything else follows the holder
//! ([`standby`]), or waits.

mod ailing;
mod copying;
mod creation;
mod fenced;
mod primary;
mod restoring;
mod standby;
mod successor;
mod sync;

pub use ailing::{AILMENTS, SERVER_HANGS, give_way};
pub use copying::{LOOK_FOR_A_BACKUP, Rung};

use super::Decision;
use crate::cluster::{ClusterState, Command, RestoreTarget, SyncRule};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::pg::{Lsn, SystemId, TimelineId};
use crate::reason::Reason;
use crate::time::MonoTime;
use crate::view::{NodeReport, PgObservation, Server, Upstream, WatchdogReport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// All that a node's decision may look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView<'a> {
    pub me: NodeId,
    #[serde(borrow)]
    pub state: std::borrow::Cow<'a, ClusterState>,
    pub now: MonoTime,
    /// The epoch that this node has pledged to.
    pub pledge: Epoch,
    pub lease: LeaseView,
    pub pg: PgObservation,
    /// What the server's include file says; `None` before this agent has written it.
    pub conf: Option<Conf>,
    /// The newest report of the holder, if it is fresh.
    pub holder: Option<NodeReport>,
    /// The newest reports of the other nodes, those that are fresh.
    pub peers: Vec<NodeReport>,
    pub memory: NodeMemory,
    /// The watchdog, where one is configured.
    pub watchdog: Option<WatchdogReport>,
    /// The newest complete backup of the repositories, if there is one; `None` while nobody has looked.
    pub backup: Option<Option<BackupSight>>,
}

/// A backup that could be restored here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSight {
    pub id: String,
    pub timeline: TimelineId,
    /// The WAL from here to `stop` makes it consistent.
    pub start: Lsn,
    pub stop: Lsn,
    /// Of its files.
    pub bytes: u64,
}

/// What the lease thread says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The epoch for which this node renews, or last renewed.
    pub epoch: Epoch,
    /// It holds a valid lease for that epoch.
    pub valid: bool,
    /// The newest epoch whose server this agent has ended: it never holds that epoch again.
    pub fenced: Epoch,
    /// Why this node has no guard, and so no lease; `None` while it has one, or needs none.
    pub unguarded: Option<String>,
}

/// What the driver remembers between two looks. Losing it costs time, never safety.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The gate was opened under this epoch, by this agent.
    pub gate: Option<Epoch>,
    /// The data is known to lie on the line of this epoch's holder. Kept on disk.
    pub lineage: Option<Epoch>,
    /// A rewind was begun and has not ended well: the data directory is not to be started. Kept on disk.
    pub broken: bool,
    /// The data was found to leave the line of this epoch's holder.
    pub diverged: Option<Epoch>,
    /// A rewind to this epoch's holder failed: the next rung of the ladder is a new copy.
    pub rewind_failed: Option<Epoch>,
    /// A point in the WAL written after every walsender was told of this rule.
    pub sync_mark: Option<(SyncRule, Lsn)>,
    /// Since when each member of the synchronous set has not been streaming.
    pub absent_since: BTreeMap<NodeId, MonoTime>,
    /// Since when this standby has not been streaming although it should.
    pub not_streaming_since: Option<MonoTime>,
    /// The checkpoint before this switchover was made.
    pub checkpoint_for: Option<RequestId>,
    /// Since when a writable server without a valid lease is being adopted.
    pub adopting_since: Option<MonoTime>,
    /// The last attempt of a long job failed at this time; it is not repeated at once.
    pub job_failed_at: Option<MonoTime>,
    /// Ways to a copy that did not come off in this epoch.
    #[serde(default)]
    pub failed_rungs: BTreeSet<Rung>,
    /// The data directory is that of a restore of the whole cluster, or is to become it. Kept on disk.
    #[serde(default)]
    pub restored: Option<RestoredData>,
}

/// What a restore of the whole cluster has done to a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredData {
    /// Of the restore.
    pub id: RequestId,
    /// Of the target that it was restored to.
    pub round: u32,
    /// The backup is there as a whole. Until then the data directory is empty, or the old one.
    pub ready: bool,
    /// The backup that it began with.
    pub backup: String,
}

/// What the agent's include file tells the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conf {
    pub upstream: Option<Upstream>,
    pub slot: Option<String>,
    pub synchronous_standby_names: String,
    pub slot_budget_bytes: u64,
}

/// One thing to do to this node's PostgreSQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum NodeAction {
    /// `initdb`.
    CreateDatabase,
    /// A base backup of the holder or of one of its standbys, into an empty data directory.
    Copy { from: Upstream, epoch: Epoch },
    /// A backup out of a repository, into an empty data directory. It lies on the line of the epoch's holder.
    Restore { backup: String, epoch: Epoch },
    /// `pg_rewind` against the holder.
    Rewind { from: Upstream, epoch: Epoch },
    /// Renames the data directory, so that a new copy can be made of `source`, if that answers. Nothing is deleted.
    SetDataAside { why: String, source: Upstream },
    /// Starts the server, as a standby.
    Start { conf: Conf },
    /// Changes the running server's configuration. `lineage`: the data is now known to be on that epoch's line.
    Configure { conf: Conf, lineage: Option<Epoch> },
    /// Remembers that the data left the line of the epoch's holder, and stops the server so that it can be rewound or copied
    /// anew from `source`, if that answers.
    StopDiverged { epoch: Epoch, source: Upstream },
    /// Promotes the server to the timeline reserved for the epoch. Carries its grant.
    Promote { grant: Grant },
    /// Writes the epoch's first row, waits until the synchronous set has it, and then tells the cluster.
    OpenGate { epoch: Epoch },
    /// Ends every server process and gives the receipt.
    Fence { epoch: Epoch, why: String },
    /// Stops a server that may not run on this node, and ends what does not stop.
    Stop,
    /// Shuts the server down cleanly and gives the receipt.
    Shutdown { epoch: Epoch },
    /// A checkpoint ahead of a switchover, which makes the shutdown short.
    Checkpoint { request: RequestId },
    /// Writes a mark into the WAL after every walsender was told of the rule.
    MarkSync { rule: SyncRule, from_zero: bool },
    /// Has a command committed.
    Propose(Command),
    /// Stops the server, sets the data directory aside, unless that is done, and restores a backup in its place, to be
    /// recovered to `target`. `goes_on`: what is there is only recovered further.
    RestoreInPlace {
        id: RequestId,
        round: u32,
        target: RestoreTarget,
        goes_on: bool,
    },
    /// Puts the data back that were set aside for a restore, in place of the restored ones.
    PutBack { id: RequestId },
    /// The restored data are the cluster's: they are started like any other from now on.
    KeepRestored { id: RequestId },
}

/// The right to promote this node's server: made only where the lease of the epoch was found valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    epoch: Epoch,
    timeline: TimelineId,
}

impl Grant {
    /// The epoch under which the server becomes writable.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The timeline that is reserved for it.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }
}

/// How long to wait before a long job that failed is tried again.
const RETRY_JOB: Duration = Duration::from_secs(2);

/// Decides. See the module's text for the order.
#[must_use]
pub fn decide(view: &NodeView<'_>) -> Decision<NodeAction> {
    let mut decision = give_way(view).unwrap_or_else(|| decide_for_a_well_server(view));
    decision.reasons.extend(ailing::reasons(view));
    decision
}

fn decide_for_a_well_server(view: &NodeView<'_>) -> Decision<NodeAction> {
    match &view.pg.server {
        Server::Unusable { why } => {
            return Decision::wait(
                "data-directory-unusable",
                Reason::shut(
                    "data-directory-usable",
                    why.clone(),
                    "mend the data directory as the text says",
                ),
            );
        }
        Server::Busy { job } => {
            return Decision::wait(
                "job-at-work",
                Reason::shut("server-free", format!("{job} is at work"), "it ends"),
            );
        }
        Server::NoData | Server::Down | Server::Starting | Server::Standby(_) => {}
        Server::Primary(_) | Server::Unresponsive { .. } => {}
    }
    if let Some(fence) = view.state.fenced.get(&view.me) {
        return fenced::decide(view, fence);
    }
    if let (Some(ours), Some(found)) = (view.state.system_id, view.pg.system_id())
        && ours != found
    {
        return foreign_data(ours, found);
    }
    if let Some(decision) = restoring::decide(view) {
        return decision;
    }
    if let Some(pause) = &view.state.pause
        && matches!(view.pg.server, Server::Down | Server::NoData)
    {
        return Decision::wait(
            "paused",
            Reason::shut(
                "automation-is-on",
                format!(
                    "the server does not run, and automation is paused: {}",
                    pause.reason
                ),
                "pgctl resume, or start the server by hand",
            ),
        );
    }
    match view.state.holder {
        None => creation::decide(view),
        Some(holder) if holder == view.me => primary::decide(view),
        Some(holder) => standby::decide(view, holder),
    }
}

fn foreign_data(ours: SystemId, found: SystemId) -> Decision<NodeAction> {
    let reason = Reason::shut(
        "data-is-of-this-cluster",
        format!("the data directory has system id {found}, the cluster's is {ours}"),
        "nothing was touched: give the agent an empty data_dir, or move the foreign data away",
    );
    Decision::wait("foreign-data", reason)
}

impl NodeView<'_> {
    /// The include file of a server that nobody may write to and that follows nobody.
    fn alone(&self) -> Conf {
        Conf {
            upstream: None,
            slot: None,
            synchronous_standby_names: SyncRule::unsatisfiable(),
            slot_budget_bytes: self.state.settings.slot_budget_bytes,
        }
    }

    /// The include file of a standby of `holder`.
    fn following(&self, holder: NodeId) -> Option<Conf> {
        Some(Conf {
            upstream: Some(self.upstream(holder)?),
            slot: Some(self.state.slot_name(self.me)),
            ..self.alone()
        })
    }

    /// How to reach `holder`'s server, under the name that this node has in the newest epoch.
    fn upstream(&self, holder: NodeId) -> Option<Upstream> {
        let address = &self.state.members.get(&holder)?.postgres;
        let (host, port) = address.rsplit_once(':')?;
        Some(Upstream {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().ok()?,
            application_name: self.state.application_name(self.me, self.state.epoch),
        })
    }

    /// Whether a failed job, or a server that dies again and again, may be tried again; if not, when.
    fn may_retry(&self) -> Result<(), MonoTime> {
        match self.memory.job_failed_at {
            Some(at) if self.now < at.plus(RETRY_JOB) => Err(at.plus(RETRY_JOB)),
            _ => match ailing::pause_between_starts(&self.pg.vitals) {
                Some(left) => Err(self.now.plus(left)),
                None => Ok(()),
            },
        }
    }
}

/// The physical slots that the server of `me` should have: one for each other data node, so that none of them loses
/// its WAL whoever is the primary. On a standby they are moved along with what their owner has.
#[must_use]
pub fn wanted_slots(
    me: NodeId,
    state: &ClusterState,
    positions: &BTreeMap<NodeId, Lsn>,
) -> BTreeMap<String, Option<Lsn>> {
    let others = state.data_members().filter(|(id, _)| *id != me);
    others
        .map(|(id, _)| (state.slot_name(id), positions.get(&id).copied()))
        .collect()
}
