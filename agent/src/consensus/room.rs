//! The way in: opens the store, answers peers, obtains an identity, and starts Raft.

use super::channels::PeerChannels;
use super::config::{InitialMember, StartConfig};
use super::founding;
use super::handle::ConsensusHandle;
use super::identity::{self, Identity, IdentityCard, IdentityError};
use super::join;
use super::membership;
use super::network::Network;
use super::node::Node;
use super::rpc::RaftRpc;
use super::state_machine::{StateMachine, StateView};
use super::store::{Directory, LogStore, OpenError, SNAPSHOT_FILE, StateDir};
use super::supervisor::{self, RaftHealth};
use super::types::{Raft, RaftNode};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// Consensus before Raft runs: it answers other agents at once, and waits until this node belongs to a cluster.
pub struct ConsensusRoom {
    room: Arc<Room>,
    store: LogStore,
    machine: StateMachine,
    view: StateView,
}

/// What the answers to other agents need.
pub(super) struct Room {
    pub config: StartConfig,
    /// The configured members in the order of their names.
    pub members: Vec<InitialMember>,
    pub members_hash: String,
    pub card: IdentityCard,
    pub channels: PeerChannels,
    node: OnceLock<Arc<Node>>,
    waiting_for: watch::Sender<Vec<String>>,
}

/// Why consensus did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the Raft timing is unsound: {0}; choose another timing profile")]
    Timing(#[from] openraft::ConfigError),
    #[error("Raft did not start: {0}; restart the agent, and if that does not help: {RECOVERY}", RECOVERY = super::store::RECOVERY)]
    Raft(String),
}

/// How often a node says what it waits for while that does not change.
const SAY_AGAIN: Duration = Duration::from_secs(5);

impl ConsensusRoom {
    /// Opens the state directory. Starts the thread that writes to it, and nothing else.
    ///
    /// # Errors
    /// Another agent uses the directory, or what it holds is damaged, incomplete, newer than this agent, or another
    /// node's. Each error says what to do.
    pub fn open(config: StartConfig) -> Result<ConsensusRoom, OpenError> {
        let directory = StateDir::open(&config.state_dir)?;
        ConsensusRoom::open_in(config, Box::new(directory))
    }

    /// As [`ConsensusRoom::open`], with the log and the snapshot in `directory`: a test's own, which may be slow or
    /// fail.
    ///
    /// # Errors
    /// As [`ConsensusRoom::open`].
    pub fn open_in(config: StartConfig, directory: Box<dyn Directory>) -> Result<ConsensusRoom, OpenError> {
        let card = IdentityCard::open(&config.state_dir, &config.member.name)?;
        let identity = card.get();
        // The log is there before a node can get an identity: one that is missing later was lost.
        let (store, worker, snapshot) = LogStore::open(directory, identity.is_none())?;
        let fresh = snapshot.is_none() && store.content().is_fresh();
        identity::check_against_log(&config.state_dir, identity.as_deref(), fresh)?;
        let (machine, view) =
            StateMachine::new(snapshot, store.jobs()).map_err(|error| OpenError::Damaged {
                path: config.state_dir.join(SNAPSHOT_FILE).display().to_string(),
                offset: 0,
                why: error.to_string(),
            })?;
        worker.spawn().map_err(|source| OpenError::Io {
            what: "cannot start the thread that writes to",
            path: config.state_dir.display().to_string(),
            source,
        })?;
        let mut members = config.members.clone();
        members.sort();
        let room = Room {
            members_hash: founding::members_hash(&members),
            members,
            card,
            channels: PeerChannels::default(),
            node: OnceLock::new(),
            waiting_for: watch::channel(Vec::new()).0,
            config,
        };
        Ok(ConsensusRoom {
            room: Arc::new(room),
            store,
            machine,
            view,
        })
    }

    /// The answers to other agents, for the gRPC service. Must be served before [`ConsensusRoom::join_or_found`] can
    /// come to an end.
    #[must_use]
    pub fn rpc(&self) -> RaftRpc {
        RaftRpc::new(Arc::clone(&self.room))
    }

