//! The definition of a column, in CREATE TABLE and ADD COLUMN.

use super::words::Cursor;
use crate::model::{Column, Generated, TypeName};

/// What ends a DEFAULT: it takes no bare NOT, so the next clause is found by its first word.
const AFTER_DEFAULT: &[&str] = &[
    "constraint",
    "not null",
    "not valid",
    "not deferrable",
    "not enforced",
    "check",
    "default",
    "generated",
    "unique",
    "primary key",
    "references",
    "collate",
    "deferrable",
    "initially",
    "storage",
    "compression",
];

impl Cursor<'_, '_> {
    /// A column: its name, its type, its clauses, up to the end of the cursor.
    pub fn column(&mut self) -> Option<Column> {
        let name = self.ident()?;
        let typed = !self.done()
            && !AFTER_DEFAULT
                .iter()
                .chain(&["with options"])
                .any(|word| self.at(word));
        let ty = if typed { self.type_name()? } else { untyped() };
        let mut column = Column {
            name,
            ty,
            collation: None,
            default: None,
            generated: None,
            constraints: Vec::new(),
        };
        while !self.done() {
            self.column_clause(&mut column);
        }
        Some(column)
    }

    fn column_clause(&mut self, column: &mut Column) {
        let name = if self.eat("constraint") {
            self.ident()
        } else {
            None
        };
        if let Some(constraint) = self.column_constraint(&column.name, name) {
            column.constraints.push(constraint);
        } else if self.eat("default") {
            let begin = self.rest();
            self.step_over();
            let more = self.until(AFTER_DEFAULT).len();
            let taken = begin.len() - self.rest().len();
            debug_assert!(taken >= more, "the first word is the default's in any case");
            // `NULL` ends a default only when it is not its first word.
            let words = match begin[1..taken].iter().position(|word| word.is("null")) {
                Some(at) if !begin[at].is("is") && !begin[at].is("not") && begin[at].text != "," => {
                    &begin[..=at]
                }
                _ => &begin[..taken],
            };
            column.default = Some(self.expr(words));
        } else if self.eat("generated") {
            self.eat_any(&["always as", "by default as"]);
            if self.eat("identity") {
                self.parens();
                column.generated = Some(Generated::Identity);
            } else {
                let inner = self.parens();
                let expr = self.expr(inner);
                let stored = self.eat("stored");
                self.eat("virtual");
                column.generated = Some(if stored {
                    Generated::Stored(expr)
                } else {
                    Generated::Virtual(expr)
                });
            }
        } else if self.eat("collate") {
            column.collation = self.name().map(|name| name.to_string());
        } else if self.eat_any(&["storage", "compression"]) {
            self.next();
        } else {
            self.step_over();
        }
    }
}

/// Of a partition or a typed table, which takes its columns' types from elsewhere.
fn untyped() -> TypeName {
    TypeName {
        base: String::new(),
        mods: Vec::new(),
        array: false,
        sql: String::new(),
    }
}
