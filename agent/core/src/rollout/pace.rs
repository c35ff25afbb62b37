//! The pace of a backfill: as fast as nobody minds.

use crate::cluster::RolloutLimits;

/// What a backfill may do harm to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Of the standby that is furthest behind in replay, bytes and milliseconds.
    pub lag_bytes: u64,
    pub lag_ms: u64,
    /// Of the logical slot that is furthest behind, bytes.
    pub slot_lag_bytes: u64,
    /// Segments that wait to be archived.
    pub archive_queue: u64,
    /// Sessions that wait for a lock on the table.
    pub lock_waiters: u64,
    /// How long the last batch waited for its commit to be acknowledged, milliseconds.
    pub commit_ms: u64,
    /// Autovacuum is at work on the table: it would be in the way of both.
    pub vacuum: bool,
    /// Rows of the table that count, and that are dead and not removed yet; 0 where autovacuum does not look after it.
    pub live_rows: u64,
    pub dead_rows: u64,
    /// Of the volume of the data or of the WAL, whichever has less room: bytes that are free, and its size.
    pub free_bytes: Option<u64>,
    pub volume_bytes: u64,
}

/// The batch sizes that are used, rows.
pub const BATCH_SMALLEST: u64 = 10;
const BATCH_LARGEST: u64 = 100_000;
/// Segments in the queue from which on the archive counts as behind.
const ARCHIVE_QUEUE_MOST: u64 = 64;
/// Fewer dead rows than this do not matter, however small the table.
const DEAD_ROWS_LEAST: u64 = 100_000;
/// By default autovacuum begins at a fifth of the live rows: at twice as much it does not keep up.
const DEAD_PER_100_LIVE: u64 = 40;
/// A server with less room than this, or than a tenth of a smaller volume, shall not be filled by us.
const ROOM_LEAST: u64 = 10 << 30;

/// Why the next batch has to wait; `None`: it need not.
#[must_use]
pub fn too_much(pressure: &Pressure, limits: &RolloutLimits) -> Option<String> {
    if pressure.lock_waiters > 0 {
        return Some(format!(
            "{} sessions wait for locks on the table",
            pressure.lock_waiters
        ));
    }
    if pressure.lag_bytes > limits.lag_bytes {
        return Some(format!(
            "a standby has {} bytes to replay, {} are allowed",
            pressure.lag_bytes, limits.lag_bytes
        ));
    }
    // Without bytes in between the age only says that nothing was written.
    if pressure.lag_bytes > 0 && pressure.lag_ms > limits.lag_ms {
        return Some(format!(
            "a standby is {} ms behind, {} are allowed",
            pressure.lag_ms, limits.lag_ms
        ));
    }
    if pressure.slot_lag_bytes > limits.lag_bytes.saturating_mul(4) {
        return Some(format!(
            "a logical slot is {} bytes behind, {} are allowed",
            pressure.slot_lag_bytes,
            limits.lag_bytes.saturating_mul(4)
        ));
    }
    if pressure.archive_queue > ARCHIVE_QUEUE_MOST {
        return Some(format!(
            "{} WAL files wait to be archived",
            pressure.archive_queue
        ));
    }
    let room = ROOM_LEAST.min(pressure.volume_bytes / 10);
    if let Some(free) = pressure.free_bytes.filter(|free| *free < room) {
        return Some(format!(
            "only {} MB are free on the server's disk, {} MB are wanted: make room",
            free >> 20,
            room >> 20
        ));
    }
    if pressure.dead_rows > DEAD_ROWS_LEAST.max(pressure.live_rows / 100 * DEAD_PER_100_LIVE) {
        return Some(format!(
            "the table has {} dead rows beside {} live ones: autovacuum does not keep up, or an old transaction or slot \
             holds it back",
            pressure.dead_rows, pressure.live_rows
        ));
    }
    if pressure.vacuum {
        return Some("autovacuum is at work on the table".to_owned());
    }
    (pressure.commit_ms > limits.lag_ms).then(|| {
        format!(
            "the last commit waited {} ms for its standbys, {} are allowed",
            pressure.commit_ms, limits.lag_ms
        )
    })
}

/// How many rows the next batch should have, after one of `rows` that took `took_ms`: towards the time that is aimed at, and at
/// most twice as many at once.
#[must_use]
pub fn next_batch(rows: u64, took_ms: u64, limits: &RolloutLimits) -> u64 {
    let aimed = limits.batch_ms.max(1);
    let fitting = rows.saturating_mul(aimed) / took_ms.max(1);
    fitting
        .min(rows.saturating_mul(2))
        .max(rows / 4)
        .clamp(BATCH_SMALLEST, BATCH_LARGEST)
}
