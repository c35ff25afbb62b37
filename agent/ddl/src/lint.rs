//! Judges whole sets of scripts: what earlier statements made, what a transaction holds, what was suppressed and why.

use crate::catalog::Catalog;
use crate::model::{Act, Name, Statement, TableAction};
use crate::read::{Script, script};
use crate::rules;
use crate::verdict::{Circumstances, Finding, LockMode, Severity, Verdict, judge};
use serde::Deserialize;
use std::collections::BTreeMap;

/// How a set is judged. From `.pgctl-ddl.toml` and the command line.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The server's major version, 13 to 18.
    pub pg: u16,
    /// Each file runs in a transaction of its own, as most migration tools do.
    pub transaction: bool,
    /// Rules that say nothing, by id.
    pub ignore: Vec<String>,
    /// Other severities than the rules' own, by id.
    pub severity: BTreeMap<String, Severity>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            pg: NEWEST,
            transaction: false,
            ignore: Vec::new(),
            severity: BTreeMap::new(),
        }
    }
}

/// The newest server that is judged.
pub const NEWEST: u16 = 18;
/// The oldest.
pub const OLDEST: u16 = 13;

impl Options {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// It is no TOML, a key is not known, a version is out of range, or a rule does not exist.
    pub fn parse(text: &str) -> Result<Options, String> {
        let options: Options = toml::from_str(text).map_err(|error| error.to_string())?;
        options.check()?;
        Ok(options)
    }

    /// # Errors
    /// The version is out of range, or a rule does not exist.
    pub fn check(&self) -> Result<(), String> {
        if !(OLDEST..=NEWEST).contains(&self.pg) {
            return Err(format!("pg = {}: it must be from {OLDEST} to {NEWEST}", self.pg));
        }
        for id in self.ignore.iter().chain(self.severity.keys()) {
            if rules::find(id).is_none() {
                return Err(format!("{id} is no rule; docs/ddl-rules.md lists them"));
            }
        }
        Ok(())
    }
}

/// A statement and what was found.
#[derive(Debug, Clone)]
pub struct Judged {
    pub statement: Statement,
    pub verdict: Verdict,
}

/// A file and its statements, in order.
#[derive(Debug, Clone)]
pub struct JudgedFile {
    pub path: String,
    pub statements: Vec<Judged>,
}

/// Reads a dump of a schema (`pg_dump --schema-only`).
#[must_use]
pub fn schema(dump: &str) -> Catalog {
    let mut catalog = Catalog {
        complete: true,
        ..Catalog::default()
    };
    for statement in script(dump).statements {
        catalog.apply(&statement.act);
    }
    catalog.search_path = None;
    catalog
}

/// Judges files together, in the order given.
#[must_use]
pub fn lint(files: &[(String, String)], mut catalog: Catalog, options: &Options) -> Vec<JudgedFile> {
    catalog.judging = true;
    files
        .iter()
        .map(|(path, text)| {
            let read = script(text);
            JudgedFile {
                path: path.clone(),
                statements: Session::new(options).run(read, &mut catalog),
            }
        })
        .collect()
}

/// What one connection carries from statement to statement.
struct Session<'o> {
    options: &'o Options,
    explicit_transaction: bool,
    utc: bool,
    lock_timeout: bool,
    advised: bool,
    /// Tables held alone by the open transaction, in the order they were taken.
    held: Vec<Name>,
    /// Values added to enumerations in the open transaction.
    new_values: Vec<String>,
}

