//! The steps that open a version: nothing of the old one changes, and each can be taken back.

use super::contract::machinery;
use super::functions::{self, computed, filling, first, last};
use super::{Expansion, NOTHING, Table, bare, literal, transaction, views};
use crate::model::quote;
use crate::plan::{Class, Step};

/// The steps that open a version.
///
/// # Errors
/// The version cannot be written down.
pub fn steps(expansion: &Expansion) -> Result<Vec<Step>, serde_json::Error> {
    let mut steps = vec![register(expansion)?];
    for (number, table) in expansion.tables.iter().enumerate() {
        if table.has_shadows() {
            steps.push(shadow(expansion, table, number));
            steps.push(fill(table));
            steps.extend(indexes(table));
            steps.extend(constraints(table));
            steps.push(analyze(table));
            steps.push(verify(table));
        }
    }
    for (number, table) in expansion.tables.iter().enumerate() {
        steps.push(open(expansion, table, number));
    }
    let version = literal(&expansion.version);
    steps.push(transaction(
        vec![format!(
            "UPDATE pgctl.versions SET state = 'open', changed = pg_catalog.clock_timestamp() WHERE version = {version}"
        )],
        Vec::new(),
        vec![format!(
            "UPDATE pgctl.versions SET state = 'expanding', changed = pg_catalog.clock_timestamp() WHERE version = {version}"
        )],
    ));
    Ok(steps)
}

/// Makes the version known.
fn register(expansion: &Expansion) -> Result<Step, serde_json::Error> {
    let schema = expansion.schema();
    let version = literal(&expansion.version);
    let mut sql = vec![format!("CREATE SCHEMA {schema}")];
    for which in ["old", "new"] {
        sql.push(format!("CREATE SEQUENCE {} MINVALUE 0", expansion.marker(which)));
    }
    sql.push(functions::note(expansion));
    sql.push(format!(
        "INSERT INTO pgctl.versions (version, state, expansion) VALUES ({version}, 'expanding', {}::jsonb)",
        literal(&serde_json::to_string(expansion)?)
    ));
    let mut undo = machinery(expansion);
    undo.push(format!("DROP SCHEMA {schema}"));
    undo.push(format!("DELETE FROM pgctl.versions WHERE version = {version}"));
    Ok(transaction(sql, Vec::new(), undo))
}

/// Adds the new columns, and the trigger that keeps them up from here on.
fn shadow(expansion: &Expansion, table: &Table, number: usize) -> Step {
    let name = table.sql();
    let (_, trigger) = functions::triggers(expansion);
    let added: Vec<String> = table
        .shadows()
        .map(|(_, shadow)| format!("ADD COLUMN {} {}", quote(&shadow.name), shadow.ty))
        .collect();
    let mut sql = vec![format!("ALTER TABLE {name} {}", added.join(", "))];
    for (column, shadow) in table.shadows() {
        let (old, new) = (quote(&column.name), quote(&shadow.name));
        let up = computed(
            &table.name,
            &column.name,
            &format!("it.{old}"),
            shadow.up.as_deref(),
        );
        let down = computed(
            &table.new_name,
            &column.new_name,
            &format!("it.{new}"),
            shadow.down.as_deref(),
        );
        // Nothing is carried out: the server only says whether it could be. Later it would say so to the programs.
        sql.push(format!("EXPLAIN UPDATE {name} AS it SET {new} = {up}"));
        // Numbers of an identity column come back by themselves, and the server lets no statement say so.
        if shadow.identity.is_none() {
            sql.push(format!("EXPLAIN UPDATE {name} AS it SET {old} = {down}"));
        }
    }
    sql.push(filling(expansion, table, number));
    sql.push(format!(
        "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {}()",
        functions::name(expansion, number, "last")
    ));
    // Rows that a subscription applies are rows like others.
    sql.push(format!("ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}"));
    let mut undo = vec![format!("DROP TRIGGER {trigger} ON {name}")];
    undo.push(removed(table));
    transaction(sql, alone(table), undo)
}

/// The statement that removes a table's new columns, with all that is built on them.
pub fn removed(table: &Table) -> String {
    let dropped: Vec<String> = table
        .shadows()
        .map(|(_, shadow)| format!("DROP COLUMN {}", quote(&shadow.name)))
        .collect();
    format!("ALTER TABLE {} {}", table.sql(), dropped.join(", "))
}

pub fn alone(table: &Table) -> Vec<(String, String)> {
    vec![(table.sql(), "AccessExclusiveLock".to_owned())]
}

/// The trigger computes the value, whatever is written.
fn fill(table: &Table) -> Step {
    let name = table.sql();
    let set: Vec<String> = table
        .shadows()
        .map(|(_, shadow)| format!("{} = NULL", quote(&shadow.name)))
        .collect();
    let empty: Vec<String> = table
        .shadows()
        .map(|(_, shadow)| format!("{} IS NULL", quote(&shadow.name)))
        .collect();
    let (set, filter) = (set.join(", "), empty.join(" OR "));
    let mut step = bare(
        vec![format!("UPDATE {name} SET {set} WHERE {filter}")],
        Class::Backfill {
            table: name,
            set,
            filter,
        },
    );
    step.undo = vec![NOTHING.to_owned()];
    step
}

