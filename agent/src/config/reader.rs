//! Takes typed values out of the file and the environment, and notes everything that is wrong on the way.

use super::keys::{self, Key};
use super::{ConfigError, Problem, nearest};
use ::config::{Config, Environment, File, FileFormat, Source, Value, ValueKind};
use std::collections::BTreeMap;

const ENVIRONMENT: &str = "the environment";

/// What was given for each known key, and what is wrong so far.
pub(super) struct Reader {
    file: String,
    values: BTreeMap<String, Value>,
    known: Vec<Key>,
    /// The sections that are there, also empty ones.
    sections: Vec<String>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(
        file: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Reader, ConfigError> {
        let mut reader = Reader {
            file: file.to_owned(),
            values: BTreeMap::new(),
            known: keys::all(),
            sections: Vec::new(),
            problems: Vec::new(),
        };
        let overrides = reader.own_variables(environment);
        let source = Environment::with_prefix("PGCTL")
            .prefix_separator("_")
            .separator("__")
            .source(Some(overrides));
        let syntax = |error: ::config::ConfigError| ConfigError::Syntax {
            file: file.to_owned(),
            detail: error.to_string(),
        };
        let merged = Config::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .add_source(source)
            .build()
            .map_err(syntax)?;
        for (section, value) in merged.collect().map_err(syntax)? {
            reader.sections.push(section.clone());
            reader.take_in(section, value);
        }
        Ok(reader)
    }

    /// The variables that are ours: `PGCTL_` and then a section and a key, with two underscores between levels.
    fn own_variables(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> ::config::Map<String, String> {
        let mut own = ::config::Map::new();
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix("PGCTL_") else {
                continue;
            };
            if rest.contains("__") {
                own.insert(name, value);
            } else if let Some(key) = self
                .known
                .iter()
                .find(|key| key.name.replace('.', "_") == rest.to_ascii_lowercase())
            {
                let text = format!(
                    "two underscores stand between levels: {}",
                    keys::variable(&key.name)
                );
                self.problems.push(Problem {
                    origin: "environment".to_owned(),
                    key: name,
                    value: Some(value),
                    text,
                });
            }
        }
        own
    }

    fn take_in(&mut self, key: String, value: Value) {
        if self.known.iter().any(|known| known.name == key) && !self.splits_further(&key, &value) {
            self.values.insert(key, value);
            return;
        }
        let prefix = format!("{key}.");
        match value.kind {
            ValueKind::Table(table) if !table.is_empty() => {
                for (name, inner) in table {
                    self.take_in(format!("{prefix}{name}"), inner);
                }
            }
            ValueKind::Table(_) if self.known.iter().any(|known| known.name.starts_with(&prefix)) => {}
            _ => self.unknown(&key, &value),
        }
    }

    /// `bootstrap.timing` is one value, or a table of values with names of their own.
    fn splits_further(&self, key: &str, value: &Value) -> bool {
        let prefix = format!("{key}.");
        matches!(value.kind, ValueKind::Table(_))
            && self.known.iter().any(|known| known.name.starts_with(&prefix))
    }

    fn unknown(&mut self, key: &str, value: &Value) {
        let text = match nearest(key, self.known.iter().map(|known| known.name.as_str())) {
            Some(near) => format!("there is no such key; did you mean {near}?"),
            None => "there is no such key: docs/config.md lists them all".to_owned(),
        };
        let origin = self.origin_of(key, value);
        self.problems.push(Problem {
            origin,
            key: key.to_owned(),
            value: None,
            text,
        });
    }

    fn origin_of(&self, key: &str, value: &Value) -> String {
        if value.origin() == Some(ENVIRONMENT) {
            keys::variable(key)
        } else {
            self.file.clone()
        }
    }

    /// Whether anything was given under `section`.
    pub(super) fn has_section(&self, section: &str) -> bool {
        self.sections.iter().any(|given| given == section)
    }

    /// Whether `key` itself was given.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Notes that the value of `key` is wrong, or that there should be one.
    pub(super) fn problem(&mut self, key: &str, text: impl Into<String>) {
        let given = self.values.get(key);
        let origin = given.map_or_else(|| self.file.clone(), |value| self.origin_of(key, value));
        let value = given.map(shown);
        self.problems.push(Problem {
            origin,
            key: key.to_owned(),
            value,
            text: text.into(),
        });
    }

    /// Notes that the value of `key` is not of the form that the table of keys says.
    pub(super) fn not_allowed(&mut self, key: &str) {
        let allowed = self
            .known
            .iter()
            .find(|known| known.name == key)
            .map(|known| known.allowed.clone());
        self.problem(key, format!("it must be {}", allowed.unwrap_or_default()));
    }

    /// The text of `key`; numbers and truth values count as text only where they come from the environment.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match &self.values.get(key)?.kind {
            ValueKind::String(text) => Some(text.clone()),
            _ => {
                self.not_allowed(key);
                None
            }
        }
    }

    /// The text of `key`, which has to be there.
    pub(super) fn required(&mut self, key: &str) -> Option<String> {
        if !self.is_given(key) {
            let allowed = self
                .known
                .iter()
                .find(|known| known.name == key)
                .map(|known| known.allowed.clone());
            self.problem(
                key,
                format!("it is missing: give {}", allowed.unwrap_or_default()),
            );
            return None;
        }
        self.text(key)
    }

    /// A text or a number, as text.
    pub(super) fn scalar(&mut self, key: &str) -> Option<String> {
        let value = self.values.get(key)?;
        let text = scalar(value);
        if text.is_none() {
            self.not_allowed(key);
        }
        text
    }

    /// A truth value; false where it is absent.
    pub(super) fn truth(&mut self, key: &str) -> bool {
        match self.values.get(key).map(|value| &value.kind) {
            None => false,
            Some(ValueKind::Boolean(truth)) => *truth,
            Some(ValueKind::String(text)) if text == "true" => true,
            Some(ValueKind::String(text)) if text == "false" => false,
            Some(_) => {
                self.not_allowed(key);
                false
            }
        }
    }

    /// A list; empty where it is absent.
    pub(super) fn list(&mut self, key: &str) -> Vec<Value> {
        match self.structured(key).map(|value| value.kind) {
            None => Vec::new(),
            Some(ValueKind::Array(list)) => list,
            Some(_) => {
                self.not_allowed(key);
                Vec::new()
            }
        }
    }

    /// A table of texts, numbers and truth values; empty where it is absent.
    pub(super) fn table(&mut self, key: &str) -> BTreeMap<String, String> {
        let table = match self.structured(key).map(|value| value.kind) {
            None => return BTreeMap::new(),
            Some(ValueKind::Table(table)) => table,
            Some(_) => {
                self.not_allowed(key);
                return BTreeMap::new();
            }
        };
        let mut texts = BTreeMap::new();
        for (name, value) in table {
            match scalar(&value) {
                Some(text) => {
                    texts.insert(name, text);
                }
                None => self.problem(key, format!("{name} must be a text, a number or a truth value")),
            }
        }
        texts
    }

    /// A list or table from the environment is written as in the file: `PGCTL_POSTGRES__HBA='["local all all trust"]'`.
    fn structured(&self, key: &str) -> Option<Value> {
        let value = self.values.get(key)?;
        if let (ValueKind::String(text), Some(ENVIRONMENT)) = (&value.kind, value.origin()) {
            let parsed = Config::builder()
                .add_source(File::from_str(&format!("value = {text}"), FileFormat::Toml))
                .build();
            if let Ok(mut table) = parsed.and_then(|parsed| parsed.collect()) {
                return table.remove("value");
            }
        }
        Some(value.clone())
    }

    /// What is wrong, and where each value that was given came from.
    pub(super) fn finish(self) -> (Vec<Problem>, BTreeMap<String, String>) {
        let origins = self
            .values
            .iter()
            .map(|(key, value)| (key.clone(), self.origin_of(key, value)))
            .collect();
        (self.problems, origins)
    }
}

/// The text of a value that is no list and no table.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        ValueKind::Boolean(truth) => Some(if *truth { "on" } else { "off" }.to_owned()),
        ValueKind::I64(number) => Some(number.to_string()),
        ValueKind::I128(number) => Some(number.to_string()),
        ValueKind::U64(number) => Some(number.to_string()),
        ValueKind::U128(number) => Some(number.to_string()),
        ValueKind::Float(number) => Some(number.to_string()),
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
    }
}

fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(_) => "[...]".to_owned(),
        ValueKind::Table(_) => "{...}".to_owned(),
        _ => value.to_string(),
    }
}
