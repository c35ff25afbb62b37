//! `pgctl dump list`

use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::repositories::{Which, refused};
use crate::wall_time::{span, utc};
use repository::{Dump, dumps};

pub async fn run(format: Format, which: &Which) -> Result<(), Failure> {
    let opened = which.open().await?;
    let found = dumps(&opened.repository, &opened.line).await.map_err(refused)?;
    if format == Format::Json {
        return output::json(&found);
    }
    let headings = ["DUMP", "DATABASE", "ENDED", "TOOK", "NODE", "SIZE", "STORED"];
    output::table(&headings, found.iter().map(row))
}

fn row(dump: &Dump) -> Vec<String> {
    let ms = |ms: i64| u64::try_from(ms).unwrap_or(0);
    let database = if dump.database.is_empty() {
        "(globals)".to_owned()
    } else {
        dump.database.clone()
    };
    vec![
        dump.id.clone(),
        database,
        utc(ms(dump.ended_ms)),
        span(ms(dump.ended_ms - dump.begun_ms)),
        dump.node.clone(),
        bytes(dump.bytes),
        bytes(dump.stored_bytes),
    ]
}
