//! The steps that leave one version, and what shows that the other one is not used.

use super::facts::{Facts, State, TableFacts, Version};
use super::open::{alone, removed};
use super::usage::{gate, watch};
use super::{Expansion, Shadow, Table, functions, literal, transaction};
use crate::model::quote;
use crate::plan::Step;

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The tables become as the new version has them; its views stay.
    New,
    /// The new version goes; what was written by it stays, as the old one has it.
    Old,
    /// The views of a version that is contracted go.
    Tables,
}

/// How a version is contracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contraction {
    pub keep: Keep,
    /// For how long nobody may have used what goes, seconds; `None`: whoever uses it is an operator's business.
    pub unused_for_s: Option<u64>,
}

/// The steps. Those that watch come first; from the first table on there is no way back.
///
/// # Errors
/// What keeps the version from being contracted.
pub fn contract(
    version: &Version,
    facts: &Facts,
    versions: &[Version],
    how: Contraction,
) -> Result<Vec<Step>, Vec<String>> {
    let expansion = &version.expansion;
    let name = &version.version;
    let fits = match how.keep {
        Keep::New => matches!(version.state, State::Open | State::Contracting),
        Keep::Old => matches!(version.state, State::Expanding | State::Open),
        Keep::Tables => version.state == State::Contracted,
    };
    if !fits {
        let next = match version.state {
            State::Expanding => "`pgctl ddl contract --back` removes it; or end its rollout first",
            State::Open => "contract it first",
            State::Contracting => {
                "some of its tables are as the new version has them: go on with `pgctl ddl contract`"
            }
            State::Contracted => {
                "nothing but its views is left: `pgctl ddl contract --drop-views` removes them"
            }
        };
        return Err(vec![format!("{name} is {}: {next}", version.state.name())]);
    }
    let mut refusals = Vec::new();
    let mut left = Vec::new();
    for table in &expansion.tables {
        let there = facts
            .tables
            .iter()
            .find(|facts| facts.schema == table.schema && facts.name == table.name);
        match (how.keep, there) {
            (Keep::New, Some(there)) if is_as_it_was(table, there) => {
                let former = since(table, there, version, versions, &mut refusals);
                if how.unused_for_s.is_some() {
                    refusals.extend(names_that_break(table, there));
                }
                left.push((still_there(table, there), former));
            }
            // This one was contracted by an attempt that did not come to its end.
            (Keep::New, _) if version.state == State::Contracting => {}
            (Keep::New, _) => refusals.push(format!(
                "{}: it is not as it was when the version was opened; look at it",
                table.sql()
            )),
            (Keep::Old, Some(_)) | (Keep::Tables, _) => left.push((table.clone(), Vec::new())),
            (Keep::Old, None) => {}
        }
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut steps = Vec::new();
    if let Some(seconds) = how.unused_for_s {
        steps.extend(watch(expansion, &left, how.keep, seconds, version.state));
    }
    for (table, former) in &left {
        steps.push(match how.keep {
            Keep::New => keep_new(expansion, table, former, how.unused_for_s),
            Keep::Old => keep_old(expansion, table, version.state, how.unused_for_s),
            Keep::Tables => {
                let view = expansion.view(table);
                let lock = vec![(view.clone(), "AccessExclusiveLock".to_owned())];
                transaction(vec![format!("DROP VIEW IF EXISTS {view}")], lock, Vec::new())
            }
        });
    }
    let version = literal(&expansion.version);
    let mut end = machinery(expansion);
    end.push(match how.keep {
        Keep::New => format!(
            "UPDATE pgctl.versions SET state = 'contracted', changed = pg_catalog.clock_timestamp() WHERE version = {version}"
        ),
        Keep::Old | Keep::Tables => format!("DELETE FROM pgctl.versions WHERE version = {version}"),
    });
    if how.keep != Keep::New {
        // What others have put there is not ours to drop: then the server says what it is.
        end.insert(
            end.len() - 1,
            format!("DROP SCHEMA IF EXISTS {}", expansion.schema()),
        );
    }
    steps.push(transaction(end, Vec::new(), Vec::new()));
    Ok(steps)
}

/// The triggers' functions and the marks of use.
pub fn machinery(expansion: &Expansion) -> Vec<String> {
    let mut sql = Vec::new();
    for (number, _) in expansion.tables.iter().enumerate() {
        for which in ["first", "last"] {
            sql.push(format!(
                "DROP FUNCTION IF EXISTS {}()",
                functions::name(expansion, number, which)
            ));
        }
    }
    sql.push(format!(
        "DROP FUNCTION IF EXISTS {}.pgctl_note(pg_catalog.regclass)",
        expansion.schema()
    ));
    for which in ["old", "new"] {
        sql.push(format!("DROP SEQUENCE IF EXISTS {}", expansion.marker(which)));
    }
    sql
}

fn is_as_it_was(table: &Table, facts: &TableFacts) -> bool {
    table.columns.iter().all(|column| {
        let shadow = column.shadow.as_ref();
        facts.column(&column.name).is_some()
            && shadow.is_none_or(|shadow| facts.column(&shadow.name).is_some())
    })
}

/// Without what was dropped since, by whoever has carried it over: then it is not missed.
fn still_there(table: &Table, facts: &TableFacts) -> Table {
    let mut table = table.clone();
    let indexes = |name: &String| facts.indexes.iter().any(|index| index.name == *name);
    let constraints = |name: &String| {
        facts
            .constraints
            .iter()
            .any(|constraint| constraint.name == *name)
    };
    table.indexes.retain(|index| indexes(&index.twin));
    table
        .constraints
        .retain(|constraint| constraints(&constraint.twin));
    table
}

/// What has come to hang on the old columns since, and would be lost with them. The views of former versions are told.
fn since(
    table: &Table,
    facts: &TableFacts,
    version: &Version,
    versions: &[Version],
    refusals: &mut Vec<String>,
) -> Vec<String> {
    let mut former = Vec::new();
    let mut refuse = |what: String, column: &str| {
        refusals.push(format!(
            "{}: {what} hangs on {column}, and would be lost with it: make one for the new column, and drop this one",
            table.sql()
        ));
    };
    for (column, shadow) in table.shadows() {
        let number = facts.column(&column.name).map_or(0, |facts| facts.number);
        let on_it =
            |columns: &Option<Vec<i32>>| columns.as_ref().is_some_and(|columns| columns.contains(&number));
        for index in facts.indexes.iter().filter(|index| on_it(&index.columns)) {
            let known = table.indexes.iter().find(|known| known.name == index.name);
            let twin = known.and_then(|known| facts.indexes.iter().find(|facts| facts.name == known.twin));
            if !twin.is_some_and(|twin| twin.valid) {
                refuse(format!("the index {}", index.name), &column.name);
            }
        }
        for constraint in facts.constraints.iter().filter(|it| on_it(&it.columns)) {
            let known = table
                .constraints
                .iter()
                .find(|known| known.name == constraint.name);
            let twin =
                known.and_then(|known| facts.constraints.iter().find(|facts| facts.name == known.twin));
            if twin.is_none() {
                refuse(format!("the constraint {}", constraint.name), &column.name);
            }
        }
        if let Some(proof) = &shadow.not_null
            && !facts
                .constraints
                .iter()
                .any(|it| it.name == *proof && it.validated)
        {
            refuse(
                format!("{proof}, which is not there or not validated,"),
                &shadow.name,
            );
        }
        for reference in facts
            .referenced_by
            .iter()
            .filter(|it| it.columns.contains(&number))
        {
            refuse(
                format!("the foreign key {} of {}", reference.constraint, reference.table),
                &column.name,
            );
        }
        for dependent in facts.dependents.iter().filter(|it| it.column == number) {
            let of_former = |schema: &String| {
                *schema != version.version && versions.iter().any(|version| version.version == *schema)
            };
            match (&dependent.view_schema, &dependent.view) {
                (Some(schema), Some(view)) if of_former(schema) => {
                    former.push(format!("{}.{}", quote(schema), quote(view)));
                }
                _ => refuse(dependent.described(), &column.name),
            }
        }
    }
    former.sort();
    former.dedup();
    former
}

/// Triggers whose functions seem to use a name that goes: every write would fail.
fn names_that_break(table: &Table, facts: &TableFacts) -> Vec<String> {
    let mut broken = Vec::new();
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
            broken.push(format!(
                "{}: the function of the trigger {} seems to use {}, which becomes {}: make it read the row by either name (such as \
                 to_jsonb(NEW)), then say --force",
                table.sql(),
                trigger.name,
                column.name,
                column.new_name
            ));
        }
    }
    broken
}

