//! Schema changes that are broken off at the worst moment, and end as if nothing had happened.

use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Lab, Mono, wait_until};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The role that owns what is changed.
pub(super) const OWNER: &str = "app";

/// A database with tables worth changing.
const SETUP: &str = "
CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, amount int NOT NULL, touched int NOT NULL DEFAULT 0);
INSERT INTO orders SELECT n, n % 100, n FROM generate_series(1, 4000) n;
CREATE TABLE parts (day int NOT NULL, x int) PARTITION BY LIST (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
CREATE INDEX parts_2_x ON parts_2 (x);
ANALYZE orders;
";

const CHANGE: &str = "
-- Everything here has a safer form or a way to be taken up again.
ALTER TABLE orders ADD COLUMN note text;
CREATE INDEX orders_customer ON orders (customer, lower(note)) WHERE amount > 0;
ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount >= 0);
-- Slow enough to be killed in.
UPDATE orders SET touched = touched + 1 WHERE amount > 0 AND pg_sleep(0.001) IS NOT NULL;
ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'none';
ALTER TABLE parts DETACH PARTITION parts_2 CONCURRENTLY;
DROP INDEX CONCURRENTLY parts_2_x;
";

pub(super) async fn connect(server: SocketAddr, user: &str, database: &str) -> Result<Client> {
    let text = format!(
        "host={} port={} user={user} dbname={database} connect_timeout=2",
        server.ip(),
        server.port()
    );
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(super) async fn value(client: &Client, sql: &str) -> Result<String> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    row.with_context(|| format!("no row for {sql}"))
}

