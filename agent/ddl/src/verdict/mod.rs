//! What one statement does to a schema that is in use: its locks, its rewrites, its scans, and what is wrong with it.

mod alter;
mod bound;
mod column;
mod constraint;
mod lock;
mod other;
mod relations;
mod retype;

pub use lock::LockMode;

use crate::catalog::Catalog;
use crate::model::{Act, Name, Statement};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Advice,
    Warning,
    Danger,
}

/// One thing that is wrong with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `H45`.
    pub rule: &'static str,
    pub severity: Severity,
    pub message: String,
    /// SQL that does it more safely; empty if there is none.
    pub safe: String,
}

/// What is known of one statement.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// The strongest lock on each relation that was there before, and on indexes that the statement names.
    pub locks: BTreeMap<Name, LockMode>,
    /// Relations in use whose file is written anew.
    pub rewrites: BTreeSet<Name>,
    /// Relations in use that are read whole while writes or reads to them wait.
    pub scans: BTreeSet<Name>,
    pub findings: Vec<Finding>,
    /// Statements that do the same safely, where that needs no judgement.
    pub fix: Option<Vec<String>>,
}

/// What a statement is judged by, besides its text.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The server's major version, 13 to 18.
    pub version: u16,
    /// Inside BEGIN ... COMMIT.
    pub in_transaction: bool,
    /// The session's time zone was set to UTC.
    pub utc: bool,
}

/// Judges one statement. `catalog` is the schema before it.
#[must_use]
pub fn judge(statement: &Statement, catalog: &Catalog, circumstances: Circumstances) -> Verdict {
    let mut judge = Judge {
        catalog,
        at: circumstances,
        verdict: Verdict::default(),
    };
    match &statement.act {
        Act::AlterTable {
            kind,
            table,
            only,
            parts,
            ..
        } => judge.alter_table(*kind, table, *only, parts),
        Act::CreateTable { .. } => judge.create_table(&statement.act),
        Act::CreateIndex { .. } => judge.create_index(statement),
        Act::Drop { .. } => judge.drop(statement),
        act => judge.other(statement, act),
    }
    judge.verdict
}

pub(crate) struct Judge<'c> {
    pub catalog: &'c Catalog,
    pub at: Circumstances,
    pub verdict: Verdict,
}

impl Judge<'_> {
    fn lock(&mut self, relation: &Name, mode: LockMode) {
        let held = self.verdict.locks.entry(relation.clone()).or_insert(mode);
        *held = mode.max(*held);
    }

    fn rewrite(&mut self, relation: &Name) {
        if !self.catalog.fresh(relation) {
            self.verdict.rewrites.insert(relation.clone());
            self.verdict.scans.insert(relation.clone());
        }
    }

    fn scan(&mut self, relation: &Name) {
        if !self.catalog.fresh(relation) {
            self.verdict.scans.insert(relation.clone());
        }
    }

    /// Notes a finding about a relation, unless nobody can be using that yet.
    fn find(
        &mut self,
        relation: &Name,
        rule: &'static str,
        severity: Severity,
        message: String,
        safe: String,
    ) {
        if !self.catalog.fresh(relation) {
            self.say(rule, severity, message, safe);
        }
    }

    fn danger(&mut self, relation: &Name, rule: &'static str, message: String, safe: String) {
        self.find(relation, rule, Severity::Danger, message, safe);
    }

    fn say(&mut self, rule: &'static str, severity: Severity, message: String, safe: String) {
        self.verdict.findings.push(Finding {
            rule,
            severity,
            message,
            safe,
        });
    }

    /// A relation and what inherits from it.
    fn tree(&self, relation: &Name, only: bool) -> Vec<Name> {
        let mut tree = vec![relation.clone()];
        if !only {
            tree.extend(self.catalog.descendants(relation));
        }
        tree
    }
}
