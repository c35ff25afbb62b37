//! Carries out one action of the node's decision.

use super::copying;
use super::node::{Errand, Node, ServerSide, server_conf, started_conf};
use super::restoring;
use crate::lease::KernelRefusal;
use crate::ports::ProposeError;
use crate::postgres::{PgError, StopMode};
use crate::wall_time::stamp as wall;
use agent_core::cluster::{Cause, Command, SyncRule};
use agent_core::decide::node::{Conf, Grant, NodeAction};
use agent_core::ids::{Epoch, RequestId};
use agent_core::view::{FenceReceipt, Upstream};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A promotion that takes longer than this has failed; the epoch is given up.
const PROMOTION: Duration = Duration::from_secs(30);
/// How long a server that may not run may take to stop, before it is ended.
const STOP: Duration = Duration::from_secs(10);
/// How long one attempt to have a command committed may take.
const PROPOSAL: Duration = Duration::from_secs(5);
/// How long one attempt to have the epoch's first row acknowledged may take.
const FIRST_ROW: Duration = Duration::from_secs(10);
/// How long the loop waits for a fence to be done.
const FENCE: Duration = Duration::from_secs(2);
/// A rewind that failed so often is not tried again: the node is copied anew.
const REWINDS: u32 = 3;

/// Why an action did not come off.
#[derive(Debug, thiserror::Error)]
pub(super) enum PerformError {
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error("could not note what is known of the data directory: {0}; free space in the agent's state_dir")]
    Marks(#[from] std::io::Error),
    #[error("the cluster did not confirm that this node creates the database: {0}")]
    NotChosen(ProposeError),
    #[error("the lease of epoch {0} ended before the promotion")]
    LeaseOver(Epoch),
    #[error(transparent)]
    KernelLease(#[from] KernelRefusal),
    #[error("{0}")]
    Restore(String),
}

/// Carries it out. Long ones go on beside the loop.
pub(super) async fn perform(
    node: &Arc<Node>,
    server: &ServerSide,
    action: NodeAction,
) -> Result<(), PerformError> {
    match action {
        NodeAction::CreateDatabase => {
            job(node, "initdb", create_database(node.clone()));
            Ok(())
        }
        NodeAction::Copy { from, epoch } => {
            job(node, "base backup", copying::copy(node.clone(), from, epoch));
            Ok(())
        }
        NodeAction::Restore { backup, epoch } => {
            job(node, "restore", copying::restore(node.clone(), backup, epoch));
            Ok(())
        }
        NodeAction::Rewind { from, epoch } => {
            job(node, "rewind", rewind(node.clone(), from, epoch));
            Ok(())
        }
        NodeAction::SetDataAside { why, source } => set_data_aside(node, server, &why, &source).await,
        NodeAction::Start { conf } => start(node, server, conf).await,
        NodeAction::Configure { conf, lineage } => configure(node, server, conf, lineage).await,
        NodeAction::StopDiverged { epoch, source } => stop_diverged(node, server, epoch, &source).await,
        NodeAction::Promote { grant } => promote(node, server, grant).await,
        NodeAction::Fence { epoch, why } => {
            tracing::warn!(%epoch, why, "fencing the server");
            node.lease.stop_renewing(epoch);
            // A process in uninterruptible sleep may hold it up for as long as a disk stalls: the loop goes on meanwhile.
            let _ = tokio::time::timeout(FENCE, server.fencer.fence(epoch)).await;
            Ok(())
        }
        NodeAction::Stop => stop(server).await,
        NodeAction::Shutdown { epoch } => shut_down(node, server, epoch).await,
        NodeAction::OpenGate { epoch } => {
            errand(node, Errand::OpenGate, open_gate(node.clone(), epoch));
            Ok(())
        }
        NodeAction::Checkpoint { request } => {
            errand(node, Errand::Checkpoint, checkpoint_for(node.clone(), request));
            Ok(())
        }
        NodeAction::MarkSync { rule, from_zero } => {
            errand(node, Errand::MarkSync, mark_sync(node.clone(), rule, from_zero));
            Ok(())
        }
        NodeAction::RestoreInPlace {
            id,
            round,
            target,
            goes_on,
        } => {
            let work = restoring::restore(node.clone(), id, round, target, goes_on);
            job(node, "restore in place", work);
            Ok(())
        }
        NodeAction::PutBack { id } => {
            job(
                node,
                "putting the old data back",
                restoring::put_back(node.clone(), id),
            );
            Ok(())
        }
        NodeAction::KeepRestored { .. } => restoring::keep(node),
        NodeAction::Propose(command) => {
            errand(node, Errand::Propose, propose(node.clone(), command.at(wall())));
            Ok(())
        }
    }
}

/// Runs a long job on the data directory; until it ends the server counts as busy.
fn job<F>(node: &Arc<Node>, name: &str, work: F)
where
    F: Future<Output = Result<(), PerformError>> + Send + 'static,
{
    let mut desk = node.desk();
    if desk.job.is_some() {
        return;
    }
    desk.job = Some(name.to_owned());
    drop(desk);
    let (node, name) = (node.clone(), name.to_owned());
    tokio::spawn(async move {
        tracing::info!(job = name, "started");
        let outcome = work.await;
        let mut desk = node.desk();
        desk.job = None;
        match outcome {
            Ok(()) => {
                tracing::info!(job = name, "done");
                desk.trouble = None;
                desk.memory.job_failed_at = None;
            }
            Err(error) => {
                tracing::error!(job = name, %error, "failed");
                desk.trouble = Some(format!("{name}: {error}"));
                desk.memory.job_failed_at = Some(node.clock.now());
            }
        }
        drop(desk);
        node.look_now.notify_one();
    });
}

/// Runs an errand beside the loop, unless one of its kind is under way.
pub(super) fn errand<F>(node: &Arc<Node>, kind: Errand, work: F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    if !node.desk().errands.insert(kind) {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::warn!(errand = ?kind, error, "did not come off; it is tried again");
            // A failing errand must not be repeated as fast as the loop turns.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        node.desk().errands.remove(&kind);
        node.look_now.notify_one();
    });
}

