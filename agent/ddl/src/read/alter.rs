//! ALTER TABLE and its kin.

use super::names::unquoted;
use super::words::Cursor;
use crate::model::{Act, AlteredKind, TableAction, TablePart};

impl Cursor<'_, '_> {
    /// Behind `ALTER TABLE`, `ALTER VIEW` and the like.
    pub fn alter_table(&mut self, kind: AlteredKind) -> Option<Act> {
        if self.eat("all in tablespace") {
            return None;
        }
        let if_exists = self.eat("if exists");
        let (table, only) = self.table()?;
        let parts = self
            .list()
            .into_iter()
            .map(|mut part| TablePart {
                sql: part.text(part.rest()),
                action: part.table_action().unwrap_or(TableAction::Other),
            })
            .collect();
        Some(Act::AlterTable {
            kind,
            table,
            only,
            if_exists,
            parts,
        })
    }

    fn table_action(&mut self) -> Option<TableAction> {
        Some(if self.eat("add") {
            self.add()?
        } else if self.eat("alter constraint") {
            let name = self.ident()?;
            let mut enforced = None;
            while !self.done() {
                if self.eat("not enforced") {
                    enforced = Some(false);
                } else if self.eat("enforced") {
                    enforced = Some(true);
                } else {
                    self.next();
                }
            }
            TableAction::AlterConstraint { name, enforced }
        } else if self.eat("alter") {
            self.eat("column");
            let column = self.ident()?;
            self.column_action(column)?
        } else if self.eat("drop constraint") {
            self.eat("if exists");
            TableAction::DropConstraint {
                name: self.ident()?,
                cascade: self.eat("cascade"),
            }
        } else if self.eat("drop") {
            self.eat("column");
            self.eat("if exists");
            TableAction::DropColumn {
                column: self.ident()?,
                cascade: self.eat("cascade"),
            }
        } else if self.eat("validate constraint") {
            TableAction::ValidateConstraint(self.ident()?)
        } else if self.eat("rename constraint") {
            let from = self.ident()?;
            self.eat("to");
            TableAction::RenameConstraint {
                from,
                to: self.ident()?,
            }
        } else if self.eat("rename to") {
            TableAction::Rename(self.ident()?)
        } else if self.eat("rename") {
            self.eat("column");
            let from = self.ident()?;
            self.eat("to");
            TableAction::RenameColumn {
                from,
                to: self.ident()?,
            }
        } else if self.eat("attach partition") {
            let child = self.name()?;
            TableAction::AttachPartition {
                child,
                bound: self.text(self.rest()),
            }
        } else if self.eat("detach partition") {
            TableAction::DetachPartition {
                child: self.name()?,
                concurrently: self.eat("concurrently"),
                finalize: self.eat("finalize"),
            }
        } else if self.eat("replica identity") {
            TableAction::ReplicaIdentity(self.text(self.rest()))
        } else if self.eat_any(&["cluster on", "set without cluster"]) {
            TableAction::ClusterOn
        } else if self.eat("owner to") {
            TableAction::Owner
        } else if self.eat("inherit") {
            TableAction::Inherit {
                parent: self.name()?,
                add: true,
            }
        } else if self.eat("no inherit") {
            TableAction::Inherit {
                parent: self.name()?,
                add: false,
            }
        } else if self.eat("set") {
            self.set_action()?
        } else if self.eat("reset") {
            let inner = self.parens();
            TableAction::SetOptions(self.over(inner).option_names())
        } else if self.eat_any(&["enable", "disable"]) {
            self.eat_any(&["replica", "always"]);
            if self.eat("trigger") {
                TableAction::Trigger
            } else if self.eat("rule") {
                TableAction::Rule
            } else {
                TableAction::RowSecurity
            }
        } else if self.eat_any(&["force", "no force"]) {
            TableAction::RowSecurity
        } else {
            TableAction::Other
        })
    }

    fn add(&mut self) -> Option<TableAction> {
        const CONSTRAINTS: &[&str] = &[
            "constraint",
            "check",
            "unique",
            "primary key",
            "foreign key",
            "exclude",
        ];
        let constraint = CONSTRAINTS.iter().any(|word| self.at(word)) || self.at("not null");
        if constraint {
            return self.table_constraint().map(TableAction::AddConstraint);
        }
        self.eat("column");
        let if_not_exists = self.eat("if not exists");
        Some(TableAction::AddColumn {
            column: self.column()?,
            if_not_exists,
        })
    }

    fn set_action(&mut self) -> Option<TableAction> {
        Some(if self.eat("schema") {
            TableAction::SetSchema(self.ident()?)
        } else if self.eat("logged") {
            TableAction::SetLogged(true)
        } else if self.eat("unlogged") {
            TableAction::SetLogged(false)
        } else if self.eat("access method") {
            TableAction::SetAccessMethod(self.ident()?)
        } else if self.eat("tablespace") {
            TableAction::SetTablespace(self.ident()?)
        } else if self.at("(") {
            let inner = self.parens();
            TableAction::SetOptions(self.over(inner).option_names())
        } else {
            TableAction::Other
        })
    }

    /// `fillfactor = 70, autovacuum_enabled`: the names.
    pub fn option_names(&self) -> Vec<String> {
        self.list()
            .into_iter()
            .filter_map(|mut part| part.name())
            .map(|name| name.name)
            .collect()
    }

    fn column_action(&mut self, column: String) -> Option<TableAction> {
        Some(if self.eat_any(&["set data type", "type"]) {
            let ty = self.type_name()?;
            let collation = if self.eat("collate") {
                self.name().map(|name| name.to_string())
            } else {
                None
            };
            let using = self.eat("using").then(|| self.expr(self.rest()));
            TableAction::SetType {
                column,
                ty,
                collation,
                using,
            }
        } else if self.eat("set default") {
            TableAction::SetDefault(column)
        } else if self.eat("drop default") {
            TableAction::DropDefault(column)
        } else if self.eat("set not null") {
            TableAction::SetNotNull(column)
        } else if self.eat("drop not null") {
            TableAction::DropNotNull(column)
        } else if self.eat("set expression") {
            TableAction::SetExpression(column)
        } else if self.eat("drop expression") {
            TableAction::DropExpression(column)
        } else if self.eat("add generated") {
            TableAction::AddIdentity(column)
        } else if self.eat("drop identity") {
            TableAction::DropIdentity(column)
        } else if self.eat("set statistics") {
            TableAction::SetStatistics(column)
        } else if self.eat("set storage") {
            TableAction::SetStorage(column)
        } else if self.eat("set compression") {
            TableAction::SetCompression(column)
        } else if self.at("set (") || self.at("reset (") {
            TableAction::SetColumnOptions(column)
        } else if self.at("set") || self.at("restart") {
            TableAction::SetIdentity {
                column,
                restart: self.rest().iter().any(|word| word.is("restart")),
            }
        } else {
            TableAction::Other
        })
    }

    /// A string literal, unquoted.
    pub fn literal(&mut self) -> Option<String> {
        self.next().map(|word| unquoted(word.text))
    }
}
