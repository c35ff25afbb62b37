//! Scripts become steps that can be carried out one by one, each with the way in which it is taken up again.

use ddl::lint::{Options, schema};
use ddl::plan::{Class, PlanOptions, Step, plan};

const SCHEMA: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, amount int);
CREATE TABLE customers (id int PRIMARY KEY);
CREATE INDEX old ON orders (amount);
CREATE INDEX orders_amount_idx ON orders (amount);
CREATE TABLE parts (day int) PARTITION BY LIST (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);";

fn options() -> PlanOptions {
    PlanOptions {
        lint: Options {
            pg: 15,
            ..Options::default()
        },
        as_written: false,
    }
}

fn planned(sql: &str, options: &PlanOptions) -> Result<Vec<Step>, Vec<String>> {
    let files = [("x.sql".to_owned(), sql.to_owned())];
    plan(&files, &schema(SCHEMA), options).map_err(|refusals| {
        refusals
            .into_iter()
            .map(|refusal| format!("{}: {}", refusal.line, refusal.reason))
            .collect()
    })
}

fn steps(sql: &str) -> Vec<Step> {
    planned(sql, &options()).unwrap_or_else(|refusals| panic!("{sql}: {refusals:?}"))
}

fn classes(sql: &str) -> Vec<&'static str> {
    steps(sql).iter().map(|step| step.class.name()).collect()
}

#[test]
fn each_statement_has_its_class() {
    for (sql, expected) in [
        ("ALTER TABLE orders ADD COLUMN a int", vec!["transaction"]),
        ("CREATE INDEX i ON orders (customer)", vec!["create-index"]),
        ("DROP INDEX old", vec!["drop-index"]),
        ("REINDEX INDEX CONCURRENTLY old", vec!["reindex"]),
        (
            "ALTER TABLE parts DETACH PARTITION parts_1 CONCURRENTLY",
            vec!["detach"],
        ),
        (
            "UPDATE orders SET amount = 0 WHERE amount IS NULL",
            vec!["backfill"],
        ),
        ("VACUUM orders", vec!["outside"]),
        ("BEGIN; UPDATE orders SET amount = 0; COMMIT", vec!["transaction"]),
        (
            "ALTER TABLE orders ADD CHECK (amount > 0)",
            vec!["transaction", "transaction"],
        ),
        (
            "ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers",
            vec!["transaction", "transaction"],
        ),
    ] {
        assert_eq!(classes(sql), expected, "{sql}");
    }
}

#[test]
fn a_safer_form_takes_the_statements_place_unless_it_is_to_stay() {
    let sql = "SELECT 1;\nCREATE INDEX ON orders (amount);";
    let safer = steps(sql);
    assert!(safer[1].rewritten);
    assert_eq!(safer[1].line, 2, "the line of the script as written");
    let Class::CreateIndex { index, .. } = &safer[1].class else {
        panic!("{:?}", safer[1])
    };
    assert_eq!(index, "orders_amount_idx1", "a name that is free");
    assert_eq!(
        safer[1].sql,
        ["CREATE INDEX CONCURRENTLY orders_amount_idx1 ON orders (amount)"]
    );
    let as_written = PlanOptions {
        as_written: true,
        ..options()
    };
    let kept = planned(sql, &as_written).expect("steps");
    assert_eq!(kept[1].class, Class::Transaction);
    assert_eq!(kept[1].sql, ["CREATE INDEX ON orders (amount)"]);
}

#[test]
fn if_not_exists_is_left_out_for_it_takes_an_invalid_index_for_a_good_one() {
    let step = steps("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (customer)").remove(0);
    assert_eq!(step.sql, ["CREATE INDEX CONCURRENTLY i ON orders (customer)"]);
}

#[test]
fn who_waits_without_limit_stops_nobody() {
    for (sql, patient) in [
        ("ALTER TABLE orders ADD COLUMN a int", false),
        ("ALTER TABLE orders SET (fillfactor = 90)", true),
        ("DO $$ BEGIN PERFORM 1; END $$", false),
        ("CREATE INDEX CONCURRENTLY i ON orders (customer)", true),
        ("ANALYZE orders", true),
    ] {
        assert_eq!(steps(sql)[0].patient, patient, "{sql}");
    }
    let check = steps("ALTER TABLE orders ADD CONSTRAINT c CHECK (amount > 0)");
    assert_eq!(
        check.iter().map(|step| step.patient).collect::<Vec<_>>(),
        [false, true],
        "{check:?}"
    );
}

