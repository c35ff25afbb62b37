//! Whether the data directory is one that this agent may use, and if not, what to do about it.

use super::account::Account;
use super::binaries::{Binaries, data_version};
use super::control_file;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What to say where an operation needs data and there is none.
pub const NO_DATA: &str = "it holds no database; create one with initdb or copy one from a member first";

/// The condition of a data directory that no server uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does not exist or is empty.
    Absent,
    /// A server can be started on it.
    Usable,
    /// A rewind has left it half changed: it is only good for being set aside.
    HalfRewound(String),
    /// It must not be touched until a person has acted.
    Unusable(String),
}

/// Looks at the folder, its owner and its mode, its version and its control file.
pub fn inspect(data_dir: &Path, account: &Account, binaries: &Binaries) -> Condition {
    let metadata = match std::fs::metadata(data_dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Condition::Absent,
        Err(error) => return Condition::Unusable(format!("{} cannot be read: {error}", data_dir.display())),
    };
    let shown = data_dir.display();
    if !metadata.is_dir() {
        return Condition::Unusable(format!("{shown} is not a folder; move it away"));
    }
    match std::fs::read_dir(data_dir) {
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Condition::Absent;
            }
        }
        Err(error) => return Condition::Unusable(format!("{shown} cannot be listed: {error}")),
    }
    let Some(major) = data_version(data_dir) else {
        return Condition::Unusable(format!(
            "{shown} is not empty and has no PG_VERSION, so it is not a PostgreSQL data directory; \
             move its content away or set another `data_dir`"
        ));
    };
    if major != binaries.major() {
        return Condition::Unusable(format!(
            "{shown} was made by PostgreSQL {major}, but {} is of version {}; set `bin_dir` to the programs of {major}",
            binaries.dir().display(),
            binaries.major()
        ));
    }
    if metadata.uid() != account.uid.as_raw() {
        return Condition::Unusable(format!(
            "{shown} belongs to user id {}, not to \"{name}\", whom the server runs as; run: chown -R {name}: {shown}",
            metadata.uid(),
            name = account.name
        ));
    }
    if metadata.mode() & 0o027 != 0 {
        return Condition::Unusable(format!(
            "{shown} has mode {:o}, and PostgreSQL refuses one that others may enter; run: chmod 0700 {shown}",
            metadata.mode() & 0o7777
        ));
    }
    if let Some(why) = blocked_way(data_dir, account) {
        return Condition::Unusable(why);
    }
    match control_file::read(data_dir) {
        Ok(Some(_)) => Condition::Usable,
        Ok(None) => Condition::Unusable(format!(
            "{shown} has no control file (global/pg_control), as after an interrupted copy; \
             set it aside and copy it anew (reinit)"
        )),
        Err(error) => Condition::Unusable(error.to_string()),
    }
}

/// The folder on the way to `path` that the server's user may not pass through, if there is one.
pub fn blocked_way(path: &Path, account: &Account) -> Option<String> {
    path.ancestors().skip(1).find_map(|folder| {
        let metadata = std::fs::metadata(folder).ok()?;
        (!account.may_enter(&metadata, false)).then(|| {
            format!(
                "the server's user \"{}\" may not pass through {shown}; run: chmod o+x {shown}",
                account.name,
                shown = folder.display()
            )
        })
    })
}
