//! Small things that lie beside the backups: what keeps one, and what proves it.

use crate::cipher::random_name;
use crate::envelope::Kind;
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use serde::{Deserialize, Serialize};

/// Keeps a backup, whatever the policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub backup: String,
    /// ms since 1970; without it, until it is taken away.
    pub until_ms: Option<i64>,
    /// A legal hold: it has no end, and is only taken away by name.
    pub hold: bool,
    /// For people.
    #[serde(default)]
    pub reason: String,
    /// By the wall clock of whoever set it, ms since 1970.
    pub at_ms: i64,
}

/// A backup was restored, and what came out was right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub backup: String,
    /// When the restore began, ms since 1970.
    pub at_ms: i64,
    /// The node that restored it.
    pub node: String,
}

/// What of a drill's evidence counts here.
#[derive(Deserialize)]
struct Drill {
    succeeded: bool,
    #[serde(default)]
    backup: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    began_unix_ms: i64,
}

/// Every pin of a line; those that are over as well.
///
/// # Errors
/// The store does not list, or one is damaged.
pub async fn pins(repository: &Repository, line: &Line) -> Result<Vec<Pin>, Error> {
    let found = repository.read_all(&line.pins()).await?;
    Ok(found.into_iter().map(|(_, pin)| pin).collect())
}

/// The proofs of a line: the drills that succeeded.
///
/// # Errors
/// The store does not list, or one is damaged.
pub async fn proofs(repository: &Repository, line: &Line) -> Result<Vec<Proof>, Error> {
    let found: Vec<(String, Drill)> = repository.read_all(&format!("{line}/drills")).await?;
    let succeeded = found.into_iter().filter(|(_, drill)| drill.succeeded);
    Ok(succeeded
        .map(|(_, drill)| Proof {
            backup: drill.backup,
            at_ms: drill.began_unix_ms,
            node: drill.node,
        })
        .collect())
}

/// Keeps a backup from now on.
///
/// # Errors
/// There is no such finished backup, it is being deleted already, or the pin could not be written.
pub async fn pin(repository: &Repository, line: &Line, pin: &Pin) -> Result<(), Error> {
    let refused = |why: &str| Error::Refused {
        name: format!("pin of backup {}", pin.backup),
        why: why.to_owned(),
    };
    let gone = || refused("it is being deleted, or is not there: see `pgctl backup list`");
    let there = async || match repository.header(&line.backup(&pin.backup)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    };
    if !there().await? {
        return Err(gone());
    }
    let key = line.pin(&pin.backup, &name(repository)?);
    repository
        .create_json(key.clone(), Kind::Pin, &pin.backup, pin)
        .await?;
    // Whoever deletes says so before it looks for pins: one of the two sees the other.
    let begun = repository.exists(&line.sweep(&pin.backup)).await?;
    if begun || !there().await? {
        repository.delete(&key).await?;
        return Err(gone());
    }
    Ok(())
}

/// Takes the pins of a backup away, or, with `hold`, its legal holds. Gives how many there were.
///
/// # Errors
/// The store does not list or delete.
pub async fn unpin(repository: &Repository, line: &Line, backup: &str, hold: bool) -> Result<usize, Error> {
    let mut taken = 0;
    let all: Vec<(String, Pin)> = repository.read_all(&line.pin(backup, "")).await?;
    for (key, pin) in all {
        if pin.hold == hold {
            repository.delete(&key).await?;
            taken += 1;
        }
    }
    Ok(taken)
}

pub(crate) fn name(repository: &Repository) -> Result<String, Error> {
    random_name().ok_or_else(|| Error::Refused {
        name: format!("repository {}", repository.name()),
        why: "the system gives no random numbers".to_owned(),
    })
}
