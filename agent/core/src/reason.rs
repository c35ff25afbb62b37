//! The words in which the core explains itself.

use serde::{Deserialize, Serialize};

/// One gate of a decision: what it asks, what was found, and what would open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A stable kebab-case id with a heading of its own in `docs/reasons.md`.
    pub id: String,
    /// Whether the gate stands open.
    pub open: bool,
    /// What was found, with names and figures.
    pub found: String,
    /// What the operator can do, or what the cluster waits for; empty where the gate is open.
    pub next: String,
}

impl Reason {
    /// A gate that stands open.
    #[must_use]
    pub fn open(id: &str, found: impl Into<String>) -> Reason {
        Reason {
            id: id.to_owned(),
            open: true,
            found: found.into(),
            next: String::new(),
        }
    }

    /// A gate that is shut, and what would open it.
    #[must_use]
    pub fn shut(id: &str, found: impl Into<String>, next: impl Into<String>) -> Reason {
        Reason {
            id: id.to_owned(),
            open: false,
            found: found.into(),
            next: next.into(),
        }
    }
}
