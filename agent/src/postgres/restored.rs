//! A data directory out of a repository.

use super::{Instance, PgError};
use std::future::Future;
use std::path::{Path, PathBuf};

/// What a copy must not have of the server that was backed up.
const LEFT_OUT: [&str; 4] = [
    "standby.signal",
    "recovery.signal",
    "postmaster.pid",
    "pgctl.pass",
];

impl Instance {
    /// Has `fill` write the files of a backup into a folder, and makes that the data directory once it is complete. What
    /// had come until a failure is removed at the next try.
    ///
    /// # Errors
    /// If the data directory is not empty, a server or another job uses it, or `fill` fails.
    pub async fn take_restored<F>(&self, fill: impl FnOnce(PathBuf) -> F + Send) -> Result<(), PgError>
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let result = self.take_restored_unnoted(fill).await;
        self.note(result)
    }

    async fn take_restored_unnoted<F>(&self, fill: impl FnOnce(PathBuf) -> F + Send) -> Result<(), PgError>
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let _claim = self.claim("restore a backup", "restore")?;
        self.require_absent()?;
        let place = self.unfinished_place()?;
        fill(place.clone()).await.map_err(|why| PgError::Unusable {
            path: place.clone(),
            why: format!("the backup could not be restored: {why}"),
        })?;
        let instance = self.clone();
        let finishing = tokio::task::spawn_blocking(move || {
            for name in LEFT_OUT {
                super::durable_file::remove(&place.join(name))?;
            }
            instance.own_all(&place)?;
            // What is in it goes to disk when the server starts: it finds that it was not shut down.
            instance.finish(&place)
        });
        finishing.await.map_err(|error| PgError::Process {
            action: "put the restored backup in place".to_owned(),
            source: std::io::Error::other(error),
        })?
    }

    /// Gives everything below `folder` to the server's user.
    fn own_all(&self, folder: &Path) -> Result<(), PgError> {
        let entries = std::fs::read_dir(folder).map_err(PgError::file("list", folder))?;
        for entry in entries.flatten() {
            let path = entry.path();
            self.account().own(&path)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.own_all(&path)?;
            }
        }
        self.account().own(folder)
    }
}
