//! What is wanted, held against what there is.

use super::change::{Change, ColumnChange, TableChange};
use super::facts::{ColumnFacts, ConstraintFacts, Facts, IndexFacts, State, TableFacts, Version};
use super::words::renamed;
use super::{Column, Constraint, Expansion, Identity, Index, Key, Shadow, Table, literal};
use crate::model::{Name, quote};
use std::collections::BTreeMap;

/// The longest name that a version may have, bytes: it is part of other names.
const VERSION_MAX: usize = 40;
/// The longest name of anything, bytes.
const NAME_MAX: usize = 63;
/// How shadow columns, and what is built on them, are named until they take the place of what they are for.
const PREFIX: &str = "pgctl_new_";

/// What an operator takes upon himself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permits {
    /// Subscribers have the shadow columns already, or follow no column that they lack.
    pub published: bool,
    /// A NULL that a new program inserts into a column with a default becomes that default.
    pub null_becomes_default: bool,
}

/// What an expansion has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub expansion: Expansion,
    /// What an operator should know before.
    pub notes: Vec<String>,
}

/// Finds out what has to be carried over.
///
/// # Errors
/// Whatever cannot be, by its name, and what to do about it.
pub fn survey(
    version: &str,
    change: &Change,
    facts: &Facts,
    versions: &[Version],
    permits: Permits,
) -> Result<Survey, Vec<String>> {
    let mut refusals = name_troubles(version, facts);
    let mut notes = Vec::new();
    let mut tables = Vec::new();
    for (name, wanted) in &change.tables {
        let written = name.to_string();
        let Some(table) = facts.tables.iter().find(|table| table.written == written) else {
            refusals.push(format!("there is no table {written} in the database"));
            continue;
        };
        let mut surveyor = Surveyor {
            name,
            table,
            facts,
            versions,
            permits,
            refusals: Vec::new(),
            notes: Vec::new(),
        };
        tables.push(surveyor.table(wanted));
        refusals.append(&mut surveyor.refusals);
        notes.append(&mut surveyor.notes);
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    notes.push("a view cannot be the target of COPY, and takes MERGE from PostgreSQL 17 on".to_owned());
    Ok(Survey {
        expansion: Expansion {
            version: version.to_owned(),
            server_version: facts.server_version,
            tables,
        },
        notes,
    })
}

fn name_troubles(version: &str, facts: &Facts) -> Vec<String> {
    let mut troubles = Vec::new();
    let plain = version
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !plain || version.is_empty() || version.len() > VERSION_MAX || version.starts_with("pg") {
        troubles.push(format!(
            "{version:?} cannot name a version: 1 to {VERSION_MAX} of a-z 0-9 _, not beginning with pg, such as app_v2"
        ));
    } else if facts.schemas.iter().any(|schema| schema == version) {
        troubles.push(format!(
            "there is a schema {version} already: give the version another name (see `pgctl ddl versions`)"
        ));
    }
    if !facts.may_create {
        troubles.push(
            "the role that carries schema changes out may not make schemas: GRANT CREATE ON DATABASE ... TO it".to_owned(),
        );
    }
    troubles
}

struct Surveyor<'a> {
    name: &'a Name,
    table: &'a TableFacts,
    facts: &'a Facts,
    versions: &'a [Version],
    permits: Permits,
    refusals: Vec<String>,
    notes: Vec<String>,
}