pub(super) fn server_of(node: &Node) -> Result<&ServerSide, PgError> {
    node.server.as_ref().ok_or(PgError::NotRunning {
        doing: "use the server of a witness",
    })
}

async fn create_database(node: Arc<Node>) -> Result<(), PerformError> {
    // An agent whose state is old might not know that the database exists: the newest state has the last word.
    let chosen = Command::ChooseCreator {
        node: node.id(),
        at: wall(),
    };
    node.consensus
        .propose(chosen, PROPOSAL)
        .await
        .map_err(PerformError::NotChosen)?;
    let server = server_of(&node)?;
    let _hands = server.hands.lock().await;
    let system_id = server.instance.initdb().await?;
    tracing::info!(%system_id, "created the database");
    Ok(())
}

async fn rewind(node: Arc<Node>, from: Upstream, epoch: Epoch) -> Result<(), PerformError> {
    let server = server_of(&node)?;
    let mut hands = server.hands.lock().await;
    hands.conf = None;
    // If the agent dies half way, its next life must not start what is left.
    node.desk().mark(None, true)?;
    node.desk().memory.broken = false;
    match server.instance.rewind(&from).await {
        Ok(report) => {
            tracing::info!(fork = %report.fork, rewound = report.rewound, kept = ?report.diverged_wal, "rewound");
            if let Some(kept) = &report.diverged_wal {
                note(
                    &node,
                    "diverged-wal-kept",
                    format!("WAL beyond {} is kept in {}", report.fork, kept.display()),
                );
            }
            let mut desk = node.desk();
            desk.memory.broken = true;
            desk.mark(Some(epoch), false)?;
            desk.memory.diverged = None;
            Ok(())
        }
        Err(error) => {
            let mut desk = node.desk();
            desk.memory.broken = server.instance.half_rewound();
            let failures = if desk.rewind_failures.0 == epoch {
                desk.rewind_failures.1 + 1
            } else {
                1
            };
            desk.rewind_failures = (epoch, failures);
            if failures >= REWINDS {
                desk.memory.rewind_failed = Some(epoch);
            }
            Err(error.into())
        }
    }
}

/// A copy that cannot be made is no reason to give up the data that is here: the source is asked first.
async fn set_data_aside(
    node: &Arc<Node>,
    server: &ServerSide,
    why: &str,
    source: &Upstream,
) -> Result<(), PerformError> {
    server.instance.check_source(source).await?;
    let mut hands = server.hands.lock().await;
    let path = server.instance.set_data_aside(why)?;
    hands.conf = None;
    tracing::warn!(why, path = %path.display(), "the data directory was set aside");
    note(
        node,
        "data-set-aside",
        format!("{why}: the old data directory is {}", path.display()),
    );
    let mut desk = node.desk();
    if let Some(rung) = desk.came_by.take() {
        // What came by it could not follow.
        desk.memory.failed_rungs.insert(rung);
    }
    desk.mark(None, false)?;
    Ok(())
}

