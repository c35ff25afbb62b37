//! How well linters foresee what the server does. Ours is asked twice: with the schema, and by the text alone as the others.

use crate::labelled::Case;
use anyhow::{Context, Result};
use ddl::catalog::Catalog;
use ddl::lint::{Options, lint, schema};
use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// How long the speed is measured for.
const SPEED_SECONDS: f64 = 2.0;
/// Rules of squawk's about style, types, timeouts, and what breaks clients: none of them says that a table is written anew or read
/// whole. Neither do those that ask for CONCURRENTLY where the lock is short (dropping, detaching).
const SQUAWK_SAYS_ELSE: [&str; 6] = [
    "prefer-",
    "require-",
    "ban-char-field",
    "identifier-",
    "ban-drop-",
    "renaming-",
];
const SQUAWK_SAYS_ALL_THE_SAME: [&str; 3] = [
    "require-concurrent-index-creation",
    "require-concurrent-reindex",
    "require-concurrent-refresh",
];

/// One linter on all cases.
#[derive(Serialize)]
pub struct Linter {
    pub name: String,
    pub hazards_found: usize,
    pub hazards: usize,
    /// Statements that do no harm and are flagged all the same.
    pub harmless_flagged: usize,
    pub harmless: usize,
    /// Of these: type changes of the catalogue alone.
    pub type_changes_flagged: usize,
    pub type_changes: usize,
    pub recall: f64,
    pub precision: f64,
    pub missed: Vec<String>,
    pub wrong: Vec<String>,
}

#[derive(Serialize)]
pub struct Comparison {
    pub linters: Vec<Linter>,
    /// Ours, on one core, parsing included.
    pub statements_per_second: u64,
}

pub fn compare(cases: &[Case], squawk: Option<&Path>) -> Result<Comparison> {
    let ours = |catalog: fn(&Case) -> Catalog| {
        move |case: &Case| -> Result<bool> {
            let files = [("x.sql".to_owned(), case.sql.clone())];
            let judged = lint(&files, catalog(case), &Options::default());
            let verdict = &judged[0].statements[0].verdict;
            Ok(!verdict.rewrites.is_empty() || !verdict.scans.is_empty())
        }
    };
    let mut linters = vec![
        judge("pgctl ddl lint --schema", cases, ours(|case| schema(&case.setup)))?,
        judge("pgctl ddl lint, text alone", cases, ours(|_| Catalog::default()))?,
    ];
    if let Some(program) = squawk {
        let said = Command::new(program)
            .arg("--version")
            .output()
            .context("squawk does not run")?;
        let name = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        linters.push(judge(&name, cases, |case| flagged_by_squawk(program, case))?);
    }
    Ok(Comparison {
        linters,
        statements_per_second: speed(cases),
    })
}

fn judge(name: &str, cases: &[Case], flags: impl Fn(&Case) -> Result<bool>) -> Result<Linter> {
    let (mut missed, mut wrong, mut found, mut types_wrong) = (Vec::new(), Vec::new(), 0, 0);
    for case in cases {
        let said = format!("{}: {}", case.name, case.sql);
        match (case.hazard, flags(case)?) {
            (true, true) => found += 1,
            (true, false) => missed.push(said),
            (false, true) => {
                types_wrong += usize::from(case.type_change);
                wrong.push(said);
            }
            (false, false) => {}
        }
    }
    let hazards = cases.iter().filter(|case| case.hazard).count();
    Ok(Linter {
        name: name.to_owned(),
        hazards_found: found,
        hazards,
        harmless_flagged: wrong.len(),
        harmless: cases.len() - hazards,
        type_changes_flagged: types_wrong,
        type_changes: cases
            .iter()
            .filter(|case| case.type_change && !case.hazard)
            .count(),
        recall: found as f64 / hazards.max(1) as f64,
        precision: found as f64 / (found + wrong.len()).max(1) as f64,
        missed,
        wrong,
    })
}

fn flagged_by_squawk(program: &Path, case: &Case) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.sql");
    std::fs::write(&path, format!("{};\n", case.sql))?;
    let said = Command::new(program)
        .args(["--reporter", "json", "--pg-version", "18.0"])
        .arg(&path)
        .output()?;
    let findings: Vec<serde_json::Value> =
        serde_json::from_slice(&said.stdout).with_context(|| format!("squawk on {}", case.sql))?;
    Ok(findings.iter().any(|finding| {
        let rule = finding["rule_name"].as_str().unwrap_or_default();
        let all_the_same = SQUAWK_SAYS_ALL_THE_SAME
            .iter()
            .any(|start| rule.starts_with(start));
        all_the_same || !SQUAWK_SAYS_ELSE.iter().any(|start| rule.starts_with(start))
    }))
}

fn speed(cases: &[Case]) -> u64 {
    let text: String = cases.iter().map(|case| format!("{};\n", case.sql)).collect();
    let files = [("x.sql".to_owned(), text)];
    let begun = Instant::now();
    let mut statements = 0;
    while begun.elapsed().as_secs_f64() < SPEED_SECONDS {
        statements += lint(&files, Catalog::default(), &Options::default())[0]
            .statements
            .len();
    }
    (statements as f64 / begun.elapsed().as_secs_f64()) as u64
}

impl Comparison {
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| linter | hazards found | harmless flagged | of these type changes | recall | precision |\n|---|---|---|---|---|---|\n",
        );
        for linter in &self.linters {
            text.push_str(&format!(
                "| {} | {} of {} | {} of {} | {} of {} | {:.2} | {:.2} |\n",
                linter.name,
                linter.hazards_found,
                linter.hazards,
                linter.harmless_flagged,
                linter.harmless,
                linter.type_changes_flagged,
                linter.type_changes,
                linter.recall,
                linter.precision
            ));
        }
        text.push_str(&format!(
            "\n{} statements a second\n\n",
            self.statements_per_second
        ));
        text
    }
}
