//! A session, with the questions that are asked of it.

use crate::ports::{SchemaServer, SqlError, SqlRole, SqlRows, SqlSession};
use std::time::Duration;

/// How long a small question may take. Whoever does not answer within it is hung, or a lock is in the way where none should be.
const QUESTION_WITHIN: Duration = Duration::from_secs(15);

/// A session with the rollout's database.
pub(super) struct Db {
    session: Box<dyn SqlSession>,
    /// Its process in the server.
    pub pid: i32,
}

impl Db {
    pub async fn open(
        server: &dyn SchemaServer,
        database: &str,
        role: SqlRole,
        settings: &[&str],
    ) -> Result<Db, SqlError> {
        let session = server.open(database, role, settings).await?;
        let mut db = Db { session, pid: 0 };
        db.pid = db.number("SELECT pg_catalog.pg_backend_pid()").await?;
        Ok(db)
    }

    /// Runs statements as long as they take.
    pub async fn run(&self, sql: &str) -> Result<SqlRows, SqlError> {
        self.session.rows(sql).await
    }

    /// A small question.
    pub async fn rows(&self, sql: &str) -> Result<SqlRows, SqlError> {
        match tokio::time::timeout(QUESTION_WITHIN, self.session.rows(sql)).await {
            Ok(answer) => answer,
            Err(_) => Err(SqlError {
                code: None,
                message: format!("the server did not answer within {QUESTION_WITHIN:?}"),
            }),
        }
    }

    /// The first value of the first row.
    pub async fn text(&self, sql: &str) -> Result<Option<String>, SqlError> {
        Ok(first(self.rows(sql).await?))
    }

    pub async fn truth(&self, sql: &str) -> Result<bool, SqlError> {
        Ok(self.text(sql).await?.as_deref() == Some("t"))
    }

    /// A number; its default where there is none.
    pub async fn number<N: std::str::FromStr + Default>(&self, sql: &str) -> Result<N, SqlError> {
        let text = self.text(sql).await?;
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
    }

    pub fn take_notices(&mut self) -> Vec<String> {
        self.session.take_notices()
    }
}

/// The first value of the first row.
pub(super) fn first(rows: SqlRows) -> Option<String> {
    rows.into_iter().next()?.into_iter().next()?
}

/// The value of a column, empty for NULL.
pub(super) fn field(row: &[Option<String>], column: usize) -> &str {
    row.get(column).and_then(Option::as_deref).unwrap_or_default()
}

/// A text as SQL.
pub(super) fn literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A name as SQL.
pub(super) fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The OID of a relation that a script names, as SQL: by the session's search path, else in `public`, which scripts and plans
/// leave out.
pub(super) fn relation(written: &str) -> String {
    let here = format!("pg_catalog.to_regclass({})", literal(written));
    if written.contains('.') {
        return here;
    }
    format!(
        "coalesce({here}, pg_catalog.to_regclass({}))",
        literal(&format!("public.{written}"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_names_cannot_be_broken_out_of() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(name("a\"b"), "\"a\"\"b\"");
        assert_eq!(
            relation("\"T\""),
            "coalesce(pg_catalog.to_regclass('\"T\"'), pg_catalog.to_regclass('public.\"T\"'))"
        );
        assert_eq!(relation("s.t"), "pg_catalog.to_regclass('s.t')");
    }
}