impl Surveyor<'_> {
    fn refuse(&mut self, why: impl std::fmt::Display) {
        self.refusals.push(format!("{}: {why}", self.name));
    }

    fn table(&mut self, wanted: &TableChange) -> Table {
        let facts = self.table;
        let shadowed = wanted.columns.values().any(|column| column.ty.is_some());
        self.table_troubles(shadowed);
        let mut columns = Vec::new();
        let mut taken: Vec<String> = facts.columns.iter().map(|column| column.name.clone()).collect();
        for column in &facts.columns {
            let change = wanted.columns.get(&column.name).cloned().unwrap_or_default();
            let shadow = change
                .ty
                .is_some()
                .then(|| self.shadow(column, &change, &mut taken));
            columns.push(Column {
                name: column.name.clone(),
                new_name: change.rename.clone().unwrap_or_else(|| column.name.clone()),
                grants: column.grants.clone(),
                shadow,
            });
        }
        for name in wanted.columns.keys() {
            if facts.column(name).is_none() {
                self.refuse(format!("it has no column {name}"));
            }
        }
        for (at, column) in columns.iter().enumerate() {
            let taken = |other: &Column| other.new_name == column.new_name || other.name == column.new_name;
            if column.new_name != column.name
                && columns
                    .iter()
                    .enumerate()
                    .any(|(other, it)| other != at && taken(it))
            {
                self.refuse(format!("two columns would be called {}", column.new_name));
            }
        }
        let mut table = Table {
            schema: facts.schema.clone(),
            name: facts.name.clone(),
            new_name: wanted.rename.clone().unwrap_or_else(|| facts.name.clone()),
            columns,
            grants: facts.grants.clone(),
            ..Table::default()
        };
        if shadowed {
            self.carry(&mut table);
            for trigger in facts.triggers.iter().filter(|trigger| trigger.at_any_update) {
                self.notes.push(format!(
                    "{}: the trigger {} fires for every row that is filled",
                    self.name, trigger.name
                ));
            }
        }
        for column in table
            .columns
            .iter()
            .filter(|column| column.name != column.new_name)
        {
            for trigger in facts
                .triggers
                .iter()
                .filter(|trigger| trigger.names(&column.name))
            {
                self.notes.push(format!(
                    "{}: the function of the trigger {} seems to use {}, which is gone when the version is contracted",
                    self.name, trigger.name, column.name
                ));
            }
        }
        table
    }

    fn table_troubles(&mut self, shadowed: bool) {
        let facts = self.table;
        if !matches!(facts.kind.as_str(), "r" | "p") {
            self.refuse("it is no table");
        }
        if !facts.owned {
            self.refuse("the role that carries schema changes out does not have its owner's rights");
        }
        if facts.row_security && self.facts.server_version < 150_000 {
            self.refuse(
                "it has row security, which views keep from PostgreSQL 15 on only (security_invoker)",
            );
        }
        let open = self.versions.iter().find(|version| {
            version.state != State::Contracted
                && version
                    .expansion
                    .tables
                    .iter()
                    .any(|table| table.schema == facts.schema && table.name == facts.name)
        });
        if let Some(open) = open {
            self.refuse(format!(
                "the version {} of it is {}: contract it first (`pgctl ddl contract {}`)",
                open.version,
                open.state.name(),
                open.version
            ));
        }
        if facts.related && (facts.kind != "p" || shadowed) {
            self.refuse("it is a partition, or inherits or is inherited from: types are changed in tables that stand alone");
        }
        if !shadowed {
            return;
        }
        if facts.kind == "p" {
            self.refuse("it is partitioned: types are changed in tables that stand alone");
        }
        if !facts.keyed {
            self.refuse("it has no primary key along which the new column could be filled: add one");
        }
        if facts.forced_row_security {
            self.refuse("row security is forced on it, and would hide rows from the filling: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY for the time");
        }
        if !facts.publications.is_empty() && !self.permits.published {
            self.refuse(format!(
                "it is published by {}: a subscriber without the shadow columns ({PREFIX}...) would stop. Add them there \
                 first, with the new types, then say --subscribers-ready",
                facts.publications.join(", ")
            ));
        }
    }

    fn shadow(&mut self, column: &ColumnFacts, change: &ColumnChange, taken: &mut Vec<String>) -> Shadow {
        let name = &column.name;
        let ty = change.ty.clone().unwrap_or_default();
        if column.generated {
            self.refuse(format!(
                "{name} is computed from others: change its expression with `pgctl ddl apply`"
            ));
        }
        if change.up.is_none() || change.down.is_none() {
            let zoned = |ty: &str| {
                ty.starts_with("timestamp") || ty.starts_with("time ") || ty == "timetz" || ty == "date"
            };
            let both = zoned(&column.ty) && zoned(&ty.to_ascii_lowercase());
            let differs = column.ty.contains("with time zone")
                != (ty.to_ascii_lowercase().contains("with time zone")
                    || ty.to_ascii_lowercase().contains("tz"));
            if both && differs {
                self.refuse(format!(
                    "{name}: which time zone is meant? Say it both ways: USING {name} AT TIME ZONE 'UTC', and above the \
                     statement -- pgctl:down {name} = {name} AT TIME ZONE 'UTC'"
                ));
            }
        }
        let identity = self.identity(column, change);
        let default = match (&change.default, &column.default) {
            // The new program gets its numbers from the same sequence.
            _ if identity.is_some() => column
                .sequence
                .as_ref()
                .map(|sequence| format!("pg_catalog.nextval({}::pg_catalog.regclass)", literal(sequence))),
            (Some(given), _) => given.clone(),
            (None, Some(_)) if change.up.is_some() => {
                self.refuse(format!(
                    "{name} has a default, and its values are converted: say the new one, ALTER COLUMN {name} SET DEFAULT ..."
                ));
                None
            }
            (None, old) => old.clone(),
        };
        let not_null = change.not_null.unwrap_or(column.not_null);
        if column.default.is_some() && !not_null && !self.permits.null_becomes_default {
            self.refuse(format!(
                "{name} may be NULL and has a default. A NULL that a new program inserts explicitly cannot be told from a value \
                 left out, and becomes the default: say --null-becomes-default if no program does that, or drop the default first"
            ));
        }
        if !column.not_null && not_null && change.up.is_none() {
            self.refuse(format!(
                "{name} may be NULL in the old version and not in the new one: say what a NULL becomes there, USING \
                 coalesce({name}, ...)"
            ));
        }
        if column.not_null && !not_null && change.down.is_none() {
            self.refuse(format!(
                "{name} may be NULL in the new version and not in the old one: say what a NULL becomes there, -- pgctl:down \
                 {name} = coalesce({name}, ...)"
            ));
        }
        self.expressions(name, change);
        let shadow = free(name, taken);
        let unprefixed = shadow.strip_prefix(PREFIX).unwrap_or(&shadow);
        Shadow {
            not_null: not_null.then(|| format!("pgctl_nn_{unprefixed}")),
            name: shadow,
            ty,
            old_ty: column.ty.clone(),
            up: change.up.clone(),
            down: change.down.clone(),
            default,
            sequence: column.sequence.clone(),
            identity,
            comment: column.comment.clone(),
            // -1, or nothing from PostgreSQL 17 on: the server's own.
            statistics: column.statistics.filter(|target| *target >= 0),
        }
    }

    fn identity(&mut self, column: &ColumnFacts, change: &ColumnChange) -> Option<Identity> {
        if column.identity.is_empty() {
            return None;
        }
        if change.up.is_some()
            || change.down.is_some()
            || change.default.is_some()
            || change.not_null == Some(false)
        {
            self.refuse(format!(
                "{} is an identity column: it can be given a larger type, and neither conversions nor a default",
                column.name
            ));
        }
        // The sequence of an identity column is in its table's schema.
        let written = column.sequence.as_deref().unwrap_or_default();
        let own = format!("{}.", quote(&self.table.schema));
        let sequence = written.strip_prefix(&own).unwrap_or(written);
        let sequence = match sequence.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(name) => name.replace("\"\"", "\""),
            None => sequence.to_owned(),
        };
        Some(Identity {
            generated: if column.identity == "a" {
                "ALWAYS"
            } else {
                "BY DEFAULT"
            }
            .to_owned(),
            twin: fitted(&format!("{PREFIX}{sequence}")),
            sequence,
            options: column.sequence_options.clone().unwrap_or_default(),
        })
    }

    /// Who wrote shows in which of the two columns has changed: that a third one has would say nothing.
    fn expressions(&mut self, name: &str, change: &ColumnChange) {
        let new_name = change.rename.as_deref().unwrap_or(name);
        let sides = [
            ("USING", &change.up, name),
            ("pgctl:down", &change.down, new_name),
        ];
        for (what, expression, own) in sides {
            let mut others = Vec::new();
            let columns = &self.table.columns;
            let _ = renamed(expression.as_deref().unwrap_or_default(), |word| {
                if word != own && columns.iter().any(|column| column.name == word) {
                    others.push(word.to_owned());
                }
                None
            });
            for other in others {
                self.refuse(format!(
                    "{what} of {name} uses {other}: it may use {own} alone, for who has written a row is told by what was changed"
                ));
            }
        }
    }

    /// Everything that hangs on columns whose types change.
    fn carry(&mut self, table: &mut Table) {
        let facts = self.table;
        let changed: BTreeMap<i32, (String, String)> = facts
            .columns
            .iter()
            .zip(&table.columns)
            .filter_map(|(facts, column)| {
                let shadow = column.shadow.as_ref()?;
                Some((facts.number, (column.name.clone(), shadow.name.clone())))
            })
            .collect();
        let touched = |numbers: &[i32]| numbers.iter().find_map(|number| changed.get(number));
        let other = |name: &str| {
            changed
                .values()
                .find(|(old, _)| old == name)
                .map(|(_, shadow)| shadow.clone())
        };
        for dependent in &facts.dependents {
            let Some((column, _)) = changed.get(&dependent.column) else {
                continue;
            };
            // Views of former versions go when this one is contracted.
            let former = |schema: &String| self.versions.iter().any(|version| version.version == *schema);
            if !dependent.view_schema.as_ref().is_some_and(former) {
                let what = dependent.described();
                self.refuse(format!(
                    "{what} depends on {column}: drop it, and make it again when the version is contracted"
                ));
            }
        }
        for reference in &facts.referenced_by {
            if let Some((column, _)) = touched(&reference.columns) {
                self.refuse(format!(
                    "the foreign key {} of {} points at {column}: drop it, and add it again (NOT VALID, then VALIDATE) when the \
                     version is contracted",
                    reference.constraint, reference.table
                ));
            }
        }
        let mut taken = Vec::new();
        for index in &facts.indexes {
            if let Some((column, _)) = touched(index.columns.as_deref().unwrap_or_default()) {
                self.index_troubles(index, column);
                table.indexes.push(Index {
                    name: index.name.clone(),
                    twin: free(&index.name, &mut taken),
                    unique: index.unique,
                    definition: renamed(&index.definition, other),
                    key: index.constraint.as_ref().map(|name| key(name, index)),
                });
            }
        }
        for constraint in &facts.constraints {
            if touched(constraint.columns.as_deref().unwrap_or_default()).is_some() {
                let definition = self.constraint(constraint, &other);
                table.constraints.push(Constraint {
                    name: constraint.name.clone(),
                    twin: free(&constraint.name, &mut taken),
                    definition,
                    validated: constraint.validated,
                    parent: constraint.parent.clone(),
                });
            }
        }
    }

    fn index_troubles(&mut self, index: &IndexFacts, column: &str) {
        let name = &index.name;
        if index.exclusion {
            self.refuse(format!("the exclusion constraint {name} uses {column}, and cannot be built beside its use: drop it first"));
        }
        if index.replica_identity {
            self.refuse(format!("the replica identity {name} uses {column}: choose another with ALTER TABLE ... REPLICA IDENTITY"));
        }
        if !index.valid {
            self.refuse(format!("the index {name} is invalid: see `pgctl ddl janitor`"));
        }
    }

    fn constraint(
        &mut self,
        constraint: &ConstraintFacts,
        other: &impl Fn(&str) -> Option<String>,
    ) -> String {
        let definition = constraint.definition.trim_end_matches(" NOT VALID");
        let Some((own, parent)) = definition
            .split_once(" REFERENCES ")
            .filter(|_| constraint.kind == "f")
        else {
            return renamed(definition, other);
        };
        if parent.contains("SET NULL (") || parent.contains("SET DEFAULT (") {
            self.refuse(format!(
                "the foreign key {} sets single columns: drop it, and add it again when the version is contracted",
                constraint.name
            ));
        }
        format!("{} REFERENCES {parent}", renamed(own, other))
    }
}

fn key(name: &str, index: &IndexFacts) -> Key {
    let kind = if index.primary { "PRIMARY KEY" } else { "UNIQUE" };
    let put_off = match (index.deferrable, index.deferred) {
        (true, true) => "DEFERRABLE INITIALLY DEFERRED",
        (true, false) => "DEFERRABLE",
        _ => "",
    };
    Key {
        name: name.to_owned(),
        kind: kind.to_owned(),
        put_off: put_off.to_owned(),
    }
}

/// A name for what stands beside `name`, that nothing has.
fn free(name: &str, taken: &mut Vec<String>) -> String {
    let mut candidate = fitted(&format!("{PREFIX}{name}"));
    let mut number = 1;
    while taken.contains(&candidate) {
        number += 1;
        candidate = fitted(&format!("{PREFIX}{number}_{name}"));
    }
    taken.push(candidate.clone());
    candidate
}

/// As much of a name as a name can be.
fn fitted(name: &str) -> String {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}
