//! A column's type or name is changed with the old and the new program side by side: from a script to the steps that open the
//! new version, and to those that leave only one.
//!
//! Beside a column whose type changes stands a shadow column with the new one. Two triggers keep them equal, and tell who
//! wrote by what was changed, not by whose session it is: so a pooler may mix both programs' transactions, and functions with
//! a fixed search path work. The new version is a schema of views; the old one is the tables themselves.
//!
//! | file | does |
//! |---|---|
//! | `change` | reads what is wanted |
//! | `facts` | what the server says of tables and versions |
//! | `survey` | what is wanted and what there is: what has to be carried over, and what cannot be |
//! | `words` | an expression with other names for its columns |
//! | `functions` | the triggers' functions |
//! | `views` | the views of a version, with their defaults and rights |
//! | `open` | the steps that open a version |
//! | `contract` | the steps that leave one version |
//! | `usage` | what shows that a version is not used |

mod change;
mod contract;
mod facts;
mod functions;
mod open;
mod survey;
mod usage;
mod views;
mod words;

pub use change::{Change, ColumnChange, TableChange, changes};
pub use contract::{Contraction, Keep, contract};
pub use facts::{FACTS_SQL, Facts, Grant, State, TableFacts, VERSIONS_SQL, Version};
pub use open::steps;
pub use survey::{Permits, Survey, survey};

use crate::model::quote;
use crate::plan::{Class, Step};
use serde::{Deserialize, Serialize};

/// What stands beside the tables while two versions are open. It is kept in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expansion {
    /// The schema that holds the views.
    pub version: String,
    /// Such as 150018.
    pub server_version: u32,
    pub tables: Vec<Table>,
}

/// A table with two versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// Its name in the new version.
    pub new_name: String,
    /// The columns of the new version, in order.
    pub columns: Vec<Column>,
    pub indexes: Vec<Index>,
    pub constraints: Vec<Constraint>,
    pub grants: Vec<Grant>,
}

/// A column of both versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub new_name: String,
    pub grants: Vec<Grant>,
    pub shadow: Option<Shadow>,
}

/// The column that becomes the column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    pub name: String,
    pub ty: String,
    pub old_ty: String,
    /// From the old row; `None`: the value itself.
    pub up: Option<String>,
    /// From the new row; `None`: the value itself.
    pub down: Option<String>,
    pub default: Option<String>,
    /// The CHECK that proves that it is never NULL.
    pub not_null: Option<String>,
    /// Owned by the column, as SQL.
    pub sequence: Option<String>,
    pub identity: Option<Identity>,
    pub comment: Option<String>,
    pub statistics: Option<i32>,
}

/// What makes an identity column of the shadow column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// ALWAYS or BY DEFAULT.
    pub generated: String,
    /// The sequence's name without its schema, and the one that it has until the old one is gone.
    pub sequence: String,
    pub twin: String,
    pub options: String,
}

/// An index, and the one that takes its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub name: String,
    pub twin: String,
    pub unique: bool,
    /// From USING on, with the shadow columns in it.
    pub definition: String,
    /// The constraint that it carries.
    pub key: Option<Key>,
}

/// A PRIMARY KEY or a UNIQUE.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub name: String,
    pub kind: String,
    /// Whether its check can be put off to the end of a transaction, as SQL.
    pub put_off: String,
}

/// A CHECK or a foreign key, and the one that takes its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    pub name: String,
    pub twin: String,
    pub definition: String,
    pub validated: bool,
    pub parent: Option<String>,
}

impl Table {
    /// As SQL, with its schema.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// The columns that have a shadow.
    pub fn shadows(&self) -> impl Iterator<Item = (&Column, &Shadow)> {
        self.columns
            .iter()
            .filter_map(|column| column.shadow.as_ref().map(|shadow| (column, shadow)))
    }

    #[must_use]
    pub fn has_shadows(&self) -> bool {
        self.shadows().next().is_some()
    }
}

impl Expansion {
    /// The version's schema as SQL.
    #[must_use]
    pub fn schema(&self) -> String {
        quote(&self.version)
    }

    /// A table's view as SQL.
    #[must_use]
    pub fn view(&self, table: &Table) -> String {
        format!("{}.{}", self.schema(), quote(&table.new_name))
    }

    /// The sequence that holds the second at which the old, or the new, version was last written by.
    #[must_use]
    pub(crate) fn marker(&self, which: &str) -> String {
        format!("{}.pgctl_{which}_use", self.schema())
    }
}

/// A text as SQL.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// What conversions must not depend on. Names in expressions are qualified, or the server's own.
pub(crate) const SETTINGS: [(&str, &str); 5] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("timezone", "'UTC'"),
    ("datestyle", "'ISO, YMD'"),
    ("intervalstyle", "'postgres'"),
    ("extra_float_digits", "1"),
];

/// A transaction with conversions in it.
fn transaction(sql: Vec<String>, locks: Vec<(String, String)>, undo: Vec<String>) -> Step {
    let mut step = bare(sql, Class::Transaction);
    let pinned = SETTINGS
        .iter()
        .map(|(name, value)| format!("SET {name} = {value}"));
    step.settings = pinned.collect();
    step.patient = locks.is_empty();
    step.locks = locks;
    step.undo = undo;
    step
}

fn bare(sql: Vec<String>, class: Class) -> Step {
    Step {
        path: String::new(),
        line: 0,
        sql,
        settings: Vec::new(),
        class,
        locks: Vec::new(),
        patient: true,
        undo: Vec::new(),
        rewrites: Vec::new(),
        scans: Vec::new(),
        findings: Vec::new(),
        rewritten: false,
    }
}

/// Where nothing need be done to take a step back.
const NOTHING: &str = "SELECT 1";