/// The table and its views for this transaction alone, the views first as programs lock them. Then once more the question whether
/// anybody writes by the version that goes: now nobody can come in between.
fn locked(
    expansion: &Expansion,
    table: &Table,
    views: &[String],
    goes: &str,
    unused_for_s: Option<u64>,
) -> Vec<String> {
    let mut names = views.to_vec();
    names.push(table.sql());
    let mut sql = vec![format!(
        "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
        names.join(", ")
    )];
    if let Some(seconds) = unused_for_s.filter(|_| table.has_shadows()) {
        let gate = gate(expansion, goes, seconds);
        sql.push(format!("DO $pgctl$ BEGIN {gate} END $pgctl$"));
    }
    sql
}

/// All of them for this transaction alone.
fn all_alone(table: &Table, views: &[String]) -> Vec<(String, String)> {
    let views = views
        .iter()
        .map(|view| (view.clone(), "AccessExclusiveLock".to_owned()));
    views.chain(alone(table)).collect()
}

fn keep_old(expansion: &Expansion, table: &Table, state: State, unused_for_s: Option<u64>) -> Step {
    let (first, last) = functions::triggers(expansion);
    let name = table.sql();
    let views = if state == State::Open {
        vec![expansion.view(table)]
    } else {
        Vec::new()
    };
    let mut sql = locked(expansion, table, &views, "new", unused_for_s);
    sql.push(format!("DROP VIEW IF EXISTS {}", expansion.view(table)));
    for trigger in [first, last] {
        sql.push(format!("DROP TRIGGER IF EXISTS {trigger} ON {name}"));
    }
    if table.has_shadows() {
        sql.push(removed(table).replace("DROP COLUMN ", "DROP COLUMN IF EXISTS "));
    }
    transaction(sql, all_alone(table, &views), Vec::new())
}

