//! `pgctl repo rekey`

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::repositories::{Which, refused};
use repository::{Rekeyed, Secret, rekey};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Done {
    repository: String,
    #[serde(flatten)]
    rekeyed: Rekeyed,
}

pub async fn run(format: Format, which: &Which, old_key_file: &Path) -> Result<(), Failure> {
    let shown = old_key_file.display();
    let text = std::fs::read_to_string(old_key_file)
        .map_err(|error| Failure::usage(format!("{shown} cannot be read: {error}")))?;
    // What was found is not told: it may be most of a key.
    let old = Secret::parse(&text)
        .ok_or_else(|| Failure::usage(format!("{shown}: a key must be 64 hexadecimal digits")))?;
    let mut all = Vec::new();
    for config in which
        .read_each()?
        .0
        .into_iter()
        .filter(|config| config.encrypts())
    {
        let rekeyed = rekey(&config, &old).await.map_err(refused)?;
        all.push(Done {
            repository: config.name,
            rekeyed,
        });
    }
    if all.is_empty() {
        return Err(Failure::usage("no repository of the file has a key"));
    }
    match format {
        Format::Json => output::json(&all),
        Format::Table => all.iter().try_for_each(|done| {
            output::line(format!(
                "repository {}: {} data keys are under the new key now, {} were already",
                done.repository, done.rekeyed.changed, done.rekeyed.already
            ))
        }),
    }
}
