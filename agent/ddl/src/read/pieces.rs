//! Parts of statements as text, for whoever has to put them together in another way.

use super::syntax;
use super::words::Cursor;

/// `CREATE INDEX`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexParts {
    pub unique: bool,
    /// `ONLY t`, as written.
    pub table: String,
    /// What follows the table's name: `USING btree (a) WHERE b`.
    pub definition: String,
}

/// Takes a CREATE INDEX apart.
#[must_use]
pub fn index_parts(sql: &str) -> Option<IndexParts> {
    let words = syntax::words(sql).ok()?;
    let mut cursor = Cursor::new(sql, &words);
    if !cursor.eat("create") {
        return None;
    }
    let unique = cursor.eat("unique");
    if !cursor.eat("index") {
        return None;
    }
    cursor.until(&["on"]);
    cursor.eat("on");
    let table = cursor.until(&["using", "("]);
    Some(IndexParts {
        unique,
        table: cursor.text(table),
        definition: cursor.text(cursor.rest()),
    })
}

/// `UPDATE t SET ... WHERE ...`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateParts {
    /// As written.
    pub table: String,
    /// Behind SET.
    pub set: String,
    /// Behind WHERE; empty for all rows.
    pub filter: String,
}

/// Takes an UPDATE of one table apart; `None` where it is anything more (an alias, FROM, RETURNING, WITH), or where running
/// it in parts would not be the same: it limits or orders nothing, but it may look at its own table.
#[must_use]
pub fn update_parts(sql: &str) -> Option<UpdateParts> {
    let words = syntax::words(sql).ok()?;
    let mut cursor = Cursor::new(sql, &words);
    if !cursor.eat("update") {
        return None;
    }
    cursor.eat("only");
    let begin = cursor;
    let name = cursor.name()?;
    let written = cursor.text(&begin.rest()[..begin.rest().len() - cursor.rest().len()]);
    if !cursor.eat("set") {
        return None;
    }
    if words
        .iter()
        .any(|word| word.is("returning") || word.is("current"))
    {
        return None;
    }
    // A subquery on the table itself would see what earlier batches did.
    let own = words
        .iter()
        .filter(|word| word.is_name() && word.folded == name.name)
        .count();
    if own > 1 && words.iter().any(|word| word.is("select")) {
        return None;
    }
    let set = cursor.until(&["where", "from"]);
    if cursor.at("from") {
        return None;
    }
    let set = cursor.text(set);
    let filter = if cursor.eat("where") {
        cursor.text(cursor.rest())
    } else {
        String::new()
    };
    Some(UpdateParts {
        table: written,
        set,
        filter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_taken_apart_with_all_that_follows_its_table() {
        let parts = index_parts("CREATE UNIQUE INDEX CONCURRENTLY i ON ONLY s.\"T\" USING btree (lower(a) DESC, b) INCLUDE (c) WHERE b > 0")
            .expect("an index");
        assert!(parts.unique);
        assert_eq!(parts.table, "ONLY s.\"T\"");
        assert_eq!(
            parts.definition,
            "USING btree (lower(a) DESC, b) INCLUDE (c) WHERE b > 0"
        );
        let plain = index_parts("create index on t(a)").expect("an index");
        assert_eq!((plain.table.as_str(), plain.definition.as_str()), ("t", "(a)"));
        assert_eq!(index_parts("CREATE TABLE t (a int)"), None);
    }

    #[test]
    fn an_update_of_one_table_is_taken_apart_and_others_are_not() {
        let parts = update_parts(
            "UPDATE s.t SET a = b + 1, c = (SELECT max(x) FROM u WHERE u.id = 1) WHERE a IS NULL OR b = 2",
        )
        .expect("an update");
        assert_eq!(parts.table, "s.t");
        assert_eq!(parts.set, "a = b + 1, c = (SELECT max(x) FROM u WHERE u.id = 1)");
        assert_eq!(parts.filter, "a IS NULL OR b = 2");
        assert_eq!(update_parts("UPDATE t SET a = 1").expect("an update").filter, "");
        for other in [
            "UPDATE t x SET a = 1",
            "UPDATE t SET a = 1 FROM u WHERE u.id = t.id",
            "UPDATE t SET a = 1 RETURNING a",
            "WITH w AS (SELECT 1) UPDATE t SET a = 1",
            "UPDATE t SET a = (SELECT max(a) FROM t)",
            "DELETE FROM t",
        ] {
            assert_eq!(update_parts(other), None, "{other}");
        }
    }
}
