//! A column that is given another type, and what depends on it.

use super::alter::Effect;
use super::lock::LockMode::AccessExclusive;
use super::{Judge, Severity};
use crate::catalog::{Change, type_change};
use crate::model::{ConstraintKind, Expr, Name, TypeName};

impl Judge<'_> {
    pub(super) fn set_type(
        &mut self,
        table: &Name,
        column: &str,
        ty: &TypeName,
        collation: Option<&str>,
        using: Option<&Expr>,
    ) -> Effect {
        let old = self.catalog.column(table, column).cloned();
        let plain_using = using.is_none_or(|expr| {
            let bare = expr
                .sql
                .split("::")
                .next()
                .unwrap_or_default()
                .trim()
                .trim_matches('"');
            bare == column && expr.calls.is_empty()
        });
        let change = if plain_using {
            type_change(self.catalog, old.as_ref().map(|old| &old.ty), ty)
        } else {
            Change::Rewrite
        };
        let mut effect = Effect::brief(AccessExclusive);
        let shadow = shadow_column(table, column, ty, using);
        match change {
            Change::Rewrite => {
                let from = old
                    .as_ref()
                    .map_or_else(String::new, |old| format!(" from {}", old.ty));
                let message = format!(
                    "To change {column}{from} to {ty}, the whole table and its indexes are written anew while nobody \
                     can read or write it."
                );
                self.danger(table, "H24", message, shadow);
                effect = Effect::rewriting();
            }
            Change::FreeInUtc if !self.at.utc => {
                let message = format!(
                    "Unless the session's time zone is UTC, each value of {column} is converted and the whole table \
                     written anew while nobody can read or write it."
                );
                let safe = format!(
                    "-- only if the values are meant as UTC:\nSET timezone = 'UTC';\nALTER TABLE {table} ALTER COLUMN \
                     {column} TYPE {ty};"
                );
                self.danger(table, "H25", message, safe);
                effect = Effect::rewriting();
            }
            Change::FreeInUtc => self.indexes_again(table, column, true, &mut effect),
            Change::Free { same_operators } => {
                self.indexes_again(table, column, !same_operators, &mut effect)
            }
            Change::UnknownOftenFree => {
                let message = format!(
                    "What type {column} has now is not known here. From varchar, text or the same type with a smaller \
                     limit the change to {ty} is free; from anything else the table is written anew. --schema would tell."
                );
                self.find(table, "H24", Severity::Warning, message, String::new());
            }
            Change::UnknownLikelyRewrite => {
                let message = format!(
                    "What type {column} has now is not known here. Unless it is {ty} with a smaller limit, the whole \
                     table is written anew while nobody can read or write it. --schema would tell."
                );
                self.danger(table, "H24", message, shadow);
                effect = Effect::rewriting();
            }
        }
        if let Some(collation) = collation {
            let indexed = self
                .catalog
                .indexes_of(table)
                .any(|(_, index)| index.keys.iter().flatten().any(|key| key == column));
            if indexed || !self.catalog.complete {
                let message = format!(
                    "With the collation {collation} the indexes on {column} are in the wrong order: they are built \
                     anew while nobody can read or write the table."
                );
                let safe = format!(
                    "CREATE INDEX CONCURRENTLY ON {table} (({column} COLLATE {collation}));\n-- then let queries name \
                     the collation, and drop the old index CONCURRENTLY"
                );
                self.danger(table, "H30", message, safe);
                effect.scan = true;
            }
        }
        self.keys_again(table, column, &mut effect);
        self.checks_again(table, column, &mut effect);
        effect
    }

    /// H26, H27 and changed operators: which indexes a change that is otherwise free builds anew.
    fn indexes_again(&mut self, table: &Name, column: &str, operators: bool, effect: &mut Effect) {
        let mut again = Vec::new();
        for (name, index) in self.catalog.indexes_of(table) {
            let keyed = index.keys.iter().flatten().any(|key| key == column);
            let computed = index.expressions.iter().any(|expr| expr.mentions(column));
            // A predicate makes PostgreSQL build an index anew, whatever its keys are, if it uses the column.
            let filtered = index.predicate.as_ref().is_some_and(|expr| expr.mentions(column))
                || keyed && (index.predicate.is_some() || !index.expressions.is_empty());
            let rule = if computed {
                "H26"
            } else if filtered {
                "H27"
            } else if keyed && operators {
                "H24"
            } else {
                continue;
            };
            again.push((rule, name.clone()));
        }
        for (rule, index) in again {
            effect.scan = true;
            let message = format!(
                "The change itself is free, but {index} depends on {column} and is built anew while nobody can read or \
                 write the table."
            );
            let safe = format!(
                "DROP INDEX CONCURRENTLY {index};\n-- the change of the type, then the index again, with CREATE INDEX \
                 CONCURRENTLY"
            );
            self.danger(table, rule, message, safe);
        }
    }

    fn checks_again(&mut self, table: &Name, column: &str, effect: &mut Effect) {
        let checks: Vec<String> = self
            .catalog
            .table(table)
            .into_iter()
            .flat_map(|known| &known.constraints)
            .filter(|constraint| !constraint.not_valid && !constraint.not_enforced)
            .filter(
                |constraint| matches!(&constraint.kind, ConstraintKind::Check(expr) if expr.mentions(column)),
            )
            .filter_map(|constraint| constraint.name.clone())
            .collect();
        for check in checks {
            effect.scan = true;
            let message = format!(
                "The CHECK {check} uses {column}, so every row is tested again while nobody can read or write the table."
            );
            let safe = format!(
                "ALTER TABLE {table} DROP CONSTRAINT {check};\n-- the change of the type, then the CHECK again, NOT \
                 VALID, and VALIDATE"
            );
            self.danger(table, "H28", message, safe);
        }
    }

    fn keys_again(&mut self, table: &Name, column: &str, effect: &mut Effect) {
        let mut others: Vec<Name> = Vec::new();
        for constraint in self
            .catalog
            .table(table)
            .into_iter()
            .flat_map(|known| &known.constraints)
        {
            if let ConstraintKind::ForeignKey { columns, parent, .. } = &constraint.kind
                && columns.iter().any(|name| name == column)
            {
                others.push(parent.clone());
            }
        }
        for (child, constraint) in self.catalog.referencing(table) {
            if let ConstraintKind::ForeignKey { parent_columns, .. } = &constraint.kind {
                let primary = self.catalog.table(table).is_some_and(|known| {
                    known.constraints.iter().any(|own| matches!(&own.kind, ConstraintKind::PrimaryKey { columns, .. } if columns.iter().any(|name| name == column)))
                });
                if parent_columns.iter().any(|name| name == column) || parent_columns.is_empty() && primary {
                    others.push(child.clone());
                }
            }
        }
        for other in others {
            self.lock(&other, AccessExclusive);
            effect.scan = true;
            self.scan(&other);
            let message = format!(
                "{column} is part of a foreign key between {table} and {other}: both are locked against reads and writes \
                 while every row is checked again."
            );
            let safe = "-- drop the foreign key, change the type, add the key NOT VALID, then VALIDATE it"
                .to_owned();
            self.danger(table, "H29", message, safe);
        }
    }
}

