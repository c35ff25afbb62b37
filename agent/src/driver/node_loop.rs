//! The loop over this node's server: observe, decide, perform, sleep until woken.

use super::copying;
use super::node::{Errand, Node, ServerSide};
use super::perform::{errand, perform};
use agent_core::cluster::ClusterState;
use agent_core::decide::node::{LOOK_FOR_A_BACKUP, LeaseView, NodeAction, NodeView, SERVER_HANGS, decide};
use agent_core::ids::Epoch;
use agent_core::time::MonoTime;
use agent_core::view::{FenceReceipt, PgObservation, Server};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the loop sleeps when nothing wakes it.
const CALM: Duration = Duration::from_millis(250);
/// How long it sleeps while something is under way that no event announces.
const BUSY: Duration = Duration::from_millis(10);
/// How long it sleeps after an action failed.
const FAILED: Duration = Duration::from_millis(250);
/// How often the slots are looked after.
const SLOTS: Duration = Duration::from_secs(2);
/// How long a standby must have been seen streaming at each look before that counts. A receiver whose WAL is gone on the
/// primary shows itself as streaming for a moment each time that it tries.
const STEADY: Duration = Duration::from_secs(3);
/// For how long a standby that does not stream is watched closely.
const CONNECTS: Duration = Duration::from_secs(10);
/// How old another node's report may be.
pub(super) const REPORT_FRESH: Duration = Duration::from_secs(3);

/// Runs until `stop` says so. The server is left as it is: the next agent adopts it.
pub async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let Some(server) = &node.server else { return };
    let receipts = tokio::spawn(give_receipts(node.clone()));
    if let Some(pid) = server.instance.adopt().await {
        tracing::info!(pid, "adopted the running server");
    }
    let mut state = node.consensus.watch();
    let mut lease = node.lease.watch();
    let mut postmaster = server.instance.postmaster();
    let mut slots_at = node.clock.now();
    let mut last_epoch = Epoch(0);
    loop {
        let now = node.clock.now();
        node.heartbeat.send_replace(now);
        let current = state.borrow_and_update().clone();
        lease.borrow_and_update();
        postmaster.borrow_and_update();
        let pg = look(&node, server, now).await;
        if current.epoch != last_epoch {
            last_epoch = current.epoch;
            forget_epoch(&node);
        }
        remember(&node, &current, &pg);
        // An agent before this one may have left clients shut out.
        // Nobody was promoted with them, and the epoch that its node may hold still is over.
        let restored = current.restores.running.is_some() && node.desk().memory.restored.is_some();
        let to_be_read = restored || current.holder.is_some_and(|holder| holder != node.id());
        if matches!(pg.server, Server::Standby(_)) && to_be_read {
            node.lease.needs_no_lease(current.epoch);
        }
        let sleep = turn(&node, server, &current, pg).await;
        if node.clock.now() >= slots_at {
            slots_at = node.clock.now().plus(SLOTS);
            look_after_slots(&node, server, &current);
        }
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = node.look_now.notified() => {}
            changed = state.changed() => if changed.is_err() { break },
            _ = lease.changed() => {}
            _ = postmaster.changed() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    receipts.abort();
}

/// Looks at the server and lets everybody know.
async fn look(node: &Node, server: &ServerSide, now: MonoTime) -> PgObservation {
    let mut pg = server.instance.observe().await;
    pg.vitals = server.vitals.borrow().clone();
    let desk = node.desk();
    if let Some(job) = &desk.job {
        pg.server = Server::Busy { job: job.clone() };
    }
    if pg.trouble.is_none() {
        pg.trouble.clone_from(&desk.trouble);
    }
    drop(desk);
    let changed = node.observed.send_if_modified(|seen| {
        let differs = seen
            .as_ref()
            .is_none_or(|(_, old)| !same_condition(&old.server, &pg.server));
        *seen = Some((now, Arc::new(pg.clone())));
        differs
    });
    if changed {
        node.report_now.notify_one();
    }
    pg
}

