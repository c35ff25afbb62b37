//! Constraints: added, validated, dropped; partitions attached and detached.

use super::alter::Effect;
use super::bound::Bound;
use super::lock::LockMode::{
    AccessExclusive, AccessShare, RowShare, ShareRowExclusive, ShareUpdateExclusive,
};
use super::{Judge, Severity};
use crate::catalog::apply::default_name;
use crate::model::{Constraint, ConstraintKind, Expr, Name, TypeName};

impl Judge<'_> {
    pub(super) fn add_constraint(&mut self, table: &Name, constraint: &Constraint) -> Effect {
        let name = constraint
            .name
            .clone()
            .unwrap_or_else(|| default_name(table, &constraint.kind));
        let not_valid_first = || {
            vec![
                format!(
                    "ALTER TABLE {table} ADD CONSTRAINT {name} {} NOT VALID;",
                    constraint.body
                ),
                format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name};"),
            ]
        };
        match &constraint.kind {
            ConstraintKind::Check(_) => {
                if constraint.not_enforced {
                    let message =
                        "A constraint that is not enforced checks nothing, and a CHECK like that cannot be \
                                   validated later."
                            .to_owned();
                    self.find(table, "H34", Severity::Advice, message, String::new());
                    return Effect::brief(AccessExclusive);
                }
                if constraint.not_valid {
                    return Effect::brief(AccessExclusive);
                }
                let message = format!("Every row of {table} is tested while nobody can read or write it.");
                let steps = not_valid_first();
                self.danger(table, "H33", message, steps.join("\n"));
                Effect {
                    instead: Some(steps),
                    ..Effect::scanning(AccessExclusive)
                }
            }
            ConstraintKind::NotNull { column } => {
                let proven = self
                    .catalog
                    .table(table)
                    .is_some_and(|known| known.is_not_null(column));
                if constraint.not_valid || proven {
                    return Effect::brief(AccessExclusive);
                }
                let message = format!(
                    "Every row of {table} is read while nobody can read or write it, to see that {column} has no NULL."
                );
                let steps = not_valid_first();
                self.danger(table, "H21", message, steps.join("\n"));
                Effect {
                    instead: Some(steps),
                    ..Effect::scanning(AccessExclusive)
                }
            }
            ConstraintKind::ForeignKey { columns, parent, .. } => {
                let parent = self.catalog.resolve(parent);
                self.lock(&parent, ShareRowExclusive);
                self.unindexed_key(table, columns);
                if constraint.not_valid || constraint.not_enforced {
                    let partitioned = self
                        .catalog
                        .table(table)
                        .is_some_and(|known| known.partition_by.is_some());
                    if partitioned && constraint.not_valid && self.at.version < 18 {
                        let message = format!(
                            "{table} is partitioned, and before PostgreSQL 18 it refuses a foreign key that is NOT \
                             VALID. Add it to each partition NOT VALID, validate, then to the parent."
                        );
                        self.danger(table, "H37", message, String::new());
                    }
                    return Effect::brief(ShareRowExclusive);
                }
                let message = format!(
                    "Every row of {table} is looked up in {parent} while nobody can write either table; both queue \
                     behind any open transaction first."
                );
                let steps = not_valid_first();
                self.danger(table, "H36", message, steps.join("\n"));
                self.scan(&parent);
                Effect {
                    instead: Some(steps),
                    ..Effect::scanning(ShareRowExclusive)
                }
            }
            ConstraintKind::Unique { columns, index } => {
                if index.is_some() {
                    return Effect::brief(AccessExclusive);
                }
                self.build(table, &name, "UNIQUE", columns, &constraint.body)
            }
            ConstraintKind::PrimaryKey { columns, index } => match index {
                Some(index) => self.key_using(table, index),
                None => self.build(table, &name, "PRIMARY KEY", columns, &constraint.body),
            },
            ConstraintKind::Exclude { .. } => {
                let message = format!(
                    "Its index is built while nobody can read or write {table}, and there is no way to build one \
                     beside it. A new table with the constraint, or a trigger, is the way round."
                );
                let safe = format!(
                    "CREATE TABLE {} (LIKE {table} INCLUDING ALL); -- the constraint on this one; fill it in batches, swap",
                    table.beside(format!("{}_new", table.name))
                );
                self.danger(table, "H44", message, safe);
                Effect::scanning(AccessExclusive)
            }
        }
    }

    fn build(&mut self, table: &Name, name: &str, what: &str, columns: &[String], body: &str) -> Effect {
        let list = columns.join(", ");
        let message = format!("The index of the constraint is built while nobody can read or write {table}.");
        let plain =
            !body.to_ascii_lowercase().contains("nulls") && !body.to_ascii_lowercase().contains("include");
        let mut steps = vec![format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({list});"
        )];
        if what == "PRIMARY KEY" {
            let nullable: Vec<&String> = columns
                .iter()
                .filter(|column| {
                    !self
                        .catalog
                        .table(table)
                        .is_some_and(|known| known.is_not_null(column))
                })
                .collect();
            let recipes: Vec<String> = nullable
                .iter()
                .flat_map(|column| {
                    self.not_null_recipe(table, column)
                        .lines()
                        .map(str::to_owned)
                        .collect::<Vec<_>>()
                })
                .collect();
            steps.extend(recipes);
        }
        steps.push(format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {what} USING INDEX {name};"
        ));
        self.danger(table, "H41", message, steps.join("\n"));
        Effect {
            instead: (plain && !self.at.in_transaction).then_some(steps),
            ..Effect::scanning(AccessExclusive)
        }
    }

    fn key_using(&mut self, table: &Name, index: &str) -> Effect {
        let known = self.catalog.table(table);
        let keys = self
            .catalog
            .indexes
            .get(&table.beside(index))
            .map(|index| index.keys.clone());
        let (Some(known), Some(keys)) = (known, keys) else {
            let message =
                "If a column of the index may be NULL, every row is read while nobody can read or write the \
                           table. Make the columns NOT NULL first; --schema would tell."
                    .to_owned();
            self.find(table, "H43", Severity::Warning, message, String::new());
            return Effect::brief(AccessExclusive);
        };
        let nullable: Vec<String> = keys
            .into_iter()
            .flatten()
            .filter(|column| !known.is_not_null(column))
            .collect();
        if nullable.is_empty() {
            return Effect::brief(AccessExclusive);
        }
        let message = format!(
            "{} may be NULL, so every row is read while nobody can read or write the table.",
            nullable.join(", ")
        );
        let mut safe: Vec<String> = nullable
            .iter()
            .map(|column| self.not_null_recipe(table, column))
            .collect();
        safe.push(format!(
            "ALTER TABLE {table} ADD PRIMARY KEY USING INDEX {index};"
        ));
        self.danger(table, "H43", message, safe.join("\n"));
        Effect::scanning(AccessExclusive)
    }

    /// H80: a foreign key without an index makes each DELETE of the parent read the whole child.
    pub(super) fn unindexed_key(&mut self, table: &Name, columns: &[String]) {
        if !self.catalog.complete {
            return;
        }
        let indexed = self.catalog.indexes_of(table).any(|(_, index)| {
            index.predicate.is_none()
                && columns
                    .iter()
                    .zip(&index.keys)
                    .all(|(column, key)| key.as_ref() == Some(column))
                && index.keys.len() >= columns.len()
        });
        if !indexed {
            let list = columns.join(", ");
            let message = format!(
                "No index begins with {list}: each DELETE or change of a key in the parent reads all of {table}."
            );
            let safe = format!("CREATE INDEX CONCURRENTLY ON {table} ({list});");
            self.find(table, "H80", Severity::Advice, message, safe);
        }
    }

    pub(super) fn validate(&mut self, table: &Name, name: &str) -> Effect {
        if let Some(Constraint {
            kind: ConstraintKind::ForeignKey { parent, .. },
            ..
        }) = self.catalog.constraint(table, name)
        {
            self.lock(&parent.clone(), RowShare);
        }
        // It reads every row, and nobody who reads or writes has to wait for that.
        Effect::brief(ShareUpdateExclusive)
    }

    pub(super) fn drop_constraint(&mut self, table: &Name, name: &str) -> Effect {
        let found = self.catalog.constraint(table, name).cloned();
        let looks_like_key = found.is_none() && (name.ends_with("_fkey") || name.starts_with("fk_"));
        if let Some(Constraint {
            kind: ConstraintKind::ForeignKey { parent, .. },
            ..
        }) = found
        {
            self.lock(&parent, AccessExclusive);
            let message = format!(
                "It needs {table} and {parent} alone: reads and writes of both wait, behind it and behind whatever it \
                 waits for."
            );
            let safe = format!(
                "SET lock_timeout = '100ms';\nBEGIN;\nLOCK TABLE {parent} IN ACCESS EXCLUSIVE MODE;\nALTER TABLE {table} \
                 DROP CONSTRAINT {name};\nCOMMIT;"
            );
            self.danger(table, "H39", message, safe);
        } else if looks_like_key {
            let message = format!(
                "{name} looks like a foreign key: dropping one needs the table it refers to alone too. --schema would \
                 tell which."
            );
            self.find(table, "H39", Severity::Warning, message, String::new());
        }
        Effect::brief(AccessExclusive)
    }

    pub(super) fn alter_constraint(&mut self, table: &Name, name: &str, enforced: Option<bool>) -> Effect {
        let parent = match self.catalog.constraint(table, name).map(|found| &found.kind) {
            Some(ConstraintKind::ForeignKey { parent, .. }) => Some(parent.clone()),
            _ => None,
        };
        match enforced {
            Some(true) => {
                let message = format!(
                    "To enforce {name} again, every row is checked while nobody can read or write {table}. A new \
                     constraint, NOT VALID and then validated, stops nobody."
                );
                let safe = match self.catalog.constraint(table, name) {
                    Some(found) => format!(
                        "ALTER TABLE {table} DROP CONSTRAINT {name};\nALTER TABLE {table} ADD CONSTRAINT {name} {} NOT \
                         VALID;\nALTER TABLE {table} VALIDATE CONSTRAINT {name};",
                        found.body.replace(" NOT ENFORCED", "")
                    ),
                    None => String::new(),
                };
                self.danger(table, "H40", message, safe);
                if let Some(parent) = parent {
                    self.lock(&parent, ShareRowExclusive);
                    self.scan(&parent);
                }
                Effect::scanning(AccessExclusive)
            }
            Some(false) => {
                if let Some(parent) = parent {
                    self.lock(&parent, AccessExclusive);
                }
                let message =
                    format!("From here on {name} checks nothing, and to enforce it again checks every row.");
                self.find(table, "H40", Severity::Warning, message, String::new());
                Effect::brief(AccessExclusive)
            }
            None => {
                if let Some(parent) = parent {
                    self.lock(&parent, AccessExclusive);
                }
                Effect::brief(AccessExclusive)
            }
        }
    }

    pub(super) fn attach(&mut self, table: &Name, child: &Name, bound: &str) -> Effect {
        let child = self.catalog.resolve(child);
        self.lock(&child, AccessExclusive);
        let default = self
            .catalog
            .default_partition(table)
            .filter(|default| *default != child);
        let key = self.partition_key(table);
        let said = Bound::read(bound);
        let one_key = key.first().filter(|_| key.len() == 1);
        let proving = one_key.zip(said.as_ref()).is_some_and(|(key, bound)| {
            let known = self.catalog.table(&child);
            let not_null = known.is_some_and(|known| known.is_not_null(key));
            bound.is_implied(key, self.type_of(&child, key), not_null, &self.checks(&child))
        });
        let default_scanned = default.as_ref().is_some_and(|default| {
            !one_key.zip(said.as_ref()).is_some_and(|(key, bound)| {
                bound.is_excluded(key, self.type_of(default, key), &self.checks(default))
            })
        });
        if let Some(default) = &default {
            self.lock(default, AccessExclusive);
            if default_scanned {
                self.scan(default);
            }
        }
        let is_default = bound.trim().eq_ignore_ascii_case("default");
        let must_scan = !(proving || is_default && self.catalog.descendants(table).is_empty());
        if !self.catalog.fresh(&child) && must_scan || default_scanned {
            if must_scan {
                self.scan(&child);
            }
            let check = bound_as_check(bound, key.first().map_or("KEY", String::as_str));
            let message = format!(
                "Every row of {} is checked against the bound while nobody can read or write it{}. A valid CHECK that says the same \
                 makes that unnecessary.{}",
                if must_scan {
                    child.to_string()
                } else {
                    "the default partition".to_owned()
                },
                if must_scan && default_scanned {
                    ", and every row of the default partition too"
                } else {
                    ""
                },
                if self.checks(&child).is_empty() {
                    ""
                } else {
                    " (None of those that it has was seen to say so; `pgctl ddl plan` lets a server tell.)"
                }
            );
            let safe = format!(
                "ALTER TABLE {child} ADD CONSTRAINT {0}_bound CHECK ({check}) NOT VALID;\nALTER TABLE {child} VALIDATE \
                 CONSTRAINT {0}_bound;\nALTER TABLE {table} ATTACH PARTITION {child} {bound};\nALTER TABLE {child} DROP \
                 CONSTRAINT {0}_bound;",
                child.name
            );
            if default_scanned || !self.catalog.fresh(&child) {
                self.danger(table, "H56", message, safe);
            }
        }
        Effect::brief(ShareUpdateExclusive)
    }

    /// The columns of `PARTITION BY RANGE (a, b)`.
    fn partition_key(&self, table: &Name) -> Vec<String> {
        let by = self
            .catalog
            .table(table)
            .and_then(|known| known.partition_by.clone())
            .unwrap_or_default();
        let inner = by
            .split_once('(')
            .map(|(_, rest)| rest.trim_end_matches(')'))
            .unwrap_or_default();
        inner
            .split(',')
            .map(|name| name.trim().trim_matches('"').to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }

    /// The conditions that every row of the table satisfies.
    fn checks(&self, table: &Name) -> Vec<&Expr> {
        let known = self.catalog.table(table).into_iter();
        known
            .flat_map(|known| &known.constraints)
            .filter(|constraint| !constraint.not_valid && !constraint.not_enforced)
            .filter_map(|constraint| match &constraint.kind {
                ConstraintKind::Check(condition) => Some(condition),
                _ => None,
            })
            .collect()
    }

    fn type_of(&self, table: &Name, column: &str) -> Option<&TypeName> {
        self.catalog.column(table, column).map(|column| &column.ty)
    }

    pub(super) fn detach(
        &mut self,
        table: &Name,
        child: &Name,
        concurrently: bool,
        finalize: bool,
    ) -> Effect {
        let child = self.catalog.resolve(child);
        if concurrently || finalize {
            if concurrently && self.at.in_transaction {
                self.not_in_transaction(table, "DETACH PARTITION ... CONCURRENTLY");
            }
            self.lock(&child, AccessExclusive);
            return Effect::brief(ShareUpdateExclusive);
        }
        self.lock(&child, AccessExclusive);
        let default = self.catalog.default_partition(table);
        if let Some(default) = &default {
            self.lock(default, AccessExclusive);
        }
        let message = format!(
            "{table} and {child} are needed alone: every query on any partition waits behind this, and this behind \
             the longest of them."
        );
        let possible = default.is_none() && self.at.version >= 14;
        let steps = vec![format!(
            "ALTER TABLE {table} DETACH PARTITION {child} CONCURRENTLY;"
        )];
        let safe = if possible {
            steps.join("\n")
        } else {
            format!("SET lock_timeout = '100ms';\nALTER TABLE {table} DETACH PARTITION {child};")
        };
        self.danger(table, "H58", message, safe);
        Effect {
            instead: (possible && !self.at.in_transaction).then_some(steps),
            ..Effect::brief(AccessExclusive)
        }
    }

    pub(super) fn not_in_transaction(&mut self, relation: &Name, what: &str) {
        let message = format!(
            "{what} is refused inside a transaction. Give it a step of its own, outside of BEGIN and COMMIT."
        );
        self.danger(relation, "H77", message, String::new());
    }

    pub(super) fn read_lock(&mut self, relation: &Name) {
        self.lock(relation, AccessShare);
    }
}

/// A partition's bound as a CHECK on one column.
fn bound_as_check(bound: &str, key: &str) -> String {
    let lower = bound.to_ascii_lowercase();
    if let (Some(from), Some(to)) = (lower.find("from ("), lower.find(") to (")) {
        let low = bound[from + 6..to].trim();
        let high = bound[to + 6..].trim().trim_end_matches(')').trim();
        return format!("{key} IS NOT NULL AND {key} >= {low} AND {key} < {high}");
    }
    if let Some(at) = lower.find("in (") {
        return format!("{key} IS NOT NULL AND {key} IN {}", &bound[at + 3..]);
    }
    format!("{key} IS NOT NULL")
}
