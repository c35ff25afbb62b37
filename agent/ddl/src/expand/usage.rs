//! Whether anybody uses a version: by what was written, which is noted, and by what is read, which is looked for.

use super::contract::Keep;
use super::facts::State;
use super::{Expansion, NOTHING, Table, literal, transaction};
use crate::plan::Step;

/// The most steps that are spent on watching: each can be paused behind, and is not long.
const WATCHES_MOST: u64 = 40;
/// The shortest of them, seconds.
const WATCH_SHORTEST: u64 = 10;
/// Which sessions are nobody's program.
const NOT_PROGRAMS: &str = "'pgctl-rollout', 'pgctl-agent', 'pg_dump'";

/// Looks ten times a second whether any session uses what goes. A program that reads through the new version locks its view
/// beside the table; one that knows the old version locks the table alone.
pub fn watch(
    expansion: &Expansion,
    left: &[(Table, Vec<String>)],
    keep: Keep,
    seconds: u64,
    state: State,
) -> Vec<Step> {
    // A version that was never opened has no views to use.
    if state == State::Expanding || left.is_empty() {
        return Vec::new();
    }
    let length = seconds
        .div_ceil(WATCHES_MOST)
        .max(WATCH_SHORTEST)
        .min(seconds.max(1));
    let pairs: Vec<String> = left
        .iter()
        .map(|(table, _)| {
            format!(
                "({}::pg_catalog.regclass, {}::pg_catalog.regclass)",
                literal(&table.sql()),
                literal(&expansion.view(table))
            )
        })
        .collect();
    let (goes, condition) = match keep {
        Keep::New => (
            "old",
            "l.relation = pair.base AND NOT EXISTS (SELECT FROM held v WHERE v.pid = l.pid AND v.relation = pair.version)",
        ),
        Keep::Old | Keep::Tables => ("new", "l.relation = pair.version"),
    };
    let written = if keep == Keep::Tables {
        String::new()
    } else {
        gate(expansion, goes, length)
    };
    // One look at all locks: between two of them a program would come and go, and seem to hold one without the other.
    // Keys of other tables that point here are checked under ROW SHARE: they are no program's use.
    let sql = format!(
        "DO $pgctl$ DECLARE ends timestamptz := clock_timestamp() + interval '{length} seconds'; found text; BEGIN LOOP \
         {written} PERFORM pg_stat_clear_snapshot(); WITH held AS MATERIALIZED (SELECT * FROM pg_locks) SELECT format('pid %s (role %s, application %s) uses %s', l.pid, a.usename, \
         coalesce(a.application_name, '?'), l.relation::regclass) INTO found FROM held l JOIN pg_stat_activity a ON a.pid = l.pid JOIN (VALUES \
         {}) pair(base, version) ON {condition} WHERE l.locktype = 'relation' AND l.granted AND l.mode IN ('AccessShareLock', \
         'RowExclusiveLock') AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND l.pid <> \
         pg_backend_pid() AND a.usesysid IS NOT NULL AND coalesce(a.application_name, '') NOT IN ({NOT_PROGRAMS}) LIMIT 1; IF found IS NOT NULL \
         THEN RAISE EXCEPTION 'the {goes} version is in use: %', found USING HINT = 'let that program be the other version, then pgctl \
         ddl resume; or pgctl ddl abort, which changes nothing'; END IF; EXIT WHEN clock_timestamp() >= ends; PERFORM \
         pg_sleep(0.1); END LOOP; END $pgctl$",
        pairs.join(", ")
    );
    let count = seconds.div_ceil(length);
    (0..count)
        .map(|_| transaction(vec![sql.clone()], Vec::new(), vec![NOTHING.to_owned()]))
        .collect()
}

/// Refuses, in PL/pgSQL, if that version was written by within so many seconds.
pub fn gate(expansion: &Expansion, goes: &str, seconds: u64) -> String {
    if !expansion.tables.iter().any(Table::has_shadows) {
        return String::new();
    }
    let marker = literal(&expansion.marker(goes));
    format!(
        "IF to_regclass({marker}) IS NOT NULL AND coalesce(pg_sequence_last_value(to_regclass({marker})), 0) >= \
         floor(extract(epoch FROM clock_timestamp()))::bigint - {seconds} THEN RAISE EXCEPTION 'a program of the {goes} version has \
         written % s ago, {seconds} s are asked for', floor(extract(epoch FROM clock_timestamp()))::bigint - \
         pg_sequence_last_value(to_regclass({marker})) USING HINT = 'let it be the other version, then pgctl ddl resume; or pgctl \
         ddl abort, which changes nothing'; END IF;"
    )
}