    /// What this node waits for before it belongs to a cluster, in sentences; empty when it waits for nothing.
    #[must_use]
    pub fn waiting_for(&self) -> watch::Receiver<Vec<String>> {
        self.room.waiting_for.subscribe()
    }

    /// Waits until this node belongs to a cluster, if need be by founding one with the others, and starts Raft. May be
    /// dropped while it waits.
    ///
    /// # Errors
    /// The identity could not be written, or Raft did not start.
    pub async fn join_or_found(self) -> Result<ConsensusHandle, StartError> {
        let reporter = tokio::spawn(say_what_is_waited_for(self.room.waiting_for.subscribe()));
        let _reporter = AbortOnDrop(reporter.abort_handle());

        let identity = join::obtain_identity(&self.room).await?;
        let timing = self.room.config.timing.of_node(identity.node_id);
        let raft_config = Arc::new(timing.raft_config(&self.room.config.cluster_name)?);
        // The first write of all is the founding membership, so an empty log says that there is a cluster to be made.
        let to_be_founded =
            identity.founder && self.store.content().is_fresh() && self.view.applied_index() == 0;
        if to_be_founded {
            founding::adopt_others(&self.room, &identity).await;
        }
        self.room.report(Vec::new());

        let (jobs, disk) = (self.store.jobs(), self.store.health());
        let channels = self.room.channels.clone();
        let network = Network::new(
            identity.cluster_id.clone(),
            identity.node_id.0,
            channels.clone(),
            self.view.clone(),
        );
        let raft = Raft::new(identity.node_id.0, raft_config, network, self.store, self.machine)
            .await
            .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
        let node = Arc::new(Node {
            identity: Arc::clone(&identity),
            cluster_name: self.room.config.cluster_name.clone(),
            settings: self.room.config.settings.clone(),
            raft,
            view: self.view,
            channels,
            disk,
            lease: timing.election_max,
            membership: Mutex::new(()),
        });
        let node = Arc::clone(self.room.node.get_or_init(|| node));
        if to_be_founded {
            initialize(&node, &identity).await?;
        }
        let (health, watch) = watch::channel(RaftHealth::Running);
        tokio::spawn(membership::keep_in_step(Arc::clone(&node)));
        tokio::spawn(supervisor::supervise(Arc::clone(&node), health));
        Ok(ConsensusHandle::new(node, jobs, watch))
    }
}

async fn initialize(node: &Node, identity: &Identity) -> Result<(), StartError> {
    let founders: BTreeMap<u64, RaftNode> = identity
        .founding_members
        .iter()
        .map(|(number, member)| {
            (
                number.0,
                RaftNode {
                    name: member.name.clone(),
                    peer: member.peer.clone(),
                },
            )
        })
        .collect();
    let failed = |error: String| StartError::Raft(error);
    // Another founding member may have called an election and been heard here meanwhile; then nothing is left to do.
    if node
        .raft
        .is_initialized()
        .await
        .map_err(|fatal| failed(fatal.to_string()))?
    {
        return Ok(());
    }
    node.raft
        .initialize(founders)
        .await
        .map_err(|error| failed(error.to_string()))
}

impl Room {
    /// Raft on this node, once it runs.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.get().cloned()
    }

    /// Says what this node waits for.
    pub fn report(&self, waiting_for: Vec<String>) {
        self.waiting_for.send_if_modified(|known| {
            let changed = *known != waiting_for;
            *known = waiting_for;
            changed
        });
    }
}

/// Logs what is waited for: when it changes, and again from time to time.
async fn say_what_is_waited_for(mut waiting_for: watch::Receiver<Vec<String>>) {
    loop {
        // Passed either way: a change, or time to say it again.
        if let Ok(Err(_)) = tokio::time::timeout(SAY_AGAIN, waiting_for.changed()).await {
            return;
        }
        for reason in waiting_for.borrow_and_update().iter() {
            tracing::info!("waiting: {reason}");
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
