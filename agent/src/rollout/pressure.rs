//! Who suffers from a backfill.

use super::job::{Job, Stop};
use super::sql::{Db, field};
use agent_core::rollout::Pressure;

/// A look at the standbys, the slots, the archive, the disk, and the table with that OID. Standbys count by how far they have replayed:
/// queries there wait behind what they have not.
pub(super) async fn look(job: &Job, agent: &Db, table: u32, commit_ms: u64) -> Result<Pressure, Stop> {
    let sql = format!(
        "SELECT \
         coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn)) FROM pg_stat_replication \
           WHERE state = 'streaming'), 0)::bigint, \
         coalesce((SELECT max(extract(epoch FROM replay_lag) * 1000) FROM pg_stat_replication WHERE state = 'streaming'), 0)::bigint, \
         coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)) FROM pg_replication_slots \
           WHERE slot_type = 'logical' AND active), 0)::bigint, \
         (SELECT count(*) FROM pg_locks WHERE relation = {table} AND NOT granted), \
         EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.relation = {table} \
           AND a.backend_type = 'autovacuum worker'), \
         t.live, t.dead FROM (SELECT coalesce(sum(s.n_live_tup), 0)::bigint AS live, coalesce(sum(s.n_dead_tup), 0)::bigint AS dead \
           FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = s.relid \
           WHERE (s.relid = {table} OR s.relid IN (SELECT relid FROM pg_partition_tree({table}))) \
           AND current_setting('autovacuum')::boolean \
           AND NOT coalesce('autovacuum_enabled=false' = ANY (c.reloptions), false)) t"
    );
    let rows = agent.rows(&sql).await?;
    let row = rows.first().cloned().unwrap_or_default();
    let number = |column: usize| {
        field(&row, column)
            .parse::<i64>()
            .unwrap_or(0)
            .max(0)
            .unsigned_abs()
    };
    let room = job.server.room();
    Ok(Pressure {
        lag_bytes: number(0),
        lag_ms: number(1),
        slot_lag_bytes: number(2),
        archive_queue: job.server.archive_queue(),
        lock_waiters: number(3),
        commit_ms,
        vacuum: field(&row, 4) == "t",
        live_rows: number(5),
        dead_rows: number(6),
        free_bytes: room.map(|(free, _)| free),
        volume_bytes: room.map_or(0, |(_, size)| size),
    })
}
