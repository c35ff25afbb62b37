//! How far a step came that is no transaction: never by its name alone.

use super::job::Stop;
use super::sql::{Db, field, first, literal, relation};

/// What there is of an index that a step builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IndexState {
    Absent,
    /// Valid, and as the step defines it.
    Done,
    /// What an attempt that was broken off has left: its name, as SQL.
    Broken(String),
    /// Another index of that name: its definition.
    Other(String),
}

/// An index that a step builds, as SQL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub table: &'a str,
    pub index: &'a str,
    pub unique: bool,
    pub definition: &'a str,
}

/// Looks for the index. Definitions are compared as the server writes them: it is made to build the same index on an
/// empty copy of the table.
pub(super) async fn index(worker: &Db, wanted: Wanted<'_>) -> Result<IndexState, Stop> {
    let Wanted {
        table,
        index,
        unique,
        definition,
    } = wanted;
    let there = format!(
        "SELECT i.indexrelid::pg_catalog.regclass::text, i.indisvalid AND i.indisready AND i.indislive, i.indisunique, \
         pg_catalog.pg_get_indexdef(i.indexrelid) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         WHERE i.indrelid = {}::oid AND pg_catalog.quote_ident(c.relname) = \
         (SELECT pg_catalog.quote_ident((pg_catalog.parse_ident({}))[1]))",
        relation(table),
        literal(index)
    );
    let rows = worker.rows(&there).await?;
    let Some(row) = rows.first() else {
        return Ok(IndexState::Absent);
    };
    if field(row, 1) != "t" {
        return Ok(IndexState::Broken(field(row, 0).to_owned()));
    }
    let kind = if unique { "UNIQUE INDEX" } else { "INDEX" };
    let twin = format!(
        "BEGIN; CREATE TEMPORARY TABLE pgctl_twin ON COMMIT DROP AS SELECT * FROM {table} WITH NO DATA; \
         CREATE {kind} pgctl_twin_index ON pg_temp.pgctl_twin {definition}"
    );
    let compared = async {
        worker.rows(&twin).await?;
        let sql = "SELECT pg_catalog.pg_get_indexdef('pg_temp.pgctl_twin_index'::pg_catalog.regclass)";
        Ok::<_, Stop>(first(worker.rows(sql).await?).unwrap_or_default())
    };
    let twin = compared.await;
    worker.rows("ROLLBACK").await?;
    let (real, twin) = (field(row, 3), twin?);
    let same = tail(real) == tail(&twin) && (field(row, 2) == "t") == unique;
    Ok(if same {
        IndexState::Done
    } else {
        IndexState::Other(real.to_owned())
    })
}

/// What stands behind the table's name.
fn tail(definition: &str) -> &str {
    definition
        .find(" USING ")
        .map_or(definition, |at| &definition[at..])
}

/// Invalid indexes that REINDEX CONCURRENTLY has left on a table, or on the table of an index; as SQL names.
pub(super) async fn leftovers(worker: &Db, of: &str) -> Result<Vec<String>, Stop> {
    let oid = format!("{}::oid", relation(of));
    let sql = format!(
        "SELECT i.indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND c.relkind = 'i' AND i.indrelid IN \
         (SELECT {oid} UNION SELECT x.indrelid FROM pg_catalog.pg_index x WHERE x.indexrelid = {oid})"
    );
    let rows = worker.rows(&sql).await?;
    Ok(rows.iter().map(|row| field(row, 0).to_owned()).collect())
}

/// Whether a partition is attached; `Some(true)`: its detaching was begun and not ended.
pub(super) async fn attached(worker: &Db, parent: &str, child: &str) -> Result<Option<bool>, Stop> {
    let sql = format!(
        "SELECT inhdetachpending FROM pg_catalog.pg_inherits WHERE inhparent = {}::oid AND inhrelid = {}::oid",
        relation(parent),
        relation(child)
    );
    Ok(worker.text(&sql).await?.map(|pending| pending == "t"))
}

/// Whether there is a relation of that name.
pub(super) async fn exists(worker: &Db, written: &str) -> Result<bool, Stop> {
    Ok(worker
        .truth(&format!("SELECT {} IS NOT NULL", relation(written)))
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_compared_behind_the_tables_name() {
        let real = "CREATE UNIQUE INDEX i ON public.\"a USING b\" USING btree (x) WHERE (y > 0)";
        assert_eq!(tail("CREATE INDEX i ON s.t USING btree (x)"), " USING btree (x)");
        assert!(tail(real).ends_with("USING btree (x) WHERE (y > 0)"));
    }
}
