//! What drills found: the proof that backups can be restored lies beside them.

use crate::envelope::Kind;
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use std::collections::BTreeMap;

impl Repository {
    /// Keeps what the drill `id` found, as JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn keep_evidence(&self, line: &Line, id: &str, json: Vec<u8>) -> Result<(), Error> {
        let writer = self.encrypting(line, id).await?;
        writer
            .create(line.drill(id), Kind::Evidence, id, BTreeMap::new(), json)
            .await
            .map(|_| ())
    }

    /// What every drill found, by name: its id, and JSON.
    ///
    /// # Errors
    /// The store does not list, or an object is damaged.
    pub async fn evidence(&self, line: &Line) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        for listed in self.list(&line.drills()).await? {
            let (header, json) = self.read(&listed.key).await?;
            found.push((header.name, json));
        }
        Ok(found)
    }
}
