//! What the rooms of the driver share about this node.

use super::marks::{Marks, MarksFile};
use super::restoring::{RestoredFile, RestoredMark};
use super::{Clock, Reports};
use crate::fencing::Fencer;
use crate::fencing::kernel_lease::KernelLeasing;
use crate::fencing::stonith::Stonith;
use crate::fencing::watchdog::Watchdog;
use crate::lease::Lease;
use crate::ports::{Consensus, Restores};
use crate::postgres::{Instance, Recovery, ServerConf};
use agent_core::cluster::SyncRule;
use agent_core::decide::node::{BackupSight, Conf, NodeMemory, Rung};
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::Lsn;
use agent_core::reason::Reason;
use agent_core::time::MonoTime;
use agent_core::view::{ArchiveReport, FenceReceipt, NodeReport, PgObservation};
use agent_core::vitals::Vitals;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// This node: its consensus, its lease, and its server if it is no witness.
pub struct Node {
    pub clock: Clock,
    pub incarnation: u64,
    pub consensus: Arc<dyn Consensus>,
    pub lease: Lease,
    pub reports: Reports,
    pub server: Option<ServerSide>,
    /// What keeps clients from a server whose lease is over.
    pub kernel_lease: KernelLeasing,
    /// The machine's watchdog, where one is used.
    pub watchdog: Option<Watchdog>,
    /// The devices with which this node can turn others off.
    pub stonith: Stonith,
    /// What its archive says, where there is one.
    pub archive: OnceLock<watch::Receiver<ArchiveReport>>,
    /// Backups to restore from, where there is a repository.
    pub restores: OnceLock<Arc<dyn Restores>>,
    /// The newest look at the server, and when it began.
    pub observed: watch::Sender<Option<(MonoTime, Arc<PgObservation>)>>,
    /// When the node's loop last came round.
    pub heartbeat: watch::Sender<MonoTime>,
    /// Woken when this node's report has changed and should go out at once.
    pub report_now: Notify,
    /// Woken when the node's loop should look again at once.
    pub look_now: Notify,
    pub(super) desk: Mutex<Desk>,
}

/// What makes sure of a node besides its own agent.
#[derive(Default)]
pub struct Guards {
    pub kernel_lease: KernelLeasing,
    pub watchdog: Option<Watchdog>,
    pub stonith: Stonith,
}

/// The server, and what ends it.
pub struct ServerSide {
    pub instance: Instance,
    pub fencer: Fencer,
    /// What the probes last said.
    pub vitals: watch::Sender<Vitals>,
    /// The newest epoch whose server was ended because it hung.
    pub hung: watch::Sender<Epoch>,
    /// Held while something is done to the server; guards what its include file is known to say.
    pub(super) hands: tokio::sync::Mutex<Hands>,
}

/// Something that may wait for long, and must not hold the loop up: a health answer decays when the loop stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Errand {
    OpenGate,
    MarkSync,
    Checkpoint,
    Propose,
    Slots,
    LookForBackup,
}

/// What is known of the server's configuration by whoever changed it last.
#[derive(Default)]
pub(super) struct Hands {
    pub conf: Option<Conf>,
}

/// What the driver remembers.
pub(super) struct Desk {
    pub memory: NodeMemory,
    pub marks: MarksFile,
    /// What a restore of the whole cluster has done to the data directory.
    pub restored: Option<RestoredMark>,
    pub restored_file: RestoredFile,
    /// Since when this standby has been streaming without a break.
    pub streaming_since: Option<MonoTime>,
    /// Since when it has not been, although it should; how far its WAL reaches meanwhile.
    pub without_stream_since: Option<MonoTime>,
    pub reached: Option<Lsn>,
    /// The newest backup, and when somebody looked.
    pub backup: Option<(MonoTime, Option<BackupSight>)>,
    /// Why the copy that is being made comes from where it does.
    pub copied_because: Vec<Reason>,
    /// How the data came here, until it was seen to follow.
    pub came_by: Option<Rung>,
    /// The long job that is at work on the data directory.
    pub job: Option<String>,
    /// Errands under way beside the loop: each at most once at a time.
    pub errands: BTreeSet<Errand>,
    /// How often a rewind to this epoch's holder has failed.
    pub rewind_failures: (Epoch, u32),
    pub receipt: Option<FenceReceipt>,
    pub trouble: Option<String>,
    pub explain: Vec<Reason>,
}

