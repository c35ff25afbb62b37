//! Rules of safety that can be turned off one by one, so that the fault suite can be seen to notice.
//!
//! Only in a build with the feature `sabotage`, and no build with optimisations can have it. In all others
//! [`Rule::is_off`] is `false`, and the compiler removes what asks.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature `sabotage` turns safety rules off; no release build may have it");

/// The environment variable that names rules to turn off, separated by commas.
pub const VARIABLE: &str = "SABOTAGE_PGCTL";

/// A rule of safety.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A lease counts from the sending of the renewal, not from the arrival of its answer.
    DeadlineFromTheSending,
    /// A voter that has just started releases nothing before every promise it may have given is over.
    Quarantine,
    /// A voter keeps its promise until it is over; without this, a quarter of it.
    Promise,
    /// Nobody is promoted unless every quorum that may have acknowledged meets those that have pledged.
    AcknowledgedCommitsAreKept,
    /// A standby that has pledged receives nothing more from the old primary.
    PledgedStandbyIsCutOff,
    /// The agent ends the server when its lease is over.
    Fence,
    /// The guard ends the server when the agent cannot.
    Guard,
    /// A fence ends every process of the server, not only the first.
    WholeTreeIsEnded,
}

impl Rule {
    /// Every rule that can be turned off.
    pub const ALL: [Rule; 8] = [
        Rule::DeadlineFromTheSending,
        Rule::Quarantine,
        Rule::Promise,
        Rule::AcknowledgedCommitsAreKept,
        Rule::PledgedStandbyIsCutOff,
        Rule::Fence,
        Rule::Guard,
        Rule::WholeTreeIsEnded,
    ];

    /// The name that [`VARIABLE`] takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rule::DeadlineFromTheSending => "deadline-from-the-sending",
            Rule::Quarantine => "quarantine",
            Rule::Promise => "promise",
            Rule::AcknowledgedCommitsAreKept => "acknowledged-commits-are-kept",
            Rule::PledgedStandbyIsCutOff => "pledged-standby-is-cut-off",
            Rule::Fence => "fence",
            Rule::Guard => "guard",
            Rule::WholeTreeIsEnded => "whole-tree-is-ended",
        }
    }

    /// Whether this rule is turned off in this process.
    #[cfg(feature = "sabotage")]
    #[must_use]
    pub fn is_off(self) -> bool {
        static OFF: std::sync::OnceLock<Vec<Rule>> = std::sync::OnceLock::new();
        let off = OFF.get_or_init(|| {
            let given = std::env::var(VARIABLE).unwrap_or_default();
            let named = given.split(',').filter(|name| !name.is_empty());
            named
                .map(|name| {
                    let rule = Rule::ALL.into_iter().find(|rule| rule.name() == name);
                    rule.unwrap_or_else(|| panic!("{VARIABLE}: there is no rule {name}"))
                })
                .collect()
        });
        off.contains(&self)
    }

    /// Whether this rule is turned off in this process: never, in this build.
    #[cfg(not(feature = "sabotage"))]
    #[must_use]
    pub const fn is_off(self) -> bool {
        false
    }
}
