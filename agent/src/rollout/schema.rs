//! What plans are made of, besides the scripts: the schema, and how large everything is.

use super::sql::{Db, field};
use crate::ports::{SchemaServer, SqlError, SqlRole};
use proto::rollout as wire;

/// The largest tables that are told of.
const TABLES: u32 = 2_000;

/// The schema of a database of this node's server.
pub(super) async fn of(
    server: &dyn SchemaServer,
    database: &str,
    node: String,
) -> Result<wire::SchemaReply, SqlError> {
    let agent = Db::open(server, database, SqlRole::Agent, &[]).await?;
    let sql = format!(
        "SELECT CASE WHEN n.nspname = 'public' THEN quote_ident(c.relname) ELSE format('%I.%I', n.nspname, c.relname) END, \
         pg_table_size(c.oid), pg_indexes_size(c.oid), greatest(c.reltuples, 0)::bigint, \
         EXISTS (SELECT FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a ON a.pid = v.pid WHERE v.relid = c.oid \
         AND v.datname = current_database() AND a.query LIKE '%to prevent wraparound%') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm', 'p') \
         AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgctl') ORDER BY 2 DESC LIMIT {TABLES}"
    );
    let tables = agent.rows(&sql).await?.into_iter().map(|row| wire::TableFacts {
        table: field(&row, 0).to_owned(),
        bytes: field(&row, 1).parse().unwrap_or_default(),
        index_bytes: field(&row, 2).parse().unwrap_or_default(),
        rows: field(&row, 3).parse().unwrap_or_default(),
        wraparound_vacuum: field(&row, 4) == "t",
    });
    let standby_delay = agent
        .text("SELECT current_setting('max_standby_streaming_delay')")
        .await?
        .unwrap_or_default();
    let dump = server
        .dump(database)
        .await
        .map_err(|message| SqlError { code: None, message })?;
    Ok(wire::SchemaReply {
        node,
        server_version: server.server_version(),
        dump,
        tables: tables.collect(),
        standby_delay,
    })
}
