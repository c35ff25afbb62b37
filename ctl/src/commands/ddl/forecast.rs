//! How long a step takes and what it writes: rough, from sizes and from rates that any disk of today reaches.

use ddl::plan::{Class, Step};
use proto::rollout::{SchemaReply, TableFacts, Traced};
use serde::Serialize;

/// Bytes a second: read from beginning to end; written anew with all indexes; built into an index.
const SCAN_RATE: u64 = 200 << 20;
const REWRITE_RATE: u64 = 40 << 20;
const INDEX_RATE: u64 = 50 << 20;
/// Rows a second that a backfill changes.
const BACKFILL_RATE: u64 = 10_000;
/// What standbys replay a second.
const REPLAY_RATE: u64 = 50 << 20;
/// WAL of one changed row, bytes: the row, its indexes, and whole pages now and then.
const BACKFILL_WAL: u64 = 400;

/// What is expected of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// Of the tables that it reads or writes whole.
    pub bytes: u64,
    pub rows: u64,
    /// Rough.
    pub seconds: u64,
    pub wal_bytes: u64,
    /// How far standbys may fall behind by it, seconds.
    pub replica_lag_seconds: u64,
    /// How long others cannot write, or read, if it is carried out as it stands; 0 where nobody is stopped for longer than an instant.
    pub stops_others_seconds: u64,
    /// What standbys feel besides.
    pub standbys: String,
    /// It cannot be taken back.
    pub irreversible: bool,
}

/// The forecast of one step.
pub fn of(step: &Step, traced: Option<&Traced>, schema: &SchemaReply) -> Forecast {
    let size = |name: &str| schema.tables.iter().find(|table| table.table == name);
    let sum = |names: &[String], of: fn(&TableFacts) -> u64| {
        names.iter().filter_map(|name| size(name)).map(of).sum::<u64>()
    };
    let rewrites = traced
        .filter(|it| it.not_traced.is_empty())
        .map_or(&step.rewrites, |it| &it.rewrites);
    let scans: Vec<String> = match traced.filter(|it| it.not_traced.is_empty()) {
        Some(traced) => traced
            .scans
            .iter()
            .filter(|name| !rewrites.contains(name))
            .cloned()
            .collect(),
        None => step
            .scans
            .iter()
            .filter(|name| !rewrites.contains(name))
            .cloned()
            .collect(),
    };
    let mut forecast = Forecast {
        irreversible: step.undo.is_empty()
            && !matches!(step.class, Class::CreateIndex { .. } | Class::Outside),
        ..Forecast::default()
    };
    let rewritten = sum(rewrites, |table| table.bytes + table.index_bytes);
    let scanned = sum(&scans, |table| table.bytes);
    forecast.bytes = rewritten + scanned;
    forecast.rows = sum(rewrites, |table| table.rows) + sum(&scans, |table| table.rows);
    forecast.wal_bytes = rewritten;
    forecast.seconds = rewritten / REWRITE_RATE + scanned / SCAN_RATE;
    if !step.patient {
        forecast.stops_others_seconds = forecast.seconds;
    }
    match &step.class {
        Class::CreateIndex { table, .. } | Class::Reindex { relation: table } => {
            let bytes = size(table).map_or(0, |table| table.bytes);
            forecast.bytes = bytes;
            forecast.rows = size(table).map_or(0, |table| table.rows);
            // Read twice, and a third of it written as an index.
            forecast.seconds = 2 * bytes / SCAN_RATE + bytes / 3 / INDEX_RATE;
            forecast.wal_bytes = bytes / 3;
        }
        Class::Backfill { table, .. } => {
            forecast.rows = size(table).map_or(0, |table| table.rows);
            forecast.bytes = size(table).map_or(0, |table| table.bytes);
            forecast.seconds = forecast.rows / BACKFILL_RATE;
            forecast.wal_bytes = forecast.rows * BACKFILL_WAL;
        }
        _ => {}
    }
    let throttled = matches!(step.class, Class::Backfill { .. });
    forecast.replica_lag_seconds = if throttled {
        0
    } else {
        forecast.wal_bytes / REPLAY_RATE
    };
    forecast.standbys = standbys(step, &schema.standby_delay);
    forecast
}

fn standbys(step: &Step, delay: &str) -> String {
    let alone = step.locks.iter().any(|(_, mode)| mode == "AccessExclusiveLock");
    if alone {
        format!(
            "replay waits for queries on the same tables, and cancels them after {delay} (max_standby_streaming_delay)"
        )
    } else if matches!(step.class, Class::Backfill { .. }) {
        "it waits while one of them falls behind".to_owned()
    } else {
        String::new()
    }
}
