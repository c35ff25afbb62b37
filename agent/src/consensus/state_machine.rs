//! The replicated state in memory: applies committed entries, and shows each new state to whoever watches.
//!
//! Applying is a pure function of the entries. It reads no clock and no file, so that every node comes to the same
//! state; a command that does not fit is refused by [`ClusterState::apply`] and never stops a node.

use super::store::DiskJobs;
use super::types::{Answer, HouseTypes, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership};
use super::wire;
use agent_core::cluster::ClusterState;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The replicated state of one node.
pub struct StateMachine {
    state: Arc<ClusterState>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Snapshots,
    published: watch::Sender<Arc<ClusterState>>,
    applied_index: Arc<AtomicU64>,
}

/// The newest snapshot, in memory and on disk.
#[derive(Clone)]
struct Snapshots {
    newest: Arc<Mutex<Option<Snapshot>>>,
    disk: DiskJobs,
}

/// Shows what a [`StateMachine`] has applied.
#[derive(Clone)]
pub struct StateView {
    state: watch::Receiver<Arc<ClusterState>>,
    applied_index: Arc<AtomicU64>,
}

impl StateView {
    /// The newest state.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }

    /// Sees each new state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// The index of the last applied entry; zero where none was. It never runs ahead of [`StateView::state`].
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }
}

impl StateMachine {
    /// Begins with `snapshot`, or with nothing.
    ///
    /// # Errors
    /// The state in the snapshot cannot be read.
    pub fn new(
        snapshot: Option<Snapshot>,
        disk: DiskJobs,
    ) -> Result<(StateMachine, StateView), wire::WireError> {
        let (state, meta) = match &snapshot {
            Some(snapshot) => (Arc::new(read_state(&snapshot.snapshot)?), snapshot.meta.clone()),
            None => (Arc::default(), SnapshotMeta::default()),
        };
        let (published, watch) = watch::channel(Arc::clone(&state));
        let applied_index = Arc::new(AtomicU64::new(index(meta.last_log_id)));
        let view = StateView {
            state: watch,
            applied_index: Arc::clone(&applied_index),
        };
        let machine = StateMachine {
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshots: Snapshots {
                newest: Arc::new(Mutex::new(snapshot)),
                disk,
            },
            published,
            applied_index,
        };
        Ok((machine, view))
    }

    fn publish(&self) {
        self.published.send_replace(Arc::clone(&self.state));
        self.applied_index.store(index(self.applied), Ordering::Release);
    }
}

fn index(applied: Option<LogId>) -> u64 {
    applied.map(|id| id.index).unwrap_or_default()
}

fn read_state(json: &[u8]) -> Result<ClusterState, wire::WireError> {
    wire::from_json(json, "replicated state")
}

impl Snapshots {
    async fn keep(&self, snapshot: Snapshot) -> io::Result<()> {
        self.disk.keep_snapshot(snapshot.clone()).await?;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest
            .as_ref()
            .is_none_or(|known| known.meta.last_log_id <= snapshot.meta.last_log_id)
        {
            *newest = Some(snapshot);
        }
        Ok(())
    }
}

impl<C: HouseTypes> RaftStateMachine<C> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let answer = match entry.payload {
                Payload::Blank => Answer(None),
                Payload::Normal(proposal) => Answer(Some(Arc::make_mut(&mut self.state).apply(&proposal.0))),
                Payload::Membership(membership) => {
                    let sets: Vec<_> = membership
                        .get_joint_config()
                        .iter()
                        .map(|set| set.iter().copied().map(super::types::core_id).collect())
                        .collect();
                    Arc::make_mut(&mut self.state).apply_voters(entry.log_id.index, &sets);
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Answer(None)
                }
            };
            self.applied = Some(entry.log_id);
            // Shown before it is answered: whoever gets the answer finds the state that goes with it.
            self.publish();
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            state: Arc::clone(&self.state),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        let state =
            read_state(&snapshot).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.snapshots
            .keep(Snapshot {
                meta: meta.clone(),
                snapshot,
            })
            .await?;
        self.state = Arc::new(state);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self
            .snapshots
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}

/// Writes down the state as it was at one entry.
pub struct SnapshotBuilder {
    state: Arc<ClusterState>,
    meta: SnapshotMeta,
    snapshots: Snapshots,
}

impl<C: HouseTypes> RaftSnapshotBuilder<C> for SnapshotBuilder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = Snapshot {
            meta: self.meta.clone(),
            snapshot: wire::to_json(&*self.state),
        };
        self.snapshots.keep(snapshot.clone()).await?;
        Ok(snapshot)
    }
}
