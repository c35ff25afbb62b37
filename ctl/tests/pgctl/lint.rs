//! `pgctl ddl lint` as programs of others run it: forms, configuration, thresholds, exit codes.

use crate::agent::{code, err, json, out};
use std::path::Path;
use std::process::{Command, Output};

/// Two statements: one danger, one warning.
const SCRIPT: &str = "CREATE INDEX i ON t (a);\nALTER TABLE t DISABLE TRIGGER ALL;\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("up.sql"), SCRIPT).expect("written");
    folder
}

fn lint(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgctl"))
        .args(["ddl", "lint"])
        .args(words)
        .current_dir(folder)
        .output()
        .expect("pgctl runs")
}

#[test]
fn sarif_names_rules_places_and_levels() {
    let folder = folder();
    let done = lint(folder.path(), &["--format", "sarif", "up.sql"]);
    assert_eq!(code(&done), 1, "{}", err(&done));
    let document = json(&done);
    assert_eq!(document["version"], "2.1.0");
    let run = &document["runs"][0];
    let results = run["results"].as_array().expect("results");
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    let danger = results
        .iter()
        .find(|result| result["ruleId"] == "H45")
        .expect("H45");
    assert_eq!(danger["level"], "error");
    let place = &danger["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "up.sql");
    assert_eq!(place["region"]["startLine"], 1);
    for result in results {
        assert!(
            rules.iter().any(|rule| rule["id"] == result["ruleId"]),
            "{result} is of a rule that the tool does not list"
        );
    }
}

#[test]
fn the_threshold_decides_the_exit_code_and_hides_nothing() {
    let folder = folder();
    std::fs::write(folder.path().join("up.sql"), "ALTER TABLE t DISABLE TRIGGER ALL;").expect("written");
    for (threshold, expected) in [("danger", 0), ("warning", 1), ("advice", 1)] {
        let done = lint(folder.path(), &["--threshold", threshold, "up.sql"]);
        assert_eq!(code(&done), expected, "{threshold}: {}", out(&done));
        assert!(out(&done).contains("H54"), "{threshold}: {}", out(&done));
    }
    std::fs::write(folder.path().join("up.sql"), "CREATE TABEL x").expect("written");
    assert_eq!(
        code(&lint(folder.path(), &["up.sql"])),
        2,
        "what is not read is neither clean nor a finding"
    );
}

#[test]
fn the_configuration_is_found_beside_or_named_and_the_command_line_wins() {
    let folder = folder();
    let config = "pg = 13\nignore = [\"H45\"]\nseverity = { H54 = \"danger\" }\n";
    std::fs::write(folder.path().join(".pgctl-ddl.toml"), config).expect("written");
    let beside = lint(folder.path(), &["up.sql"]);
    assert!(
        !out(&beside).contains("H45") && out(&beside).contains("danger H54"),
        "{}",
        out(&beside)
    );
    assert_eq!(code(&beside), 1);
    std::fs::write(folder.path().join("other.toml"), "").expect("written");
    let named = lint(folder.path(), &["--config", "other.toml", "up.sql"]);
    assert!(out(&named).contains("H45"), "{}", out(&named));
    // DETACH CONCURRENTLY is as old as 14: what is said of DETACH depends on the version.
    std::fs::write(folder.path().join("up.sql"), "ALTER TABLE p DETACH PARTITION c;").expect("written");
    let by_file = out(&lint(folder.path(), &["up.sql"]));
    let by_option = out(&lint(folder.path(), &["--pg", "18", "up.sql"]));
    assert!(
        !by_file.contains("CONCURRENTLY;") && by_option.contains("CONCURRENTLY;"),
        "{by_file}{by_option}"
    );
    for (text, word) in [
        ("pg = 9", "13 to 18"),
        ("ignore = [\"H99\"]", "H99"),
        ("pq = 15", "pq"),
    ] {
        std::fs::write(folder.path().join("other.toml"), text).expect("written");
        let done = lint(folder.path(), &["--config", "other.toml", "up.sql"]);
        assert_eq!(code(&done), 2, "{text}");
        assert!(err(&done).contains(word), "{}", err(&done));
    }
}

#[test]
fn with_transaction_each_file_is_one() {
    let folder = folder();
    let text = "ALTER TABLE t ADD c int;\nUPDATE t SET c = 1 WHERE a = 2;\n";
    std::fs::write(folder.path().join("up.sql"), text).expect("written");
    assert!(!out(&lint(folder.path(), &["up.sql"])).contains("H75"));
    let whole = lint(folder.path(), &["--transaction", "up.sql"]);
    assert!(out(&whole).contains("H75"), "{}", out(&whole));
}