/// A cluster with databases to change, and the script on disk.
pub(super) struct Stage {
    pub(super) scene: Scene,
    pub(super) script: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn set(lab: &Lab, name: &str, databases: &[&str], script: &str) -> Result<Stage> {
        let scene = Scene::start(lab, name, |cluster| {
            cluster.timing("lan-fast").rollout_role(OWNER)
        })
        .await?;
        let address = scene.cluster.node(&scene.first).pg_address()?;
        let admin = connect(address, "postgres", "postgres").await?;
        admin.batch_execute(&format!("CREATE ROLE {OWNER} LOGIN")).await?;
        for database in databases {
            admin
                .batch_execute(&format!("CREATE DATABASE {database} OWNER {OWNER}"))
                .await?;
            let inside = connect(address, "postgres", database).await?;
            inside.batch_execute("ALTER SCHEMA public OWNER TO app").await?;
            connect(address, OWNER, database)
                .await?
                .batch_execute(SETUP)
                .await?;
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("change.sql");
        std::fs::write(&path, script)?;
        Ok(Stage {
            scene,
            script: path,
            _folder: folder,
        })
    }

    pub(super) async fn primary(&self, database: &str) -> Result<Client> {
        let primary = self.scene.cluster.wait_for_primary(RECOVERY).await?;
        connect(self.scene.cluster.node(&primary).pg_address()?, OWNER, database).await
    }

    async fn apply(&self, database: &str, more: &[&str]) -> Result<()> {
        let script = self.script.display().to_string();
        let mut words = vec!["ddl", "apply", "--yes", "--database", database];
        words.extend(more);
        words.push(&script);
        self.scene.cluster.pgctl_ok(&words).await.map(drop)
    }

    pub(super) async fn status(&self) -> Result<Value> {
        let said = self
            .scene
            .cluster
            .pgctl_ok(&["ddl", "status", "-o", "json"])
            .await?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Waits until the rollout is in that phase, and returns how it stands.
    pub(super) async fn until(&self, phase: &str) -> Result<Value> {
        wait_until(&format!("the rollout is {phase}"), 3 * RECOVERY, || async {
            let status = self.status().await?;
            ensure!(status["rollout"]["phase"] == phase, "{status}");
            Ok(status)
        })
        .await
    }

    /// What must hold when the change is through, whatever happened on the way.
    async fn changed(&self, database: &str) -> Result<()> {
        let client = self.primary(database).await?;
        for (what, sql, expected) in [
            (
                "invalid indexes",
                "SELECT count(*) FROM pg_index WHERE NOT indisvalid",
                "0",
            ),
            (
                "indexes of orders",
                "SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass",
                "2",
            ),
            (
                "partitions",
                "SELECT count(*) FROM pg_inherits WHERE inhparent = 'parts'::regclass",
                "1",
            ),
            (
                "constraints that hold",
                "SELECT count(*) FROM pg_constraint WHERE conname = 'positive' AND convalidated",
                "1",
            ),
            (
                "rows that were changed other than once",
                "SELECT count(*) FROM orders WHERE touched <> 1",
                "0",
            ),
        ] {
            let found = value(&client, sql).await?;
            ensure!(found == expected, "{what} in {database}: {found}, not {expected}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_ends_in_the_same_schema_when_the_primary_dies_in_an_index_build_and_in_a_backfill()
-> Result<()> {
    let lab = Lab::new()?;
    let mut stage = Stage::set(&lab, "rollout", &["straight", "broken"], CHANGE).await?;
    stage.apply("straight", &[]).await?;
    let straight = stage.until("done").await?;
    stage.changed("straight").await?;

    // An index build waits at its end for every older snapshot: this one keeps it there.
    let first = stage.scene.first.clone();
    let address = stage.scene.cluster.node(&first).pg_address()?;
    let old = connect(address, OWNER, "broken").await?;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM parts")
        .await?;
    stage.apply("broken", &["--detach", "--batch-ms", "100"]).await?;
    let watcher = connect(address, OWNER, "broken").await?;
    wait_until("the index is being built", RECOVERY, || async {
        let invalid = value(&watcher, "SELECT count(*) FROM pg_index WHERE NOT indisvalid").await?;
        ensure!(invalid == "1", "{invalid}");
        Ok(())
    })
    .await?;
    let off = stage.scene.cluster.node_mut(&first).power_off()?;
    drop((old, watcher));
    let second = stage.scene.writable_after(off).await?;
    ensure!(second != first, "a node without power cannot be the primary");
    stage.scene.cluster.node_mut(&first).start().await?;

    // The second one dies among the batches.
    let address = stage.scene.cluster.node(&second).pg_address()?;
    let watcher = connect(address, OWNER, "broken").await?;
    wait_until("rows are being changed", RECOVERY, || async {
        let changed = value(&watcher, "SELECT count(*) FROM orders WHERE touched > 0").await?;
        ensure!(changed != "0", "none is");
        Ok(())
    })
    .await?;
    let off = Mono::now();
    stage
        .scene
        .cluster
        .node(&second)
        .signal_postmaster(nix::sys::signal::Signal::SIGKILL)?;
    drop(watcher);
    stage.scene.writable_after(off).await?;

    let broken = stage.until("done").await?;
    stage.changed("broken").await?;
    let fingerprint = |status: &Value| status["rollout"]["fingerprint"].as_str().map(str::to_owned);
    ensure!(
        fingerprint(&broken).is_some() && fingerprint(&broken) == fingerprint(&straight),
        "the schemas differ: {broken} and {straight}"
    );
    stage.scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_does_not_queue_behind_a_long_reader_and_can_be_paused_failed_aborted_and_undone()
-> Result<()> {
    let lab = Lab::new()?;
    let stage = Stage::set(
        &lab,
        "orders",
        &["app"],
        "ALTER TABLE orders ADD COLUMN a int;\nCREATE UNIQUE INDEX CONCURRENTLY u ON orders (customer);\n",
    )
    .await?;
    let reader = stage.primary("app").await?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM orders").await?;
    stage.apply("app", &["--detach"]).await?;
    wait_until("the reader is seen to be in the way", RECOVERY, || async {
        let status = stage.status().await?;
        ensure!(status["live"]["doing"] == "waiting-for-lock", "{status}");
        Ok(())
    })
    .await?;
    // Nobody waits behind it.
    let other = stage.primary("app").await?;
    value(&other, "SET lock_timeout = 1; SELECT count(*) FROM orders").await?;
    stage.scene.cluster.pgctl_ok(&["ddl", "pause"]).await?;
    stage.until("paused").await?;
    reader.batch_execute("COMMIT").await?;
    stage.scene.cluster.pgctl_ok(&["ddl", "resume"]).await?;
    // The customers are not unique: the server refuses, and the corpse of the index is gone.
    let failed = stage.until("failed").await?;
    ensure!(
        failed["rollout"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("u")),
        "{failed}"
    );
    ensure!(failed["rollout"]["steps"][0]["state"] == "done", "{failed}");
    let invalid = value(&other, "SELECT count(*) FROM pg_index WHERE NOT indisvalid").await?;
    ensure!(invalid == "0", "an invalid index was left behind");
    stage
        .scene
        .cluster
        .pgctl_ok(&["ddl", "abort", "--undo", "--yes"])
        .await?;
    stage.until("aborted").await?;
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'a'";
    ensure!(value(&other, columns).await? == "0", "the column is still there");
    stage.scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_tried_on_an_empty_copy_and_the_janitor_mends_what_others_left() -> Result<()> {
    let lab = Lab::new()?;
    let change = "ALTER TABLE orders ALTER COLUMN amount TYPE bigint;\nALTER TABLE orders ADD COLUMN c int;\n\
                  CREATE INDEX ON orders (c);\nDO $$ BEGIN EXECUTE 'ALTER TABLE orders ADD CHECK (amount > 1)'; END $$;\n\
                  ALTER TABLE nowhere ADD COLUMN c int;\n";
    let stage = Stage::set(&lab, "plan", &["app"], change).await?;
    let client = stage.primary("app").await?;
    let script = stage.script.display().to_string();
    let words = ["ddl", "plan", "--database", "app", "-o", "json", &script];
    let plan: Value = serde_json::from_str(&stage.scene.cluster.pgctl_ok(&words).await?)?;
    let steps = plan["steps"].as_array().context("steps")?;
    ensure!(steps.len() == 5, "{plan}");
    ensure!(
        steps[0]["rewrites"][0] == "orders",
        "the server has shown no rewrite: {plan}"
    );
    ensure!(steps[0]["locks"]["orders"] == "AccessExclusiveLock", "{plan}");
    ensure!(steps[0]["forecast"]["rows"] == 4_000, "{plan}");
    ensure!(
        steps[1]["rewrites"] == serde_json::json!([]) && steps[1]["scans"] == serde_json::json!([]),
        "{plan}"
    );
    ensure!(
        steps[2]["class"] == "create-index" && steps[2]["error"] == "",
        "{plan}"
    );
    // What a block hides the server shows.
    ensure!(
        steps[3]["scans"][0] == "orders" && steps[3]["locks"]["orders"] == "AccessExclusiveLock",
        "{plan}"
    );
    ensure!(
        steps[4]["error"]
            .as_str()
            .is_some_and(|text| text.contains("nowhere")),
        "{plan}"
    );
    let text = stage
        .scene
        .cluster
        .pgctl_ok(&["ddl", "plan", "--database", "app", &script])
        .await?;
    ensure!(text.contains("rewrites  orders"), "{text}");

    // Broken off builds, a constraint that was never validated, a half detached partition, and what other tools have forgotten.
    client
        .batch_execute(
            "ALTER TABLE orders ADD COLUMN _pgroll_new_amount bigint; \
             CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER \"~pgctl_gone\" BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        .await?;
    client
        .batch_execute("ALTER TABLE orders ADD CONSTRAINT late CHECK (amount >= 0) NOT VALID")
        .await?;
    let failed = client
        .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY corpse ON orders (customer)")
        .await;
    ensure!(failed.is_err(), "customers are not unique");
    client.batch_execute("DELETE FROM orders WHERE id > 100").await?;
    let reader = stage.primary("app").await?;
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM parts")
        .await?;
    client.batch_execute("SET statement_timeout = 300").await?;
    let rebuilt = client
        .batch_execute("REINDEX INDEX CONCURRENTLY orders_pkey")
        .await;
    ensure!(rebuilt.is_err(), "an old snapshot was in the way");
    let detached = client
        .batch_execute("ALTER TABLE parts DETACH PARTITION parts_2 CONCURRENTLY")
        .await;
    ensure!(detached.is_err(), "a reader was in the way");
    reader.batch_execute("COMMIT").await?;
    let words = ["ddl", "janitor", "--database", "app", "-o", "json"];
    let kinds = |said: String| -> Result<Vec<String>> {
        let reply: Value = serde_json::from_str(&said)?;
        let leftovers = reply["leftovers"].as_array().context("leftovers")?.clone();
        Ok(leftovers
            .iter()
            .map(|leftover| leftover["kind"].as_str().unwrap_or_default().to_owned())
            .collect())
    };
    // Any node may be asked, and a standby is a moment behind.
    wait_until("the leftovers are found", RECOVERY, || async {
        let found = kinds(stage.scene.cluster.pgctl_ok(&words).await?)?;
        ensure!(
            found
                == [
                    "invalid-index",
                    "leftover-index",
                    "not-validated",
                    "pending-detach",
                    "orphaned-trigger",
                    "shadow-column"
                ],
            "{found:?}"
        );
        Ok(())
    })
    .await?;
    let repaired = stage
        .scene
        .cluster
        .pgctl_ok(&[words.as_slice(), &["--repair", "--yes"]].concat())
        .await?;
    ensure!(!repaired.contains("not repaired"), "{repaired}");
    // Whether those are still needed only a person knows.
    wait_until("nothing else is left behind", RECOVERY, || async {
        let found = kinds(stage.scene.cluster.pgctl_ok(&words).await?)?;
        ensure!(found == ["orphaned-trigger", "shadow-column"], "{found:?}");
        Ok(())
    })
    .await?;
    stage.scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_ends_in_the_same_schema_however_often_the_agent_of_the_primary_is_killed() -> Result<()> {
    let lab = Lab::new()?;
    let mut stage = Stage::set(&lab, "agents", &["straight", "broken"], CHANGE).await?;
    stage.apply("straight", &[]).await?;
    let straight = stage.until("done").await?;
    stage.apply("broken", &["--detach", "--batch-ms", "100"]).await?;
    let mut kills = 0_u32;
    let begun = std::time::Instant::now();
    // Between any two records, and in the middle of any statement: wherever it happens to be.
    let broken = loop {
        ensure!(
            begun.elapsed() < 4 * RECOVERY,
            "the rollout does not come to its end"
        );
        let status = stage.status().await?;
        if status["rollout"]["phase"] == "done" {
            break status;
        }
        ensure!(status["rollout"]["phase"] == "running", "{status}");
        let Ok(primary) = stage.scene.cluster.primary().await else {
            continue;
        };
        stage
            .scene
            .cluster
            .node(&primary)
            .signal_agent(nix::sys::signal::Signal::SIGKILL)?;
        kills += 1;
        // Long enough for the lease to run out every other time.
        let node = stage.scene.cluster.node_mut(&primary);
        if kills.is_multiple_of(2) {
            tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        }
        wait_until("the agent is gone", RECOVERY, || async {
            ensure!(node.agent_pid().is_none(), "it is there");
            Ok(())
        })
        .await?;
        node.start().await?;
        // Some steps have to get through for the next kill to meet another.
        tokio::time::sleep(std::time::Duration::from_millis(400 * u64::from(kills))).await;
    };
    ensure!(
        kills > 1,
        "only {kills} agents were killed: this run shows nothing"
    );
    stage.changed("broken").await?;
    ensure!(
        broken["rollout"]["fingerprint"] == straight["rollout"]["fingerprint"],
        "the schemas differ: {broken} and {straight}"
    );
    println!("{kills} agents were killed on the way");
    stage.scene.end().await?;
    Ok(())
}
