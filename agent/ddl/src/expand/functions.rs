//! The triggers' functions.
//!
//! While the new columns are filled there is one, which fires last and computes every one of them from the old row. Once the
//! version is open there are two. The first one fires before all triggers of the table's own: what was written to the new column
//! is brought back to the old one, so that those triggers, and checks, see what they know. The last one fires after them: what was
//! written to the old column, by a program or by such a trigger, is brought to the new one. Neither makes the other fire, for
//! both only change the row that is about to be written.
//!
//! Values are compared as they are stored: 1.0 and 1.00 are equal and not the same.

use super::{Column, Expansion, SETTINGS, Shadow, Table, literal};
use crate::model::quote;

/// How the two triggers of a version are called: names decide who fires first.
pub fn triggers(expansion: &Expansion) -> (String, String) {
    let version = &expansion.version;
    (
        quote(&format!("!pgctl_{version}")),
        quote(&format!("~pgctl_{version}")),
    )
}

/// A function's name as SQL; `which` is `first` or `last`.
pub fn name(expansion: &Expansion, number: usize, which: &str) -> String {
    format!("{}.pgctl_{which}_{number}", expansion.schema())
}

/// Notes the second in a sequence, at most once in each: that costs no lock and survives whatever the database survives.
pub fn note(expansion: &Expansion) -> String {
    format!(
        "CREATE FUNCTION {}.pgctl_note(marker pg_catalog.regclass) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, \
         pg_temp AS $pgctl$\nDECLARE now_s bigint := floor(extract(epoch FROM clock_timestamp()))::bigint;\nBEGIN\n  IF \
         coalesce(pg_sequence_last_value(marker), 0) < now_s THEN PERFORM setval(marker, now_s); END IF;\nEND $pgctl$",
        expansion.schema()
    )
}

/// While the new columns are filled: whatever is written, they follow.
pub fn filling(expansion: &Expansion, table: &Table, number: usize) -> String {
    let lines: Vec<String> = table
        .shadows()
        .map(|(column, shadow)| format!("  NEW.{} := {};", quote(&shadow.name), up(table, column, shadow)))
        .collect();
    function(expansion, &name(expansion, number, "last"), "", &lines.join("\n"))
}

/// What new programs write is brought to the old columns.
pub fn first(expansion: &Expansion, table: &Table, number: usize) -> String {
    let mut lines = Vec::new();
    for (column, shadow) in table.shadows() {
        let (old, new) = (quote(&column.name), quote(&shadow.name));
        let down = down(table, column, shadow);
        lines.push(format!(
            "  IF TG_OP = 'INSERT' THEN\n    IF NEW.{new} IS DISTINCT FROM NULL THEN NEW.{old} := {down}; used := true; END IF;\n  \
             ELSIF {} AND NOT {} THEN\n    NEW.{old} := {down}; used := true;\n  END IF;",
            changed(&new),
            changed(&old)
        ));
    }
    lines.push(noted(expansion, "new"));
    let declared = "  used boolean := false;";
    function(
        expansion,
        &name(expansion, number, "first"),
        declared,
        &lines.join("\n"),
    )
}

/// What old programs, and triggers that know the old columns, write is brought to the new ones.
pub fn last(expansion: &Expansion, table: &Table, number: usize) -> String {
    let mut lines = Vec::new();
    let mut declared = "  used boolean := false;".to_owned();
    for (at, (column, shadow)) in table.shadows().enumerate() {
        let (old, new) = (quote(&column.name), quote(&shadow.name));
        let (up, down) = (up(table, column, shadow), down(table, column, shadow));
        declared.push_str(&format!("\n  back_{at} {}.{old}%TYPE;", table.sql()));
        // Both were given: the first trigger has done it, unless a trigger in between has changed the old column since.
        let both = format!(
            "back_{at} := {down};\n      IF record_image_ne(ROW(NEW.{old}), ROW(back_{at})) THEN NEW.{new} := {up}; END IF;"
        );
        lines.push(format!(
            "  IF TG_OP = 'INSERT' THEN\n    IF NEW.{new} IS NOT DISTINCT FROM NULL THEN\n      used := used OR NEW.{old} IS \
             DISTINCT FROM NULL;\n      NEW.{new} := {up};\n    ELSE\n      {both}\n    END IF;\n  ELSIF {} THEN\n    IF NOT {} \
             THEN\n      NEW.{new} := {up}; used := true;\n    ELSE\n      {both}\n    END IF;\n  END IF;",
            changed(&old),
            changed(&new)
        ));
    }
    lines.push(noted(expansion, "old"));
    function(
        expansion,
        &name(expansion, number, "last"),
        &declared,
        &lines.join("\n"),
    )
}

/// The new value from the old row, where the row is called NEW.
fn up(table: &Table, column: &Column, shadow: &Shadow) -> String {
    let value = format!("NEW.{}", quote(&column.name));
    computed(table.name.as_str(), &column.name, &value, shadow.up.as_deref())
}

/// The old value from the new row.
fn down(table: &Table, column: &Column, shadow: &Shadow) -> String {
    let value = format!("NEW.{}", quote(&shadow.name));
    computed(&table.new_name, &column.new_name, &value, shadow.down.as_deref())
}

/// An expression over one column, which `value` is.
pub fn computed(table: &str, column: &str, value: &str, expression: Option<&str>) -> String {
    match expression {
        None => value.to_owned(),
        Some(expression) => format!(
            "(SELECT {expression} FROM (SELECT {value} AS {}) AS {})",
            quote(column),
            quote(table)
        ),
    }
}

fn changed(column: &str) -> String {
    format!("record_image_ne(ROW(NEW.{column}), ROW(OLD.{column}))")
}

fn noted(expansion: &Expansion, which: &str) -> String {
    format!(
        "  IF used THEN PERFORM {}.pgctl_note({}); END IF;",
        expansion.schema(),
        literal(&expansion.marker(which))
    )
}

fn function(expansion: &Expansion, name: &str, declared: &str, body: &str) -> String {
    let settings: Vec<String> = SETTINGS
        .iter()
        .map(|(name, value)| format!("SET {name} = {value}"))
        .collect();
    format!(
        "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {} AS $pgctl_{}$\n\
         #variable_conflict use_column\nDECLARE\n{declared}\nBEGIN\n{body}\n  RETURN NEW;\nEND $pgctl_{}$",
        settings.join(" "),
        expansion.version,
        expansion.version
    )
}
