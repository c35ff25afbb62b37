//! A backup for a node that has no data.

use super::Archive;
use crate::ports::{OpenOrder, PlannedRestore, Restores};
use agent_core::cluster::RestoreTarget;
use agent_core::decide::node::BackupSight;
use agent_core::pg::SystemId;
use futures::future::{BoxFuture, FutureExt};
use repository::{Catalogue, Line, Repository, backups, inventory, restore_into};
use std::path::PathBuf;

impl Archive {
    async fn newest_complete(&self, of: SystemId, major: u32) -> Result<Option<Catalogue>, String> {
        let line = Line::new(&self.config.cluster, of);
        let (usable, trouble) = self.doors.usable(&line).await;
        let mut trouble = trouble.map(|error| error.to_string());
        for opened in usable {
            match complete(&opened.plain, &line, major).await {
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {}
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    async fn restore_backup(&self, of: SystemId, id: &str, into: PathBuf) -> Result<(), String> {
        let line = Line::new(&self.config.cluster, of);
        let (usable, trouble) = self.doors.usable(&line).await;
        let mut trouble =
            trouble.map_or_else(|| "no repository has it".to_owned(), |error| error.to_string());
        for opened in usable {
            let entries = backups(&opened.plain, &line)
                .await
                .map_err(|error| error.to_string())?;
            let Some(entry) = entries.into_iter().find(|entry| entry.id == id) else {
                continue;
            };
            match restore_into(&opened.plain, &entry, &into, |_| (), |_| Ok(())).await {
                Ok(done) => {
                    tracing::info!(backup = id, files = done.files, bytes = done.bytes, "restored");
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(backup = id, %error, "restoring it from the next repository");
                    trouble = error.to_string();
                    empty(&into).map_err(|error| format!("{}: {error}", into.display()))?;
                }
            }
        }
        Err(trouble)
    }
}

/// The newest one with all its WAL.
async fn complete(repository: &Repository, line: &Line, major: u32) -> Result<Option<Catalogue>, String> {
    let entries = backups(repository, line)
        .await
        .map_err(|error| error.to_string())?;
    if entries.is_empty() {
        return Ok(None);
    }
    let there = inventory(repository, line)
        .await
        .map_err(|error| error.to_string())?;
    let fit = repository::complete(&entries, &there).into_iter().rev();
    let mut fit = fit
        .filter(|entry| entry.server_version / 10_000 == major)
        .cloned();
    Ok(fit.next())
}

/// A restore begins in an empty folder.
fn empty(folder: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl Restores for Archive {
    fn newest(&self, of: SystemId, major: u32) -> BoxFuture<'_, Result<Option<BackupSight>, String>> {
        async move {
            let newest = self.newest_complete(of, major).await?;
            Ok(newest.map(|entry| BackupSight {
                id: entry.id,
                timeline: entry.timeline,
                start: entry.start,
                stop: entry.stop,
                bytes: entry.bytes,
            }))
        }
        .boxed()
    }

    fn restore(&self, of: SystemId, id: String, into: PathBuf) -> BoxFuture<'_, Result<(), String>> {
        async move { self.restore_backup(of, &id, into).await }.boxed()
    }

    fn plan(
        &self,
        of: SystemId,
        major: u32,
        target: RestoreTarget,
    ) -> BoxFuture<'_, Result<PlannedRestore, String>> {
        async move { self.plan_in_place(of, Some(major), &target).await }.boxed()
    }

    fn recover_by(&self, order: Option<OpenOrder>) -> Result<(), String> {
        self.recover_in_place(order)
    }
}
