use super::RULES;
use crate::verdict::Severity;
use std::fmt::Write;

const HEAD: &str = "\
# Rules of `pgctl ddl lint`

<!-- Generated from the table of rules; a test compares the two. To renew it:
     PGCTL_BLESS=1 cargo test -p ddl --test reference -->

Each example was run on real servers, and the locks, rewrites and scans that the linter claims for it are those that the server
shows. A rule that is called harmless says nothing; it is here because it is the safe way, or often taken for a danger.
To suppress a rule for one statement: `-- pgctl:ignore H45 because the table is empty`, on the line before it or behind it; for
a file: `-- pgctl:ignore-file H45 because ...`. Without a reason it has no effect.

";

/// The page `docs/ddl-rules.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for rule in RULES.iter() {
        let severity = match rule.severity {
            Some(Severity::Danger) => "danger",
            Some(Severity::Warning) => "warning",
            Some(Severity::Advice) => "advice",
            None => "harmless",
        };
        // Writing into a String cannot fail.
        let _ = writeln!(page, "## {} {}: {}\n", rule.id, rule.name, rule.title);
        let _ = writeln!(page, "*{severity}.* {}\n", rule.explanation);
        if !rule.example.is_empty() {
            let _ = writeln!(page, "    {};\n", rule.example);
        }
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}
