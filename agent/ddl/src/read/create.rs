//! CREATE TABLE, INDEX, VIEW and what else makes relations.

use super::words::Cursor;
use crate::model::{Act, Name};

impl Cursor<'_, '_> {
    /// Behind `CREATE [TEMP] TABLE`.
    pub fn create_table(&mut self, temporary: bool) -> Option<Act> {
        let if_not_exists = self.eat("if not exists");
        let table = self.name()?;
        let partition_of = if self.eat("partition of") {
            self.name()
        } else {
            None
        };
        if self.eat("of") {
            self.name();
        }
        let (mut columns, mut constraints, mut like) = (Vec::new(), Vec::new(), Vec::new());
        let inner = self.parens();
        for mut part in self.over(inner).list() {
            const CONSTRAINTS: &[&str] = &[
                "constraint",
                "check (",
                "unique",
                "primary key",
                "foreign key",
                "exclude",
            ];
            if part.eat("like") {
                like.extend(part.name());
            } else if CONSTRAINTS.iter().any(|word| part.at(word)) || part.at("not null") {
                constraints.extend(part.table_constraint());
            } else {
                columns.extend(part.column());
            }
        }
        let mut inherits = Vec::new();
        let mut bound = String::new();
        let mut partition_by = None;
        let mut reads = Vec::new();
        let mut from_query = false;
        while !self.done() {
            if self.eat("inherits") {
                let inner = self.parens();
                inherits = self.over(inner).names();
            } else if partition_of.is_some() && (self.at("for values") || self.at("default")) {
                let words = self.until(&["partition by", "using", "with (", "tablespace"]);
                bound = self.text(words);
            } else if self.eat("partition by") {
                let words = self.until(&["using", "with (", "tablespace", "without"]);
                partition_by = Some(self.text(words));
            } else if self.eat("as") {
                from_query = true;
                reads = self.reads();
                self.until(&[]);
            } else {
                self.step_over();
            }
        }
        Some(Act::CreateTable {
            table,
            if_not_exists,
            temporary,
            columns,
            constraints,
            like,
            inherits,
            partition_of,
            bound,
            partition_by,
            reads,
            from_query,
        })
    }

    /// Behind `CREATE [UNIQUE] INDEX`.
    pub fn create_index(&mut self, unique: bool) -> Option<Act> {
        let concurrently = self.eat("concurrently");
        let if_not_exists = self.eat("if not exists");
        let index = if self.at("on") {
            None
        } else {
            self.name().map(|name| name.name)
        };
        self.eat("on");
        let (table, only) = self.table()?;
        let method = if self.eat("using") {
            self.ident()?
        } else {
            "btree".to_owned()
        };
        let inner = self.parens();
        let mut keys = Vec::new();
        let mut expressions = Vec::new();
        for mut part in self.over(inner).list() {
            let whole = part.rest();
            let plain = whole.first().is_some_and(super::words::Word::is_name)
                && !whole.get(1).is_some_and(|next| next.is("(") && !whole[0].is("("));
            if plain {
                keys.push(part.ident());
            } else {
                keys.push(None);
                expressions.push(part.expr(whole));
            }
        }
        self.until(&["where"]);
        let predicate = self.eat("where").then(|| self.expr(self.rest()));
        Some(Act::CreateIndex {
            index,
            table,
            only,
            unique,
            concurrently,
            if_not_exists,
            method,
            keys,
            expressions,
            predicate,
        })
    }

    /// Behind `CREATE ... VIEW`.
    pub fn create_view(&mut self, or_replace: bool, materialized: bool) -> Option<Act> {
        self.eat("if not exists");
        let view = self.name()?;
        self.until(&["as"]);
        Some(Act::CreateView {
            view,
            or_replace,
            materialized,
            reads: self.reads(),
        })
    }

    /// Behind `CREATE SEQUENCE`.
    pub fn create_sequence(&mut self) -> Option<Act> {
        self.eat("if not exists");
        let sequence = self.name()?;
        self.until(&["owned by"]);
        Some(Act::CreateSequence {
            sequence,
            owned_by: self.owned_by(),
        })
    }

    /// `OWNED BY table.column` or `OWNED BY NONE`: the table.
    pub fn owned_by(&mut self) -> Option<Name> {
        if !self.eat("owned by") || self.at("none") {
            return None;
        }
        let mut parts = vec![self.ident()?];
        while self.eat(".") {
            parts.extend(self.ident());
        }
        parts.pop();
        let table = parts.pop()?;
        Some(Name::new(parts.pop(), table))
    }

    /// Behind `CREATE [OR REPLACE] FUNCTION`.
    pub fn create_function(&mut self) -> Option<Act> {
        let name = self.name()?;
        self.parens();
        let volatile = !self
            .rest()
            .iter()
            .any(|word| word.is("immutable") || word.is("stable"));
        Some(Act::CreateFunction { name, volatile })
    }
}
