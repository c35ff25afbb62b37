//! What is known of a schema: from a dump, and from the statements judged so far.

pub(crate) mod apply;
mod type_change;

pub use type_change::{Change, Domains, type_change};

use crate::model::{Column, Constraint, ConstraintKind, Expr, Name, TypeName};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Whether a dump of the schema was given: then what it lacks does not exist.
    pub complete: bool,
    pub tables: BTreeMap<Name, Table>,
    pub indexes: BTreeMap<Name, Index>,
    pub sequences: BTreeMap<Name, Sequence>,
    pub domains: BTreeMap<Name, Domain>,
    /// Functions that the script or the dump makes: whether they are volatile.
    pub functions: BTreeMap<String, bool>,
    /// Published tables, and the publication.
    pub published: BTreeMap<Name, String>,
    /// A publication of all tables.
    pub publishes_all: Option<String>,
    /// Whether what is applied now is new: made by the set under judgement, not by the dump.
    pub judging: bool,
    /// The schema that `SET search_path` put first.
    pub search_path: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Table,
    View,
    MaterializedView,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub kind: Kind,
    /// Made by the set under judgement: nobody uses it yet.
    pub fresh: bool,
    pub columns: Vec<Column>,
    pub constraints: Vec<Constraint>,
    pub parents: Vec<Name>,
    /// Its bound, if it is a partition.
    pub bound: Option<String>,
    pub partition_by: Option<String>,
    /// What a view reads.
    pub reads: Vec<Name>,
}

#[derive(Debug, Clone)]
pub struct Index {
    pub table: Name,
    pub unique: bool,
    pub method: String,
    pub keys: Vec<Option<String>>,
    pub expressions: Vec<Expr>,
    pub predicate: Option<Expr>,
}

#[derive(Debug, Clone)]
pub struct Sequence {
    pub fresh: bool,
    pub owned_by: Option<Name>,
}

#[derive(Debug, Clone)]
pub struct Domain {
    pub base: TypeName,
    pub constrained: bool,
    pub fresh: bool,
}

impl Catalog {
    /// The relation that a written name means.
    #[must_use]
    pub fn resolve(&self, name: &Name) -> Name {
        let known = |name: &Name| {
            self.tables.contains_key(name)
                || self.indexes.contains_key(name)
                || self.sequences.contains_key(name)
        };
        if name.schema.is_some() || known(name) {
            return name.clone();
        }
        match &self.search_path {
            Some(schema) => {
                let there = Name::new(Some(schema.clone()), name.name.clone());
                if known(&there) { there } else { name.clone() }
            }
            None => name.clone(),
        }
    }

    /// The name that a new relation gets.
    #[must_use]
    pub fn place(&self, name: &Name) -> Name {
        match (&name.schema, &self.search_path) {
            (None, Some(schema)) => Name::new(Some(schema.clone()), name.name.clone()),
            _ => name.clone(),
        }
    }

    #[must_use]
    pub fn table(&self, name: &Name) -> Option<&Table> {
        self.tables.get(name)
    }

    /// Whether nobody can be using the relation yet.
    #[must_use]
    pub fn fresh(&self, name: &Name) -> bool {
        if let Some(table) = self.tables.get(name) {
            return table.fresh;
        }
        if let Some(index) = self.indexes.get(name) {
            return self.fresh(&index.table);
        }
        self.sequences.get(name).is_some_and(|sequence| sequence.fresh)
    }

    #[must_use]
    pub fn column(&self, table: &Name, column: &str) -> Option<&Column> {
        self.tables
            .get(table)?
            .columns
            .iter()
            .find(|known| known.name == column)
    }

    /// Partitions and inheritance children, all the way down.
    #[must_use]
    pub fn descendants(&self, table: &Name) -> Vec<Name> {
        let mut found: Vec<Name> = Vec::new();
        let mut todo = vec![table.clone()];
        while let Some(parent) = todo.pop() {
            for (name, child) in &self.tables {
                if child.parents.contains(&parent) && !found.contains(name) && name != table {
                    found.push(name.clone());
                    todo.push(name.clone());
                }
            }
        }
        found
    }

    /// The default partition of a partitioned table.
    #[must_use]
    pub fn default_partition(&self, parent: &Name) -> Option<Name> {
        self.tables
            .iter()
            .find(|(_, table)| {
                table.parents.contains(parent)
                    && table
                        .bound
                        .as_deref()
                        .is_some_and(|bound| bound.eq_ignore_ascii_case("default"))
            })
            .map(|(name, _)| name.clone())
    }

    /// The tables whose foreign keys point at `parent`, each with the constraint.
    pub fn referencing<'a>(&'a self, parent: &'a Name) -> impl Iterator<Item = (&'a Name, &'a Constraint)> {
        self.tables.iter().flat_map(move |(name, table)| {
            table
                .constraints
                .iter()
                .filter(move |constraint| {
                    matches!(&constraint.kind, ConstraintKind::ForeignKey { parent: to, .. } if to == parent)
                })
                .map(move |constraint| (name, constraint))
        })
    }

    /// The views that read `table`, directly.
    pub fn views_of<'a>(&'a self, table: &'a Name) -> impl Iterator<Item = &'a Name> {
        self.tables
            .iter()
            .filter(move |(_, view)| view.reads.contains(table))
            .map(|(name, _)| name)
    }

    pub fn indexes_of<'a>(&'a self, table: &'a Name) -> impl Iterator<Item = (&'a Name, &'a Index)> {
        self.indexes
            .iter()
            .filter(move |(_, index)| index.table == *table)
    }

    /// The tables with a column of the domain.
    #[must_use]
    pub fn users_of_domain(&self, domain: &Name) -> Vec<Name> {
        let written = domain.to_string();
        self.tables
            .iter()
            .filter(|(_, table)| {
                table.kind == Kind::Table && table.columns.iter().any(|column| column.ty.base == written)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// A constraint of a table by its name.
    #[must_use]
    pub fn constraint(&self, table: &Name, name: &str) -> Option<&Constraint> {
        self.tables
            .get(table)?
            .constraints
            .iter()
            .find(|constraint| constraint.name.as_deref() == Some(name))
    }

    /// The publication that a table is in.
    #[must_use]
    pub fn publication_of(&self, table: &Name) -> Option<&str> {
        self.published
            .get(table)
            .or(self.publishes_all.as_ref())
            .map(String::as_str)
    }

    /// The domain that a type is, if it is one that is known.
    #[must_use]
    pub fn domain_of(&self, ty: &TypeName) -> Option<&Domain> {
        self.domains
            .iter()
            .find(|(name, _)| name.to_string() == ty.base)
            .map(|(_, domain)| domain)
    }
}

impl Table {
    #[must_use]
    pub fn new(kind: Kind, fresh: bool) -> Table {
        Table {
            kind,
            fresh,
            columns: Vec::new(),
            constraints: Vec::new(),
            parents: Vec::new(),
            bound: None,
            partition_by: None,
            reads: Vec::new(),
        }
    }

    /// Whether NULL is already impossible in the column.
    #[must_use]
    pub fn is_not_null(&self, column: &str) -> bool {
        let by_column = self
            .columns
            .iter()
            .any(|known| known.name == column && known.not_null());
        by_column
            || self.constraints.iter().any(|constraint| {
                !constraint.not_valid
                    && match &constraint.kind {
                        ConstraintKind::NotNull { column: named } => named == column,
                        ConstraintKind::PrimaryKey { columns, .. } => {
                            columns.iter().any(|name| name == column)
                        }
                        _ => false,
                    }
            })
    }
}