fn indexes(table: &Table) -> Vec<Step> {
    let name = table.sql();
    let steps = table.indexes.iter().map(|index| {
        let twin = quote(&index.twin);
        let kind = if index.unique { "UNIQUE INDEX" } else { "INDEX" };
        bare(
            vec![format!(
                "CREATE {kind} CONCURRENTLY {twin} ON {name} {}",
                index.definition
            )],
            Class::CreateIndex {
                table: name.clone(),
                index: twin,
                unique: index.unique,
                definition: index.definition.clone(),
            },
        )
    });
    steps.collect()
}

/// Those that the old columns have, not valid at first, and each read through in a step of its own.
fn constraints(table: &Table) -> Vec<Step> {
    let name = table.sql();
    let not_null = table.shadows().filter_map(|(_, shadow)| {
        let constraint = shadow.not_null.as_ref()?;
        Some((
            quote(constraint),
            format!("CHECK ({} IS NOT NULL)", quote(&shadow.name)),
            None,
            true,
        ))
    });
    let carried = table.constraints.iter().map(|constraint| {
        (
            quote(&constraint.twin),
            constraint.definition.clone(),
            constraint.parent.clone(),
            constraint.validated,
        )
    });
    let mut steps = Vec::new();
    for (constraint, definition, parent, validated) in not_null.chain(carried) {
        // A foreign key stops writes to both tables for a moment, a CHECK reads of its own.
        let locks = match &parent {
            Some(parent) => vec![
                (name.clone(), "ShareRowExclusiveLock".to_owned()),
                (parent.clone(), "ShareRowExclusiveLock".to_owned()),
            ],
            None => alone(table),
        };
        steps.push(transaction(
            vec![format!(
                "ALTER TABLE {name} ADD CONSTRAINT {constraint} {definition} NOT VALID"
            )],
            locks,
            vec![format!("ALTER TABLE {name} DROP CONSTRAINT {constraint}")],
        ));
        if validated {
            steps.push(patient(format!(
                "ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}"
            )));
        }
    }
    steps
}

fn analyze(table: &Table) -> Step {
    let columns: Vec<String> = table.shadows().map(|(_, shadow)| quote(&shadow.name)).collect();
    patient(format!("ANALYZE {} ({})", table.sql(), columns.join(", ")))
}

/// Every row has the value that it should have: whoever was filled, and whoever came meanwhile.
fn verify(table: &Table) -> Step {
    let name = table.sql();
    let differ: Vec<String> = table
        .shadows()
        .map(|(column, shadow)| {
            let value = format!("it.{}", quote(&column.name));
            let up = computed(&table.name, &column.name, &value, shadow.up.as_deref());
            format!(
                "record_image_ne(ROW(it.{}), ROW(CAST({up} AS {})))",
                quote(&shadow.name),
                shadow.ty.split(" COLLATE ").next().unwrap_or(&shadow.ty)
            )
        })
        .collect();
    patient(format!(
        "DO $pgctl$ DECLARE wrong bigint; BEGIN SELECT count(*) INTO wrong FROM {name} AS it WHERE {}; IF wrong > 0 THEN RAISE \
         EXCEPTION '% rows of {} have another value in the new column than the old one gives: is the conversion the same at each \
         call?', wrong; END IF; END $pgctl$",
        differ.join(" OR "),
        name.replace('\'', "''").replace('%', "%%")
    ))
}

/// Reads, and stops nobody.
fn patient(sql: String) -> Step {
    transaction(vec![sql], Vec::new(), vec![NOTHING.to_owned()])
}

/// From here on the new version can be written to. Whoever writes the table is let finish before, so that nobody still has the
/// function in hand that only knows one direction.
fn open(expansion: &Expansion, table: &Table, number: usize) -> Step {
    let name = table.sql();
    let (trigger, _) = functions::triggers(expansion);
    let mut sql = Vec::new();
    let mut undo = vec![format!("DROP VIEW {}", expansion.view(table))];
    let mut locks = Vec::new();
    if table.has_shadows() {
        locks.push((name.clone(), "ShareRowExclusiveLock".to_owned()));
        let function = functions::name(expansion, number, "first");
        sql.push(first(expansion, table, number));
        sql.push(format!(
            "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {function}()"
        ));
        sql.push(format!("ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}"));
        sql.push(last(expansion, table, number));
        undo.push(format!("DROP TRIGGER {trigger} ON {name}"));
        undo.push(filling(expansion, table, number));
    }
    sql.extend(views::make(expansion, table));
    transaction(sql, locks, undo)
}