/// Whether two looks differ in nothing that others must hear of at once.
fn same_condition(old: &Server, new: &Server) -> bool {
    match (old, new) {
        (Server::Standby(old), Server::Standby(new)) => {
            old.receiver.is_some() == new.receiver.is_some()
                && old.upstream == new.upstream
                && old.position.timeline == new.position.timeline
        }
        (Server::Primary(old), Server::Primary(new)) => {
            let names = |standbys: &[agent_core::view::StandbyConnection]| {
                standbys
                    .iter()
                    .map(|s| (s.application_name.clone(), s.streaming))
                    .collect::<Vec<_>>()
            };
            old.position.timeline == new.position.timeline && names(&old.standbys) == names(&new.standbys)
        }
        (old, new) => std::mem::discriminant(old) == std::mem::discriminant(new),
    }
}

/// Decides and performs; says how long to sleep.
async fn turn(node: &Arc<Node>, server: &ServerSide, state: &ClusterState, pg: PgObservation) -> Duration {
    let decision = {
        let view = view(node, server, state, pg).await;
        decide(&view)
    };
    let now = node.clock.now();
    let mut sleep = match &decision.wake_at {
        Some((at, _)) => at.since(now).max(Duration::from_millis(1)).min(CALM),
        None => CALM,
    };
    {
        let mut desk = node.desk();
        let copies =
            |action: &NodeAction| matches!(action, NodeAction::Copy { .. } | NodeAction::Restore { .. });
        if decision.actions.iter().any(copies) {
            desk.copied_because.clone_from(&decision.reasons);
        }
        desk.explain.clone_from(&decision.reasons);
        if desk.job.is_some() {
            // While a copy is made, what it is made of is what people ask.
            let because = desk.copied_because.clone();
            desk.explain.extend(because);
        } else if decision.actions.is_empty() {
            desk.copied_because.clear();
        }
    }
    if decision.rule == LOOK_FOR_A_BACKUP {
        copying::look_for_backup(node, state);
    }
    if decision.rule == SERVER_HANGS {
        server.hung.send_replace(state.epoch);
    }
    if !decision.actions.is_empty() {
        tracing::debug!(rule = decision.rule, actions = ?decision.actions, "deciding");
    }
    let moving = matches!(
        decision.rule.as_str(),
        "server-starting" | "wait-for-the-mark" | "no-lease-yet" | "server-not-free" | "job-at-work"
    );
    // One that comes back by the archive may take hours.
    let connecting = decision.rule == "not-streaming"
        && node
            .desk()
            .without_stream_since
            .is_some_and(|since| now.since(since) < CONNECTS);
    if moving || connecting {
        sleep = sleep.min(BUSY);
    }
    for action in decision.actions {
        sleep = sleep.min(BUSY);
        if let Err(error) = perform(node, server, action).await {
            tracing::error!(rule = decision.rule, %error, "an action failed");
            let mut desk = node.desk();
            desk.trouble = Some(error.to_string());
            sleep = FAILED;
            break;
        }
        let mut desk = node.desk();
        if desk.memory.job_failed_at.is_none() {
            desk.trouble = None;
        }
    }
    sleep
}

async fn view<'a>(
    node: &Node,
    server: &ServerSide,
    state: &'a ClusterState,
    pg: PgObservation,
) -> NodeView<'a> {
    let now = node.clock.now();
    let lease = node.lease.status();
    // A job holds the server for minutes, and while it does nothing is decided that looks at the configuration.
    let busy = node.desk().job.is_some();
    let conf = if busy {
        None
    } else {
        server.hands.lock().await.conf.clone()
    };
    // Before the desk is locked below.
    let backup = copying::known_backup(node, now);
    let reports = node.reports.view();
    let holder = state
        .holder
        .and_then(|holder| reports.fresh(holder, now, REPORT_FRESH))
        .cloned();
    NodeView {
        me: node.id(),
        state: Cow::Borrowed(state),
        now,
        pledge: lease.pledge,
        lease: LeaseView {
            epoch: lease.epoch,
            valid: lease.valid(),
            fenced: lease.fenced,
            unguarded: node.lease.guard_trouble(),
        },
        pg,
        conf,
        holder,
        peers: node.peers(now, REPORT_FRESH),
        memory: node.desk().memory.clone(),
        watchdog: node.watchdog.as_ref().map(|watchdog| watchdog.report()),
        backup,
    }
}

