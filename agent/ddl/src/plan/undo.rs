//! What takes a statement back, where that needs no knowledge of how things were.

use crate::model::{Act, AlteredKind, ConstraintKind, TableAction, TablePart, quote};

/// The statement that undoes another; `None` where there is none, or where it would need more than a moment.
pub fn of(act: &Act) -> Option<String> {
    Some(match act {
        Act::CreateTable {
            table,
            if_not_exists: false,
            temporary: false,
            ..
        } => format!("DROP TABLE {table}"),
        Act::CreateView {
            view,
            or_replace: false,
            materialized,
            ..
        } => {
            let kind = if *materialized {
                "MATERIALIZED VIEW"
            } else {
                "VIEW"
            };
            format!("DROP {kind} {view}")
        }
        Act::CreateSequence { sequence, .. } => format!("DROP SEQUENCE {sequence}"),
        Act::CreateDomain { domain, .. } => format!("DROP DOMAIN {domain}"),
        Act::CreateType { name, .. } => format!("DROP TYPE {name}"),
        Act::AlterTable {
            kind: AlteredKind::Table,
            table,
            only,
            if_exists: false,
            parts,
        } => {
            if let [
                TablePart {
                    action: TableAction::Rename(to),
                    ..
                },
            ] = parts.as_slice()
            {
                let renamed = table.beside(to.clone());
                return Some(format!("ALTER TABLE {renamed} RENAME TO {}", quote(&table.name)));
            }
            let undone: Option<Vec<String>> = parts.iter().rev().map(part).collect();
            let undone: Vec<String> = undone?.into_iter().filter(|part| !part.is_empty()).collect();
            if undone.is_empty() {
                // What was validated stays so: no harm, and nothing to do.
                return Some("SELECT 1".to_owned());
            }
            let only = if *only { "ONLY " } else { "" };
            format!("ALTER TABLE {only}{table} {}", undone.join(", "))
        }
        Act::Analyze { .. } | Act::Comment { .. } => "SELECT 1".to_owned(),
        _ => return None,
    })
}

/// Empty where nothing need be done.
fn part(part: &TablePart) -> Option<String> {
    Some(match &part.action {
        TableAction::AddColumn {
            column,
            if_not_exists: false,
        } => format!("DROP COLUMN {}", quote(&column.name)),
        TableAction::AddConstraint(constraint) => {
            // What an index became belongs to the constraint and would go with it.
            let index = match &constraint.kind {
                ConstraintKind::Unique { index, .. } | ConstraintKind::PrimaryKey { index, .. } => {
                    index.is_some()
                }
                _ => false,
            };
            let name = constraint.name.as_ref().filter(|_| !index)?;
            format!("DROP CONSTRAINT {}", quote(name))
        }
        TableAction::RenameColumn { from, to } => {
            format!("RENAME COLUMN {} TO {}", quote(to), quote(from))
        }
        TableAction::RenameConstraint { from, to } => {
            format!("RENAME CONSTRAINT {} TO {}", quote(to), quote(from))
        }
        TableAction::ValidateConstraint(_) => String::new(),
        _ => return None,
    })
}