fn keep_new(expansion: &Expansion, table: &Table, former: &[String], unused_for_s: Option<u64>) -> Step {
    let name = table.sql();
    let mut views = vec![expansion.view(table)];
    views.extend(former.iter().cloned());
    let mut sql = locked(expansion, table, &views, "old", unused_for_s);
    let mut locks = all_alone(table, &views);
    for view in former {
        sql.push(format!("DROP VIEW {view}"));
    }
    if table.has_shadows() {
        let (first, last) = functions::triggers(expansion);
        for trigger in [first, last] {
            sql.push(format!("DROP TRIGGER {trigger} ON {name}"));
        }
        for (column, shadow) in table.shadows() {
            sql.extend(before(expansion, table, &column.new_name, shadow));
        }
        let dropped: Vec<String> = table
            .shadows()
            .map(|(column, _)| format!("DROP COLUMN {}", quote(&column.name)))
            .collect();
        sql.push(format!("ALTER TABLE {name} {}", dropped.join(", ")));
        for (column, shadow) in table.shadows() {
            sql.extend(taken_over(table, &column.new_name, shadow));
        }
        sql.extend(hung_over(table));
        let parents = table.constraints.iter().filter_map(|it| it.parent.clone());
        locks.extend(parents.map(|parent| (parent, "AccessExclusiveLock".to_owned())));
    }
    for column in &table.columns {
        if column.shadow.is_none() && column.name != column.new_name {
            let (from, to) = (quote(&column.name), quote(&column.new_name));
            sql.push(format!("ALTER TABLE {name} RENAME COLUMN {from} TO {to}"));
        }
    }
    if table.name != table.new_name {
        sql.push(format!("ALTER TABLE {name} RENAME TO {}", quote(&table.new_name)));
    }
    sql.push(format!(
        "UPDATE pgctl.versions SET state = 'contracting', changed = pg_catalog.clock_timestamp() WHERE version = {}",
        literal(&expansion.version)
    ));
    transaction(sql, locks, Vec::new())
}