#[test]
fn what_undoes_a_step_is_known_before_it_is_begun() {
    let all = steps(
        "ALTER TABLE orders ADD COLUMN a int, ADD CONSTRAINT c CHECK (amount > 0) NOT VALID;
         CREATE TABLE n (id int);
         ALTER TABLE orders DROP COLUMN customer;
         BEGIN; CREATE TABLE a (x int); CREATE VIEW v AS SELECT 1; COMMIT;",
    );
    assert_eq!(
        all[0].undo,
        ["ALTER TABLE orders DROP CONSTRAINT c, DROP COLUMN a"]
    );
    assert_eq!(all[1].undo, ["DROP TABLE n"]);
    assert!(all[2].undo.is_empty(), "what is dropped is gone");
    let all_of = steps("ALTER TABLE orders ADD COLUMN b int, ALTER COLUMN amount SET STATISTICS 500");
    assert!(all_of[0].undo.is_empty(), "how it was before is not known");
    assert_eq!(all[3].undo, ["DROP VIEW v", "DROP TABLE a"], "last first");
    let all = steps(
        "ALTER TABLE orders RENAME COLUMN amount TO sum; ALTER TABLE orders RENAME TO \"Sales\"; \
         ALTER TABLE customers RENAME CONSTRAINT customers_pkey TO pk; ALTER TABLE IF EXISTS parts RENAME TO pieces",
    );
    let undone: Vec<String> = all.iter().map(|step| step.undo.join("; ")).collect();
    let expected = [
        "ALTER TABLE orders RENAME COLUMN sum TO amount",
        "ALTER TABLE \"Sales\" RENAME TO orders",
        "ALTER TABLE customers RENAME CONSTRAINT pk TO customers_pkey",
        "",
    ];
    assert_eq!(undone, expected, "names go back");
}

#[test]
fn settings_of_the_session_go_with_every_step_behind_them_and_timeouts_are_ours() {
    let all = steps(
        "SET lock_timeout = '5s'; SET search_path = s; SELECT pg_catalog.set_config('work_mem', '1MB', false);
         ALTER TABLE t ADD COLUMN a int; SET LOCAL work_mem = '1GB'; ALTER TABLE t ADD COLUMN b int",
    );
    assert_eq!(all.len(), 2);
    for step in &all {
        assert_eq!(step.settings.len(), 2, "{:?}", step.settings);
    }
}

#[test]
fn what_cannot_be_part_of_a_rollout_is_refused_with_its_line() {
    for (sql, line, word) in [
        ("SELECT 1;\n\\i other.sql\n", 2, "psql"),
        ("CREATE TABEL x (a int)", 1, "read"),
        (
            "BEGIN;\nCREATE INDEX CONCURRENTLY i ON orders (amount);\nCOMMIT;",
            2,
            "transaction",
        ),
        ("BEGIN;\nSELECT 1;", 1, "never ends"),
        ("COMMIT", 1, "no transaction"),
        ("ROLLBACK", 1, "roll back"),
        ("CREATE DATABASE x", 1, "by hand"),
        ("ALTER SYSTEM SET fsync = off", 1, "by hand"),
        ("COPY orders FROM STDIN;\n1\t2\t3\n\\.\n", 1, "rows"),
        ("DROP INDEX CONCURRENTLY a, b", 1, "one index at a time"),
        ("REINDEX DATABASE CONCURRENTLY x", 1, "one table at a time"),
    ] {
        let refusals = planned(sql, &options()).expect_err(sql);
        assert_eq!(refusals.len(), 1, "{sql}: {refusals:?}");
        assert!(
            refusals[0].starts_with(&format!("{line}: ")) && refusals[0].contains(word),
            "{sql}: {refusals:?}"
        );
    }
}

#[test]
fn a_file_can_be_one_transaction() {
    let whole = PlanOptions {
        lint: Options {
            pg: 15,
            transaction: true,
            ..Options::default()
        },
        as_written: false,
    };
    let all = planned(
        "CREATE TABLE a (x int); CREATE INDEX ON a (x); INSERT INTO a VALUES (1)",
        &whole,
    )
    .expect("steps");
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].sql.len(), 3);
    assert!(all[0].undo.is_empty(), "rows cannot be taken back");
}
