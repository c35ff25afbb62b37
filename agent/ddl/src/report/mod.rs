//! The answer in the forms that people and programs read.

use crate::lint::{Judged, JudgedFile};
use crate::model::Act;
use crate::rules;
use crate::verdict::Severity;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// What could not be read, in a statement: its line and why.
#[must_use]
pub fn unread(judged: &Judged) -> Option<(usize, &str)> {
    match &judged.statement.act {
        Act::Unread { line, reason } => Some((*line, reason)),
        _ => None,
    }
}

/// What a reader should know though nothing is wrong with it.
fn remark(judged: &Judged) -> Option<String> {
    match &judged.statement.act {
        Act::Meta(command) => Some(format!(
            "{command} is a command to psql; what it runs was not read"
        )),
        _ => None,
    }
}

/// The document for programs; with several files each statement carries its file.
#[must_use]
pub fn json(files: &[JudgedFile]) -> Value {
    let mut statements = Vec::new();
    let mut unreadable = Vec::new();
    for file in files {
        for judged in &file.statements {
            if let Some((line, reason)) = unread(judged) {
                unreadable.push(json!({"file": file.path, "line": line, "reason": reason}));
                continue;
            }
            if remark(judged).is_some() {
                continue;
            }
            let verdict = &judged.verdict;
            let locks: Map<String, Value> = verdict
                .locks
                .iter()
                .map(|(name, mode)| (name.to_string(), json!(mode.to_string())))
                .collect();
            let findings: Vec<Value> = verdict
                .findings
                .iter()
                .map(|finding| {
                    json!({
                        "rule": finding.rule,
                        "severity": finding.severity,
                        "message": finding.message,
                        "safe": finding.safe,
                    })
                })
                .collect();
            statements.push(json!({
                "file": file.path,
                "line": judged.statement.line,
                "sql": judged.statement.sql,
                "locks": locks,
                "rewrites": !verdict.rewrites.is_empty(),
                "scans_under_lock": !verdict.scans.is_empty(),
                "findings": findings,
            }));
        }
    }
    json!({"statements": statements, "unreadable": unreadable})
}

/// For people.
#[must_use]
pub fn text(files: &[JudgedFile]) -> String {
    let mut out = String::new();
    for file in files {
        for judged in &file.statements {
            statement_text(&mut out, file, judged);
        }
    }
    out
}

// Writing into a String cannot fail.
fn statement_text(out: &mut String, file: &JudgedFile, judged: &Judged) {
    if let Some((line, reason)) = unread(judged) {
        let _ = writeln!(out, "{}:{line}: not read: {reason}\n", file.path);
        return;
    }
    if let Some(remark) = remark(judged) {
        let _ = writeln!(out, "{}:{}: note: {remark}\n", file.path, judged.statement.line);
        return;
    }
    let verdict = &judged.verdict;
    if verdict.findings.is_empty() {
        return;
    }
    let first = judged.statement.sql.lines().next().unwrap_or_default();
    let _ = writeln!(out, "{}:{}: {first}", file.path, judged.statement.line);
    let locks: Vec<String> = verdict
        .locks
        .iter()
        .map(|(name, mode)| format!("{name} {mode}"))
        .collect();
    if !locks.is_empty() {
        let _ = writeln!(out, "  locks: {}", locks.join(", "));
    }
    for (what, relations) in [("rewrites", &verdict.rewrites), ("reads whole", &verdict.scans)] {
        let names: Vec<String> = relations.iter().map(ToString::to_string).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "  {what}: {}", names.join(", "));
        }
    }
    for finding in &verdict.findings {
        let name = rules::find(finding.rule).map_or("", |rule| rule.name);
        let _ = writeln!(
            out,
            "  {} {} ({name}): {}",
            level(finding.severity),
            finding.rule,
            finding.message
        );
        if !finding.safe.is_empty() {
            let _ = writeln!(out, "    safer:");
            for line in finding.safe.lines() {
                let _ = writeln!(out, "      {line}");
            }
        }
    }
    out.push('\n');
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Danger => "danger",
        Severity::Warning => "warning",
        Severity::Advice => "advice",
    }
}

/// Annotations as GitHub's runners read them from standard output.
#[must_use]
pub fn github(files: &[JudgedFile]) -> String {
    let mut out = String::new();
    for file in files {
        let path = escaped(&file.path).replace(':', "%3A").replace(',', "%2C");
        for judged in &file.statements {
            if let Some((line, reason)) = unread(judged) {
                let _ = writeln!(
                    out,
                    "::error file={path},line={line},title=not read::{}",
                    escaped(reason)
                );
            }
            for finding in &judged.verdict.findings {
                let kind = match finding.severity {
                    Severity::Danger => "error",
                    Severity::Warning => "warning",
                    Severity::Advice => "notice",
                };
                let mut message = finding.message.clone();
                if !finding.safe.is_empty() {
                    message.push_str("\nSafer:\n");
                    message.push_str(&finding.safe);
                }
                let line = judged.statement.line;
                let _ = writeln!(
                    out,
                    "::{kind} file={path},line={line},title={}::{}",
                    finding.rule,
                    escaped(&message)
                );
            }
        }
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// SARIF 2.1.0, for code scanning.
#[must_use]
pub fn sarif(files: &[JudgedFile]) -> Value {
    let level = |severity| match severity {
        Severity::Danger => "error",
        Severity::Warning => "warning",
        Severity::Advice => "note",
    };
    let place = |path: &str, line: usize| json!([{"physicalLocation": {"artifactLocation": {"uri": path}, "region": {"startLine": line}}}]);
    let mut results = Vec::new();
    for file in files {
        for judged in &file.statements {
            if let Some((line, reason)) = unread(judged) {
                results.push(json!({
                    "ruleId": "unread", "level": "error", "message": {"text": reason}, "locations": place(&file.path, line),
                }));
            }
            for finding in &judged.verdict.findings {
                results.push(json!({
                    "ruleId": finding.rule,
                    "level": level(finding.severity),
                    "message": {"text": finding.message},
                    "locations": place(&file.path, judged.statement.line),
                }));
            }
        }
    }
    let known: Vec<Value> = rules::RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id, "name": rule.name,
                "shortDescription": {"text": rule.title}, "fullDescription": {"text": rule.explanation},
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "pgctl ddl lint", "rules": known}},
            "results": results,
        }],
    })
}