impl<'o> Session<'o> {
    fn new(options: &'o Options) -> Session<'o> {
        Session {
            options,
            explicit_transaction: false,
            utc: false,
            lock_timeout: false,
            advised: false,
            held: Vec::new(),
            new_values: Vec::new(),
        }
    }

    fn in_transaction(&self) -> bool {
        self.explicit_transaction || self.options.transaction
    }

    fn run(mut self, script: Script, catalog: &mut Catalog) -> Vec<Judged> {
        let file_wide: Vec<Suppression> = script
            .comments
            .iter()
            .flatten()
            .filter_map(|(_, text)| suppression(text, "pgctl:ignore-file"))
            .collect();
        let mut judged = Vec::new();
        for (statement, comments) in script.statements.into_iter().zip(script.comments) {
            let circumstances = Circumstances {
                version: self.options.pg,
                in_transaction: self.in_transaction(),
                utc: self.utc,
            };
            let mut verdict = judge(&statement, catalog, circumstances);
            self.together(&statement, &mut verdict, catalog);
            catalog.apply(&statement.act);
            self.settings(&statement.act);
            let own: Vec<Suppression> = comments
                .iter()
                .filter_map(|(_, text)| suppression(text, "pgctl:ignore"))
                .collect();
            self.suppress(&mut verdict, &file_wide, &own);
            judged.push(Judged { statement, verdict });
        }
        judged
    }

    /// What only shows when statements are looked at together: H64, H75, H76, H78.
    fn together(&mut self, statement: &Statement, verdict: &mut Verdict, catalog: &Catalog) {
        let mut say = |rule, severity, message: String, safe: &str| {
            verdict.findings.push(Finding {
                rule,
                severity,
                message,
                safe: safe.to_owned(),
            });
        };
        match &statement.act {
            Act::Commit | Act::Rollback | Act::Begin => {
                self.held.clear();
                self.new_values.clear();
                return;
            }
            Act::AlterType {
                what: crate::model::TypeAct::AddValue(value),
                ..
            } if self.in_transaction() => self.new_values.push(value.clone()),
            act => {
                let used = self.new_values.iter().find(|value| {
                    strings_of(act).contains(value) || statement.sql.contains(&format!("'{value}'"))
                });
                if let Some(value) = used {
                    let message = format!(
                        "'{value}' was added to its type in this transaction, and may not be used before that commits \
                         (55P04). Add it in a transaction of its own."
                    );
                    say("H64", Severity::Danger, message, "");
                }
            }
        }
        let hot: Vec<(Name, LockMode)> = verdict
            .locks
            .iter()
            .filter(|(name, _)| !catalog.fresh(name))
            .map(|(name, mode)| (name.clone(), *mode))
            .collect();
        let alone: Vec<Name> = hot
            .iter()
            .filter(|(name, mode)| {
                *mode >= LockMode::ShareRowExclusive && !catalog.indexes.contains_key(name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut say = |rule, severity, message: String, safe: &str| {
            verdict.findings.push(Finding {
                rule,
                severity,
                message,
                safe: safe.to_owned(),
            });
        };
        if self.in_transaction() {
            let rows = matches!(
                statement.act,
                Act::Update { .. } | Act::Delete { .. } | Act::Insert { from_query: true, .. }
            );
            if let Some(first) = self.held.first() {
                let another = alone.iter().find(|name| !self.held.contains(name));
                if let Some(another) = another {
                    let message = format!(
                        "The transaction already holds {first} and now waits for {another}: everybody waits for both, \
                         and another change that takes them in the other order deadlocks. One table in a transaction."
                    );
                    say("H75", Severity::Warning, message, "COMMIT;\nBEGIN;");
                } else if rows {
                    let message = format!(
                        "The transaction holds {first} since its DDL, and everybody waits until these rows are written. \
                         Commit the DDL first."
                    );
                    say("H75", Severity::Warning, message, "COMMIT;\nBEGIN;");
                }
            }
            for name in &alone {
                if !self.held.contains(name) {
                    self.held.push(name.clone());
                }
            }
        }
        let ddl = !matches!(
            statement.act,
            Act::Insert { .. } | Act::Update { .. } | Act::Delete { .. }
        );
        if ddl && !alone.is_empty() && !self.lock_timeout && !self.advised {
            self.advised = true;
            let message = format!(
                "Without a lock_timeout, waiting for {} makes everybody behind it wait too, for as long as the longest \
                 transaction runs.",
                alone[0]
            );
            say("H76", Severity::Advice, message, "SET lock_timeout = '100ms';");
        }
        if self.lock_timeout && concurrent(&statement.act) {
            let message = "A lock_timeout makes a CONCURRENTLY give up while it waits for old transactions, and leaves an \
                           invalid index behind. It stops nobody: let it wait."
                .to_owned();
            say("H46", Severity::Advice, message, "SET lock_timeout = 0;");
        }
        if let Some(table) = verdict.rewrites.iter().next() {
            let message = format!(
                "All of {table} goes through the WAL: standbys fall behind by as much, and queries on them are cancelled \
                 when they replay the lock."
            );
            verdict.findings.push(Finding {
                rule: "H78",
                severity: Severity::Advice,
                message,
                safe: String::new(),
            });
        }
    }

    fn settings(&mut self, act: &Act) {
        match act {
            Act::Begin => self.explicit_transaction = true,
            Act::Commit | Act::Rollback => self.explicit_transaction = false,
            Act::Set { name, value, .. } => match name.to_ascii_lowercase().as_str() {
                "timezone" => {
                    self.utc = matches!(value.to_ascii_uppercase().as_str(), "UTC" | "GMT" | "ETC/UTC")
                }
                "lock_timeout" => {
                    self.lock_timeout = !matches!(value.as_str(), "0" | "default" | "0ms" | "0s")
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn suppress(&self, verdict: &mut Verdict, file_wide: &[Suppression], own: &[Suppression]) {
        let mut unreasoned = Vec::new();
        for suppression in own.iter().chain(file_wide) {
            if !suppression.reasoned {
                unreasoned.extend(suppression.rules.iter().cloned());
            }
        }
        let mut fired = false;
        let mut accepted = false;
        verdict.findings.retain(|finding| {
            fired |= unreasoned.iter().any(|rule| rule == finding.rule);
            let suppressed = own.iter().chain(file_wide).any(|suppression| {
                suppression.reasoned && suppression.rules.iter().any(|rule| rule == finding.rule)
            });
            let kept = !suppressed && !self.options.ignore.iter().any(|rule| rule == finding.rule);
            accepted |= !kept;
            kept
        });
        if accepted {
            // What somebody gave a reason for is not written anew.
            verdict.fix = None;
        }
        for finding in &mut verdict.findings {
            if let Some(severity) = self.options.severity.get(finding.rule) {
                finding.severity = *severity;
            }
            if fired && unreasoned.iter().any(|rule| rule == finding.rule) {
                finding.message.push_str(
                    " (Not suppressed: a suppression needs a reason, `-- pgctl:ignore H45 because ...`.)",
                );
            }
        }
    }
}

struct Suppression {
    rules: Vec<String>,
    reasoned: bool,
}

/// `pgctl:ignore H45 H48 because the table is small`.
fn suppression(comment: &str, mark: &str) -> Option<Suppression> {
    let rest = comment.strip_prefix(mark)?;
    if !rest.starts_with(char::is_whitespace) {
        return None;
    }
    let (rules, reason) = rest.split_once("because").unwrap_or((rest, ""));
    Some(Suppression {
        rules: rules
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_uppercase)
            .collect(),
        reasoned: !reason.trim().is_empty(),
    })
}

fn strings_of(act: &Act) -> &[String] {
    match act {
        Act::Insert { strings, .. } | Act::Update { strings, .. } | Act::Query { strings, .. } => strings,
        _ => &[],
    }
}

fn concurrent(act: &Act) -> bool {
    match act {
        Act::CreateIndex { concurrently, .. }
        | Act::Reindex { concurrently, .. }
        | Act::Drop { concurrently, .. } => *concurrently,
        Act::AlterTable { parts, .. } => parts.iter().any(|part| {
            matches!(
                part.action,
                TableAction::DetachPartition {
                    concurrently: true,
                    ..
                }
            )
        }),
        _ => false,
    }
}

/// The script with every statement that has a mechanical fix replaced by it, and how many were.
#[must_use]
pub fn fixed(text: &str, file: &JudgedFile) -> (String, usize) {
    let mut out = String::new();
    let (mut at, mut count) = (0, 0);
    for judged in &file.statements {
        let (Some(steps), false) = (&judged.verdict.fix, judged.verdict.findings.is_empty()) else {
            continue;
        };
        out.push_str(text.get(at..judged.statement.start).unwrap_or_default());
        out.push_str(&steps.join("\n"));
        at = judged.statement.end;
        count += 1;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    (out, count)
}
