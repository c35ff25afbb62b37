//! How a statement is taken up again, and whether it may wait for its locks.

use super::Class;
use crate::catalog::Catalog;
use crate::lint::Judged;
use crate::model::{Act, DroppedKind, Name, ReindexTarget, TableAction, quote};
use crate::read::{index_parts, update_parts};
use crate::verdict::LockMode;

/// A statement as a rollout runs it.
pub struct Outcome {
    pub class: Class,
    pub sql: String,
    pub patient: bool,
}

/// What databases know by their first words and cannot do in a transaction, and what has no place in a rollout.
const NOT_OURS: [&str; 6] = [
    "create database",
    "drop database",
    "create tablespace",
    "drop tablespace",
    "alter system",
    "create subscription",
];

/// The class of one statement.
pub fn of(
    judged: &Judged,
    catalog: &Catalog,
    in_transaction: bool,
    as_written: bool,
) -> Result<Outcome, String> {
    let statement = &judged.statement;
    let first = statement
        .sql
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ");
    if NOT_OURS.contains(&first.to_ascii_lowercase().as_str()) {
        return Err(format!("{first} is no change of a schema: run it by hand"));
    }
    let alone = alone(&statement.act, &statement.sql, catalog)?;
    if let Some((class, sql)) = alone {
        if in_transaction {
            return Err("the server does not run it in a transaction: put it behind the COMMIT".to_owned());
        }
        return Ok(Outcome {
            class,
            sql,
            patient: true,
        });
    }
    if let (Act::Update { .. }, false, false) = (&statement.act, in_transaction, as_written)
        && let Some(parts) = update_parts(&statement.sql)
    {
        let class = Class::Backfill {
            table: parts.table,
            set: parts.set,
            filter: parts.filter,
        };
        return Ok(Outcome {
            class,
            sql: statement.sql.clone(),
            patient: true,
        });
    }
    Ok(Outcome {
        class: Class::Transaction,
        sql: statement.sql.clone(),
        patient: patient(judged),
    })
}

/// What runs outside of transactions.
fn alone(act: &Act, sql: &str, catalog: &Catalog) -> Result<Option<(Class, String)>, String> {
    Ok(match act {
        Act::CreateIndex {
            concurrently: true, ..
        } => Some(create_index(act, sql, catalog)?),
        Act::Drop {
            kind: DroppedKind::Index,
            names,
            concurrently: true,
            if_exists,
            ..
        } => match names.as_slice() {
            [index] => Some((
                Class::DropIndex {
                    index: index.to_string(),
                    if_exists: *if_exists,
                },
                sql.to_owned(),
            )),
            _ => return Err("CONCURRENTLY drops one index at a time: one statement for each".to_owned()),
        },
        Act::Reindex {
            target,
            name: Some(name),
            concurrently: true,
        } => match target {
            ReindexTarget::Index | ReindexTarget::Table => Some((
                Class::Reindex {
                    relation: name.to_string(),
                },
                sql.to_owned(),
            )),
            ReindexTarget::Schema | ReindexTarget::Database => {
                return Err(
                    "a rollout rebuilds the indexes of one table at a time: name the tables".to_owned(),
                );
            }
        },
        Act::Reindex {
            target: ReindexTarget::Schema | ReindexTarget::Database,
            ..
        } => return Err("it locks every table in turn: name the tables, CONCURRENTLY".to_owned()),
        Act::AlterTable { table, parts, .. } => parts.iter().find_map(|part| match &part.action {
            TableAction::DetachPartition {
                child,
                concurrently: true,
                ..
            } => Some((
                Class::Detach {
                    parent: table.to_string(),
                    child: child.to_string(),
                },
                sql.to_owned(),
            )),
            _ => None,
        }),
        Act::Vacuum { .. } => Some((Class::Outside, sql.to_owned())),
        Act::Repack { tables, .. } if tables.is_empty() || sql.to_ascii_lowercase().starts_with("vacuum") => {
            Some((Class::Outside, sql.to_owned()))
        }
        _ => None,
    })
}

/// Without IF NOT EXISTS, which would take an invalid index for a good one, and with a name to look for.
fn create_index(act: &Act, sql: &str, catalog: &Catalog) -> Result<(Class, String), String> {
    let Act::CreateIndex {
        index,
        table,
        keys,
        unique,
        ..
    } = act
    else {
        return Err("no CREATE INDEX".to_owned());
    };
    let parts = index_parts(sql).ok_or("its parts cannot be told apart: write it more plainly")?;
    let index = match index {
        Some(index) => index.clone(),
        None => free_name(table, keys, catalog),
    };
    let quoted = quote(&index);
    let kind = if *unique { "UNIQUE INDEX" } else { "INDEX" };
    let rewritten = format!(
        "CREATE {kind} CONCURRENTLY {quoted} ON {} {}",
        parts.table, parts.definition
    );
    let class = Class::CreateIndex {
        table: table.to_string(),
        index: quoted,
        unique: *unique,
        definition: parts.definition,
    };
    Ok((class, rewritten))
}

/// As the server would name it, and not taken as far as is known.
fn free_name(table: &Name, keys: &[Option<String>], catalog: &Catalog) -> String {
    let columns: Vec<&str> = keys.iter().map(|key| key.as_deref().unwrap_or("expr")).collect();
    let stem: String = format!("{}_{}", table.name, columns.join("_"))
        .chars()
        .take(55)
        .collect();
    let taken = |name: &str| catalog.indexes.keys().any(|known| known.name == name);
    let plain = format!("{stem}_idx");
    if !taken(&plain) {
        return plain;
    }
    (1..)
        .map(|number| format!("{stem}_idx{number}"))
        .find(|name| !taken(name))
        .unwrap_or(plain)
}

/// Whether nobody suffers while it waits: it takes no lock that stops reads or writes, as far as is known.
fn patient(judged: &Judged) -> bool {
    let known = !matches!(
        judged.statement.act,
        Act::Opaque { .. } | Act::Other(_) | Act::CreateFunction { .. }
    );
    let weak = judged
        .verdict
        .locks
        .values()
        .all(|mode| *mode <= LockMode::ShareUpdateExclusive);
    known && weak && !judged.verdict.locks.is_empty()
}
