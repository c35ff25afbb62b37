//! Sets of scripts: transactions, tables made earlier, suppressions, fixes, and what is no SQL.

use ddl::catalog::Catalog;
use ddl::lint::{JudgedFile, Options, fixed, lint, schema};
use ddl::report;
use proptest::prelude::*;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(10)); CREATE TABLE u (id int);";

fn judge(sql: &str) -> JudgedFile {
    lint(
        &[("x.sql".to_owned(), sql.to_owned())],
        schema(SCHEMA),
        &Options::default(),
    )
    .remove(0)
}

fn rules(sql: &str) -> Vec<&'static str> {
    let mut rules: Vec<&str> = judge(sql)
        .statements
        .iter()
        .flat_map(|judged| &judged.verdict.findings)
        .map(|finding| finding.rule)
        .filter(|rule| *rule != "H76")
        .collect();
    rules.dedup();
    rules
}

#[test]
fn situations() {
    for (sql, expected) in [
        (
            "CREATE TABLE n (id int); CREATE INDEX ON n (id); ALTER TABLE n ADD CHECK (id > 0);",
            vec![],
        ),
        (
            "CREATE TABLE IF NOT EXISTS t (id int); CREATE INDEX ON t (a);",
            vec!["H45"],
        ),
        (
            "BEGIN; CREATE INDEX CONCURRENTLY i ON t (a); COMMIT;",
            vec!["H77"],
        ),
        (
            "BEGIN; ALTER TABLE t ADD c int; ALTER TABLE u ADD c int; COMMIT;",
            vec!["H75"],
        ),
        (
            "BEGIN; ALTER TABLE t ADD c int; UPDATE t SET c = 1 WHERE id < 9; COMMIT;",
            vec!["H75"],
        ),
        (
            "BEGIN; ALTER TYPE e ADD VALUE 'y'; INSERT INTO u SELECT 'y'; COMMIT;",
            vec!["H64"],
        ),
        ("ALTER TYPE e ADD VALUE 'y'; INSERT INTO u VALUES ('y');", vec![]),
        (
            "SET lock_timeout = '1s'; CREATE INDEX CONCURRENTLY i ON t (a);",
            vec!["H46"],
        ),
        (
            "-- pgctl:ignore H45 because t is tiny\nCREATE INDEX i ON t (a);",
            vec![],
        ),
        (
            "CREATE INDEX i ON t (a); -- pgctl:ignore H45 because t is tiny",
            vec![],
        ),
        ("-- pgctl:ignore H45\nCREATE INDEX i ON t (a);", vec!["H45"]),
        (
            "-- pgctl:ignore-file H45 because t is tiny\nSELECT 1;\nCREATE INDEX i ON t (a);",
            vec![],
        ),
        ("COPY t FROM stdin;\n1\t'\tx\n\\.\nDROP TABLE u;", vec!["H63"]),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; DROP TABLE u;",
            vec!["H63"],
        ),
    ] {
        assert_eq!(rules(sql), expected, "{sql}");
    }
}

/// Every finding of a rule in a script, on a schema, by severity.
fn said(setup: &str, sql: &str, rule: &str) -> usize {
    let files = [("x.sql".to_owned(), sql.to_owned())];
    let judged = lint(&files, schema(setup), &Options::default());
    let findings = judged[0]
        .statements
        .iter()
        .flat_map(|judged| &judged.verdict.findings);
    findings.filter(|finding| finding.rule == rule).count()
}

