//! Accounts: servers refuse to run as root.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, User};

/// The account that programs run under.
#[derive(Clone, Debug)]
pub struct OsUser {
    /// Its name: `postgres`.
    pub name: String,
    /// Its user id.
    pub uid: Uid,
    /// Its primary group.
    pub gid: Gid,
}

impl OsUser {
    /// The account this process runs under.
    ///
    /// # Errors
    /// It has no name in the user database.
    pub fn current() -> Result<OsUser> {
        let user = User::from_uid(Uid::effective()).context("cannot read the user database")?;
        let user =
            user.with_context(|| format!("user {} has no name; initdb would refuse it", Uid::effective()))?;
        Ok(OsUser {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
        })
    }

    /// The account for servers, which refuse to run as root: ours if we are not root, else `postgres` if it exists,
    /// else `nobody`.
    ///
    /// # Errors
    /// None of these is in the user database.
    pub fn for_servers() -> Result<OsUser> {
        if !Uid::effective().is_root() {
            return OsUser::current();
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("cannot read the user database")? {
                return Ok(OsUser {
                    name: user.name,
                    uid: user.uid,
                    gid: user.gid,
                });
            }
        }
        bail!("neither user postgres nor user nobody exists; run scripts/install-deps")
    }

    /// Makes `dir` (its parents must exist), owned by this user, readable by all: a server cannot use a folder
    /// below one that it may not enter.
    ///
    /// # Errors
    /// It cannot be made or given away.
    pub fn make_dir(&self, dir: &Path) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let failed = || format!("cannot make {} for user {}", dir.display(), self.name);
        if !dir.exists() {
            fs::DirBuilder::new()
                .mode(0o755)
                .create(dir)
                .with_context(failed)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).with_context(failed)?;
        }
        if Uid::effective().is_root() {
            nix::unistd::chown(dir, Some(self.uid), Some(self.gid)).with_context(failed)?;
        }
        Ok(())
    }
}
