//! `pgctl repo inspect`

use crate::failure::Failure;
use crate::output::{self, Format, bytes, or_dash};
use crate::repositories::{Which, refused};
use crate::wall_time::utc;
use repository::{Survey, survey};
use serde::Serialize;

#[derive(Serialize)]
struct Inspected {
    repository: String,
    #[serde(flatten)]
    survey: Survey,
}

pub async fn run(format: Format, which: &Which) -> Result<(), Failure> {
    let mut all = Vec::new();
    for config in which.read_each()?.0 {
        let survey = survey(&config).await.map_err(refused)?;
        all.push(Inspected {
            repository: config.name,
            survey,
        });
    }
    match format {
        Format::Json => output::json(&all),
        Format::Table => all.iter().try_for_each(print),
    }
}

fn print(inspected: &Inspected) -> Result<(), Failure> {
    let survey = &inspected.survey;
    let id = match (&survey.id, survey.format) {
        (Some(id), Some(format)) => format!("id {id}, format {format}"),
        _ => "NO repository.json: see `pgctl repo adopt`".to_owned(),
    };
    output::line(format!("repository {}: {id}", inspected.repository))?;
    let time = |ms: Option<i64>| or_dash(ms.and_then(|ms| u64::try_from(ms).ok()).map(utc));
    for line in &survey.lines {
        output::line(format!(
            "  {} (database {}), written {} to {}",
            line.cluster,
            line.incarnation,
            time(line.oldest_ms),
            time(line.newest_ms)
        ))?;
        for (folder, heap) in &line.heaps {
            output::line(format!(
                "    {folder:<10} {:>8} objects  {:>10}",
                heap.objects,
                bytes(heap.stored_bytes)
            ))?;
        }
        for (by, count) in &line.keys {
            let ours = if survey.key.as_deref() == Some(by) {
                ", which the configuration has"
            } else {
                ""
            };
            output::line(format!("    {count} data keys under the key {by}{ours}"))?;
        }
    }
    for path in &survey.temporary {
        output::line(format!(
            "  left by a write that was broken off: {}",
            path.display()
        ))?;
    }
    for key in &survey.strange {
        output::line(format!("  does not belong here: {key}"))?;
    }
    Ok(())
}
