//! ALTER TABLE, action by action.

use super::lock::LockMode::{AccessExclusive, AccessShare, Share, ShareRowExclusive, ShareUpdateExclusive};
use super::retype::SIDE_BY_SIDE;
use super::{Judge, LockMode, Severity};
use crate::model::{AlteredKind, ConstraintKind, Name, TableAction, TablePart};

/// What one action does to its table.
pub(super) struct Effect {
    pub lock: LockMode,
    pub rewrite: bool,
    pub scan: bool,
    /// Statements that replace the action, where that needs no judgement.
    pub instead: Option<Vec<String>>,
}

impl Effect {
    pub(super) fn brief(lock: LockMode) -> Effect {
        Effect {
            lock,
            rewrite: false,
            scan: false,
            instead: None,
        }
    }

    pub(super) fn scanning(lock: LockMode) -> Effect {
        Effect {
            scan: true,
            ..Effect::brief(lock)
        }
    }

    pub(super) fn rewriting() -> Effect {
        Effect {
            rewrite: true,
            ..Effect::scanning(AccessExclusive)
        }
    }
}

impl Judge<'_> {
    pub(super) fn alter_table(&mut self, kind: AlteredKind, written: &Name, only: bool, parts: &[TablePart]) {
        let table = self.catalog.resolve(written);
        let mut instead = Vec::new();
        let mut replaced = false;
        let mut strongest: Option<LockMode> = None;
        for part in parts {
            let effect = if kind == AlteredKind::View {
                self.view_action(&table, &part.action)
            } else if self.catalog.indexes.contains_key(&table) {
                Effect::brief(AccessExclusive)
            } else {
                self.action(&table, part)
            };
            strongest = strongest.max(Some(effect.lock));
            // Triggers, storage parameters and names are the parent's own; the rest reaches every child.
            let reaches = match &part.action {
                TableAction::AttachPartition { .. }
                | TableAction::DetachPartition { .. }
                | TableAction::Rename(_)
                | TableAction::SetSchema(_)
                | TableAction::ReplicaIdentity(_)
                | TableAction::SetOptions(_)
                | TableAction::Owner
                | TableAction::RowSecurity
                | TableAction::Rule
                | TableAction::ClusterOn
                | TableAction::Inherit { .. }
                | TableAction::SetTablespace(_)
                | TableAction::SetAccessMethod(_)
                | TableAction::SetLogged(_) => false,
                _ => !only,
            };
            for relation in self.tree(&table, !reaches) {
                self.lock(&relation, effect.lock);
                let parent_has_no_rows = self
                    .catalog
                    .table(&relation)
                    .is_some_and(|known| known.partition_by.is_some());
                if effect.rewrite && !parent_has_no_rows {
                    self.rewrite(&relation);
                }
                if effect.scan && !parent_has_no_rows {
                    self.scan(&relation);
                }
            }
            replaced |= effect.instead.is_some();
            instead.extend(
                effect
                    .instead
                    .unwrap_or_else(|| vec![format!("ALTER TABLE {written} {};", part.sql)]),
            );
        }
        let children = self.catalog.descendants(&table).len();
        let strong = strongest >= Some(Share);
        if children > 0
            && !only
            && strong
            && kind == AlteredKind::Table
            && parts.iter().any(|part| reaches_children(&part.action))
        {
            let message = format!(
                "{table} has {children} partitions or children, and each is locked as it is. Every one of them has to \
                 be free at the same time, and max_locks_per_transaction has to suffice."
            );
            self.find(&table, "H60", Severity::Warning, message, String::new());
        }
        if replaced && !self.catalog.fresh(&table) {
            self.verdict.fix = Some(instead);
        }
    }

    fn view_action(&mut self, view: &Name, action: &TableAction) -> Effect {
        match action {
            TableAction::Rename(_) | TableAction::RenameColumn { .. } | TableAction::SetSchema(_) => {
                self.client_break(view, "renamed", String::new());
            }
            _ => {}
        }
        Effect::brief(AccessExclusive)
    }

    fn client_break(&mut self, relation: &Name, what: &str, safe: String) {
        let message = format!(
            "What is {what} is gone for every client that still uses the old name, at the moment of the commit. No \
             deployment of a program is that quick."
        );
        self.danger(relation, "H14", message, safe);
    }

    fn action(&mut self, table: &Name, part: &TablePart) -> Effect {
        match &part.action {
            TableAction::AddColumn { column, .. } => self.add_column(table, column),
            TableAction::DropColumn { column, .. } => {
                let message = format!(
                    "Clients that still name {column} fail at once, indexes and views on it die with it, and its data \
                     cannot be brought back. The lock itself is short."
                );
                self.danger(table, "H13", message, String::new());
                let parents: Vec<Name> = self
                    .catalog
                    .table(table)
                    .into_iter()
                    .flat_map(|known| &known.constraints)
                    .filter_map(|constraint| match &constraint.kind {
                        ConstraintKind::ForeignKey { columns, parent, .. } if columns.contains(column) => {
                            Some(parent.clone())
                        }
                        _ => None,
                    })
                    .collect();
                for parent in parents {
                    self.lock(&parent, AccessExclusive);
                }
                Effect::brief(AccessExclusive)
            }
            TableAction::SetDefault(_)
            | TableAction::DropDefault(_)
            | TableAction::DropExpression(_)
            | TableAction::AddIdentity(_)
            | TableAction::DropIdentity(_) => Effect::brief(AccessExclusive),
            TableAction::SetIdentity { column, restart } => {
                if *restart {
                    let message = format!(
                        "The identity of {column} starts again under a lock that stops reads and writes. Numbers that \
                         are in use may be given out a second time."
                    );
                    self.find(table, "H72", Severity::Warning, message, String::new());
                }
                Effect::brief(AccessExclusive)
            }
            TableAction::SetNotNull(column) => self.set_not_null(table, column),
            TableAction::DropNotNull(column) => {
                let message = format!(
                    "Clients that were promised a value in {column} may now read NULL. The lock itself is short."
                );
                self.find(table, "H22", Severity::Advice, message, String::new());
                Effect::brief(AccessExclusive)
            }
            TableAction::SetType {
                column,
                ty,
                collation,
                using,
            } => self.set_type(table, column, ty, collation.as_deref(), using.as_ref()),
            TableAction::SetExpression(column) => {
                let message = format!(
                    "A new expression for {column} writes the whole table anew while nobody can read or write it."
                );
                let safe = format!(
                    "-- Beside it, a plain column that a trigger keeps; fill it in batches, then swap the names.\n\
                     ALTER TABLE {table} ADD COLUMN {column}_new text;"
                );
                self.danger(table, "H31", message, safe);
                Effect::rewriting()
            }
            TableAction::SetStatistics(_) | TableAction::ClusterOn => Effect::brief(ShareUpdateExclusive),
            TableAction::SetColumnOptions(_) => Effect::brief(ShareUpdateExclusive),
            TableAction::SetOptions(names) => {
                let weak = names.iter().all(|name| name != "user_catalog_table");
                if weak {
                    Effect::brief(ShareUpdateExclusive)
                } else {
                    self.short(table);
                    Effect::brief(AccessExclusive)
                }
            }
            TableAction::SetStorage(_)
            | TableAction::SetCompression(_)
            | TableAction::ReplicaIdentity(_)
            | TableAction::RowSecurity
            | TableAction::Rule
            | TableAction::Owner => {
                self.short(table);
                Effect::brief(AccessExclusive)
            }
            TableAction::Trigger => {
                let message = format!(
                    "Writes to {table} wait, behind it and behind whatever it waits for; reads do not. What the trigger \
                     kept true is no longer kept, or newly is."
                );
                self.find(table, "H54", Severity::Warning, message, String::new());
                Effect::brief(ShareRowExclusive)
            }
            TableAction::AddConstraint(constraint) => self.add_constraint(table, constraint),
            TableAction::ValidateConstraint(name) => self.validate(table, name),
            TableAction::DropConstraint { name, .. } => self.drop_constraint(table, name),
            TableAction::AlterConstraint { name, enforced } => self.alter_constraint(table, name, *enforced),
            TableAction::RenameConstraint { .. } => Effect::brief(AccessExclusive),
            TableAction::RenameColumn { from, to } => {
                let safe = format!(
                    "{SIDE_BY_SIDE}\n-- By hand: a view serves both names while programs move over.\n\
                     CREATE VIEW {} AS SELECT *, {from} AS {to} FROM {table};",
                    table.beside(format!("{}_with_{to}", table.name))
                );
                self.client_break(table, "renamed", safe);
                Effect::brief(AccessExclusive)
            }
            TableAction::Rename(to) => {
                let safe = format!(
                    "{SIDE_BY_SIDE}\n-- By hand: the new name first, as a view that takes writes; the table itself keeps its name.\n\
                     CREATE VIEW {} AS SELECT * FROM {table};",
                    table.beside(to.clone())
                );
                self.client_break(table, "renamed", safe);
                Effect::brief(AccessExclusive)
            }
            TableAction::SetSchema(_) => {
                self.client_break(table, "moved", String::new());
                Effect::brief(AccessExclusive)
            }
            TableAction::AttachPartition { child, bound, .. } => self.attach(table, child, bound),
            TableAction::DetachPartition {
                child,
                concurrently,
                finalize,
            } => self.detach(table, child, *concurrently, *finalize),
            TableAction::SetLogged(_) | TableAction::SetAccessMethod(_) | TableAction::SetTablespace(_) => {
                let message = format!(
                    "All of {table} is copied to a new file while nobody can read or write it, and the copy goes \
                     through the WAL."
                );
                let safe = format!(
                    "-- A new table beside it, filled in batches and swapped in one short transaction.\n\
                     CREATE TABLE {} (LIKE {table} INCLUDING ALL);",
                    table.beside(format!("{}_new", table.name))
                );
                self.danger(table, "H51", message, safe);
                Effect::rewriting()
            }
            TableAction::Inherit { parent, .. } => {
                let parent = self.catalog.resolve(parent);
                self.lock(&parent, ShareUpdateExclusive);
                Effect::brief(AccessExclusive)
            }
            TableAction::Other => Effect::brief(AccessExclusive),
        }
    }

    fn short(&mut self, table: &Name) {
        let message = format!(
            "It needs {table} alone, for an instant: but it queues behind the longest transaction, and everybody else \
             queues behind it."
        );
        self.find(
            table,
            "H53",
            Severity::Advice,
            message,
            "SET lock_timeout = '100ms'; -- and try again".to_owned(),
        );
    }

    pub(super) fn reads(&mut self, relations: &[Name]) {
        for relation in relations {
            let relation = self.catalog.resolve(relation);
            self.lock(&relation, AccessShare);
            let below: Vec<Name> = self
                .catalog
                .table(&relation)
                .map(|known| known.reads.clone())
                .unwrap_or_default();
            for name in below {
                self.lock(&name, AccessShare);
            }
        }
    }
}

fn reaches_children(action: &TableAction) -> bool {
    matches!(
        action,
        TableAction::AddColumn { .. }
            | TableAction::DropColumn { .. }
            | TableAction::SetType { .. }
            | TableAction::SetNotNull(_)
            | TableAction::AddConstraint(_)
            | TableAction::DropConstraint { .. }
            | TableAction::RenameColumn { .. }
            | TableAction::Trigger
    )
}
