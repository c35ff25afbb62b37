//! The operating system's user that the server runs as.

use super::{InstanceConfig, PgError};
use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of the agent's environment a server process may see. Everything else is left out, above all the `PG*`
/// variables: libpq reads them in the walreceiver too, and would connect elsewhere.
const KEPT_ENVIRONMENT: [&str; 4] = ["PATH", "LANG", "TZ", "LD_LIBRARY_PATH"];

/// Who owns the server's files and processes.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    groups: Vec<Gid>,
    home: PathBuf,
    /// The agent is root and has to become this user for each process it starts.
    switch: bool,
}

impl Account {
    /// The agent's own user unless the agent is root, because PostgreSQL refuses to run as root: then the configured
    /// one, else `postgres`, else the owner of the data directory.
    pub fn resolve(config: &InstanceConfig) -> Result<Account, PgError> {
        let wrong = |why: String| PgError::Setting {
            name: "os_user".to_owned(),
            why,
        };
        let own = Uid::effective();
        let user = match &config.os_user {
            Some(name) => lookup_name(name).ok_or_else(|| {
                wrong(format!(
                    "this machine has no user \"{name}\"; create it with `useradd`"
                ))
            })?,
            None if !own.is_root() => lookup_uid(own).ok_or_else(|| {
                wrong(format!(
                    "the agent's user id {own} has no name in the user database"
                ))
            })?,
            None => lookup_name("postgres")
                .or_else(|| owner(&config.data_dir))
                .ok_or_else(|| {
                    wrong(
                        "the agent is root and there is no user `postgres`: name the server's user"
                            .to_owned(),
                    )
                })?,
        };
        if user.uid.is_root() {
            return Err(wrong(
                "PostgreSQL refuses to run as root; name another user".to_owned(),
            ));
        }
        if !own.is_root() && user.uid != own {
            return Err(wrong(format!(
                "the agent runs as user id {own} and cannot start a server as \"{}\"; run it as that user or as root",
                user.name
            )));
        }
        let c_name =
            CString::new(user.name.as_str()).map_err(|_| wrong("the name holds a NUL byte".to_owned()))?;
        let groups = getgrouplist(&c_name, user.gid).unwrap_or_else(|_| vec![user.gid]);
        Ok(Account {
            uid: user.uid,
            gid: user.gid,
            groups,
            home: user.dir,
            name: user.name,
            switch: own.is_root(),
        })
    }

    /// A command that will run as this user, with a clean environment, in the root folder. What `before` registers to
    /// run in the child still has the agent's rights.
    #[allow(unsafe_code)]
    pub fn command(&self, program: &Path, before: impl FnOnce(&mut Command)) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir("/");
        for name in KEPT_ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name);
        before(&mut command);
        if self.switch {
            let Account { uid, gid, groups, .. } = self.clone();
            // SAFETY: between fork and exec this makes three system calls and allocates nothing.
            unsafe {
                command.pre_exec(move || {
                    setgroups(&groups)?;
                    setgid(gid)?;
                    setuid(uid)?;
                    Ok(())
                });
            }
        }
        command
    }

    /// Whether this user may pass through (or, with `write`, also put files into) a folder with that owner and mode.
    pub fn may_enter(&self, folder: &std::fs::Metadata, write: bool) -> bool {
        let wanted = if write { 0o3 } else { 0o1 };
        let mode = folder.mode();
        let granted = if folder.uid() == self.uid.as_raw() {
            mode >> 6
        } else if self.groups.iter().any(|group| group.as_raw() == folder.gid()) {
            mode >> 3
        } else {
            mode
        };
        granted & wanted == wanted
    }

    /// Creates `dir` for this user with `mode` if it is not there.
    pub fn create_dir(&self, dir: &Path, mode: u32) -> Result<(), PgError> {
        use std::os::unix::fs::DirBuilderExt;
        match std::fs::DirBuilder::new().mode(mode).create(dir) {
            Ok(()) => self.own(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(PgError::file("create", dir)(error)),
        }
    }

    /// Gives `path` to this user, if the agent can.
    pub fn own(&self, path: &Path) -> Result<(), PgError> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
            .map_err(PgError::file("change the owner of", path))
    }
}

fn lookup_name(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

fn lookup_uid(uid: Uid) -> Option<User> {
    User::from_uid(uid).ok().flatten()
}

fn owner(data_dir: &Path) -> Option<User> {
    lookup_uid(Uid::from_raw(std::fs::metadata(data_dir).ok()?.uid()))
}