impl Node {
    /// A node that has seen nothing yet.
    pub fn new(
        clock: Clock,
        incarnation: u64,
        consensus: Arc<dyn Consensus>,
        lease: Lease,
        server: Option<(Instance, Fencer)>,
        guards: Guards,
        state_dir: &Path,
    ) -> Arc<Node> {
        let marks = MarksFile::new(state_dir);
        let known = marks.load();
        let restored_file = RestoredFile::new(state_dir);
        let (restored, unknown) = match restored_file.load() {
            Ok(restored) => (restored, false),
            Err(error) => {
                // Restored data that are started like any other would count for what they are not.
                tracing::error!(
                    error,
                    "whose data the data directory holds is not known: it is not started"
                );
                (None, true)
            }
        };
        let memory = NodeMemory {
            lineage: known.lineage,
            broken: known.broken || unknown,
            restored: restored.as_ref().map(|mark| mark.data().clone()),
            ..NodeMemory::default()
        };
        Arc::new(Node {
            clock,
            incarnation,
            consensus,
            lease,
            reports: Reports::new(clock),
            server: server.map(|(instance, fencer)| ServerSide {
                instance,
                fencer,
                vitals: watch::channel(Vitals::default()).0,
                hung: watch::channel(Epoch(0)).0,
                hands: Default::default(),
            }),
            kernel_lease: guards.kernel_lease,
            watchdog: guards.watchdog,
            stonith: guards.stonith,
            archive: OnceLock::new(),
            restores: OnceLock::new(),
            observed: watch::channel(None).0,
            heartbeat: watch::channel(clock.now()).0,
            report_now: Notify::new(),
            look_now: Notify::new(),
            desk: Mutex::new(Desk {
                memory,
                marks,
                restored,
                restored_file,
                streaming_since: None,
                without_stream_since: None,
                reached: None,
                backup: None,
                copied_because: Vec::new(),
                came_by: None,
                job: None,
                errands: BTreeSet::new(),
                rewind_failures: (Epoch(0), 0),
                receipt: None,
                trouble: None,
                explain: Vec::new(),
            }),
        })
    }

    /// This node's number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.consensus.node_id()
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the gate stands open under the newest epoch.
    #[must_use]
    pub fn gate_open(&self, epoch: Epoch) -> bool {
        self.desk().memory.gate == Some(epoch)
    }

    /// The reasons of this node's last decision.
    #[must_use]
    pub fn explain(&self) -> Vec<Reason> {
        self.desk().explain.clone()
    }

    /// What the other nodes have reported within `age`.
    pub(super) fn peers(&self, now: MonoTime, age: Duration) -> Vec<NodeReport> {
        let view = self.reports.view();
        let fresh = view
            .reports
            .values()
            .filter(|(at, report)| report.node != self.id() && now.since(*at) <= age);
        fresh.map(|(_, report)| report.clone()).collect()
    }

    /// Keeps a receipt, and has it told to the coordinator at once.
    pub(super) fn give_receipt(&self, receipt: FenceReceipt) {
        let mut desk = self.desk();
        if desk
            .receipt
            .is_none_or(|old| (old.epoch, old.incarnation) <= (receipt.epoch, receipt.incarnation))
        {
            // A clean shutdown's receipt says more than a later one of a kill that found nothing left to kill.
            let keep = desk
                .receipt
                .is_some_and(|old| old.epoch == receipt.epoch && old.clean_end.is_some());
            if !keep {
                desk.receipt = Some(receipt);
            }
        }
        drop(desk);
        self.report_now.notify_one();
    }
}

impl Desk {
    /// Changes what is known of the data directory, on disk first where it must not be forgotten.
    pub(super) fn mark(&mut self, lineage: Option<Epoch>, broken: bool) -> std::io::Result<()> {
        if (self.memory.lineage, self.memory.broken) != (lineage, broken) {
            self.marks.store(Marks { lineage, broken })?;
            self.memory.lineage = lineage;
            self.memory.broken = broken;
        }
        Ok(())
    }

    /// The mark for `rule`, if it was made.
    pub(super) fn keep_mark_only_for(&mut self, rule: Option<&SyncRule>) {
        if self
            .memory
            .sync_mark
            .as_ref()
            .is_some_and(|(marked, _)| Some(marked) != rule)
        {
            self.memory.sync_mark = None;
        }
    }
}

/// What the core asks for, as the server's room takes it.
pub(super) fn server_conf(conf: &Conf) -> ServerConf {
    started_conf(conf, None)
}

/// The same at a start. `recovery`: what a restored server is held at.
pub(super) fn started_conf(conf: &Conf, recovery: Option<Recovery>) -> ServerConf {
    ServerConf {
        upstream: conf.upstream.clone(),
        slot: conf.slot.clone(),
        synchronous_standby_names: conf.synchronous_standby_names.clone(),
        slot_budget_bytes: conf.slot_budget_bytes,
        // A server that restarts by itself may acknowledge commits before its new checkpointer has told the others
        // that commits must wait. It ends instead, and comes back through the gate like any other.
        restart_after_crash: false,
        recovery,
    }
}
