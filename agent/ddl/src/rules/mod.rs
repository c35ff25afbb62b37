//! The rules: what each looks for, in two sentences, with an example that a server has confirmed.

mod columns;
mod constraints;
mod others;
mod reference;

pub use reference::reference;

use crate::verdict::Severity;
use std::sync::LazyLock;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// `H45`.
    pub id: &'static str,
    pub name: &'static str,
    /// What a finding has by default; `None`: known to be harmless, nothing is said.
    pub severity: Option<Severity>,
    pub title: &'static str,
    pub explanation: &'static str,
    /// A schema, and a statement on it to which the rule applies.
    pub setup: &'static str,
    /// Empty where the rule is about several statements, or about what only a server knows.
    pub example: &'static str,
}

/// The rule with an id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.id == id)
}

/// All of them, in order.
pub static RULES: LazyLock<Vec<&'static Rule>> = LazyLock::new(|| {
    columns::RULES
        .iter()
        .chain(constraints::RULES)
        .chain(others::RULES)
        .collect()
});
