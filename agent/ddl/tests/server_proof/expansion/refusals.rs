//! What cannot be carried over is named, with what to do about it, before anything is done.

use super::super::on_each_version;
use super::{Stage, said};
use ddl::expand::{Permits, steps};

/// (what there is, what is wanted, what the refusal says)
const CASES: &[(&str, &str, &str)] = &[
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int GENERATED ALWAYS AS IDENTITY)",
        "ALTER TABLE t ALTER a TYPE bigint USING a * 2",
        "identity",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int GENERATED ALWAYS AS (id) STORED)",
        "ALTER TABLE t ALTER a TYPE bigint",
        "computed",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a + 1) STORED)",
        "ALTER TABLE t ALTER a TYPE bigint",
        "depends on a",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE VIEW v AS SELECT a FROM t",
        "ALTER TABLE t ALTER a TYPE bigint",
        "view public.v depends on a",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE POLICY p ON t USING (a > 0)",
        "ALTER TABLE t ALTER a TYPE bigint",
        "policy p",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE STATISTICS s ON id, a FROM t",
        "ALTER TABLE t ALTER a TYPE bigint",
        "statistics object",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (t int REFERENCES t)",
        "ALTER TABLE t ALTER id TYPE bigint",
        "points at id",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int, EXCLUDE USING btree (a WITH =))",
        "ALTER TABLE t ALTER a TYPE bigint",
        "exclusion",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL UNIQUE); ALTER TABLE t REPLICA IDENTITY USING INDEX t_a_key",
        "ALTER TABLE t ALTER a TYPE bigint",
        "replica identity",
    ),
    (
        "CREATE TABLE t (id int, a int)",
        "ALTER TABLE t ALTER a TYPE bigint",
        "no primary key",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id)",
        "ALTER TABLE t ALTER a TYPE bigint",
        "partitioned",
    ),
    (
        "CREATE TABLE p (id int PRIMARY KEY, a int); CREATE TABLE t () INHERITS (p)",
        "ALTER TABLE p RENAME a TO b",
        "inherited",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int); ALTER TABLE t FORCE ROW LEVEL SECURITY",
        "ALTER TABLE t ALTER a TYPE bigint",
        "forced",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 1)",
        "ALTER TABLE t ALTER a TYPE bigint",
        "--null-becomes-default",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL DEFAULT 1)",
        "ALTER TABLE t ALTER a TYPE bigint USING a * 2",
        "SET DEFAULT",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int)",
        "ALTER TABLE t ALTER a TYPE bigint, ALTER a SET NOT NULL",
        "what a NULL becomes",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL)",
        "ALTER TABLE t ALTER a TYPE bigint, ALTER a DROP NOT NULL",
        "coalesce",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a timestamp)",
        "ALTER TABLE t ALTER a TYPE timestamptz",
        "time zone",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int)",
        "ALTER TABLE t ALTER a TYPE bigint USING a + b",
        "uses b",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int)",
        "ALTER TABLE t RENAME a TO b",
        "two columns",
    ),
    (
        "CREATE TABLE t (id int PRIMARY KEY, a int)",
        "ALTER TABLE t RENAME c TO b",
        "no column c",
    ),
    (
        "CREATE VIEW t AS SELECT 1 AS a",
        "ALTER TABLE t RENAME a TO b",
        "no table",
    ),
    ("SELECT 1", "ALTER TABLE t RENAME a TO b", "there is no table t"),
];

#[test]
fn what_cannot_be_carried_over_is_refused_by_its_name() {
    on_each_version(async |server| {
        for (setup, change, expected) in CASES {
            let stage = Stage::set(&server, setup).await;
            let refused = stage.survey("app_v2", change, Permits::default()).await;
            let refused = refused.err().unwrap_or_default().join("; ");
            assert!(refused.contains(expected), "{setup}; {change}: {refused}");
        }
        let stage = Stage::set(&server, "CREATE TABLE t (id int PRIMARY KEY, a int)").await;
        let change = "ALTER TABLE t ALTER a TYPE bigint";
        for name in ["public", "pg_v2", "App", "", "a'b"] {
            assert!(
                stage.survey(name, change, Permits::default()).await.is_err(),
                "{name}"
            );
        }
        stage
            .admin
            .batch_execute("CREATE PUBLICATION u FOR TABLE t")
            .await
            .expect("a publication");
        let refused = stage
            .survey("app_v2", change, Permits::default())
            .await
            .expect_err("published");
        assert!(refused.join(" ").contains("--subscribers-ready"), "{refused:?}");
        let permits = Permits {
            published: true,
            ..Permits::default()
        };
        stage
            .survey("app_v2", change, permits)
            .await
            .expect("subscribers are ready");
        stage
            .admin
            .batch_execute("DROP PUBLICATION u; REVOKE CREATE ON DATABASE postgres FROM app; ALTER TABLE t OWNER TO program")
            .await
            .expect("rights");
        let refused = stage
            .survey("app_v2", change, Permits::default())
            .await
            .expect_err("no rights");
        assert!(refused.len() == 2, "{refused:?}");
    });
}

#[test]
fn what_the_server_refuses_it_refuses_before_a_program_would_suffer() {
    on_each_version(async |server| {
        for (setup, change, expected) in [
            (
                "CREATE TABLE t (id int PRIMARY KEY, a text)",
                "ALTER TABLE t ALTER a TYPE int",
                "is of type integer",
            ),
            (
                "CREATE TABLE t (id int PRIMARY KEY, a int)",
                "ALTER TABLE t ALTER a TYPE text",
                "is of type integer",
            ),
            (
                "CREATE TABLE t (id int PRIMARY KEY, a int)",
                "ALTER TABLE t ALTER a TYPE bigint USING nothing(a)",
                "nothing",
            ),
            (
                "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 5)",
                "-- pgctl:down a = a\nALTER TABLE t ALTER a TYPE bigint USING nullif(a, 5), ALTER a SET NOT NULL",
                "violated by some row",
            ),
            (
                "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)",
                "ALTER TABLE t ALTER a TYPE float8 USING a + random()",
                "another value",
            ),
        ] {
            let stage = Stage::set(&server, setup).await;
            let schema = stage.schema().await;
            let plan = stage.plan(change).await;
            let mut done = 0;
            let refused = loop {
                match stage.step(&plan[done]).await {
                    Ok(()) => done += 1,
                    Err(error) => break said(&error),
                }
            };
            assert!(refused.contains(expected), "{setup}; {change}: {refused}");
            stage
                .worker
                .batch_execute("INSERT INTO t VALUES (7, '7')")
                .await
                .expect("programs go on");
            stage.undo(&plan[..done]).await.expect("it is taken back");
            assert_eq!(stage.schema().await, schema, "{change}");
        }
        // A conversion that the old value does not survive stops whoever writes it, and the way back is open.
        let stage = Stage::set(
            &server,
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x')",
        )
        .await;
        let expansion = stage
            .survey(
                "app_v2",
                "-- pgctl:down a = a::text\nALTER TABLE t ALTER a TYPE int USING a::int",
                Permits::default(),
            )
            .await
            .expect("it may be tried");
        let plan = steps(&expansion).expect("steps");
        let refused = stage.run(&plan).await.expect_err("'x' is no number");
        assert!(
            said(&refused).contains("invalid input syntax"),
            "{}",
            said(&refused)
        );
        stage.undo(&plan[..2]).await.expect("it is taken back");
    });
}
