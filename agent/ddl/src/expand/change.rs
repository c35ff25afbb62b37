//! Reads what is wanted: a script of ALTER TABLE, as it would be written for a table that nobody uses.

use crate::model::{Act, AlteredKind, Name, Statement, TableAction, TablePart};
use crate::read::script;
use std::collections::BTreeMap;

/// A change of a schema that can be made with two versions side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub tables: BTreeMap<Name, TableChange>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableChange {
    pub rename: Option<String>,
    /// By the name that the column has now.
    pub columns: BTreeMap<String, ColumnChange>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnChange {
    pub rename: Option<String>,
    /// Another type, with its collation, as SQL.
    pub ty: Option<String>,
    /// The new value from the old row, and the old value from the new row; `None`: the value itself.
    pub up: Option<String>,
    pub down: Option<String>,
    pub not_null: Option<bool>,
    /// `Some(None)`: none.
    pub default: Option<Option<String>>,
}

impl TableChange {
    fn column(&mut self, name: &str) -> &mut ColumnChange {
        self.columns.entry(name.to_owned()).or_default()
    }
}

/// Marks the way back in a comment: `-- pgctl:down amount = amount / 100`.
const DOWN: &str = "pgctl:down";

/// Reads scripts.
///
/// # Errors
/// Whatever is no change of a column's type or name, each with its file and line.
pub fn changes(files: &[(String, String)]) -> Result<Change, Vec<String>> {
    let mut change = Change::default();
    let mut refusals = Vec::new();
    for (path, text) in files {
        let read = script(text);
        for (statement, comments) in read.statements.iter().zip(&read.comments) {
            if let Err(why) = take(&mut change, statement, comments) {
                refusals.push(format!("{path}:{}: {why}", statement.line));
            }
        }
    }
    for (table, wanted) in &change.tables {
        for (column, wanted) in &wanted.columns {
            if wanted.ty.is_none() && (wanted.not_null.is_some() || wanted.default.is_some()) {
                refusals.push(format!(
                    "{table}.{column}: only a column that is given a type (also the one it has) can be given another \
                     default or NOT NULL: write ALTER COLUMN {column} TYPE ... as well, or use `pgctl ddl apply`"
                ));
            }
            if wanted.ty.is_none() && wanted.down.is_some() {
                refusals.push(format!(
                    "{table}.{column}: {DOWN} is given for it, and no ALTER COLUMN {column} TYPE"
                ));
            }
        }
    }
    if refusals.is_empty() && change.tables.is_empty() {
        refusals.push("there is no ALTER TABLE in it: nothing is to be done".to_owned());
    }
    if refusals.is_empty() {
        Ok(change)
    } else {
        Err(refusals)
    }
}

fn take(change: &mut Change, statement: &Statement, comments: &[(usize, String)]) -> Result<(), String> {
    match &statement.act {
        Act::Unread { line, reason } => Err(format!("it cannot be read (line {line}): {reason}")),
        // Both versions open and close at once, whatever the script says of transactions.
        Act::Begin | Act::Commit => Ok(()),
        Act::AlterTable {
            kind: AlteredKind::Table,
            table,
            parts,
            only: false,
            ..
        } => {
            let wanted = change.tables.entry(table.clone()).or_default();
            for part in parts {
                take_part(wanted, part)?;
            }
            for (_, comment) in comments {
                if let Some(rest) = comment.trim().strip_prefix(DOWN) {
                    take_down(wanted, rest)?;
                }
            }
            Ok(())
        }
        _ => Err(
            "an expansion changes types and names of columns, and names of tables, by ALTER TABLE: put other changes \
             into a script for `pgctl ddl apply`"
                .to_owned(),
        ),
    }
}

