//! From scripts to steps that can be carried out one by one, and taken up again wherever they were left.
//!
//! | file | does |
//! |---|---|
//! | `steps` | cuts scripts into steps |
//! | `class` | how a statement is taken up again, and whether it may wait for its locks |
//! | `undo` | what takes a statement back |

mod class;
mod steps;
mod undo;

pub use steps::{PlanOptions, Refusal, plan};

use crate::verdict::Finding;

/// One part of a rollout.
#[derive(Debug, Clone)]
pub struct Step {
    /// The file it comes from, and the line in it, from 1.
    pub path: String,
    pub line: usize,
    /// Several statements are one transaction.
    pub sql: Vec<String>,
    /// The session's settings that the script has made before.
    pub settings: Vec<String>,
    pub class: Class,
    /// The strongest lock on each relation, as SQL and as in `pg_locks`.
    pub locks: Vec<(String, String)>,
    /// Waiting for its locks stops nobody, so it waits as long as it takes.
    pub patient: bool,
    /// What takes it back; empty where nothing does. An index that is built CONCURRENTLY is dropped without being told.
    pub undo: Vec<String>,
    /// Relations in use whose files are written anew; that are read whole while others wait.
    pub rewrites: Vec<String>,
    pub scans: Vec<String>,
    pub findings: Vec<Finding>,
    /// The statement was replaced by a safer form.
    pub rewritten: bool,
}

/// How a step is taken up again. Names are SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    Transaction,
    CreateIndex {
        table: String,
        index: String,
        unique: bool,
        definition: String,
    },
    DropIndex {
        index: String,
        if_exists: bool,
    },
    Reindex {
        relation: String,
    },
    Detach {
        parent: String,
        child: String,
    },
    Backfill {
        table: String,
        set: String,
        filter: String,
    },
    Outside,
}

impl Class {
    /// The class's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Class::Transaction => "transaction",
            Class::CreateIndex { .. } => "create-index",
            Class::DropIndex { .. } => "drop-index",
            Class::Reindex { .. } => "reindex",
            Class::Detach { .. } => "detach",
            Class::Backfill { .. } => "backfill",
            Class::Outside => "outside",
        }
    }

    /// How a step of it is taken up again, in a sentence.
    #[must_use]
    pub fn resumed(&self) -> &'static str {
        match self {
            Class::Transaction => "commits with its own mark: done if the mark is there, else done again",
            Class::CreateIndex { .. } => "valid and as defined: done; invalid: dropped and built again",
            Class::DropIndex { .. } => "gone: done; else dropped again",
            Class::Reindex { .. } => "leftovers are dropped, then built again",
            Class::Detach { .. } => "detached: done; pending: finalized",
            Class::Backfill { .. } => "goes on behind the last batch, whose end is committed with it",
            Class::Outside => "run again",
        }
    }
}
