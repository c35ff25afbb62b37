//! Cuts scripts into steps.

use super::class::{self, Outcome};
use super::{Class, Step, undo};
use crate::catalog::Catalog;
use crate::lint::{Judged, JudgedFile, Options, lint};
use crate::model::{Act, Statement};

/// How steps are made.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    pub lint: Options,
    /// Statements stay as they are, also where a safer form is known.
    pub as_written: bool,
}

/// Why a script cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub path: String,
    pub line: usize,
    pub reason: String,
}

/// The steps of scripts that are carried out in this order.
///
/// # Errors
/// Every statement that cannot be part of a rollout, and why.
pub fn plan(
    files: &[(String, String)],
    catalog: &Catalog,
    options: &PlanOptions,
) -> Result<Vec<Step>, Vec<Refusal>> {
    let judged = lint(files, catalog.clone(), &options.lint);
    let originals: Vec<Original> = files
        .iter()
        .zip(&judged)
        .map(|((_, text), file)| Original::of(text, file, options.as_written))
        .collect();
    let texts: Vec<(String, String)> = files
        .iter()
        .zip(&originals)
        .map(|((path, _), original)| (path.clone(), original.text.clone()))
        .collect();
    let mut steps = Vec::new();
    let mut refusals = Vec::new();
    for (file, original) in lint(&texts, catalog.clone(), &options.lint)
        .iter()
        .zip(&originals)
    {
        Cutter::new(file, original, catalog, options).cut(&mut steps, &mut refusals);
    }
    if refusals.is_empty() {
        Ok(steps)
    } else {
        Err(refusals)
    }
}

/// A script with the safer forms in it, and where its parts come from.
struct Original {
    text: String,
    /// Where a statement begins and ends now, its line in the script as written, and whether it was replaced.
    places: Vec<(usize, usize, usize, bool)>,
}

impl Original {
    fn of(script: &str, file: &JudgedFile, as_written: bool) -> Original {
        let mut original = Original {
            text: String::new(),
            places: Vec::new(),
        };
        let mut at = 0;
        for Judged { statement, verdict } in &file.statements {
            original
                .text
                .push_str(script.get(at..statement.start).unwrap_or_default());
            let begin = original.text.len();
            let fix = verdict
                .fix
                .as_ref()
                .filter(|_| !as_written && !verdict.findings.is_empty());
            match fix {
                Some(fix) => original.text.push_str(&fix.join("\n")),
                None => original
                    .text
                    .push_str(script.get(statement.start..statement.end).unwrap_or_default()),
            }
            original
                .places
                .push((begin, original.text.len(), statement.line, fix.is_some()));
            at = statement.end;
        }
        original.text.push_str(script.get(at..).unwrap_or_default());
        original
    }

    fn place(&self, statement: &Statement) -> (usize, bool) {
        self.places
            .iter()
            .find(|(begin, end, ..)| (*begin..*end).contains(&statement.start))
            .map_or((statement.line, false), |(_, _, line, replaced)| {
                (*line, *replaced)
            })
    }
}

/// What one script's session carries from statement to statement.
struct Cutter<'a> {
    file: &'a JudgedFile,
    original: &'a Original,
    catalog: &'a Catalog,
    options: &'a PlanOptions,
    settings: Vec<String>,
    /// The transaction that is open.
    open: Option<Step>,
    /// Whether it can still be undone.
    open_undoable: bool,
}

