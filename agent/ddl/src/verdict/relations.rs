//! Tables and indexes: made and dropped.

use super::lock::LockMode::{AccessExclusive, Share, ShareRowExclusive, ShareUpdateExclusive};
use super::{Judge, Severity};
use crate::model::{Act, ConstraintKind, DroppedKind, Name, Statement};

impl Judge<'_> {
    pub(super) fn create_table(&mut self, act: &Act) {
        let Act::CreateTable {
            table,
            columns,
            constraints,
            like,
            inherits,
            partition_of,
            reads,
            ..
        } = act
        else {
            return;
        };
        let own = self.catalog.place(table);
        for source in like {
            let source = self.catalog.resolve(source);
            self.read_lock(&source);
        }
        self.reads(reads);
        for parent in inherits {
            let parent = self.catalog.resolve(parent);
            self.lock(&parent, ShareUpdateExclusive);
        }
        let keys = constraints
            .iter()
            .chain(columns.iter().flat_map(|column| &column.constraints));
        for constraint in keys {
            if let ConstraintKind::ForeignKey { parent, .. } = &constraint.kind {
                let parent = self.catalog.resolve(parent);
                if parent == own {
                    continue;
                }
                self.lock(&parent, ShareRowExclusive);
                let message = format!(
                    "The new table's foreign key needs {parent} without writers, for an instant: it queues behind every \
                     open transaction that wrote there, and all writes queue behind it."
                );
                let columns = match &constraint.kind {
                    ConstraintKind::ForeignKey { columns, .. } => columns.join(", "),
                    _ => String::new(),
                };
                let body = if constraint.body.to_ascii_lowercase().starts_with("foreign") {
                    constraint.body.clone()
                } else {
                    format!("FOREIGN KEY ({columns}) {}", constraint.body)
                };
                let safe = format!(
                    "-- the table without the key first, then, with a lock_timeout:\nALTER TABLE {own} ADD {body} NOT VALID;"
                );
                self.danger(&parent, "H61", message, safe);
            }
        }
        if let Some(parent) = partition_of {
            let parent = self.catalog.resolve(parent);
            self.lock(&parent, AccessExclusive);
            let default = self.catalog.default_partition(&parent);
            if let Some(default) = &default {
                self.lock(default, AccessExclusive);
                self.scan(default);
            }
            let message = match &default {
                Some(default) => format!(
                    "Every row of the default partition {default} is checked while nobody can read or write any \
                     partition of {parent}."
                ),
                None => format!(
                    "It needs {parent} alone for an instant, and queries on every partition queue behind it. Made \
                     standalone and attached, the table needs no such lock."
                ),
            };
            let bound = match act {
                Act::CreateTable { bound, .. } => bound.as_str(),
                _ => "",
            };
            let safe = format!(
                "CREATE TABLE {own} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);\n-- with a default \
                 partition: a valid CHECK on that which excludes the bound\nALTER TABLE {parent} ATTACH PARTITION {own} \
                 {bound};"
            );
            let severity = if default.is_some() {
                Severity::Danger
            } else {
                Severity::Warning
            };
            self.find(&parent, "H57", severity, message, safe);
        }
    }

    pub(super) fn create_index(&mut self, statement: &Statement) {
        let Act::CreateIndex {
            index,
            table,
            only,
            concurrently,
            if_not_exists,
            keys,
            expressions,
            predicate,
            ..
        } = &statement.act
        else {
            return;
        };
        let table = self.catalog.resolve(table);
        let partitioned = self
            .catalog
            .table(&table)
            .is_some_and(|known| known.partition_by.is_some());
        if *concurrently {
            self.lock(&table, ShareUpdateExclusive);
            if self.at.in_transaction {
                self.not_in_transaction(&table, "CREATE INDEX CONCURRENTLY");
            }
            if partitioned {
                let message = format!(
                    "{table} is partitioned, and CONCURRENTLY is refused there. An index ON ONLY the parent costs \
                     nothing; build one CONCURRENTLY on each partition and attach it."
                );
                let name = index.clone().unwrap_or_else(|| format!("{}_idx", table.name));
                let columns: Vec<String> = keys.iter().flatten().cloned().collect();
                let mut steps = vec![format!(
                    "CREATE INDEX {name} ON ONLY {table} ({});",
                    columns.join(", ")
                )];
                for child in self.catalog.descendants(&table) {
                    let own = format!("{}_{name}", child.name);
                    steps.push(format!(
                        "CREATE INDEX CONCURRENTLY {own} ON {child} ({});",
                        columns.join(", ")
                    ));
                    steps.push(format!(
                        "ALTER INDEX {} ATTACH PARTITION {};",
                        table.beside(name.clone()),
                        child.beside(own)
                    ));
                }
                self.danger(&table, "H47", message, steps.join("\n"));
            }
            if *if_not_exists {
                let message = "A CREATE INDEX CONCURRENTLY that failed leaves an invalid index under this name, and IF NOT \
                               EXISTS takes that for done. Look at pg_index.indisvalid, drop it, and build again."
                    .to_owned();
                let safe = match index {
                    Some(index) => format!(
                        "DROP INDEX CONCURRENTLY IF EXISTS {};\n{};",
                        table.beside(index.clone()),
                        without_if_not_exists(&statement.sql)
                    ),
                    None => String::new(),
                };
                self.find(&table, "H77", Severity::Warning, message, safe);
            }
        } else {
            let tree = self.tree(&table, *only);
            for relation in &tree {
                self.lock(relation, Share);
                let empty = self
                    .catalog
                    .table(relation)
                    .is_some_and(|known| known.partition_by.is_some());
                if !empty {
                    self.scan(relation);
                }
            }
            if !(partitioned && *only) {
                let message = format!(
                    "Nobody can write {table} until the index is built. Built CONCURRENTLY it takes longer and stops \
                     nobody."
                );
                let concurrent = concurrent(&statement.sql, "index");
                let possible = !partitioned && !concurrent.is_empty();
                self.danger(
                    &table,
                    "H45",
                    message,
                    if possible {
                        format!("{concurrent};")
                    } else {
                        String::new()
                    },
                );
                if possible && !self.at.in_transaction && !self.catalog.fresh(&table) {
                    self.verdict.fix = Some(vec![format!("{concurrent};")]);
                }
            }
        }
        let duplicate = self
            .catalog
            .indexes_of(&table)
            .find(|(_, other)| {
                other.keys == *keys
                    && other.expressions == *expressions
                    && other.predicate == *predicate
                    && !keys.is_empty()
            })
            .map(|(name, _)| name.clone());
        if let Some(other) = duplicate {
            let message = format!("{other} has the same columns already; each costs every write.");
            self.find(&table, "H80", Severity::Advice, message, String::new());
        }
    }

    pub(super) fn drop(&mut self, statement: &Statement) {
        let Act::Drop {
            kind,
            names,
            cascade,
            concurrently,
            ..
        } = &statement.act
        else {
            return;
        };
        for name in names {
            let name = self.catalog.resolve(name);
            match kind {
                DroppedKind::Index => self.drop_index(&name, *concurrently, statement),
                DroppedKind::Table | DroppedKind::ForeignTable | DroppedKind::MaterializedView => {
                    self.drop_table(&name, *cascade);
                }
                DroppedKind::View => {
                    self.lock(&name, AccessExclusive);
                    let message = format!("Clients that still read {name} fail at once.");
                    self.find(&name, "H68", Severity::Warning, message, String::new());
                }
                DroppedKind::Sequence => {
                    self.lock(&name, AccessExclusive);
                }
                DroppedKind::Type | DroppedKind::Domain => {
                    let message = format!(
                        "{name} is gone for every client at once{}.",
                        if *cascade {
                            ", and so is every column of that type"
                        } else {
                            ""
                        }
                    );
                    self.say("H65", Severity::Danger, message, String::new());
                }
                DroppedKind::Function if *cascade => {
                    let message = format!(
                        "Every trigger, view and default that uses {name} goes too, each under a lock that stops reads \
                         and writes of its table. Which ones, only the server knows."
                    );
                    self.say("H55", Severity::Warning, message, String::new());
                }
                DroppedKind::Schema if *cascade => {
                    let message = format!(
                        "Everything in {name} is dropped, table by table, all locks held to the end."
                    );
                    self.say("H63", Severity::Danger, message, String::new());
                }
                _ => {}
            }
        }
    }

    fn drop_index(&mut self, index: &Name, concurrently: bool, statement: &Statement) {
        let table = self.catalog.indexes.get(index).map(|known| known.table.clone());
        if concurrently {
            if let Some(table) = &table {
                self.lock(table, ShareUpdateExclusive);
            }
            self.lock(index, ShareUpdateExclusive);
            if self.at.in_transaction {
                self.not_in_transaction(index, "DROP INDEX CONCURRENTLY");
            }
            return;
        }
        if let Some(table) = &table {
            self.lock(table, AccessExclusive);
        }
        self.lock(index, AccessExclusive);
        let of = table
            .as_ref()
            .map_or_else(|| "its table".to_owned(), ToString::to_string);
        let message = format!(
            "It needs {of} alone: reads and writes queue behind it, and it behind the longest transaction. CONCURRENTLY \
             stops nobody."
        );
        let safe = concurrent(&statement.sql, "index");
        self.danger(index, "H48", message, format!("{safe};"));
        if !self.at.in_transaction && !self.catalog.fresh(index) && !statement.sql.contains(',') {
            self.verdict.fix = Some(vec![format!("{safe};")]);
        }
    }

    fn drop_table(&mut self, table: &Name, cascade: bool) {
        for relation in self.tree(table, false) {
            self.lock(&relation, AccessExclusive);
        }
        let known = self.catalog.table(table).cloned();
        let partition_of = known
            .as_ref()
            .filter(|known| known.bound.is_some())
            .and_then(|known| known.parents.first().cloned());
        for constraint in known.iter().flat_map(|known| &known.constraints) {
            if let ConstraintKind::ForeignKey { parent, .. } = &constraint.kind {
                self.lock(&parent.clone(), AccessExclusive);
            }
        }
        if cascade {
            let children: Vec<Name> = self
                .catalog
                .referencing(table)
                .map(|(child, _)| child.clone())
                .collect();
            let views: Vec<Name> = self.catalog.views_of(table).cloned().collect();
            for other in children.into_iter().chain(views) {
                self.lock(&other, AccessExclusive);
            }
        }
        if let Some(parent) = partition_of {
            self.lock(&parent, AccessExclusive);
            let default = self
                .catalog
                .default_partition(&parent)
                .filter(|default| default != table);
            if let Some(default) = &default {
                self.lock(default, AccessExclusive);
            }
            let message = format!(
                "{table} is a partition: {parent} is needed alone, so queries on every partition wait. Detached first, it \
                 can be dropped without that."
            );
            let how = if default.is_none() && self.at.version >= 14 {
                " CONCURRENTLY"
            } else {
                ""
            };
            let safe = format!("ALTER TABLE {parent} DETACH PARTITION {table}{how};\nDROP TABLE {table};");
            self.danger(table, "H59", message, safe);
            return;
        }
        let message = format!(
            "{table} and its data are gone, and clients that still use it fail at once. Tables that it refers to are \
             needed alone too, for an instant."
        );
        let safe = format!(
            "-- out of sight first, and dropped when nobody has missed it for a while:\nALTER TABLE {table} RENAME TO {};",
            crate::model::Name::plain(format!("{}_dropped", table.name))
        );
        self.danger(table, "H63", message, safe);
    }
}

/// The statement with CONCURRENTLY behind its word `behind`.
pub(super) fn concurrent(sql: &str, behind: &str) -> String {
    let lower = sql.to_ascii_lowercase();
    match lower.find(behind) {
        Some(at) => {
            let (head, tail) = sql.split_at(at + behind.len());
            format!("{head} CONCURRENTLY{tail}")
        }
        None => String::new(),
    }
}

fn without_if_not_exists(sql: &str) -> String {
    let lower = sql.to_ascii_lowercase();
    match lower.find("if not exists ") {
        Some(at) => format!("{}{}", &sql[..at], &sql[at + "if not exists ".len()..]),
        None => sql.to_owned(),
    }
}
