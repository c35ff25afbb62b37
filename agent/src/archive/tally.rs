//! What was done since the agent started, for people and for alarms.

use repository::{Error, Stored, WalName};
use std::time::Duration;

/// Counts and last events.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub archived: u64,
    pub already_there: u64,
    pub failed: u64,
    pub quarantined: u64,
    pub given_up: u64,
    /// The name, and when, ms since 1970.
    pub last_archived: Option<(String, u64)>,
    pub last_error: Option<(String, u64)>,
}

impl Tally {
    pub(super) fn archived(&mut self, name: WalName, stored: Stored, now_ms: u64) {
        self.archived += 1;
        self.already_there += u64::from(stored == Stored::Already);
        self.last_archived = Some((name.to_string(), now_ms));
    }

    pub(super) fn gave_up(&mut self, error: &PushError, now_ms: u64) {
        self.given_up += 1;
        self.last_error = Some((format!("given up: {error}"), now_ms));
    }

    pub(super) fn failed(&mut self, error: &PushError, now_ms: u64) {
        self.failed += 1;
        self.quarantined += u64::from(matches!(error, PushError::Repository(Error::Different { .. })));
        self.last_error = Some((error.to_string(), now_ms));
    }
}

/// Why a file was not archived.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error(transparent)]
    Repository(#[from] Error),
    #[error("{0} is no file that a server archives")]
    Name(String),
    #[error("{name} cannot be read: {error}")]
    Read { name: String, error: std::io::Error },
    #[error("where {name} belongs is not known yet: a later timeline was reserved, and has not begun")]
    NotKnownYet { name: String },
    #[error("this node's data directory cannot be read yet")]
    NoIdentity,
    #[error("the server is shutting down, and {name} could not be archived at once; it is kept")]
    ShuttingDown { name: String },
    #[error("no repository has taken it within {0:?}")]
    Late(Duration),
    #[error("it was given up half way")]
    GivenUp,
}

impl PushError {
    /// The repository that does not take anything now, if it is that.
    pub(super) fn broken_repository(&self) -> Option<&str> {
        match self {
            // Something about this one file.
            PushError::Repository(
                Error::Different { .. } | Error::Refused { .. } | Error::Damaged { .. },
            ) => None,
            PushError::Repository(error) => error.repository(),
            _ => None,
        }
    }
}
