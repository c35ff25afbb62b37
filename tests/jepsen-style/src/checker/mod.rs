//! What a history must be like. Nothing here knows of clusters, agents or PostgreSQL: a checker is a function from what
//! clients saw (and what was there in the end) to a [`Finding`].
//!
//! Times are nanoseconds of one machine's monotonic clock. A call that failed, or whose answer was lost, is *unknown*: it
//! may have happened or not, and no checker ever takes it for one that did not.

pub mod append;
pub mod bank;
pub mod bound;
pub mod one_writer;
pub mod recovery;
pub mod register;
pub mod set;
pub mod stale;

use serde::Serialize;
use std::collections::BTreeMap;

/// A moment, in nanoseconds of `CLOCK_MONOTONIC`.
pub type Nanos = u64;

/// What a checker says of a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The property holds.
    Holds,
    /// The search for an explanation was given up: neither shown nor refuted.
    Undecided,
    /// The property does not hold.
    Violated,
}

/// The answer of one checker.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which one.
    pub checker: &'static str,
    /// What it says.
    pub outcome: Outcome,
    /// How many things it looked at: one that saw nothing shows nothing.
    pub looked_at: u64,
    /// What was counted on the way.
    pub figures: BTreeMap<&'static str, u64>,
    /// What is wrong, or worth knowing; at most [`Finding::DETAILS_MAX`].
    pub details: Vec<String>,
}

impl Finding {
    /// How many details are kept: whoever wants more reads the history.
    pub const DETAILS_MAX: usize = 20;

    /// A finding that holds so far.
    pub fn new(checker: &'static str, looked_at: u64) -> Finding {
        Finding {
            checker,
            outcome: Outcome::Holds,
            looked_at,
            figures: BTreeMap::new(),
            details: Vec::new(),
        }
    }

    /// Notes that the property does not hold.
    pub fn violated(&mut self, detail: impl Into<String>) {
        self.outcome = Outcome::Violated;
        self.note(detail);
    }

    /// Notes that something could not be decided.
    pub fn undecided(&mut self, detail: impl Into<String>) {
        self.outcome = self.outcome.max(Outcome::Undecided);
        self.note(detail);
    }

    /// Adds a detail that changes nothing.
    pub fn note(&mut self, detail: impl Into<String>) {
        if self.details.len() < Finding::DETAILS_MAX {
            self.details.push(detail.into());
        }
    }
}