/// What would go with the old column.
fn before(expansion: &Expansion, table: &Table, new_name: &str, shadow: &Shadow) -> Vec<String> {
    let mut sql = Vec::new();
    if shadow.default.is_some() {
        // From here on the table's own default counts.
        sql.push(format!(
            "ALTER VIEW {} ALTER COLUMN {} DROP DEFAULT",
            expansion.view(table),
            quote(new_name)
        ));
    }
    if let (Some(identity), Some(sequence)) = (&shadow.identity, &shadow.sequence) {
        let (name, column) = (table.sql(), quote(&shadow.name));
        let twin = format!("{}.{}", quote(&table.schema), quote(&identity.twin));
        // No row is read: the CHECK proves it.
        sql.push(format!("ALTER TABLE {name} ALTER COLUMN {column} SET NOT NULL"));
        sql.push(format!(
            "ALTER TABLE {name} ALTER COLUMN {column} ADD GENERATED {} AS IDENTITY (SEQUENCE NAME {twin} {})",
            identity.generated, identity.options
        ));
        sql.push(format!(
            "SELECT pg_catalog.setval({}, pg_catalog.nextval({}))",
            literal(&twin),
            literal(sequence)
        ));
    } else if let Some(sequence) = &shadow.sequence {
        sql.push(format!(
            "ALTER SEQUENCE {sequence} OWNED BY {}.{}",
            table.sql(),
            quote(&shadow.name)
        ));
        if matches!(shadow.ty.to_ascii_lowercase().as_str(), "bigint" | "int8") {
            sql.push(format!("ALTER SEQUENCE {sequence} AS bigint"));
        }
    }
    sql
}

/// The new column takes the old one's place.
fn taken_over(table: &Table, new_name: &str, shadow: &Shadow) -> Vec<String> {
    let (name, column) = (table.sql(), quote(new_name));
    let mut sql = vec![format!(
        "ALTER TABLE {name} RENAME COLUMN {} TO {column}",
        quote(&shadow.name)
    )];
    if let Some(proof) = &shadow.not_null {
        // No row is read: the CHECK proves it.
        sql.push(format!("ALTER TABLE {name} ALTER COLUMN {column} SET NOT NULL"));
        sql.push(format!("ALTER TABLE {name} DROP CONSTRAINT {}", quote(proof)));
    }
    if let Some(identity) = &shadow.identity {
        sql.push(format!(
            "ALTER SEQUENCE {}.{} RENAME TO {}",
            quote(&table.schema),
            quote(&identity.twin),
            quote(&identity.sequence)
        ));
    } else if let Some(default) = &shadow.default {
        sql.push(format!(
            "ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT {default}"
        ));
    }
    if let Some(target) = shadow.statistics {
        sql.push(format!(
            "ALTER TABLE {name} ALTER COLUMN {column} SET STATISTICS {target}"
        ));
    }
    if let Some(comment) = &shadow.comment {
        sql.push(format!(
            "COMMENT ON COLUMN {name}.{column} IS {}",
            literal(comment)
        ));
    }
    sql
}

/// Indexes and constraints take the names of those that went with the old columns.
fn hung_over(table: &Table) -> Vec<String> {
    let name = table.sql();
    let mut sql = Vec::new();
    for index in &table.indexes {
        let twin = quote(&index.twin);
        sql.push(match &index.key {
            Some(key) => format!(
                "ALTER TABLE {name} ADD CONSTRAINT {} {} USING INDEX {twin} {}",
                quote(&key.name),
                key.kind,
                key.put_off
            ),
            None => format!(
                "ALTER INDEX {}.{twin} RENAME TO {}",
                quote(&table.schema),
                quote(&index.name)
            ),
        });
    }
    for constraint in &table.constraints {
        sql.push(format!(
            "ALTER TABLE {name} RENAME CONSTRAINT {} TO {}",
            quote(&constraint.twin),
            quote(&constraint.name)
        ));
    }
    sql
}
