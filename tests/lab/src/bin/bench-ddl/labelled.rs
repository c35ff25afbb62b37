//! Statements, each with what a server does when it runs them: the labels are the server's own.

use anyhow::{Context, Result};
use ddl::rules::RULES;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A statement on a schema, and what it does.
pub struct Case {
    pub name: String,
    pub setup: String,
    pub sql: String,
    /// It writes a table in use anew, or reads one whole under a lock that stops writes or reads.
    pub hazard: bool,
    /// It changes a column's type.
    pub type_change: bool,
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b text, v varchar(10), n numeric(10,2), s timestamp(3), z timestamptz, \
                 c char(5), j json);";

/// More than the rules' examples: variants of H03, H04, H24, H50 and H51, and type changes of the catalogue alone.
const MORE: [&str; 40] = [
    "ALTER TABLE t ADD COLUMN x uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE t ADD COLUMN x timestamptz DEFAULT clock_timestamp()",
    "ALTER TABLE t ADD COLUMN x float DEFAULT random()",
    "ALTER TABLE t ADD COLUMN x timestamptz DEFAULT now()",
    "ALTER TABLE t ADD COLUMN x int DEFAULT 7",
    "ALTER TABLE t ADD COLUMN x text NOT NULL DEFAULT ''",
    "ALTER TABLE t ADD COLUMN x serial",
    "ALTER TABLE t ADD COLUMN x bigserial",
    "ALTER TABLE t ADD COLUMN x int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE t ALTER COLUMN a TYPE bigint",
    "ALTER TABLE t ALTER COLUMN a TYPE text",
    "ALTER TABLE t ALTER COLUMN b TYPE varchar(20)",
    "ALTER TABLE t ALTER COLUMN v TYPE varchar(5)",
    "ALTER TABLE t ALTER COLUMN n TYPE numeric(12,3)",
    "ALTER TABLE t ALTER COLUMN n TYPE numeric(8,2)",
    "ALTER TABLE t ALTER COLUMN s TYPE timestamp(1)",
    "ALTER TABLE t ALTER COLUMN c TYPE text",
    "ALTER TABLE t ALTER COLUMN c TYPE char(9)",
    "ALTER TABLE t ALTER COLUMN j TYPE jsonb",
    "ALTER TABLE t ALTER COLUMN a TYPE int USING a + 1",
    "ALTER TABLE t ALTER COLUMN s TYPE timestamptz",
    "ALTER TABLE t ALTER COLUMN v TYPE varchar(20)",
    "ALTER TABLE t ALTER COLUMN v TYPE varchar",
    "ALTER TABLE t ALTER COLUMN v TYPE text",
    "ALTER TABLE t ALTER COLUMN b TYPE varchar",
    "ALTER TABLE t ALTER COLUMN n TYPE numeric(12,2)",
    "ALTER TABLE t ALTER COLUMN n TYPE numeric",
    "ALTER TABLE t ALTER COLUMN s TYPE timestamp(6)",
    "ALTER TABLE t ALTER COLUMN s TYPE timestamp",
    "ALTER TABLE t SET UNLOGGED",
    "ALTER TABLE t ADD UNIQUE (a)",
    "ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0)",
    "ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID",
    "ALTER TABLE t ADD EXCLUDE USING btree (a WITH =)",
    "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
    "ALTER TABLE t ALTER COLUMN a SET DEFAULT 3",
    "CREATE INDEX i ON t (a)",
    "CREATE UNIQUE INDEX i ON t (lower(b))",
    "REINDEX TABLE t",
    "CLUSTER t USING t_pkey",
];

/// Runs every statement on the server, in a transaction that is rolled back.
pub async fn by_the_server(server: SocketAddr) -> Result<Vec<Case>> {
    lab::sql::query(server, "CREATE DATABASE labels").await?;
    let mut config = lab::sql::config(server);
    config.dbname("labels");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let driving = tokio::spawn(connection);
    let rules = RULES.iter().map(|rule| (rule.id, rule.setup, rule.example));
    let all = rules.chain(MORE.iter().map(|sql| (*sql, T, *sql)));
    let mut cases = Vec::new();
    let mut known = BTreeSet::new();
    for (name, setup, sql) in all {
        // An emptied table has a new file as well.
        if sql.is_empty() || sql.starts_with("TRUNCATE") || !known.insert((setup, sql)) {
            continue;
        }
        client
            .batch_execute("DROP PUBLICATION IF EXISTS u; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .await?;
        client
            .batch_execute(setup)
            .await
            .with_context(|| format!("the setup of {name}"))?;
        // What runs in no transaction, or not on this version, is left out.
        if let Ok(hazard) = hazard(&client, sql).await {
            cases.push(Case {
                name: name.to_owned(),
                setup: setup.to_owned(),
                sql: sql.to_owned(),
                hazard,
                type_change: sql.contains(" TYPE ") && sql.starts_with("ALTER TABLE"),
            });
        }
    }
    driving.abort();
    Ok(cases)
}

async fn hazard(client: &Client, sql: &str) -> Result<bool> {
    client
        .batch_execute("BEGIN; SET LOCAL timezone = 'Europe/Berlin'")
        .await?;
    let before = look(client).await?;
    let ran = client.batch_execute(sql).await;
    let after = match ran {
        Ok(()) => look(client).await,
        Err(error) => Err(error.into()),
    };
    client.batch_execute("ROLLBACK").await?;
    let after = after?;
    Ok(before.iter().any(|(oid, was)| {
        after
            .get(oid)
            .is_some_and(|is| is.file != was.file || (is.scans > was.scans && is.stopped))
    }))
}

struct Relation {
    file: String,
    scans: u64,
    stopped: bool,
}

async fn look(client: &Client) -> Result<BTreeMap<String, Relation>> {
    let sql = "SELECT c.oid, c.relfilenode, coalesce(s.seq_scan, 0), EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() \
               AND l.relation = c.oid AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')) \
               FROM pg_class c LEFT JOIN pg_stat_xact_user_tables s ON s.relid = c.oid \
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'm')";
    let messages = client.simple_query(sql).await?;
    let relations = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let text = |column: usize| row.get(column).unwrap_or_default().to_owned();
            Some((
                text(0),
                Relation {
                    file: text(1),
                    scans: text(2).parse().unwrap_or(0),
                    stopped: text(3) == "t",
                },
            ))
        }
        _ => None,
    });
    Ok(relations.collect())
}
