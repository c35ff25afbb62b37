//! Everything that is neither ALTER TABLE nor makes or drops a relation.

use super::lock::LockMode::{
    AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive,
    ShareUpdateExclusive,
};
use super::relations::concurrent;
use super::{Judge, LockMode, Severity};
use crate::catalog::Kind;
use crate::model::{Act, DomainAct, IndexAct, Name, ReindexTarget, SequenceAct, Statement, TypeAct};

impl Judge<'_> {
    pub(super) fn other(&mut self, statement: &Statement, act: &Act) {
        match act {
            Act::AlterIndex { index, what } => self.alter_index(index, what),
            Act::Reindex {
                target,
                name,
                concurrently,
            } => self.reindex(*target, name.as_ref(), *concurrently, statement),
            Act::Repack {
                command,
                tables,
                concurrently,
            } => self.repack(command, tables, *concurrently),
            Act::Truncate { tables, cascade } => self.truncate(tables, *cascade),
            Act::RefreshView {
                view,
                concurrently,
                with_data,
            } => self.refresh(view, *concurrently, *with_data, statement),
            Act::CreateView {
                view,
                or_replace,
                reads,
                ..
            } => {
                self.reads(reads);
                let view = self.catalog.place(view);
                if *or_replace && self.catalog.table(&view).is_some() {
                    self.lock(&view, AccessExclusive);
                }
                if *or_replace && (!self.catalog.complete || self.catalog.table(&view).is_some()) {
                    let message = format!(
                        "If {view} is there, it is needed alone for an instant: its readers queue behind this."
                    );
                    self.find(&view, "H68", Severity::Advice, message, String::new());
                }
            }
            Act::CreateSequence {
                owned_by: Some(table),
                ..
            } => {
                let table = self.catalog.resolve(table);
                self.lock(&table, AccessShare);
            }
            Act::AlterSequence { sequence, what } => {
                let sequence = self.catalog.resolve(sequence);
                let (mode, finding) = match what {
                    SequenceAct::Rename(_) => {
                        (AccessExclusive, "renamed: clients of the old name fail at once")
                    }
                    SequenceAct::Other => (AccessExclusive, ""),
                    SequenceAct::OwnedBy(_) => (ShareRowExclusive, ""),
                    SequenceAct::Options => (
                        ShareRowExclusive,
                        "changed: every nextval() of it waits for this to commit",
                    ),
                };
                self.lock(&sequence, mode);
                if let SequenceAct::OwnedBy(Some(table)) = what {
                    let table = self.catalog.resolve(table);
                    self.lock(&table, AccessShare);
                }
                if !finding.is_empty() {
                    let message = format!("{sequence} is {finding}.");
                    self.find(&sequence, "H72", Severity::Warning, message, String::new());
                }
            }
            Act::CreateTrigger { table } => {
                let table = self.catalog.resolve(table);
                for relation in self.tree(&table, false) {
                    self.lock(&relation, ShareRowExclusive);
                }
                let message = format!(
                    "Writes to {table} wait, behind it and behind whatever it waits for; reads do not. From the commit \
                     on, every write runs the trigger."
                );
                self.find(
                    &table,
                    "H54",
                    Severity::Warning,
                    message,
                    "SET lock_timeout = '100ms'; -- and try again".to_owned(),
                );
            }
            Act::TableProperty { what, table, name } => {
                let table = self.catalog.resolve(table);
                let tree = *what == "DROP TRIGGER";
                for relation in self.tree(&table, !tree) {
                    self.lock(&relation, AccessExclusive);
                }
                let rule = if *what == "DROP TRIGGER" { "H55" } else { "H53" };
                let severity = if rule == "H55" {
                    Severity::Warning
                } else {
                    Severity::Advice
                };
                let message = format!(
                    "{what} {name} needs {table} alone, for an instant: it queues behind the longest transaction, and \
                     everybody else queues behind it."
                );
                self.find(
                    &table,
                    rule,
                    severity,
                    message,
                    "SET lock_timeout = '100ms'; -- and try again".to_owned(),
                );
            }
            Act::AlterDomain { domain, what } => self.alter_domain(domain, what),
            Act::AlterType { name, what } => self.alter_type(name, what),
            Act::Publication {
                name,
                tables,
                all_tables,
                ..
            } => {
                for table in tables {
                    let table = self.catalog.resolve(table);
                    self.lock(&table, ShareUpdateExclusive);
                }
                if *all_tables || !tables.is_empty() {
                    let message = format!(
                        "{name} takes a lock on each table that VACUUM, VALIDATE and CREATE INDEX CONCURRENTLY wait for, \
                         and from now on DDL on them has to reach the subscribers first."
                    );
                    self.say("H69", Severity::Warning, message, String::new());
                }
            }
            Act::CreateStatistics { table: Some(table) } | Act::Comment { table: Some(table) } => {
                let table = self.catalog.resolve(table);
                self.lock(&table, ShareUpdateExclusive);
            }
            Act::Analyze { tables } | Act::Vacuum { tables } => {
                for table in tables {
                    let table = self.catalog.resolve(table);
                    self.lock(&table, ShareUpdateExclusive);
                }
            }
            Act::Grant { tables } if self.at.version >= 18 => {
                for table in tables {
                    let table = self.catalog.resolve(table);
                    self.lock(&table, AccessShare);
                }
            }
            Act::Insert { table, reads, .. } => {
                self.reads(reads);
                self.write(table, RowExclusive);
            }
            Act::Copy {
                table: Some(table),
                into,
            } => self.write(table, if *into { RowExclusive } else { AccessShare }),
            Act::Query { reads, locking, .. } => {
                self.reads(reads);
                if *locking {
                    for table in reads {
                        let table = self.catalog.resolve(table);
                        self.lock(&table, RowShare);
                    }
                }
            }
            Act::Update { table, filtered, .. } | Act::Delete { table, filtered } => {
                self.change_rows(table, *filtered)
            }
            Act::LockTable { tables, mode } => self.lock_table(tables, mode),
            Act::Opaque { what } => {
                let message = format!(
                    "What {what} runs is not in the text, so its locks, rewrites and scans are not known here. Write the \
                     statements out, or trace it on a copy of the schema."
                );
                self.say("H74", Severity::Warning, message, String::new());
            }
            _ => {}
        }
    }

    fn write(&mut self, table: &Name, mode: LockMode) {
        let table = self.catalog.resolve(table);
        self.lock(&table, mode);
    }

    fn alter_index(&mut self, index: &Name, what: &IndexAct) {
        let index = self.catalog.resolve(index);
        let table = self.catalog.indexes.get(&index).map(|known| known.table.clone());
        match what {
            IndexAct::Rename(_) | IndexAct::SetOptions | IndexAct::SetStatistics => {
                self.lock(&index, ShareUpdateExclusive)
            }
            IndexAct::Attach(child) => {
                let child = self.catalog.resolve(child);
                self.lock(&index, ShareUpdateExclusive);
                self.lock(&child, AccessExclusive);
                let tables = [
                    table,
                    self.catalog.indexes.get(&child).map(|known| known.table.clone()),
                ];
                for table in tables.into_iter().flatten() {
                    self.lock(&table, AccessShare);
                }
            }
            IndexAct::SetTablespace => {
                self.lock(&index, AccessExclusive);
                let message =
                    format!("{index} is copied while nobody can use it, nor plan a query on its table.");
                let safe = format!("REINDEX (CONCURRENTLY, TABLESPACE new_space) INDEX {index};");
                self.danger(&index, "H51", message, safe);
                self.rewrite(&index);
            }
            IndexAct::Other => self.lock(&index, AccessExclusive),
        }
    }

    fn reindex(
        &mut self,
        target: ReindexTarget,
        name: Option<&Name>,
        concurrently: bool,
        statement: &Statement,
    ) {
        let name = name.map(|name| self.catalog.resolve(name));
        let (table, indexes): (Option<Name>, Vec<Name>) = match (target, &name) {
            (ReindexTarget::Index, Some(index)) => (
                self.catalog.indexes.get(index).map(|known| known.table.clone()),
                vec![index.clone()],
            ),
            (ReindexTarget::Table, Some(table)) => (
                Some(table.clone()),
                self.catalog
                    .indexes_of(table)
                    .map(|(name, _)| name.clone())
                    .collect(),
            ),
            _ => (None, Vec::new()),
        };
        let subject = name.clone().unwrap_or_else(|| Name::plain("database"));
        if concurrently {
            for relation in table.iter().chain(&indexes) {
                self.lock(relation, ShareUpdateExclusive);
            }
            if self.at.in_transaction {
                self.not_in_transaction(&subject, "REINDEX CONCURRENTLY");
            }
            return;
        }
        if let Some(table) = &table {
            self.lock(table, Share);
            self.scan(table);
        }
        for index in &indexes {
            self.lock(index, AccessExclusive);
        }
        let message = format!(
            "Until the index of {subject} is built again nobody can write its table, and queries that would use the \
             index cannot even be planned."
        );
        let word = match target {
            ReindexTarget::Index => "index",
            ReindexTarget::Table => "table",
            ReindexTarget::Schema => "schema",
            ReindexTarget::Database => "database",
        };
        let tail = statement.sql.get("reindex".len()..).unwrap_or_default();
        let behind = concurrent(tail, word);
        let safe = if behind.is_empty() {
            String::new()
        } else {
            format!("REINDEX{behind};")
        };
        if !safe.is_empty() && !self.at.in_transaction && !self.catalog.fresh(&subject) {
            self.verdict.fix = Some(vec![safe.clone()]);
        }
        self.danger(&subject, "H49", message, safe);
        if table.is_none() && !self.catalog.fresh(&subject) {
            self.verdict.scans.insert(subject);
        }
    }

    fn repack(&mut self, command: &str, tables: &[Name], concurrently: bool) {
        for table in tables {
            let table = self.catalog.resolve(table);
            if concurrently {
                self.lock(&table, ShareUpdateExclusive);
                continue;
            }
            self.lock(&table, AccessExclusive);
            self.rewrite(&table);
            let message = format!("{command} writes all of {table} anew while nobody can read or write it.");
            let safe = format!(
                "-- outside of the database, with the extension pg_repack: pg_repack --table={table}\nVACUUM (ANALYZE) {table};"
            );
            self.danger(&table, "H50", message, safe);
        }
        if tables.is_empty() && !concurrently {
            let message = format!(
                "{command} without a table works through the whole database, one table after the other closed to everybody."
            );
            self.say("H50", Severity::Danger, message, String::new());
        }
    }

    fn truncate(&mut self, tables: &[Name], cascade: bool) {
        for table in tables {
            let table = self.catalog.resolve(table);
            let mut emptied = self.tree(&table, false);
            if cascade {
                let mut at = 0;
                while let Some(parent) = emptied.get(at).cloned() {
                    at += 1;
                    let children: Vec<Name> = self
                        .catalog
                        .referencing(&parent)
                        .map(|(child, _)| child.clone())
                        .collect();
                    for child in children {
                        if !emptied.contains(&child) {
                            emptied.push(child);
                        }
                    }
                }
            }
            for relation in &emptied {
                self.lock(relation, AccessExclusive);
            }
            let message = format!(
                "All rows of {table}{} are gone, and everybody waits while it happens.",
                if cascade {
                    " and of every table that refers to it"
                } else {
                    ""
                }
            );
            let safe = format!(
                "-- in batches, each committed:\nDELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} LIMIT 1000);"
            );
            self.danger(&table, "H62", message, safe);
        }
    }

    fn refresh(&mut self, view: &Name, concurrently: bool, with_data: bool, statement: &Statement) {
        let view = self.catalog.resolve(view);
        let reads = self
            .catalog
            .table(&view)
            .map(|known| known.reads.clone())
            .unwrap_or_default();
        if with_data {
            for table in reads {
                self.lock(&table, AccessShare);
            }
        }
        if concurrently {
            self.lock(&view, Exclusive);
            return;
        }
        self.lock(&view, AccessExclusive);
        if with_data {
            self.rewrite(&view);
        }
        let unique = self
            .catalog
            .indexes_of(&view)
            .any(|(_, index)| index.unique && index.predicate.is_none());
        let message = format!(
            "Nobody can read {view} until its query has run. CONCURRENTLY lets them read the old rows meanwhile; it needs \
             a unique index{}.",
            if unique { ", which is there" } else { "" }
        );
        let safe = if unique || !self.catalog.complete {
            format!("{};", concurrent(&statement.sql, "view"))
        } else {
            String::new()
        };
        if unique {
            self.verdict.fix = Some(vec![safe.clone()]);
        }
        self.danger(&view, "H67", message, safe);
    }

    fn alter_domain(&mut self, domain: &Name, what: &DomainAct) {
        let (scans, rule) = match what {
            DomainAct::AddConstraint { not_valid: false, .. } | DomainAct::SetNotNull => (true, true),
            DomainAct::ValidateConstraint(_) => (true, false),
            _ => (false, false),
        };
        if !scans || self.catalog.domains.get(domain).is_some_and(|known| known.fresh) {
            return;
        }
        let users = self.catalog.users_of_domain(domain);
        for table in &users {
            self.lock(table, Share);
            self.scan(table);
        }
        if rule {
            let safe = match what {
                DomainAct::AddConstraint { name, body, .. } => {
                    let name = name.clone().unwrap_or_else(|| format!("{}_check", domain.name));
                    format!(
                        "ALTER DOMAIN {domain} ADD CONSTRAINT {name} {body} NOT VALID;\n-- off-peak, for it still stops writes:\nALTER DOMAIN {domain} VALIDATE CONSTRAINT {name};"
                    )
                }
                _ => format!(
                    "ALTER DOMAIN {domain} ADD CONSTRAINT {0}_not_null CHECK (VALUE IS NOT NULL) NOT VALID;\n-- off-peak, for it still stops writes:\nALTER DOMAIN {domain} VALIDATE CONSTRAINT {0}_not_null;",
                    domain.name
                ),
            };
            let message = format!(
                "Every table with a column of {domain} is read whole while nobody can write it{}.",
                if self.catalog.complete {
                    String::new()
                } else {
                    "; which ones, --schema would tell".to_owned()
                }
            );
            self.say("H66", Severity::Danger, message, safe);
            if !self.catalog.complete {
                self.verdict.scans.insert(domain.clone());
            }
        }
    }

    fn alter_type(&mut self, name: &Name, what: &TypeAct) {
        match what {
            TypeAct::RenameValue | TypeAct::Rename(_) => {
                let message = format!(
                    "Clients that still use the old name of {name}'s value or of {name} itself fail at once."
                );
                self.say("H65", Severity::Danger, message, String::new());
            }
            TypeAct::Attribute => {
                let message = format!(
                    "{name} changes for every table and function that uses it at once; typed tables are locked and rewritten."
                );
                self.say("H65", Severity::Warning, message, String::new());
            }
            TypeAct::AddValue(_) | TypeAct::Other => {}
        }
    }

    fn change_rows(&mut self, table: &Name, filtered: bool) {
        let table = self.catalog.resolve(table);
        for relation in self.tree(&table, false) {
            if self
                .catalog
                .table(&relation)
                .is_none_or(|known| known.kind == Kind::Table)
            {
                self.lock(&relation, RowExclusive);
            }
        }
        if !filtered {
            let message = format!(
                "Every row of {table} is changed in one transaction: each stays locked to its end, the standbys get it \
                 all at once, and vacuum can clean nothing meanwhile."
            );
            let safe = format!("-- in batches by key, each committed:\nSELECT ctid FROM {table} LIMIT 1000;");
            self.danger(&table, "H73", message, safe);
        }
    }

    fn lock_table(&mut self, tables: &[Name], mode: &str) {
        let Some(mode) = LockMode::of_words(mode) else {
            return;
        };
        for table in tables {
            let table = self.catalog.resolve(table);
            for relation in self.tree(&table, false) {
                self.lock(&relation, mode);
            }
            if mode >= Share {
                let severity = if mode >= Exclusive {
                    Severity::Danger
                } else {
                    Severity::Warning
                };
                let message = format!(
                    "It stops {} of {table} until the transaction ends.",
                    mode.blocks()
                );
                self.find(
                    &table,
                    "H73",
                    severity,
                    message,
                    "SET lock_timeout = '100ms'; -- before it".to_owned(),
                );
            }
        }
    }
}
