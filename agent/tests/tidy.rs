//! The house's own rules, as tests: who may know whom, how long a file may be, and that every reason is explained.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {below}");
    found
}

/// The longest that a source file may be. A longer one holds two rooms.
const LINES_MAX: usize = 600;

#[test]
fn no_file_is_too_long() {
    for below in [
        "agent/src",
        "agent/core",
        "agent/ddl",
        "agent/repository",
        "agent/wal-helper",
        "agent/tests",
        "ctl/src",
        "proto/src",
        "tests/lab",
        "tests/jepsen-style",
        "tests/mangled",
    ] {
        for (path, text) in sources(below) {
            let lines = text.lines().count();
            assert!(
                lines <= LINES_MAX,
                "{} has {lines} lines, {LINES_MAX} are allowed",
                path.display()
            );
        }
    }
}

#[test]
fn adapters_know_neither_each_other_nor_the_driver() {
    let forbidden = [
        (
            "agent/src/postgres",
            vec![
                "consensus",
                "driver",
                "api",
                "lease",
                "fencing",
                "probing",
                "rollout",
                "app",
            ],
        ),
        (
            "agent/src/probing",
            vec!["consensus", "driver", "api", "lease", "fencing", "app"],
        ),
        (
            "agent/src/consensus",
            vec!["postgres", "driver", "api", "lease", "fencing", "app"],
        ),
        (
            "agent/src/fencing",
            vec!["consensus", "driver", "api", "lease", "postgres", "app"],
        ),
        (
            "agent/src/lease",
            vec!["consensus", "driver", "api", "postgres", "app"],
        ),
        (
            "agent/src/config",
            vec![
                "consensus",
                "driver",
                "api",
                "lease",
                "fencing",
                "postgres",
                "app",
            ],
        ),
        (
            "agent/src/archive",
            vec![
                "consensus",
                "driver",
                "api",
                "lease",
                "fencing",
                "postgres",
                "probing",
                "app",
            ],
        ),
        (
            "agent/src/rollout",
            vec![
                "consensus",
                "driver",
                "api",
                "lease",
                "fencing",
                "postgres",
                "probing",
                "archive",
                "app",
            ],
        ),
        ("agent/src/driver", vec!["api", "app", "config", "rollout"]),
        (
            "agent/src/api",
            vec!["consensus", "driver", "lease", "fencing", "postgres", "app"],
        ),
    ];
    for (below, rooms) in forbidden {
        for (path, text) in sources(below) {
            for room in &rooms {
                let used = format!("crate::{room}::");
                assert!(!text.contains(&used), "{} uses {used}", path.display());
            }
        }
    }
}

/// The ids that the core's reasons are made with.
fn reason_ids() -> Vec<String> {
    let mut ids = Vec::new();
    for (_, text) in sources("agent/core/src") {
        for marker in ["Reason::open(", "Reason::shut(", "const ID: &str ="] {
            for (at, _) in text.match_indices(marker) {
                let rest = text[at + marker.len()..].trim_start();
                if let Some(id) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    ids.push(id.to_owned());
                }
            }
        }
    }
    ids.sort();
    ids.dedup();
    ids
}

#[test]
fn every_reason_is_explained_and_every_explanation_has_a_reason() {
    let page = fs::read_to_string(root().join("docs/reasons.md")).expect("docs/reasons.md");
    let explained: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(str::to_owned)
        .collect();
    let ids = reason_ids();
    assert!(ids.len() > 20, "the search for reasons finds too few: {ids:?}");
    let missing: Vec<&String> = ids.iter().filter(|id| !explained.contains(id)).collect();
    assert!(missing.is_empty(), "docs/reasons.md lacks {missing:?}");
    let stale: Vec<&String> = explained.iter().filter(|id| !ids.contains(id)).collect();
    assert!(
        stale.is_empty(),
        "docs/reasons.md explains {stale:?}, which no code gives"
    );
}
