//! What one program writes, and what the other one then reads, case by case.

use super::super::on_each_version;
use super::{Stage, one, said};
use ddl::expand::{Keep, Permits, steps};

const SETUP: &str = "
CREATE TABLE t (id int PRIMARY KEY, a int, b text DEFAULT 'b', touched text);
CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := NEW.a * 2; RETURN NEW; END $$;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := NEW.a; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO t VALUES (1, 10, 'x'), (2, NULL, NULL);
";

/// Tenths in the new version; what is not a whole one is lost on the way back.
const CHANGE: &str = "
-- pgctl:down a = floor(a / 10)
ALTER TABLE t ALTER COLUMN a TYPE numeric USING a * 10;
";

async fn open(stage: &Stage) {
    let permits = Permits {
        null_becomes_default: true,
        ..Permits::default()
    };
    let expansion = stage.survey("app_v2", CHANGE, permits).await.expect("it can be");
    stage
        .run(&steps(&expansion).expect("steps"))
        .await
        .expect("it opens");
}

#[test]
fn each_side_reads_what_the_other_wrote() {
    on_each_version(async |server| {
        let stage = Stage::set(&server, SETUP).await;
        open(&stage).await;
        for (writes, old, new) in [
            ("INSERT INTO t VALUES (3, 5, 'x')", "5", "50"),
            ("INSERT INTO app_v2.t (id, a) VALUES (3, 57)", "5", "57"),
            ("INSERT INTO app_v2.t (id, a) VALUES (3, NULL)", "", ""),
            ("INSERT INTO t (id) VALUES (3)", "", ""),
            // What is more exact there stays so while nobody writes the old column, even to the value that it has.
            (
                "INSERT INTO app_v2.t (id, a) VALUES (3, 57); UPDATE t SET b = 'c' WHERE id = 3",
                "5",
                "57",
            ),
            (
                "INSERT INTO app_v2.t (id, a) VALUES (3, 57); UPDATE t SET a = 5 WHERE id = 3",
                "5",
                "57",
            ),
            (
                "INSERT INTO app_v2.t (id, a) VALUES (3, 57); UPDATE t SET a = 6 WHERE id = 3",
                "6",
                "60",
            ),
            (
                "INSERT INTO t VALUES (3, 5); UPDATE app_v2.t SET a = 59 WHERE id = 3",
                "5",
                "59",
            ),
            (
                "INSERT INTO t VALUES (3, 5); UPDATE app_v2.t SET a = 61 WHERE id = 3",
                "6",
                "61",
            ),
            (
                "INSERT INTO t VALUES (3, 5); UPDATE app_v2.t SET a = NULL WHERE id = 3",
                "",
                "",
            ),
            (
                "INSERT INTO t VALUES (3, 5); UPDATE t SET a = NULL WHERE id = 3",
                "",
                "",
            ),
            // Equal, and not the same.
            (
                "INSERT INTO app_v2.t (id, a) VALUES (3, 50); UPDATE app_v2.t SET a = 50.00 WHERE id = 3",
                "5",
                "50.00",
            ),
            (
                "INSERT INTO t VALUES (3, 5) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
                "5",
                "50",
            ),
            (
                "INSERT INTO t VALUES (3, 4); INSERT INTO app_v2.t (id, a) VALUES (3, 58) ON CONFLICT (id) DO UPDATE SET a = excluded.a + 1",
                "5",
                "59",
            ),
            // As a subscription applies rows, and as they are loaded with triggers off.
            (
                "SET session_replication_role = replica; INSERT INTO t VALUES (3, 5); UPDATE t SET a = 7 WHERE id = 3",
                "7",
                "70",
            ),
            // Both at once, as from a publisher with both columns: they belong together already, or the old one counts.
            ("INSERT INTO t (id, a, pgctl_new_a) VALUES (3, 5, 57)", "5", "57"),
            (
                "INSERT INTO t VALUES (3, 1); UPDATE t SET a = 5, pgctl_new_a = 57 WHERE id = 3",
                "5",
                "57",
            ),
            (
                "INSERT INTO t VALUES (3, 1); UPDATE t SET a = 9, pgctl_new_a = 57 WHERE id = 3",
                "9",
                "90",
            ),
            // Triggers of the table's own know the old column.
            (
                "CREATE TRIGGER twice BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION twice(); INSERT INTO app_v2.t (id, a) \
              VALUES (3, 57)",
                "10",
                "100",
            ),
        ] {
            let client = &stage.admin;
            client
                .batch_execute(&format!("BEGIN; {writes}"))
                .await
                .unwrap_or_else(|error| panic!("{writes}: {}", said(&error)));
            let found = one(
                client,
                "SELECT format('%s|%s', o.a, n.a) FROM t o JOIN app_v2.t n ON n.id = o.id WHERE o.id = 3",
            )
            .await;
            client.batch_execute("ROLLBACK").await.expect("back");
            assert_eq!(found, format!("{old}|{new}"), "{writes}");
        }
        // Whoever writes by a function with a path of its own is told apart no less.
        let pinned = "CREATE FUNCTION public.pinned() RETURNS void LANGUAGE sql SET search_path = app_v2, public AS 'UPDATE t SET a = 83 WHERE id = 1'; \
                      SET search_path = public; SELECT public.pinned(); RESET search_path";
        stage.admin.batch_execute(pinned).await.expect("a function");
        assert_eq!(
            stage.one("SELECT a || ' ' || touched FROM t WHERE id = 1").await,
            "8 8"
        );
        assert_eq!(stage.one("SELECT a FROM app_v2.t WHERE id = 1").await, "83");
        let versions = stage.versions().await;
        assert!(versions[0].new_written_unix.is_some(), "{versions:?}");
        let refused = stage
            .admin
            .batch_execute("UPDATE app_v2.t SET a = 1e30 WHERE id = 1")
            .await;
        assert!(refused.is_err(), "the old program cannot hold that");
    });
}

