//! What a schema is after a statement. It is only as exact as the judgement of later statements needs.

use super::{Catalog, Domain, Index, Kind, Sequence, Table};
use crate::model::{
    Act, AlteredKind, Column, Constraint, ConstraintKind, DomainAct, DroppedKind, IndexAct, Name,
    SequenceAct, TableAction,
};

impl Catalog {
    /// Takes over what a statement does to the schema.
    pub fn apply(&mut self, act: &Act) {
        match act {
            Act::CreateTable { .. } => self.create_table(act),
            Act::AlterTable {
                kind, table, parts, ..
            } => {
                let mut table = self.resolve(table);
                for part in parts {
                    self.alter_table(*kind, &mut table, &part.action);
                }
            }
            Act::CreateIndex {
                index,
                table,
                unique,
                method,
                keys,
                expressions,
                predicate,
                ..
            } => {
                let table = self.resolve(table);
                let named: Vec<&str> = keys.iter().map(|key| key.as_deref().unwrap_or("expr")).collect();
                let name = index
                    .clone()
                    .unwrap_or_else(|| format!("{}_{}_idx", table.name, named.join("_")));
                let index = Index {
                    table: table.clone(),
                    unique: *unique,
                    method: method.clone(),
                    keys: keys.clone(),
                    expressions: expressions.clone(),
                    predicate: predicate.clone(),
                };
                self.indexes.insert(table.beside(name), index);
            }
            Act::AlterIndex { index, what } => {
                let index = self.resolve(index);
                if let IndexAct::Rename(to) = what
                    && let Some(known) = self.indexes.remove(&index)
                {
                    self.indexes.insert(index.beside(to.clone()), known);
                }
            }
            Act::Drop { kind, names, .. } => {
                for name in names {
                    let name = self.resolve(name);
                    self.forget(*kind, &name);
                }
            }
            Act::CreateView {
                view,
                or_replace,
                materialized,
                reads,
            } => {
                let view = self.place(view);
                if *or_replace && self.tables.contains_key(&view) {
                    return;
                }
                let kind = if *materialized {
                    Kind::MaterializedView
                } else {
                    Kind::View
                };
                let mut table = Table::new(kind, self.judging);
                table.reads = reads.iter().map(|name| self.resolve(name)).collect();
                self.tables.insert(view, table);
            }
            Act::CreateSequence { sequence, owned_by } => {
                let owned_by = owned_by.as_ref().map(|table| self.resolve(table));
                let name = self.place(sequence);
                self.sequences.insert(
                    name,
                    Sequence {
                        fresh: self.judging,
                        owned_by,
                    },
                );
            }
            Act::AlterSequence { sequence, what } => self.alter_sequence(sequence, what),
            Act::CreateDomain {
                domain,
                ty,
                constrained,
            } => {
                let domain_info = Domain {
                    base: ty.clone(),
                    constrained: *constrained,
                    fresh: self.judging,
                };
                self.domains.insert(self.place(domain), domain_info);
            }
            Act::AlterDomain { domain, what } => {
                if let Some(known) = self.domains.get_mut(domain)
                    && matches!(what, DomainAct::AddConstraint { .. } | DomainAct::SetNotNull)
                {
                    known.constrained = true;
                }
            }
            Act::CreateFunction { name, volatile } => {
                self.functions.insert(name.name.clone(), *volatile);
            }
            Act::Publication {
                name,
                tables,
                all_tables,
                ..
            } => {
                if *all_tables {
                    self.publishes_all = Some(name.clone());
                }
                for table in tables {
                    self.published.insert(self.resolve(table), name.clone());
                }
            }
            Act::Set { name, value, .. } if name == "search_path" => {
                let first = value
                    .split(',')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .trim_matches(['\'', '"']);
                let plain =
                    first.is_empty() || first == "public" || first == "default" || first == "pg_catalog";
                self.search_path = (!plain).then(|| first.to_owned());
            }
            _ => {}
        }
    }