async fn start(node: &Arc<Node>, server: &ServerSide, conf: Conf) -> Result<(), PerformError> {
    let mut hands = server.hands.lock().await;
    if conf.upstream.is_some() && node.lease.status().pledge > node.consensus.state().epoch {
        // It pledged between the decision and now: to follow again would take the pledge back.
        return Ok(());
    }
    hands.conf = None;
    let started = server
        .instance
        .start(&started_conf(&conf, restoring::recovery(node)))
        .await;
    node.desk().memory.job_failed_at = started.is_err().then(|| node.clock.now());
    started?;
    hands.conf = Some(conf);
    Ok(())
}

async fn configure(
    node: &Arc<Node>,
    server: &ServerSide,
    conf: Conf,
    lineage: Option<Epoch>,
) -> Result<(), PerformError> {
    let mut hands = server.hands.lock().await;
    if conf.upstream.is_some() && node.lease.status().pledge > node.consensus.state().epoch {
        // It pledged between the decision and now: to follow again would take the pledge back.
        return Ok(());
    }
    hands.conf = None;
    server.instance.reconfigure(&server_conf(&conf)).await?;
    hands.conf = Some(conf);
    if lineage.is_some() {
        node.desk().mark(lineage, false)?;
    }
    Ok(())
}

/// Until its source answers a standby goes on serving reads: nothing could be done with it once it is stopped.
async fn stop_diverged(
    node: &Arc<Node>,
    server: &ServerSide,
    epoch: Epoch,
    source: &Upstream,
) -> Result<(), PerformError> {
    server.instance.check_source(source).await?;
    {
        let mut desk = node.desk();
        if desk.memory.lineage == Some(epoch) {
            // It is on this holder's line, by a rewind or without one, and cannot follow all the same: there is
            // nothing for a rewind to do.
            desk.memory.rewind_failed = Some(epoch);
        }
        desk.memory.diverged = Some(epoch);
        desk.mark(None, false)?;
    }
    let _hands = server.hands.lock().await;
    server
        .instance
        .stop(StopMode::Fast, Duration::from_secs(30))
        .await?;
    server.instance.wait_exit(Duration::from_secs(30)).await?;
    Ok(())
}

/// Stops a server that may not run here. What does not stop in time is ended.
async fn stop(server: &ServerSide) -> Result<(), PerformError> {
    let mut hands = server.hands.lock().await;
    hands.conf = None;
    let stopped = server.instance.stop(StopMode::Fast, STOP).await;
    let exited = match stopped {
        Ok(_) => server.instance.wait_exit(STOP).await,
        Err(error) => Err(error),
    };
    if let Err(error) = exited {
        tracing::warn!(%error, "the server does not stop; its processes are ended");
        let killer = server.instance.killer();
        let killed = tokio::task::spawn_blocking(move || killer.kill(STOP)).await;
        if !matches!(killed, Ok(Ok(_))) {
            return Err(error.into());
        }
    }
    Ok(())
}

async fn promote(node: &Arc<Node>, server: &ServerSide, grant: Grant) -> Result<(), PerformError> {
    let _hands = server.hands.lock().await;
    let lease = node.lease.status();
    if !(lease.valid() && lease.epoch == grant.epoch()) {
        return Err(PerformError::LeaseOver(grant.epoch()));
    }
    if let Err(error) = node.lease.admits_clients().await {
        // It would hold an epoch under which nobody may be served: another node shall have the next.
        node.lease.stop_renewing(grant.epoch());
        server.fencer.fence(grant.epoch()).await;
        return Err(error.into());
    }
    match server.instance.promote(grant.timeline(), PROMOTION).await {
        Ok(position) => {
            tracing::info!(epoch = %grant.epoch(), %position, "promoted");
            // From here on the data is this epoch's own line; an older mark says nothing any more.
            node.desk().mark(Some(grant.epoch()), false)?;
            // A restore of the cluster ends with this; what it leaves undone is done at the next look.
            if let Err(error) = restoring::keep(node) {
                tracing::warn!(%error, "the mark of the restored data is still there");
            }
            Ok(())
        }
        Err(error) => {
            // What state it is in is not known: it must not stay.
            node.lease.stop_renewing(grant.epoch());
            server.fencer.fence(grant.epoch()).await;
            Err(error.into())
        }
    }
}

