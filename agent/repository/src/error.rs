//! What can go wrong with a repository, and what to do about it.

use std::time::Duration;

/// Why something with a repository did not come off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not do it.
    #[error("repository {repository}: could not {action} {key}: {source}")]
    Store {
        repository: String,
        action: &'static str,
        key: String,
        source: Box<object_store::Error>,
    },
    /// The store did not answer.
    #[error(
        "repository {repository}: no answer within {after:?} to: {action} {key}; is the store reachable?"
    )]
    Late {
        repository: String,
        action: &'static str,
        key: String,
        after: Duration,
    },
    /// Earlier calls into a directory have not come back, so this one was not made.
    #[error(
        "repository {repository}: its file system hangs ({calls} calls have not come back), so this is not tried: {action} \
         {key}; is the server of the mount reachable?"
    )]
    Hangs {
        repository: String,
        action: &'static str,
        key: String,
        calls: usize,
    },
    /// The object is not there, and the store is the right one.
    #[error("repository {repository}: {key} is not there")]
    Missing { repository: String, key: String },
    /// The store answers, and is not the repository that it should be.
    #[error("repository {repository}: {why}")]
    NotThisOne { repository: String, why: String },
    /// An object is not what was written.
    #[error(
        "repository {repository}: {key} is damaged: {why}; fetch it from another repository, or take a new backup"
    )]
    Damaged {
        repository: String,
        key: String,
        why: String,
    },
    /// Another content is there under the same name.
    #[error(
        "repository {repository}: {key} is there with other content ({hashes}); nothing was overwritten, \
         ours is kept as {quarantine}. Two servers wrote the same WAL: find out which one is right before anything else"
    )]
    Different {
        repository: String,
        key: String,
        /// Theirs and ours.
        hashes: String,
        quarantine: String,
    },
    /// A file is not what its name says.
    #[error("{name} is refused: {why}")]
    Refused { name: String, why: String },
    /// The configuration makes no sense.
    #[error("repository {repository}: {why}")]
    Config { repository: String, why: String },
    /// A key to encrypt with or to read with is not to be had.
    #[error("repository {repository}: {why}")]
    Key { repository: String, why: String },
    /// A file on this machine.
    #[error("could not {action} {path}: {source}")]
    File {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the object is known not to be there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
    }

    /// The repository that it is about, if it is about one.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        match self {
            Error::Store { repository, .. }
            | Error::Late { repository, .. }
            | Error::Hangs { repository, .. }
            | Error::Missing { repository, .. }
            | Error::NotThisOne { repository, .. }
            | Error::Damaged { repository, .. }
            | Error::Different { repository, .. }
            | Error::Config { repository, .. }
            | Error::Key { repository, .. } => Some(repository),
            Error::Refused { .. } | Error::File { .. } => None,
        }
    }

    pub(crate) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.display().to_string();
        move |source| Error::File { action, path, source }
    }
}