    fn create_table(&mut self, act: &Act) {
        let Act::CreateTable {
            table: name,
            if_not_exists,
            temporary,
            columns,
            constraints,
            like,
            inherits,
            partition_of,
            bound,
            partition_by,
            ..
        } = act
        else {
            return;
        };
        let name = self.place(name);
        if *if_not_exists && self.tables.contains_key(&name) {
            return;
        }
        // IF NOT EXISTS says that it may be there already, and then it may be busy.
        let fresh = self.judging && (!*if_not_exists || *temporary || self.complete);
        let mut table = Table::new(Kind::Table, fresh);
        table.partition_by.clone_from(partition_by);
        table.parents = inherits.iter().map(|parent| self.resolve(parent)).collect();
        if let Some(parent) = partition_of {
            table.parents.push(self.resolve(parent));
            table.bound = Some(bound.clone());
        }
        let sources: Vec<Name> = like
            .iter()
            .chain(inherits)
            .chain(partition_of)
            .map(|name| self.resolve(name))
            .collect();
        for source in sources {
            if let Some(from) = self.tables.get(&source) {
                table.columns.extend(from.columns.iter().cloned());
            }
        }
        self.tables.insert(name.clone(), table);
        for column in columns {
            if !column.ty.base.is_empty() {
                self.add_column(&name, column);
            }
        }
        for constraint in constraints {
            self.add_constraint(&name, constraint);
        }
    }

    fn add_column(&mut self, table: &Name, column: &Column) {
        for constraint in &column.constraints {
            self.add_constraint(table, constraint);
        }
        if column.ty.is_serial() || column.generated == Some(crate::model::Generated::Identity) {
            let sequence = table.beside(format!("{}_{}_seq", table.name, column.name));
            self.sequences.insert(
                sequence,
                Sequence {
                    fresh: self.judging,
                    owned_by: Some(table.clone()),
                },
            );
        }
        if let Some(known) = self.tables.get_mut(table) {
            known.columns.retain(|other| other.name != column.name);
            known.columns.push(column.clone());
        }
    }

    fn add_constraint(&mut self, table: &Name, constraint: &Constraint) {
        let mut constraint = constraint.clone();
        let name = constraint
            .name
            .get_or_insert_with(|| default_name(table, &constraint.kind))
            .clone();
        if let ConstraintKind::ForeignKey { parent, .. } = &mut constraint.kind {
            *parent = self.resolve(parent);
        }
        match &mut constraint.kind {
            ConstraintKind::Unique { columns, index } | ConstraintKind::PrimaryKey { columns, index } => {
                if let Some(old) = index
                    .as_ref()
                    .and_then(|old| self.indexes.remove(&table.beside(old.clone())))
                {
                    columns.extend(old.keys.iter().flatten().cloned());
                }
                let index = Index {
                    table: table.clone(),
                    unique: true,
                    method: "btree".to_owned(),
                    keys: columns.iter().cloned().map(Some).collect(),
                    expressions: Vec::new(),
                    predicate: None,
                };
                self.indexes.insert(table.beside(name), index);
            }
            _ => {}
        }
        if let Some(known) = self.tables.get_mut(table) {
            known.constraints.push(constraint);
        }
    }

    fn alter_table(&mut self, kind: AlteredKind, table: &mut Name, action: &TableAction) {
        match action {
            TableAction::AddColumn { column, .. } => {
                if !self.tables.contains_key(table) {
                    return;
                }
                self.add_column(table, column);
            }
            TableAction::AddConstraint(constraint) => self.add_constraint(table, constraint),
            TableAction::AttachPartition { child, bound, .. } => {
                let child = self.resolve(child);
                if let Some(known) = self.tables.get_mut(&child) {
                    known.parents.push(table.clone());
                    known.bound = Some(bound.clone());
                }
            }
            TableAction::DetachPartition { child, .. } => {
                let child = self.resolve(child);
                if let Some(known) = self.tables.get_mut(&child) {
                    known.parents.retain(|parent| parent != table);
                    known.bound = None;
                }
            }
            TableAction::Inherit { parent, add } => {
                let parent = self.resolve(parent);
                if let Some(known) = self.tables.get_mut(table) {
                    known.parents.retain(|other| *other != parent);
                    if *add {
                        known.parents.push(parent);
                    }
                }
            }
            TableAction::Rename(to) => {
                let new = table.beside(to.clone());
                self.rename_table(table, &new);
                *table = new;
            }
            TableAction::SetSchema(schema) => {
                let new = Name::new(Some(schema.clone()), table.name.clone());
                self.rename_table(table, &new);
                *table = new;
            }
            _ if kind == AlteredKind::View => {}
            _ => self.alter_columns(table, action),
        }
    }

