//! What the server says of tables and versions, for expansions.

use super::Expansion;
use crate::model::quote;
use serde::{Deserialize, Serialize};

/// The question for [`Facts`]: `:tables` stands for an array of texts, `:role` for a text.
pub const FACTS_SQL: &str = include_str!("facts.sql");
/// The question for a list of [`Version`]; only where the table `pgctl.versions` is.
pub const VERSIONS_SQL: &str = include_str!("versions.sql");

/// What the server says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Facts {
    /// Such as 150018.
    pub server_version: u32,
    /// The role that carries changes out may make schemas in the database.
    pub may_create: bool,
    pub schemas: Vec<String>,
    pub tables: Vec<TableFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TableFacts {
    /// As it was asked for.
    pub written: String,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`.
    pub kind: String,
    /// The role that carries changes out has its owner's rights.
    pub owned: bool,
    /// It is a partition, or inherits, or is inherited from.
    pub related: bool,
    pub row_security: bool,
    pub forced_row_security: bool,
    /// It has a primary key.
    pub keyed: bool,
    pub publications: Vec<String>,
    pub grants: Vec<Grant>,
    pub columns: Vec<ColumnFacts>,
    pub indexes: Vec<IndexFacts>,
    /// CHECKs and foreign keys.
    pub constraints: Vec<ConstraintFacts>,
    pub referenced_by: Vec<Reference>,
    pub dependents: Vec<Dependent>,
    pub triggers: Vec<TriggerFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ColumnFacts {
    pub number: i32,
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
    pub not_null: bool,
    /// `a` for ALWAYS, `d` for BY DEFAULT, empty for none.
    pub identity: String,
    pub generated: bool,
    pub default: Option<String>,
    pub comment: Option<String>,
    pub statistics: Option<i32>,
    /// A sequence that it owns, as SQL.
    pub sequence: Option<String>,
    /// Of an identity column, as SQL.
    pub sequence_options: Option<String>,
    pub grants: Vec<Grant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// As SQL.
    pub to: String,
    pub privilege: String,
    pub grantable: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct IndexFacts {
    pub name: String,
    pub unique: bool,
    pub primary: bool,
    pub exclusion: bool,
    pub valid: bool,
    pub replica_identity: bool,
    pub constraint: Option<String>,
    pub deferrable: bool,
    pub deferred: bool,
    /// From USING on.
    pub definition: String,
    /// Every column that it uses, by number.
    pub columns: Option<Vec<i32>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ConstraintFacts {
    pub name: String,
    /// `c` or `f`.
    pub kind: String,
    pub definition: String,
    pub columns: Option<Vec<i32>>,
    pub validated: bool,
    /// The table that a foreign key points at, as SQL.
    pub parent: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Reference {
    pub table: String,
    pub constraint: String,
    pub columns: Vec<i32>,
}

/// Something that uses a column and does not follow it: a view, a policy, a trigger, a function, statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Dependent {
    pub column: i32,
    /// As the server describes it.
    pub what: String,
    /// Of a view.
    pub view_schema: Option<String>,
    pub view: Option<String>,
}

/// A trigger that is on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TriggerFacts {
    pub name: String,
    /// It fires at an update of any column.
    pub at_any_update: bool,
    /// Its function's text.
    pub source: String,
}

/// A version of the schema beside the tables themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The schema that holds its views.
    pub version: String,
    pub state: State,
    pub begun_unix: i64,
    /// When it came to this state.
    pub changed_unix: i64,
    /// When a row was last written by a program that knows the old version; by one that knows the new one. Seconds.
    pub old_written_unix: Option<i64>,
    pub new_written_unix: Option<i64>,
    pub expansion: Expansion,
}

/// How far a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its columns are being filled.
    Expanding,
    /// Old and new programs work side by side.
    Open,
    /// Some of its tables have only one version left.
    Contracting,
    /// The tables are as the new version has them; its views are still there.
    Contracted,
}

impl State {
    /// As it is written in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Expanding => "expanding",
            State::Open => "open",
            State::Contracting => "contracting",
            State::Contracted => "contracted",
        }
    }
}

impl TriggerFacts {
    /// Whether its function has such a word in it.
    #[must_use]
    pub fn names(&self, word: &str) -> bool {
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        self.source
            .split(|c| !part(c))
            .any(|found| found == word || found.to_lowercase() == word)
    }
}

impl Dependent {
    /// What it is, for people.
    #[must_use]
    pub fn described(&self) -> String {
        match (&self.view_schema, &self.view) {
            (Some(schema), Some(view)) => format!("the view {}.{}", quote(schema), quote(view)),
            _ => self.what.clone(),
        }
    }
}

impl TableFacts {
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }
}
