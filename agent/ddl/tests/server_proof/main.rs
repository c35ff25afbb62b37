//! Every rule's example on real servers: the locks, rewrites and scans that are claimed are those that the server shows,
//! and the safer SQL runs.
//!
//! Set `PGCTL_TEST_PG_BINDIRS` to a colon-separated list of folders with server programs; each version is tested.

mod cases;
mod expansion;
mod server;

use ddl::lint::{Judged, Options, lint, schema};
use ddl::rules::RULES;
use ddl::text::{PieceKind, split};
use server::{Server, strength};
use std::collections::BTreeSet;
use std::future::Future;

/// Not in a transaction, or not at all: what the server refuses there, and what is not in the text.
const NOT_TRACED: [&str; 3] = ["H46", "H47", "H74"];
/// Syntax of later versions: the rule, and the first version that knows it.
const SINCE: [(&str, u16); 5] = [("H06", 18), ("H19", 18), ("H21", 18), ("H31", 17), ("H40", 18)];

fn on_each_version<F: Future<Output = ()>>(test: impl Fn(Server) -> F) {
    for bin_dir in lab::binaries::postgres_bin_dirs().expect("server programs") {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async { test(Server::start(&bin_dir).await).await });
    }
}

fn judged(version: u16, setup: &str, sql: &str) -> Judged {
    let options = Options {
        pg: version,
        ..Options::default()
    };
    let mut files = lint(
        &[("example.sql".to_owned(), sql.to_owned())],
        schema(setup),
        &options,
    );
    files.remove(0).statements.remove(0)
}

/// (name, setup, statement): the rules' examples, and more.
fn examples(version: u16) -> Vec<(&'static str, &'static str, &'static str)> {
    let rules = RULES.iter().map(|rule| (rule.id, rule.setup, rule.example));
    let known = |name: &str| {
        SINCE
            .iter()
            .all(|(rule, since)| *rule != name || version >= *since)
    };
    rules
        .chain(cases::MORE.iter().copied())
        .filter(|(name, _, example)| !example.is_empty() && known(name))
        .collect()
}

/// What the server shows and the linter does not say, or the other way round.
fn differences(judged: &Judged, trace: &server::Trace, truncates: bool) -> Vec<String> {
    let mut found = Vec::new();
    let verdict = &judged.verdict;
    for (name, mode) in &verdict.locks {
        let (name, mode) = (name.to_string(), mode.to_string());
        let real = trace.locks.get(&name);
        if real != Some(&mode) {
            found.push(format!("{name}: claimed {mode}, is {real:?}"));
        }
    }
    for (name, mode) in &trace.locks {
        let claimed = verdict.locks.keys().any(|claimed| claimed.to_string() == *name);
        // Weaker ones stop only who wants the relation alone, and indexes follow their tables.
        let matters = strength(mode) >= strength("RowExclusiveLock") && !cases::is_index_or_sequence(name);
        if !claimed && matters {
            found.push(format!("{name}: is {mode}, not claimed"));
        }
    }
    let rewrites: BTreeSet<String> = verdict.rewrites.iter().map(ToString::to_string).collect();
    if rewrites != trace.rewritten && !truncates {
        found.push(format!(
            "rewrites: claimed {rewrites:?}, are {:?}",
            trace.rewritten
        ));
    }
    let felt = trace.scanned.iter().any(|name| {
        trace
            .locks
            .get(name)
            .is_some_and(|mode| strength(mode) >= strength("ShareLock"))
    }) || !rewrites.is_empty();
    if felt == verdict.scans.is_empty() && !truncates {
        found.push(format!(
            "scans: claimed {:?}, are {:?} under {:?}",
            verdict.scans, trace.scanned, trace.locks
        ));
    }
    found
}

#[test]
fn what_is_claimed_is_what_the_server_does() {
    on_each_version(async |server| {
        let client = server.connect().await.expect("a connection");
        let mut wrong = Vec::new();
        let mut proved = 0;
        for (name, setup, sql) in examples(server.version) {
            if NOT_TRACED.contains(&name) {
                continue;
            }
            if let Err(error) = server.prepare(&client, setup).await {
                wrong.push(format!("{name}: the setup: {error:?}"));
                continue;
            }
            match server.trace(&client, sql).await {
                Ok(trace) => {
                    let judged = judged(server.version, setup, sql);
                    proved += 1;
                    for difference in differences(&judged, &trace, sql.starts_with("TRUNCATE")) {
                        wrong.push(format!("{name} ({sql}): {difference}"));
                    }
                }
                Err(error) => wrong.push(format!("{name}: {sql}: {error:?}")),
            }
        }
        assert!(
            proved > 60,
            "only {proved} examples were run on {}",
            server.version
        );
        assert!(wrong.is_empty(), "on {}:\n{}", server.version, wrong.join("\n"));
        println!("{proved} examples proved on {}", server.version);
    });
}

#[test]
fn the_safer_sql_runs() {
    on_each_version(async |server| {
        let client = server.connect().await.expect("a connection");
        let mut wrong = Vec::new();
        let mut ran = 0;
        for (name, setup, sql) in examples(server.version) {
            let judged = judged(server.version, setup, sql);
            for finding in judged.verdict.findings {
                if finding.safe.is_empty() || finding.rule == "H76" {
                    continue;
                }
                if let Err(error) = server.prepare(&client, setup).await {
                    wrong.push(format!("{name}: the setup: {error:?}"));
                    continue;
                }
                // These follow the statement; the others replace it.
                if matches!(finding.rule, "H61" | "H80") {
                    client.batch_execute(sql).await.expect("the example runs");
                }
                ran += 1;
                for step in split(&finding.safe) {
                    assert_eq!(step.kind, PieceKind::Sql, "{}", finding.safe);
                    if let Err(error) = client.batch_execute(step.text).await {
                        wrong.push(format!("{name}, {}: {}: {error:?}", finding.rule, step.text));
                        let _ = client.batch_execute("ROLLBACK").await;
                        break;
                    }
                }
                client
                    .batch_execute("RESET ALL")
                    .await
                    .expect("settings as they were");
            }
        }
        assert!(ran > 30, "only {ran} on {}", server.version);
        assert!(wrong.is_empty(), "on {}:\n{}", server.version, wrong.join("\n"));
    });
}
