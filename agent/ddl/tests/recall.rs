//! Every hazard's example is found by its rule, and nothing harmless is called a danger.

use ddl::lint::{Options, lint, schema};
use ddl::rules::RULES;
use ddl::verdict::Severity;

#[test]
fn hazards_are_found_and_harmless_statements_are_not() {
    let (mut hazards, mut found, mut wrong) = (0, 0, Vec::new());
    for rule in RULES.iter().filter(|rule| !rule.example.is_empty()) {
        let version = if rule.id == "H58" { 13 } else { 18 };
        let options = Options {
            pg: version,
            ..Options::default()
        };
        let files = [("x.sql".to_owned(), rule.example.to_owned())];
        let judged = lint(&files, schema(rule.setup), &options);
        let verdict = &judged[0].statements[0].verdict;
        // The new value of an enumeration and CONCURRENTLY are hazards only in company: tests/scripts.rs has them.
        match rule
            .severity
            .filter(|_| !matches!(rule.id, "H46" | "H64" | "H70"))
        {
            Some(severity) => {
                hazards += 1;
                let hit = verdict
                    .findings
                    .iter()
                    .any(|finding| finding.rule == rule.id && finding.severity == severity);
                found += usize::from(hit);
                if !hit {
                    wrong.push(format!("{}: {:?}", rule.id, verdict.findings));
                }
            }
            None => {
                let danger = verdict
                    .findings
                    .iter()
                    .any(|finding| finding.severity == Severity::Danger);
                if danger || !verdict.rewrites.is_empty() || !verdict.scans.is_empty() {
                    wrong.push(format!("{} is harmless: {verdict:?}", rule.id));
                }
            }
        }
    }
    println!("{found} of {hazards} hazards found");
    assert!(hazards > 45, "{hazards}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
