//! One number for a whole schema: two databases with the same one have the same tables, columns, constraints, indexes, types,
//! views, functions and triggers, valid or not alike. Rows, OIDs and the agents' own tables do not count.

use super::job::Stop;
use super::sql::Db;

const LINES: &str = "\
WITH spaces AS (SELECT oid, nspname FROM pg_namespace \
    WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgctl')), \
relations AS (SELECT c.*, s.nspname, format('%I.%I', s.nspname, c.relname) AS full_name \
    FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace), \
lines AS ( \
    SELECT format('schema %I', nspname) AS line FROM spaces \
    UNION ALL SELECT format('relation %s %s %s %s %s %s', full_name, relkind, relpersistence, relreplident, \
        coalesce(pg_get_partkeydef(oid), ''), coalesce(pg_get_expr(relpartbound, oid), '')) || coalesce(reloptions::text, '') \
        FROM relations WHERE relkind <> 'i' AND relkind <> 'I' \
    UNION ALL SELECT format('column %s %I %s %s %s %s %s %s', r.full_name, a.attname, format_type(a.atttypid, a.atttypmod), \
        a.attnotnull, a.attidentity, a.attgenerated, coalesce(a.attcollation::regcollation::text, ''), \
        coalesce(pg_get_expr(d.adbin, d.adrelid), '')) FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid \
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
        WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') \
    UNION ALL SELECT format('constraint %s %I %s %s', r.full_name, c.conname, pg_get_constraintdef(c.oid), c.convalidated) \
        FROM pg_constraint c JOIN relations r ON r.oid = c.conrelid \
    UNION ALL SELECT format('domain constraint %s %I %s %s', c.contypid::regtype, c.conname, pg_get_constraintdef(c.oid), \
        c.convalidated) FROM pg_constraint c JOIN spaces s ON s.oid = c.connamespace WHERE c.contypid <> 0 \
    UNION ALL SELECT format('index %s %s', pg_get_indexdef(i.indexrelid), i.indisvalid) \
        FROM pg_index i JOIN relations r ON r.oid = i.indrelid WHERE r.relkind <> 't' \
    UNION ALL SELECT format('child %s %s %s', i.inhrelid::regclass, i.inhparent::regclass, i.inhdetachpending) \
        FROM pg_inherits i JOIN relations r ON r.oid = i.inhparent WHERE r.relkind IN ('r', 'p', 'f') \
    UNION ALL SELECT format('trigger %s %s', pg_get_triggerdef(t.oid), t.tgenabled) \
        FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal \
    UNION ALL SELECT format('view %s %s', full_name, pg_get_viewdef(oid)) FROM relations WHERE relkind IN ('v', 'm') \
    UNION ALL SELECT format('function %s %s', p.oid::regprocedure, md5(pg_get_functiondef(p.oid))) \
        FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace WHERE p.prokind IN ('f', 'p') \
    UNION ALL SELECT format('label %s %s %s', e.enumtypid::regtype, row_number() OVER (PARTITION BY e.enumtypid ORDER BY \
        e.enumsortorder), e.enumlabel) FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN spaces s ON s.oid = t.typnamespace \
    UNION ALL SELECT format('policy %s %I %s %s %s', r.full_name, p.polname, p.polcmd, pg_get_expr(p.polqual, p.polrelid), \
        pg_get_expr(p.polwithcheck, p.polrelid)) FROM pg_policy p JOIN relations r ON r.oid = p.polrelid \
) SELECT md5(coalesce(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\"), '')) FROM lines";

/// The fingerprint of the session's database.
pub(super) async fn of(agent: &Db) -> Result<String, Stop> {
    // `pg_inherits.inhdetachpending` is as old as DETACH CONCURRENTLY.
    let pending = "SELECT current_setting('server_version_num')::int >= 140000";
    let sql = if agent.truth(pending).await? {
        LINES.to_owned()
    } else {
        LINES.replace("i.inhdetachpending", "false")
    };
    Ok(agent.text(&sql).await?.unwrap_or_default())
}