    fn alter_columns(&mut self, table: &Name, action: &TableAction) {
        let Some(known) = self.tables.get_mut(table) else {
            return;
        };
        match action {
            TableAction::DropColumn { column, .. } => {
                known.columns.retain(|other| other.name != *column);
                self.indexes
                    .retain(|_, index| index.table != *table || !index.keys.contains(&Some(column.clone())));
            }
            TableAction::SetNotNull(column) => known.constraints.push(Constraint {
                name: Some(format!("{}_{column}_not_null", table.name)),
                kind: ConstraintKind::NotNull {
                    column: column.clone(),
                },
                not_valid: false,
                not_enforced: false,
                body: String::new(),
            }),
            TableAction::DropNotNull(column) => {
                let not_null = |constraint: &Constraint| matches!(&constraint.kind, ConstraintKind::NotNull { column: named } if named == column);
                known.constraints.retain(|constraint| !not_null(constraint));
                for other in known.columns.iter_mut().filter(|other| other.name == *column) {
                    other.constraints.retain(|constraint| !not_null(constraint));
                }
            }
            TableAction::SetType { column, ty, .. } => {
                for other in known.columns.iter_mut().filter(|other| other.name == *column) {
                    other.ty = ty.clone();
                }
            }
            TableAction::ValidateConstraint(name) => {
                for constraint in &mut known.constraints {
                    if constraint.name.as_deref() == Some(name) {
                        constraint.not_valid = false;
                    }
                }
            }
            TableAction::DropConstraint { name, .. } => {
                known
                    .constraints
                    .retain(|constraint| constraint.name.as_deref() != Some(name));
                for column in &mut known.columns {
                    column
                        .constraints
                        .retain(|constraint| constraint.name.as_deref() != Some(name));
                }
                self.indexes.remove(&table.beside(name.clone()));
            }
            TableAction::RenameConstraint { from, to } => {
                for constraint in &mut known.constraints {
                    if constraint.name.as_deref() == Some(from) {
                        constraint.name = Some(to.clone());
                    }
                }
            }
            TableAction::RenameColumn { from, to } => {
                for column in known.columns.iter_mut().filter(|column| column.name == *from) {
                    column.name.clone_from(to);
                }
            }
            _ => {}
        }
    }

    fn rename_table(&mut self, from: &Name, to: &Name) {
        if let Some(known) = self.tables.remove(from) {
            self.tables.insert(to.clone(), known);
        }
        for index in self.indexes.values_mut().filter(|index| index.table == *from) {
            index.table = to.clone();
        }
        for table in self.tables.values_mut() {
            for parent in table
                .parents
                .iter_mut()
                .chain(&mut table.reads)
                .filter(|parent| **parent == *from)
            {
                *parent = to.clone();
            }
        }
    }

    fn alter_sequence(&mut self, sequence: &Name, what: &SequenceAct) {
        let sequence = self.resolve(sequence);
        let owner = match what {
            SequenceAct::OwnedBy(Some(table)) => Some(self.resolve(table)),
            _ => None,
        };
        match what {
            SequenceAct::OwnedBy(_) => {
                if let Some(known) = self.sequences.get_mut(&sequence) {
                    known.owned_by = owner;
                }
            }
            SequenceAct::Rename(to) => {
                if let Some(known) = self.sequences.remove(&sequence) {
                    self.sequences.insert(sequence.beside(to.clone()), known);
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, kind: DroppedKind, name: &Name) {
        match kind {
            DroppedKind::Index => {
                self.indexes.remove(name);
            }
            DroppedKind::Sequence => {
                self.sequences.remove(name);
            }
            DroppedKind::Domain | DroppedKind::Type => {
                self.domains.remove(name);
            }
            DroppedKind::Table
            | DroppedKind::ForeignTable
            | DroppedKind::View
            | DroppedKind::MaterializedView => {
                let children: Vec<Name> = self
                    .descendants(name)
                    .into_iter()
                    .filter(|child| self.tables.get(child).is_some_and(|table| table.bound.is_some()))
                    .collect();
                for table in children.iter().chain([name]) {
                    self.tables.remove(table);
                    self.indexes.retain(|_, index| index.table != *table);
                }
            }
            _ => {}
        }
    }
}

/// The name that PostgreSQL gives a constraint (short ones; long ones are cut, and two of a kind are numbered).
pub(crate) fn default_name(table: &Name, kind: &ConstraintKind) -> String {
    let table = &table.name;
    match kind {
        ConstraintKind::NotNull { column } => format!("{table}_{column}_not_null"),
        ConstraintKind::Check(expr) => match expr.names.first() {
            Some(column) => format!("{table}_{column}_check"),
            None => format!("{table}_check"),
        },
        ConstraintKind::Unique { columns, .. } => format!("{table}_{}_key", columns.join("_")),
        ConstraintKind::PrimaryKey { .. } => format!("{table}_pkey"),
        ConstraintKind::ForeignKey { columns, .. } => format!("{table}_{}_fkey", columns.join("_")),
        ConstraintKind::Exclude { columns } => format!("{table}_{}_excl", columns.join("_")),
    }
}
