//! `pgctl wal holes`

use crate::failure::Failure;
use crate::output::{self, Format, bytes, or_dash};
use crate::repositories::{Which, refused};
use crate::wall_time::utc;
use repository::{Hole, Inventory, inventory};
use serde::Serialize;

#[derive(Serialize)]
struct Archived {
    timelines: Vec<Timeline>,
    stored_bytes: u64,
    holes: Vec<Hole>,
}

#[derive(Serialize)]
struct Timeline {
    timeline: u32,
    first: String,
    last: String,
    segments: usize,
}

fn archived(there: &Inventory) -> Archived {
    let timelines = there.segments.iter().filter_map(|(timeline, numbers)| {
        Some(Timeline {
            timeline: timeline.0,
            first: there.name_of(*timeline, *numbers.first()?),
            last: there.name_of(*timeline, *numbers.last()?),
            segments: numbers.len(),
        })
    });
    Archived {
        timelines: timelines.collect(),
        stored_bytes: there.stored_bytes,
        holes: there.holes(),
    }
}

pub async fn run(format: Format, which: &Which) -> Result<(), Failure> {
    let opened = which.open().await?;
    let there = inventory(&opened.repository, &opened.line)
        .await
        .map_err(refused)?;
    let archived = archived(&there);
    match format {
        Format::Json => output::json(&archived)?,
        Format::Table => {
            let rows = archived.timelines.iter().map(|it| {
                vec![
                    it.timeline.to_string(),
                    it.first.clone(),
                    it.last.clone(),
                    it.segments.to_string(),
                ]
            });
            output::table(&["TIMELINE", "FIRST", "LAST", "SEGMENTS"], rows)?;
            output::line(format!("{} stored", bytes(archived.stored_bytes)))?;
            let time = |ms: Option<i64>| or_dash(ms.and_then(|ms| u64::try_from(ms).ok()).map(utc));
            for hole in &archived.holes {
                output::line(format!(
                    "MISSING {} to {} ({} segments), archived before it: {}, after it: {}",
                    hole.first,
                    hole.last,
                    hole.segments,
                    time(hole.after_ms),
                    time(hole.before_ms)
                ))?;
                if let Some(why) = &hole.given_up {
                    output::line(format!("        {why}"))?;
                }
            }
        }
    }
    if archived.holes.is_empty() {
        Ok(())
    } else {
        let missing: u64 = archived.holes.iter().map(|hole| hole.segments).sum();
        Err(Failure::Refused {
            id: "holes".to_owned(),
            message: format!("{missing} segments are missing"),
            next: "take a new backup (`pgctl backup create`): a restore cannot pass a hole".to_owned(),
        })
    }
}
