//! Schema changes, carried out step by step on the primary.
//!
//! What is wanted stands in the replicated state (`agent_core::cluster::Rollout`); what has had its effect stands in the database,
//! in the same transaction as the effect where there is one. The agent of the epoch's holder asks the core for the next move
//! and makes it. It remembers nothing: whoever comes after it finds out by asking the database.
//!
//! | file | does |
//! |---|---|
//! | `executor` | asks for the next move and makes it |
//! | `job` | what every move needs: sessions, and whether to go on |
//! | `ledger` | the rows in the database that say which steps have had their effect |
//! | `transaction` | a step that is one transaction, and the short waits for its locks |
//! | `concurrent`, `probe` | steps that are no transaction, and how far they came |
//! | `backfill`, `pressure` | updates in batches, and who suffers from them |
//! | `cleanup` | aborting and undoing |
//! | `look` | who holds a lock, and who waits for us |
//! | `fingerprint` | one number for a whole schema |
//! | `schema`, `trace`, `janitor` | what plans are made of; statements tried on an empty copy; what others left behind |
//! | `versions` | versions of a schema side by side, and what hangs on columns that change |
//! | `live`, `convert`, `service` | all of this for `pgctl` |
//!
//! *Invariant:* a step is begun only after its intent is committed, and told to be done only after a commit that follows its
//! effect was acknowledged by the synchronous set.
//! *Invariant:* nothing here is waited for by the node's loop, the lease or a promotion.

mod backfill;
mod cleanup;
mod concurrent;
mod convert;
mod executor;
mod fingerprint;
mod janitor;
mod job;
mod ledger;
mod live;
mod look;
mod pressure;
mod probe;
mod schema;
mod service;
mod sql;
mod trace;
mod transaction;
mod versions;

pub use service::RolloutService;

use crate::ports::{Consensus, SchemaServer};
use agent_core::ids::Epoch;
use live::Live;
use std::sync::Arc;
use tokio::sync::watch;

/// The rollouts as this node sees them.
pub struct Rollouts {
    consensus: Arc<dyn Consensus>,
    /// `None` on a witness.
    server: Option<Arc<dyn SchemaServer>>,
    /// The epoch under which this node's server takes writes at this moment.
    writable: Box<dyn Fn() -> Option<Epoch> + Send + Sync>,
    live: watch::Sender<Live>,
    /// One scratch server at a time.
    scratch: tokio::sync::Mutex<()>,
}

impl Rollouts {
    /// Rollouts over this node's server.
    #[must_use]
    pub fn new(
        consensus: Arc<dyn Consensus>,
        server: Option<Arc<dyn SchemaServer>>,
        writable: impl Fn() -> Option<Epoch> + Send + Sync + 'static,
    ) -> Arc<Rollouts> {
        Arc::new(Rollouts {
            consensus,
            server,
            writable: Box::new(writable),
            live: watch::channel(Live::default()).0,
            scratch: tokio::sync::Mutex::new(()),
        })
    }
}
