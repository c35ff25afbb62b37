//! Constraints of tables, columns and domains.

use super::words::{Cursor, Word};
use crate::model::{Constraint, ConstraintKind, Name};

/// What may follow a constraint and belongs to it.
#[derive(Default)]
struct Marks {
    not_valid: bool,
    not_enforced: bool,
}

impl<'w, 'a> Cursor<'w, 'a> {
    /// A constraint of a table, at `CONSTRAINT name` or at its first word.
    pub fn table_constraint(&mut self) -> Option<Constraint> {
        let name = if self.eat("constraint") {
            self.ident()
        } else {
            None
        };
        let begin = self.rest();
        let kind = if self.eat("not null") {
            ConstraintKind::NotNull {
                column: self.ident()?,
            }
        } else if self.eat("check") {
            let inner = self.parens();
            ConstraintKind::Check(self.expr(inner))
        } else if self.eat("unique") {
            let (columns, index) = self.index_part();
            ConstraintKind::Unique { columns, index }
        } else if self.eat("primary key") {
            let (columns, index) = self.index_part();
            ConstraintKind::PrimaryKey { columns, index }
        } else if self.eat("foreign key") {
            let columns = self.columns();
            self.eat("references");
            let (parent, parent_columns) = self.parent()?;
            ConstraintKind::ForeignKey {
                columns,
                parent,
                parent_columns,
            }
        } else if self.eat("exclude") {
            self.exclusion()
        } else {
            return None;
        };
        Some(self.ended(name, kind, begin))
    }

    /// `EXCLUDE [USING method] (column WITH operator, ...)`.
    fn exclusion(&mut self) -> ConstraintKind {
        if self.eat("using") {
            self.ident();
        }
        let columns = self.columns();
        if self.eat("where") {
            self.parens();
        }
        ConstraintKind::Exclude { columns }
    }

    /// A constraint in a column's definition; `None` if the next words are none.
    pub fn column_constraint(&mut self, column: &str, name: Option<String>) -> Option<Constraint> {
        let begin = self.rest();
        let kind = if self.eat("not null") {
            ConstraintKind::NotNull {
                column: column.to_owned(),
            }
        } else if self.eat("check") {
            let inner = self.parens();
            ConstraintKind::Check(self.expr(inner))
        } else if self.eat("unique") {
            self.index_part();
            ConstraintKind::Unique {
                columns: vec![column.to_owned()],
                index: None,
            }
        } else if self.eat("primary key") {
            self.index_part();
            ConstraintKind::PrimaryKey {
                columns: vec![column.to_owned()],
                index: None,
            }
        } else if self.eat("references") {
            let (parent, parent_columns) = self.parent()?;
            ConstraintKind::ForeignKey {
                columns: vec![column.to_owned()],
                parent,
                parent_columns,
            }
        } else if self.eat("exclude") {
            self.exclusion()
        } else {
            return None;
        };
        Some(self.ended(name, kind, begin))
    }

    /// What follows UNIQUE or PRIMARY KEY: columns, or USING INDEX.
    fn index_part(&mut self) -> (Vec<String>, Option<String>) {
        if self.eat("using index") && !self.at("tablespace") {
            return (Vec::new(), self.ident());
        }
        self.eat_any(&["nulls not distinct", "nulls distinct"]);
        let columns = self.columns();
        if self.eat("include") {
            self.parens();
        }
        if self.eat("with") {
            self.parens();
        }
        if self.eat("using index tablespace") {
            self.ident();
        }
        (columns, None)
    }

    /// `parent (columns) MATCH ... ON DELETE ...`.
    fn parent(&mut self) -> Option<(Name, Vec<String>)> {
        let parent = self.name()?;
        let columns = self.columns();
        if self.eat("match") {
            self.ident();
        }
        while self.eat_any(&["on delete", "on update"]) {
            if self.eat("set") {
                self.ident();
                self.parens();
            } else if !self.eat("no action") {
                self.ident();
            }
        }
        Some((parent, columns))
    }

    /// The constraint that began at `begin`, with the marks behind it.
    fn ended(&mut self, name: Option<String>, kind: ConstraintKind, begin: &'w [Word<'a>]) -> Constraint {
        let (body, marks) = self.body(begin);
        Constraint {
            name,
            kind,
            not_valid: marks.not_valid,
            not_enforced: marks.not_enforced,
            body,
        }
    }

    /// Goes past the marks behind a constraint that began at `begin`; its text without NOT VALID.
    fn body(&mut self, begin: &'w [Word<'a>]) -> (String, Marks) {
        let mut marks = Marks::default();
        let mut kept = begin.len() - self.rest().len();
        loop {
            if self.eat("not valid") {
                marks.not_valid = true;
                continue;
            }
            if self.eat("not enforced") {
                marks.not_enforced = true;
            } else if !self.eat_any(&[
                "enforced",
                "not deferrable",
                "deferrable",
                "initially deferred",
                "initially immediate",
                "no inherit",
                "inherit",
            ]) {
                break;
            }
            if !marks.not_valid {
                kept = begin.len() - self.rest().len();
            }
        }
        (self.text(&begin[..kept]), marks)
    }
}
