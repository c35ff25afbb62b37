//! The versions of a schema that are open beside the tables, and what hangs on the columns of tables. The questions are those of
//! `ddl::expand`, which makes steps of the answers; here they are only asked.

use super::sql::{Db, literal};
use crate::ports::{SchemaServer, SqlError, SqlRole};
use proto::rollout as wire;

const FACTS: &str = include_str!("../../ddl/src/expand/facts.sql");
const VERSIONS: &str = include_str!("../../ddl/src/expand/versions.sql");

/// What there is in a database of this node's server.
pub(super) async fn of(
    server: &dyn SchemaServer,
    database: &str,
    tables: &[String],
    node: String,
) -> Result<wire::VersionsReply, SqlError> {
    let agent = Db::open(server, database, SqlRole::Agent, &[]).await?;
    let names: Vec<String> = tables.iter().map(|table| literal(table)).collect();
    let role = literal(server.rollout_role().unwrap_or_default());
    let facts = FACTS
        .replace(":role", &role)
        .replace(":tables", &format!("ARRAY[{}]::text[]", names.join(", ")));
    let facts = agent.text(&facts).await?.unwrap_or_default();
    let known = "SELECT to_regclass('pgctl.versions') IS NOT NULL";
    let versions = if agent.truth(known).await? {
        agent.text(VERSIONS).await?.unwrap_or_default()
    } else {
        "[]".to_owned()
    };
    Ok(wire::VersionsReply {
        node,
        facts,
        versions,
    })
}
