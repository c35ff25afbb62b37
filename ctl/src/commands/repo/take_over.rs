//! `pgctl repo take-over`

use crate::failure::Failure;
use crate::output::{self, Format, confirm};
use crate::repositories::{Which, refused};
use crate::wall_time::now_ms;
use repository::{Owner, owner, take_over};
use serde::Serialize;

#[derive(Serialize)]
struct Taken {
    repository: String,
    /// Whose it was; empty if nobody had claimed it.
    from: String,
    by: String,
    taken: bool,
}

pub async fn run(format: Format, which: &Which, by: &str, yes: bool) -> Result<(), Failure> {
    let opened = which.open().await?;
    let last = owner(&opened.repository, &opened.line).await.map_err(refused)?;
    let from = last.map(|(_, owner)| owner.cluster_id).unwrap_or_default();
    if from != by {
        let question = format!(
            "Cluster {from} archives into {}. Will no server of it ever run again, so that {by} may?",
            opened.line
        );
        confirm(&question, yes)?;
    }
    let claims = Owner {
        cluster_id: by.to_owned(),
        at_ms: now_ms(),
    };
    let taken = take_over(&opened.repository, &opened.line, &claims)
        .await
        .map_err(refused)?;
    let done = Taken {
        repository: opened.repository.name().to_owned(),
        from,
        by: by.to_owned(),
        taken,
    };
    match format {
        Format::Json => output::json(&done),
        Format::Table if taken => output::line(format!("{by} archives into {} from now on", opened.line)),
        Format::Table => output::line("it has it already: nothing to do"),
    }
}