/// Where a change that breaks programs is better made.
pub(super) const SIDE_BY_SIDE: &str = "-- With the old and the new program side by side, from this very statement (docs/ddl.md):\n\
                                       --   pgctl ddl expand --database NAME --version NAME FILE";

/// A new column beside the old one, kept equal by a trigger, filled in batches, then swapped.
fn shadow_column(table: &Name, column: &str, ty: &TypeName, using: Option<&Expr>) -> String {
    let value = using.map_or_else(|| format!("{column}::{ty}"), |expr| expr.sql.clone());
    let function = table.beside(format!("{}_{column}_new", table.name));
    format!(
        "{SIDE_BY_SIDE}\n-- By hand:\nALTER TABLE {table} ADD COLUMN {column}_new {ty};\nCREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql \
         AS $$ BEGIN NEW.{column}_new := NEW.{column}; RETURN NEW; END $$;\nCREATE TRIGGER {column}_new BEFORE INSERT OR \
         UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}();\n-- in batches, each committed:\nUPDATE {table} SET \
         {column}_new = {value} WHERE {column}_new IS DISTINCT FROM {value};\n-- in one short transaction, with a \
         lock_timeout:\nALTER TABLE {table} RENAME COLUMN {column} TO {column}_old;\nALTER TABLE {table} RENAME COLUMN \
         {column}_new TO {column};\nDROP TRIGGER {column}_new ON {table};"
    )
}