impl<'a> Cutter<'a> {
    fn new(
        file: &'a JudgedFile,
        original: &'a Original,
        catalog: &'a Catalog,
        options: &'a PlanOptions,
    ) -> Cutter<'a> {
        Cutter {
            file,
            original,
            catalog,
            options,
            settings: Vec::new(),
            open: None,
            open_undoable: true,
        }
    }

    fn cut(mut self, steps: &mut Vec<Step>, refusals: &mut Vec<Refusal>) {
        if self.options.lint.transaction {
            self.open = Some(self.empty(1));
        }
        for judged in &self.file.statements {
            let (line, replaced) = self.original.place(&judged.statement);
            if let Err(reason) = self.take(judged, line, replaced, steps) {
                refusals.push(self.refusal(line, reason));
            }
        }
        if self.options.lint.transaction {
            self.close(steps);
        } else if let Some(open) = &self.open {
            refusals.push(self.refusal(
                open.line,
                "the transaction that begins here never ends".to_owned(),
            ));
        }
    }

    fn refusal(&self, line: usize, reason: String) -> Refusal {
        Refusal {
            path: self.file.path.clone(),
            line,
            reason,
        }
    }

    fn empty(&self, line: usize) -> Step {
        Step {
            path: self.file.path.clone(),
            line,
            sql: Vec::new(),
            settings: self.settings.clone(),
            class: Class::Transaction,
            locks: Vec::new(),
            patient: true,
            undo: Vec::new(),
            rewrites: Vec::new(),
            scans: Vec::new(),
            findings: Vec::new(),
            rewritten: false,
        }
    }

    fn take(
        &mut self,
        judged: &Judged,
        line: usize,
        replaced: bool,
        steps: &mut Vec<Step>,
    ) -> Result<(), String> {
        let statement = &judged.statement;
        match &statement.act {
            Act::Unread { line: at, reason } => {
                return Err(format!("it cannot be read (line {at}): {reason}"));
            }
            Act::Meta(command) => {
                return Err(format!(
                    "{command} is a command to psql, which has no part in a rollout"
                ));
            }
            Act::Copy { into: true, .. } => {
                return Err("rows cannot be copied in by a rollout: load them by hand".to_owned());
            }
            Act::Begin if self.open.is_some() => {
                return Err("a transaction is open already".to_owned());
            }
            Act::Begin => {
                self.open = Some(self.empty(line));
                self.open_undoable = true;
                return Ok(());
            }
            Act::Commit => {
                if self.open.is_none() || self.options.lint.transaction {
                    return Err("there is no transaction of the script's own to commit".to_owned());
                }
                self.close(steps);
                return Ok(());
            }
            Act::Rollback => return Err("a rollout does not roll back by itself: leave it out".to_owned()),
            Act::Set { name, local, .. } => {
                self.set(&statement.sql, name, *local);
                return Ok(());
            }
            Act::Query { .. } if statement.sql.contains("set_config(") => {
                self.set(&statement.sql, "", false);
                return Ok(());
            }
            _ => {}
        }
        self.statement(judged, line, replaced, steps)
    }

    fn set(&mut self, sql: &str, name: &str, local: bool) {
        // How long to wait for locks, and for how long a statement may run, is the rollout's.
        if matches!(name, "lock_timeout" | "statement_timeout" | "transaction_timeout") {
            return;
        }
        if let Some(open) = &mut self.open {
            open.sql.push(sql.to_owned());
        }
        if !local {
            self.settings.push(sql.to_owned());
        }
    }

    fn statement(
        &mut self,
        judged: &Judged,
        line: usize,
        replaced: bool,
        steps: &mut Vec<Step>,
    ) -> Result<(), String> {
        let statement = &judged.statement;
        let Outcome { class, sql, patient } =
            class::of(judged, self.catalog, self.open.is_some(), self.options.as_written)?;
        let taken_back = undo::of(&statement.act);
        let inside = self.open.is_some();
        let mut step = match self.open.take() {
            Some(open) => open,
            None => self.empty(line),
        };
        step.sql.push(sql);
        step.class = class;
        step.patient &= patient;
        step.rewritten |= replaced;
        step.findings.extend(judged.verdict.findings.iter().cloned());
        let verdict = &judged.verdict;
        for (name, mode) in &verdict.locks {
            step.locks.push((name.to_string(), mode.to_string()));
        }
        step.rewrites
            .extend(verdict.rewrites.iter().map(ToString::to_string));
        step.scans.extend(verdict.scans.iter().map(ToString::to_string));
        if inside {
            match taken_back {
                Some(undo) if self.open_undoable => step.undo.insert(0, undo),
                _ => {
                    self.open_undoable = false;
                    step.undo.clear();
                }
            }
            self.open = Some(step);
        } else {
            step.undo.extend(taken_back);
            steps.push(step);
        }
        Ok(())
    }

    fn close(&mut self, steps: &mut Vec<Step>) {
        if let Some(step) = self.open.take()
            && !step.sql.is_empty()
        {
            steps.push(step);
        }
    }
}
