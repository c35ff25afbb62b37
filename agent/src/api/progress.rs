//! How far a switchover or an ordered failover has come, told from the replicated state alone: any agent can tell it,
//! also after the one that was asked first has died.

use super::{milliseconds, refusal};
use crate::ports::Consensus;
use agent_core::cluster::{Cause, ClusterState, SwitchoverPhase};
use agent_core::ids::{Epoch, NodeId, RequestId};
use proto::control as wire;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What is told of a request, as a stream that ends with its outcome.
pub(super) type ProgressStream = ReceiverStream<Result<wire::Progress, Status>>;

/// Allowed on top of the switchover's own deadlines before its outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who asked for what, and from where it started.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) request: RequestId,
    pub(super) kind: Kind,
    pub(super) from: Option<NodeId>,
    pub(super) to: NodeId,
    /// The epoch that was the newest before the request.
    pub(super) epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Switchover,
    Failover,
}

/// How far a request has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) phase: &'static str,
    pub(super) message: String,
    /// Whether it is over, and whether it succeeded.
    pub(super) over: Option<bool>,
}

fn under_way(phase: &'static str, message: String) -> Stage {
    Stage {
        phase,
        message,
        over: None,
    }
}

fn over(succeeded: bool, message: String) -> Stage {
    Stage {
        phase: if succeeded { "done" } else { "failed" },
        message,
        over: Some(succeeded),
    }
}

/// Tells of each new stage until the outcome.
pub(super) fn follow(consensus: Arc<dyn Consensus>, watched: Watched) -> ProgressStream {
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        let began = Instant::now();
        let deadline = consensus
            .state()
            .settings
            .switchover_deadline_ms
            .saturating_mul(2);
        let deadline = Duration::from_millis(deadline).saturating_add(PATIENCE);
        let work = tell_stages(consensus.as_ref(), &watched, began, &tell);
        tokio::select! {
            () = tell.closed() => {}
            ended = tokio::time::timeout(deadline, work) => if ended.is_err() {
                let waited = began.elapsed().as_secs();
                let text = format!("{} is neither done nor given up after {waited} s", watched.request);
                // Fails only if nobody listens any more.
                let _ = tell.send(Err(refusal::unknown_outcome(text))).await;
            },
        }
    });
    ReceiverStream::new(told)
}

async fn tell_stages(
    consensus: &dyn Consensus,
    watched: &Watched,
    began: Instant,
    tell: &mpsc::Sender<Result<wire::Progress, Status>>,
) {
    let mut states = consensus.watch();
    let mut last = None;
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let stage = stage(&state, watched);
        if stage.is_some() && stage != last {
            last.clone_from(&stage);
        } else if states.changed().await.is_err() {
            let _ = tell
                .send(Err(refusal::unknown_outcome(
                    "the agent that was asked is stopping",
                )))
                .await;
            return;
        } else {
            continue;
        }
        let Some(stage) = stage else { continue };
        let outcome = stage.over.map(|succeeded| wire::Outcome {
            succeeded,
            from: watched.from.map(|node| state.name_of(node)).unwrap_or_default(),
            to: state.name_of(watched.to),
            epoch: state.epoch.0,
            timeline: state.timeline.0,
        });
        let ended = outcome.is_some();
        let elapsed_ms = milliseconds(began.elapsed());
        let progress = wire::Progress {
            phase: stage.phase.to_owned(),
            message: stage.message,
            elapsed_ms,
            outcome,
        };
        if tell.send(Ok(progress)).await.is_err() || ended {
            return;
        }
    }
}

/// How far the request has come in `state`; `None` while that state does not know of it yet.
pub(super) fn stage(state: &ClusterState, watched: &Watched) -> Option<Stage> {
    match watched.kind {
        Kind::Switchover => switchover_stage(state, watched),
        Kind::Failover => failover_stage(state, watched),
    }
}

fn switchover_stage(state: &ClusterState, watched: &Watched) -> Option<Stage> {
    if let Some(running) = state
        .switchover
        .as_ref()
        .filter(|running| running.request == watched.request)
    {
        let (from, to) = (state.name_of(running.from), state.name_of(running.to));
        return Some(match running.phase {
            SwitchoverPhase::Preparing => {
                under_way("preparing", format!("{to} is checked and catches up with {from}"))
            }
            SwitchoverPhase::Stopping => {
                under_way("stopping", format!("{from} closes its gate and shuts down"))
            }
        });
    }
    let last = state
        .last_switchover
        .as_ref()
        .filter(|last| last.request == watched.request)?;
    if last.succeeded {
        Some(opening(state, watched, &last.message))
    } else {
        Some(over(false, last.message.clone()))
    }
}

fn failover_stage(state: &ClusterState, watched: &Watched) -> Option<Stage> {
    let to = state.name_of(watched.to);
    if state
        .failover_order
        .as_ref()
        .is_some_and(|order| order.request == watched.request)
    {
        return Some(under_way(
            "ordered",
            format!("{to} is to be promoted as soon as the old primary is fenced"),
        ));
    }
    if !state
        .requests
        .iter()
        .any(|(request, _)| *request == watched.request)
    {
        return None;
    }
    let granted = state.history.back().filter(|record| {
        record.holder == watched.to && (record.epoch > watched.epoch || record.cause == Cause::ManualFailover)
    });
    if let Some(record) = granted {
        return Some(opening(state, watched, &record.why));
    }
    if state.epoch > watched.epoch {
        let holder = state.holder.map(|node| state.name_of(node)).unwrap_or_default();
        return Some(over(
            false,
            format!("{holder} holds epoch {} instead of {to}", state.epoch),
        ));
    }
    let dropped = state
        .events
        .iter()
        .rev()
        .find(|event| event.kind == "failover-order-dropped");
    Some(over(
        false,
        dropped.map_or_else(|| "the order was dropped".to_owned(), |event| event.text.clone()),
    ))
}

/// The epoch is granted; it is over once the new primary lets clients in.
fn opening(state: &ClusterState, watched: &Watched, why: &str) -> Stage {
    let to = state.name_of(watched.to);
    let opened = state
        .promotion
        .is_some_and(|promotion| promotion.epoch == state.epoch);
    if state.holder != Some(watched.to) {
        let holder = state.holder.map(|node| state.name_of(node)).unwrap_or_default();
        return over(
            false,
            format!("{to} was granted an epoch, and lost it to {holder} before this was told: {why}"),
        );
    }
    if opened {
        over(
            true,
            format!(
                "{to} serves clients in epoch {} on timeline {}",
                state.epoch, state.timeline
            ),
        )
    } else {
        under_way(
            "granted",
            format!("{to} holds epoch {} and is promoted", state.epoch),
        )
    }
}