#[test]
fn names_change_without_a_trigger_and_two_versions_follow_each_other() {
    on_each_version(async |server| {
        let stage = Stage::set(&server, SETUP).await;
        let change = "ALTER TABLE t RENAME COLUMN a TO amount; ALTER TABLE t RENAME TO things;";
        stage.run(&stage.plan(change).await).await.expect("it opens");
        stage
            .admin
            .batch_execute(
                "INSERT INTO t VALUES (3, 5); UPDATE app_v2.things SET amount = amount + 1 WHERE id = 3",
            )
            .await
            .expect("both");
        assert_eq!(stage.one("SELECT a FROM t WHERE id = 3").await, "6");
        let count = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal";
        assert_eq!(stage.one(count).await, "1", "a trigger is not needed");
        let broken = stage
            .contraction(Keep::New, Some(1))
            .await
            .expect_err("a trigger would break");
        assert!(broken.join(" ").contains("trigger touch"), "{broken:?}");
        stage
            .worker
            .batch_execute("DROP TRIGGER touch ON t")
            .await
            .expect("it goes");
        let again = stage
            .survey("app_v3", change, Permits::default())
            .await
            .expect_err("one is open");
        assert!(again.join(" ").contains("app_v2"), "{again:?}");
        stage
            .run(&stage.contraction(Keep::New, Some(1)).await.expect("steps"))
            .await
            .expect("contracted");
        assert_eq!(
            stage.one("SELECT amount FROM public.things WHERE id = 3").await,
            "6"
        );

        // The former version's views are the old version now; they go with it.
        let next = stage
            .survey(
                "app_v3",
                "ALTER TABLE things ALTER amount TYPE bigint",
                Permits::default(),
            )
            .await
            .expect("the next");
        stage.run(&steps(&next).expect("steps")).await.expect("it opens");
        stage
            .admin
            .batch_execute("UPDATE app_v2.things SET amount = 7 WHERE id = 3; INSERT INTO app_v3.things (id, amount) VALUES (4, 8)")
            .await
            .expect("both");
        assert_eq!(
            stage.one("SELECT amount FROM app_v3.things WHERE id = 3").await,
            "7"
        );
        assert_eq!(
            stage.one("SELECT amount FROM app_v2.things WHERE id = 4").await,
            "8"
        );
        stage
            .run(&stage.contraction(Keep::New, None).await.expect("steps"))
            .await
            .expect("contracted");
        assert_eq!(
            stage
                .one("SELECT to_regclass('app_v2.things')::text IS NULL")
                .await,
            "t"
        );
        assert_eq!(
            stage
                .one("SELECT pg_typeof(amount) FROM public.things WHERE id = 3")
                .await,
            "bigint"
        );
    });
}

#[test]
fn an_identity_column_goes_on_counting_where_it_was() {
    on_each_version(async |server| {
        let setup = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY (INCREMENT BY 5) PRIMARY KEY, b text); \
                     INSERT INTO t (b) VALUES ('a'), ('b'); GRANT SELECT, INSERT ON t TO program;";
        let stage = Stage::set(&server, setup).await;
        let plan = stage.plan("ALTER TABLE t ALTER COLUMN id TYPE bigint").await;
        stage.run(&plan).await.expect("it opens");
        let program = server.connect().await.expect("a connection");
        program.batch_execute("SET ROLE program").await.expect("a role");
        let insert = |into: &str| format!("INSERT INTO {into} (b) VALUES ('c') RETURNING id");
        let mut last = 6;
        for into in ["t", "app_v2.t", "t", "app_v2.t"] {
            let id: i64 = one(&program, &insert(into)).await.parse().expect("a number");
            assert!(id > last && id % 5 == 1, "{id} behind {last}");
            last = id;
        }
        let contraction = stage.contraction(Keep::New, None).await.expect("steps");
        stage.run(&contraction).await.expect("contracted");
        for into in ["t", "app_v2.t"] {
            let id: i64 = one(&program, &insert(into)).await.parse().expect("a number");
            assert!(id > last && id % 5 == 1, "{id} behind {last}");
            last = id;
        }
        for (sql, expected) in [
            (
                "SELECT format('%s %s', attidentity, format_type(atttypid, -1)) FROM pg_attribute WHERE attrelid = 't'::regclass AND \
              attname = 'id'",
                "a bigint",
            ),
            ("SELECT pg_get_serial_sequence('t', 'id')", "public.t_id_seq"),
            (
                "SELECT format_type(seqtypid, -1) FROM pg_sequence WHERE seqrelid = 't_id_seq'::regclass",
                "bigint",
            ),
            (
                "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype <> 'n'",
                "t_pkey",
            ),
        ] {
            assert_eq!(stage.one(sql).await, expected, "{sql}");
        }
        assert!(
            program
                .batch_execute("INSERT INTO t (id) VALUES (1000)")
                .await
                .is_err(),
            "it is ALWAYS"
        );
    });
}
