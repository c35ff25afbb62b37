//! Files that are either the old or the new one after a crash, never half of each.

use super::PgError;
use super::account::Account;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes `path` hold `content`, owned by `account`, with `mode`; true if it held something else before.
///
/// The new file is complete on disk before it takes the name, and the name is on disk before this returns.
pub fn replace(path: &Path, content: &str, account: &Account, mode: u32) -> Result<bool, PgError> {
    if std::fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(false);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".pgctl-new");
    let aside = path.with_file_name(name);
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(PgError::file("remove", &aside)(error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)
        .map_err(PgError::file("create", &aside))?;
    account.own(&aside)?;
    file.write_all(content.as_bytes())
        .map_err(PgError::file("write", &aside))?;
    file.sync_all().map_err(PgError::file("flush", &aside))?;
    std::fs::rename(&aside, path).map_err(PgError::file("put in place", path))?;
    sync_parent(path)?;
    Ok(true)
}

/// Makes sure that a name that was given, changed or removed in `path`'s folder stays so after a crash.
pub fn sync_parent(path: &Path) -> Result<(), PgError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let sync = || File::open(parent)?.sync_all();
    sync().map_err(PgError::file("flush the folder", parent))
}

/// Removes a file; that it is not there is fine.
pub fn remove(path: &Path) -> Result<(), PgError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PgError::file("remove", path)(error)),
    }
}

/// Makes `path` hold `content`, for the agent's eyes only.
pub fn write_private(path: &Path, content: &str) -> Result<(), PgError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    write().map_err(PgError::file("write", path))?;
    sync_parent(path)
}