fn take_part(wanted: &mut TableChange, part: &TablePart) -> Result<(), String> {
    match &part.action {
        TableAction::SetType {
            column,
            ty,
            collation,
            using,
        } => {
            let collation = collation
                .as_ref()
                .map_or_else(String::new, |name| format!(" COLLATE {name}"));
            let entry = wanted.column(column);
            entry.ty = Some(format!("{}{collation}", ty.without_serial()));
            entry.up = using
                .as_ref()
                .map(|expr| expr.sql.trim().to_owned())
                .filter(|sql| sql.trim_matches(['(', ')', '"', ' ']) != column);
        }
        TableAction::RenameColumn { from, to } => wanted.column(from).rename = Some(to.clone()),
        TableAction::SetNotNull(column) => wanted.column(column).not_null = Some(true),
        TableAction::DropNotNull(column) => wanted.column(column).not_null = Some(false),
        TableAction::DropDefault(column) => wanted.column(column).default = Some(None),
        TableAction::SetDefault(column) => {
            let lower = part.sql.to_ascii_lowercase();
            let at = lower
                .rfind("set default ")
                .ok_or("its default cannot be told apart: write it more plainly")?;
            let value = part.sql[at + "set default ".len()..].trim().to_owned();
            wanted.column(column).default = Some(Some(value));
        }
        TableAction::Rename(to) => wanted.rename = Some(to.clone()),
        _ => {
            return Err(format!(
                "{} is no change of a type or a name: put it into a script for `pgctl ddl apply`",
                part.sql
            ));
        }
    }
    Ok(())
}

fn take_down(wanted: &mut TableChange, rest: &str) -> Result<(), String> {
    let (column, value) = rest
        .split_once('=')
        .ok_or_else(|| format!("write -- {DOWN} COLUMN = EXPRESSION"))?;
    let column = column.trim();
    let column = match column.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => column.to_lowercase(),
    };
    let value = value.trim().trim_end_matches(';').trim();
    if column.is_empty() || value.is_empty() {
        return Err(format!("write -- {DOWN} COLUMN = EXPRESSION"));
    }
    wanted.column(&column).down = Some(value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Change, Vec<String>> {
        changes(&[("c.sql".to_owned(), text.to_owned())])
    }

    #[test]
    fn types_names_defaults_and_the_way_back_are_read() {
        let change = read(
            "-- pgctl:down amount = round(amount * 100)\n\
             ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12,2) USING amount / 100.0, ALTER COLUMN amount SET DEFAULT 0.00,\n\
             ALTER amount SET NOT NULL;\n\
             ALTER TABLE public.orders RENAME COLUMN note TO remark;\nALTER TABLE s.\"T\" RENAME TO t;",
        )
        .expect("a change");
        let orders = &change.tables[&Name::plain("orders")];
        let amount = &orders.columns["amount"];
        assert_eq!(amount.ty.as_deref(), Some("numeric(12,2)"));
        assert_eq!(amount.up.as_deref(), Some("amount / 100.0"));
        assert_eq!(amount.down.as_deref(), Some("round(amount * 100)"));
        assert_eq!(amount.default, Some(Some("0.00".to_owned())));
        assert_eq!(amount.not_null, Some(true));
        assert_eq!(orders.columns["note"].rename.as_deref(), Some("remark"));
        assert_eq!(
            change.tables[&Name::new(Some("s".to_owned()), "T")]
                .rename
                .as_deref(),
            Some("t")
        );
    }

    #[test]
    fn what_is_no_change_of_a_type_or_a_name_is_refused_with_its_line() {
        let refused = |text: &str| read(text).expect_err("refused").join("; ");
        assert!(refused("\nCREATE TABLE t (a int);").starts_with("c.sql:2: "));
        assert!(refused("ALTER TABLE t DROP COLUMN a").contains("DROP COLUMN a"));
        assert!(refused("ALTER TABLE t ALTER a SET NOT NULL").contains("TYPE"));
        assert!(refused("-- pgctl:down a\nALTER TABLE t ALTER a TYPE bigint").contains("EXPRESSION"));
        assert!(refused("-- pgctl:down b = 1\nALTER TABLE t ALTER a TYPE bigint").contains("t.b"));
        assert!(refused("SELECT FROM WHERE").contains("c.sql:1"));
        assert!(refused("").contains("nothing is to be done"));
    }
}
