//! The two pure functions that decide: [`node::decide`] for one PostgreSQL, [`cluster::decide`] for the cluster.

pub mod cluster;
pub mod node;

use crate::reason::Reason;
use crate::time::MonoTime;
use serde::{Deserialize, Serialize};

/// What a decision came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision<A> {
    /// The rule that fired, a stable kebab-case id.
    pub rule: String,
    /// What to do now, in order.
    pub actions: Vec<A>,
    /// The gates that were looked at: what `pgctl explain` prints.
    pub reasons: Vec<Reason>,
    /// When to look again even if nothing happens, and why.
    pub wake_at: Option<(MonoTime, String)>,
}

impl<A> Decision<A> {
    /// Nothing to do.
    #[must_use]
    pub fn rest(rule: &str) -> Decision<A> {
        Decision {
            rule: rule.to_owned(),
            actions: Vec::new(),
            reasons: Vec::new(),
            wake_at: None,
        }
    }

    /// One thing to do.
    #[must_use]
    pub fn act(rule: &str, action: A) -> Decision<A> {
        Decision {
            actions: vec![action],
            ..Decision::rest(rule)
        }
    }

    /// Nothing to do before a gate opens.
    #[must_use]
    pub fn wait(rule: &str, reason: Reason) -> Decision<A> {
        Decision {
            reasons: vec![reason],
            ..Decision::rest(rule)
        }
    }

    /// The same with another gate shown.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Decision<A> {
        self.reasons.push(reason);
        self
    }

    /// The same with another thing to do afterwards.
    #[must_use]
    pub fn then(mut self, action: A) -> Decision<A> {
        self.actions.push(action);
        self
    }

    /// The same with a time to look again.
    #[must_use]
    pub fn again(mut self, at: MonoTime, why: &str) -> Decision<A> {
        self.wake_at = Some((at, why.to_owned()));
        self
    }
}
