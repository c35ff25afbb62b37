//! Making a new database cluster.

use super::data_dir::Condition;
use super::hba::AGENT_ROLE;
use super::owned_settings::initial_limits;
use super::program::Program;
use super::{Instance, PgError, durable_file, rewind};
use agent_core::pg::SystemId;
use std::path::{Path, PathBuf};

/// The ending of a data directory in the making. Nothing of value ever lies under that name: what is found there is
/// left of an attempt that did not end, and is removed.
const UNFINISHED: &str = ".pgctl-new";
/// The locale that sorts the same on every machine and knows all of Unicode, and the one that is everywhere.
const LOCALES: [&str; 2] = ["C.UTF-8", "C"];

impl Instance {
    /// Makes a new database cluster with data checksums, SCRAM and UTF-8. It takes its place only when it is complete and
    /// on disk, so that a crash leaves no half of one.
    ///
    /// # Errors
    /// If the data directory is not empty, a server or another job uses it, or `initdb` fails.
    pub async fn initdb(&self) -> Result<SystemId, PgError> {
        let result = self.initdb_unnoted().await;
        self.note(result)
    }

    async fn initdb_unnoted(&self) -> Result<SystemId, PgError> {
        let _claim = self.claim("create a database", "initdb")?;
        self.require_absent()?;
        let mut locales = LOCALES.into_iter();
        loop {
            let Some(locale) = locales.next() else {
                return Err(PgError::Setting {
                    name: "locale".to_owned(),
                    why: format!("this machine has none of {}", LOCALES.join(", ")),
                });
            };
            let place = self.unfinished_place()?;
            let program = Program::new("initdb")
                .arg("--pgdata")
                .arg(&place)
                .arg(format!("--username={AGENT_ROLE}"))
                .arg("--data-checksums")
                .arg("--encoding=UTF8")
                .arg(format!("--locale={locale}"))
                .arg("--auth-local=peer")
                .arg("--auth-host=scram-sha-256");
            match self.run(program, |_| false).await {
                Ok(_) => {
                    self.record_limits(&place).await?;
                    self.finish(&place)?;
                }
                Err(PgError::Program { said, .. }) if said.contains("invalid locale") => continue,
                Err(error) => return Err(error),
            }
            return Ok(self.existing_control()?.file.system_id);
        }
    }

    /// Starts the new server once for nobody, so that its control file has the operator's limits instead of the defaults.
    async fn record_limits(&self, place: &Path) -> Result<(), PgError> {
        let limits = initial_limits(self.config())
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"));
        let program = Program::new("postgres").arg("--single").arg("-D").arg(place);
        let program = limits
            .fold(program, |program, limit| program.arg("-c").arg(limit))
            .arg("template1");
        self.run(program, |_| false).await.map(|_| ())
    }

    /// That there is nothing in the way of a new data directory.
    pub(super) fn require_absent(&self) -> Result<(), PgError> {
        match self.condition() {
            Condition::Absent => Ok(()),
            Condition::Usable | Condition::HalfRewound(_) | Condition::Unusable(_) => {
                Err(PgError::Unusable {
                    path: self.config().data_dir.clone(),
                    why: "it is not empty, and what is there is never overwritten; set it aside first"
                        .to_owned(),
                })
            }
        }
    }

    /// An empty folder for the server's user beside the data directory.
    pub(super) fn unfinished_place(&self) -> Result<PathBuf, PgError> {
        let place = self.config().beside(UNFINISHED);
        match std::fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PgError::file("remove", &place)(error));
            }
            _ => {}
        }
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).map_err(PgError::file("create", parent))?;
        }
        if let Some(why) = super::data_dir::blocked_way(&place, self.account()) {
            return Err(PgError::Unusable { path: place, why });
        }
        self.account().create_dir(&place, 0o700)?;
        Ok(place)
    }

    /// Gives a complete data directory its name. An empty folder of that name is replaced.
    pub(super) fn finish(&self, place: &Path) -> Result<(), PgError> {
        let data_dir = &self.config().data_dir;
        std::fs::rename(place, data_dir).map_err(PgError::file("put in place", data_dir))?;
        durable_file::sync_parent(data_dir)?;
        // Whatever was half changed under this name is gone.
        rewind::forget_unfinished(&self.config().state_dir)?;
        self.data_dir_replaced();
        Ok(())
    }
}