async fn shut_down(node: &Arc<Node>, server: &ServerSide, epoch: Epoch) -> Result<(), PerformError> {
    node.desk().memory.gate = None;
    let deadline = Duration::from_millis(node.consensus.state().settings.switchover_deadline_ms);
    let hands = server.hands.lock().await;
    let stopped = server.instance.stop(StopMode::Fast, deadline).await;
    match stopped {
        Ok(stopped) => {
            tracing::info!(%epoch, end = ?stopped.clean_end, "shut down");
            node.give_receipt(FenceReceipt {
                epoch,
                node: node.id(),
                incarnation: node.incarnation,
                clean_end: stopped.clean_end,
            });
            node.lease.fenced(epoch);
            server.fencer.ended_otherwise(epoch);
            server.instance.wait_exit(Duration::from_secs(30)).await?;
            Ok(())
        }
        Err(error) => {
            drop(hands);
            tracing::error!(%error, "the shutdown did not end in time; the server is ended");
            node.lease.stop_renewing(epoch);
            server.fencer.fence(epoch).await;
            Err(error.into())
        }
    }
}

async fn open_gate(node: Arc<Node>, epoch: Epoch) -> Result<(), String> {
    let server = server_of(&node).map_err(|error| error.to_string())?;
    let state = node.consensus.state();
    let created = state
        .history
        .back()
        .is_some_and(|record| record.cause == Cause::Creation);
    if created {
        server
            .instance
            .ensure_roles()
            .await
            .map_err(|error| error.to_string())?;
    }
    let lsn = server
        .instance
        .write_epoch_row(epoch, FIRST_ROW)
        .await
        .map_err(|error| error.to_string())?;
    let lease = node.lease.status();
    if !(lease.epoch == epoch && lease.valid()) {
        return Err(format!(
            "the lease of epoch {epoch} ended before its first row was acknowledged"
        ));
    }
    node.desk().memory.gate = Some(epoch);
    node.look_now.notify_one();
    node.report_now.notify_one();
    tracing::info!(%epoch, %lsn, "the gate is open: the first row of this epoch is acknowledged");
    let open = Command::OpenGate {
        epoch,
        timeline: state.timeline,
        lsn,
        at: wall(),
    };
    tell(&node, open).await?;
    if !created {
        server
            .instance
            .ensure_roles()
            .await
            .map_err(|error| error.to_string())?;
    }
    // pg_rewind of a returning server compares control files, and this one names the new timeline only now.
    server
        .instance
        .checkpoint()
        .await
        .map_err(|error| error.to_string())
}

/// Has a command committed, however long it takes, unless it is refused.
async fn tell(node: &Arc<Node>, command: Command) -> Result<(), String> {
    loop {
        match node.consensus.propose(command.clone(), PROPOSAL).await {
            Ok(_) => return Ok(()),
            Err(ProposeError::Rejected(rejected)) => return Err(rejected.to_string()),
            Err(error @ ProposeError::Stopped { .. }) => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, "the cluster could not be told yet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn propose(node: Arc<Node>, command: Command) -> Result<(), String> {
    node.consensus
        .propose(command, PROPOSAL)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Tells the operators something, in its own time.
pub(super) fn note(node: &Arc<Node>, kind: &str, text: String) {
    let text = format!("{}: {text}", node.consensus.state().name_of(node.id()));
    let command = Command::Note {
        kind: kind.to_owned(),
        text,
        at: wall(),
    };
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = tell(&node, command).await {
            tracing::warn!(error, "a note to the operators was lost");
        }
    });
}

async fn checkpoint_for(node: Arc<Node>, request: RequestId) -> Result<(), String> {
    let server = server_of(&node).map_err(|error| error.to_string())?;
    server
        .instance
        .checkpoint()
        .await
        .map_err(|error| error.to_string())?;
    node.desk().memory.checkpoint_for = Some(request);
    node.report_now.notify_one();
    Ok(())
}

async fn mark_sync(node: Arc<Node>, rule: SyncRule, from_zero: bool) -> Result<(), String> {
    let server = server_of(&node).map_err(|error| error.to_string())?;
    if from_zero {
        // The checkpointer tells the backends that commits must wait, and it re-reads its configuration before it
        // begins a checkpoint: one that was asked for now proves that it has.
        server
            .instance
            .checkpoint()
            .await
            .map_err(|error| error.to_string())?;
    }
    // The mark itself must not wait for the set that it is about.
    let sql =
        "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgctl', 'synchronous set')";
    server
        .instance
        .run_sql(sql)
        .await
        .map_err(|error| error.to_string())?;
    let lsn = server
        .instance
        .current_wal_flush()
        .await
        .map_err(|error| error.to_string())?;
    node.desk().memory.sync_mark = Some((rule, lsn));
    Ok(())
}