/// What was remembered of the last epoch's standbys means nothing in the next.
fn forget_epoch(node: &Node) {
    let mut desk = node.desk();
    desk.memory.absent_since.clear();
    desk.memory.not_streaming_since = None;
    desk.memory.adopting_since = None;
    desk.memory.sync_mark = None;
    desk.memory.failed_rungs.clear();
}

/// Keeps the times that decisions look at.
fn remember(node: &Node, state: &ClusterState, pg: &PgObservation) {
    let now = node.clock.now();
    let holds = state.holder == Some(node.id());
    let lease = node.lease.status();
    let mut desk = node.desk();
    desk.keep_mark_only_for(state.sync_rule());
    match &pg.server {
        Server::Primary(primary) if holds => {
            let streams = |id| {
                let name = state.application_name(id, state.epoch);
                primary
                    .standbys
                    .iter()
                    .any(|standby| standby.streaming && standby.application_name == name)
            };
            let members = state
                .sync_rule()
                .map(|rule| rule.members.clone())
                .unwrap_or_default();
            desk.memory
                .absent_since
                .retain(|id, _| members.contains(id) && !streams(*id));
            for id in members.into_iter().filter(|id| !streams(*id)) {
                desk.memory.absent_since.entry(id).or_insert(now);
            }
            let held = lease.valid() && lease.epoch == state.epoch;
            let since = desk.memory.adopting_since.get_or_insert(now);
            let since = *since;
            desk.memory.adopting_since = (!held).then_some(since);
        }
        Server::Standby(standby) => {
            let streaming = standby
                .receiver
                .as_ref()
                .is_some_and(|receiver| receiver.streaming);
            desk.streaming_since = streaming.then(|| desk.streaming_since.unwrap_or(now));
            let steady = desk
                .streaming_since
                .is_some_and(|since| now.since(since) >= STEADY);
            // One that replays what it fetches from the archive gets nearer without streaming.
            let end = standby.position.lsn.max(standby.replay);
            let nearer = desk.reached.replace(end).is_none_or(|before| end > before);
            if steady {
                desk.came_by = None;
                desk.memory.failed_rungs.clear();
            }
            if steady || standby.upstream.is_none() {
                desk.memory.not_streaming_since = None;
                desk.without_stream_since = None;
            } else {
                desk.without_stream_since.get_or_insert(now);
                if nearer {
                    desk.memory.not_streaming_since = Some(now);
                }
                desk.memory.not_streaming_since.get_or_insert(now);
            }
        }
        _ => {
            desk.streaming_since = None;
            desk.reached = None;
            desk.without_stream_since = None;
            desk.memory.not_streaming_since = None;
        }
    }
}

fn look_after_slots(node: &Arc<Node>, server: &ServerSide, state: &ClusterState) {
    let up = node
        .observed
        .borrow()
        .as_ref()
        .is_some_and(|(_, pg)| matches!(pg.server, Server::Primary(_) | Server::Standby(_)));
    if !up || state.system_id.is_none() {
        return;
    }
    let reports = node.reports.view();
    let positions = reports
        .reports
        .iter()
        .filter_map(|(id, (_, report))| Some((*id, report.pg.as_ref()?.position()?.lsn)))
        .collect();
    let wanted = agent_core::decide::node::wanted_slots(node.id(), state, &positions);
    let instance = server.instance.clone();
    errand(node, Errand::Slots, async move {
        instance
            .ensure_slots(&wanted)
            .await
            .map_err(|error| error.to_string())
    });
}

/// Turns each fence into a receipt, whoever ordered it: the driver, or the lease's thread.
async fn give_receipts(node: Arc<Node>) {
    let Some(server) = &node.server else { return };
    let mut fenced = server.fencer.watch();
    // The lease's thread is older than this task: what it has fenced by now counts, too.
    if fenced.borrow().epoch > Epoch(0) {
        fenced.mark_changed();
    }
    while fenced.changed().await.is_ok() {
        let epoch = fenced.borrow_and_update().epoch;
        node.lease.fenced(epoch);
        node.desk().memory.gate = None;
        node.give_receipt(FenceReceipt {
            epoch,
            node: node.id(),
            incarnation: node.incarnation,
            clean_end: None,
        });
        node.look_now.notify_one();
    }
}