#[test]
fn what_only_company_or_a_catalogue_shows_is_said_once_and_only_then() {
    let published = "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION u FOR TABLE t;";
    let parent = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, a int);";
    let indexed = "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX i ON t (a);";
    for (rule, setup, sql, expected) in [
        // No lock_timeout: said at the first statement that would make others queue.
        (
            "H76",
            SCHEMA,
            "ALTER TABLE t ADD c int; ALTER TABLE t ADD d int;",
            1,
        ),
        (
            "H76",
            SCHEMA,
            "SET lock_timeout = '1s'; ALTER TABLE t ADD c int;",
            0,
        ),
        ("H76", SCHEMA, "CREATE INDEX CONCURRENTLY i ON t (a);", 0),
        // What a rewrite does to standbys.
        ("H78", SCHEMA, "ALTER TABLE t ALTER a TYPE bigint;", 1),
        ("H78", SCHEMA, "ALTER TABLE t ADD c int;", 0),
        // A subscriber does not know the column yet.
        ("H79", published, "ALTER TABLE t ADD c int;", 1),
        ("H79", SCHEMA, "ALTER TABLE t ADD c int;", 0),
        // A key without an index, and an index twice.
        (
            "H80",
            parent,
            "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES p NOT VALID;",
            1,
        ),
        (
            "H80",
            parent,
            "ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES p NOT VALID;",
            0,
        ),
        ("H80", indexed, "CREATE INDEX CONCURRENTLY j ON t (a);", 1),
        ("H80", indexed, "CREATE INDEX CONCURRENTLY j ON t (a, id);", 0),
        // Only a running server shows a vacuum: the plan says it, the linter never.
        ("H81", SCHEMA, "ALTER TABLE t ALTER a TYPE bigint;", 0),
    ] {
        assert_eq!(said(setup, sql, rule), expected, "{rule}: {sql}");
    }
}

#[test]
fn what_cannot_be_read_is_said_with_its_line() {
    let file = judge("SELECT 1;\nSELEC 2;\n\\i other.sql\nSELECT 'never ends;\nDROP TABLE t;");
    let unread: Vec<(usize, &str)> = file.statements.iter().filter_map(report::unread).collect();
    assert_eq!(
        unread.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
        [2, 4],
        "{unread:?}"
    );
}

#[test]
fn a_fix_replaces_the_statement_and_nothing_else() {
    let text = "-- kept\nCREATE INDEX i ON t (a); -- kept too\nSELECT 1;\n";
    let (new, count) = fixed(text, &judge(text));
    assert_eq!(count, 1);
    assert_eq!(
        new,
        "-- kept\nCREATE INDEX CONCURRENTLY i ON t (a); -- kept too\nSELECT 1;\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Pieces of SQL in any order, cut anywhere: an answer, and never a panic.
    #[test]
    fn mangled_sql_gets_an_answer(words in proptest::collection::vec(prop_oneof![
        Just("ALTER TABLE t".to_owned()), Just("ADD COLUMN".to_owned()), Just("c int".to_owned()), Just("(".to_owned()),
        Just(")".to_owned()), Just("'".to_owned()), Just("$$".to_owned()), Just("\"".to_owned()), Just(";".to_owned()),
        Just(",".to_owned()), Just("CREATE INDEX".to_owned()), Just("ON t".to_owned()), Just("/*".to_owned()),
        Just("--".to_owned()), Just("DEFAULT".to_owned()), Just("CHECK".to_owned()), Just("REFERENCES".to_owned()),
        Just("PARTITION OF".to_owned()), Just("\\".to_owned()), Just("\u{e9}".to_owned()), Just("E'\\".to_owned()),
        Just("SET".to_owned()), Just("TYPE varchar(".to_owned()), Just("NOT NULL".to_owned()), "[ -~]{0,6}",
    ], 0..24), join in prop_oneof![Just(" "), Just(""), Just("\n")]) {
        let text = words.join(join);
        let files = lint(&[("x.sql".to_owned(), text.clone())], Catalog::default(), &Options::default());
        let _ = (report::text(&files), report::json(&files), report::sarif(&files), report::github(&files));
        let _ = fixed(&text, &files[0]);
    }
}

/// A CHECK that says less than the bound proves nothing: the linter must not keep silent.
#[test]
fn a_check_that_does_not_prove_the_bound_is_not_taken_for_one() {
    for (check, safe) in [
        ("id > 0", false),
        ("id IS NOT NULL AND id >= 0 AND id < 10", true),
    ] {
        let dump = format!(
            "CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE c (id int, CONSTRAINT near CHECK ({check}));"
        );
        let sql = "ALTER TABLE p ATTACH PARTITION c FOR VALUES FROM (0) TO (10);".to_owned();
        let judged = lint(&[("x.sql".to_owned(), sql)], schema(&dump), &Options::default()).remove(0);
        let verdict = &judged.statements[0].verdict;
        let found = verdict.findings.iter().any(|finding| finding.rule == "H56");
        assert_eq!(found, !safe, "{check}: {verdict:?}");
    }
}
