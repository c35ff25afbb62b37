//! The views of a version, with their defaults and rights.

use super::{Expansion, Grant, Table};
use crate::model::quote;
use std::collections::BTreeSet;

/// What rights on a view are worth something.
const ON_VIEWS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

/// The statements that make a table's view.
pub fn make(expansion: &Expansion, table: &Table) -> Vec<String> {
    let view = expansion.view(table);
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let real = column.shadow.as_ref().map_or(&column.name, |shadow| &shadow.name);
            if *real == column.new_name {
                quote(real)
            } else {
                format!("{} AS {}", quote(real), quote(&column.new_name))
            }
        })
        .collect();
    // Rights and row security count for who asks, not for who owns the view.
    let with = if expansion.server_version >= 150_000 {
        " WITH (security_invoker = true)"
    } else {
        ""
    };
    let mut sql = vec![format!(
        "CREATE VIEW {view}{with} AS SELECT {} FROM {}",
        columns.join(", "),
        table.sql()
    )];
    for (column, shadow) in table.shadows() {
        if let Some(default) = &shadow.default {
            sql.push(format!(
                "ALTER VIEW {view} ALTER COLUMN {} SET DEFAULT {default}",
                quote(&column.new_name)
            ));
        }
    }
    let mut users = BTreeSet::new();
    for grant in &table.grants {
        sql.extend(granted(grant, "", &view));
        users.insert(grant.to.as_str());
    }
    for column in &table.columns {
        for grant in &column.grants {
            sql.extend(granted(grant, &column.new_name, &view));
            users.insert(grant.to.as_str());
            if let Some(shadow) = &column.shadow {
                sql.extend(granted(grant, &shadow.name, &table.sql()));
            }
        }
    }
    for sequence in identities(table) {
        // Whoever inserts into an identity column needs no right on its sequence; who asks it for a number does.
        for grant in inserters(table) {
            sql.push(format!("GRANT USAGE ON SEQUENCE {sequence} TO {grant}"));
        }
    }
    for user in users {
        sql.push(format!("GRANT USAGE ON SCHEMA {} TO {user}", expansion.schema()));
    }
    sql
}

fn identities(table: &Table) -> impl Iterator<Item = &String> {
    table
        .shadows()
        .filter(|(_, shadow)| shadow.identity.is_some())
        .filter_map(|(_, shadow)| shadow.sequence.as_ref())
}

fn inserters(table: &Table) -> BTreeSet<&str> {
    let columns = table.columns.iter().flat_map(|column| &column.grants);
    let all = table.grants.iter().chain(columns);
    all.filter(|grant| grant.privilege == "INSERT")
        .map(|grant| grant.to.as_str())
        .collect()
}

fn granted(grant: &Grant, column: &str, on: &str) -> Option<String> {
    if !ON_VIEWS.contains(&grant.privilege.as_str()) {
        return None;
    }
    let column = if column.is_empty() {
        String::new()
    } else {
        format!(" ({})", quote(column))
    };
    let further = if grant.grantable && grant.to != "PUBLIC" {
        " WITH GRANT OPTION"
    } else {
        ""
    };
    Some(format!(
        "GRANT {}{column} ON {on} TO {}{further}",
        grant.privilege, grant.to
    ))
}
