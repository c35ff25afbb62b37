//! The same change run by hand as it stands, and by a rollout, while others read and write.

use crate::load::{Load, Worst, connect};
use anyhow::{Context, Result};
use lab::{Cluster, Lab};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A change, and what takes it back.
struct Change {
    name: &'static str,
    sql: &'static str,
    back: &'static str,
    /// Behind somebody who reads for 3 s at a time.
    report: bool,
}

const CHANGES: [Change; 8] = [
    Change {
        name: "create index",
        sql: "CREATE INDEX i1 ON big (a)",
        back: "DROP INDEX i1",
        report: false,
    },
    Change {
        name: "add check",
        sql: "ALTER TABLE big ADD CONSTRAINT c1 CHECK (a >= 0)",
        back: "ALTER TABLE big DROP CONSTRAINT c1",
        report: false,
    },
    Change {
        name: "add foreign key",
        sql: "ALTER TABLE big ADD CONSTRAINT f1 FOREIGN KEY (p) REFERENCES parent (id)",
        back: "ALTER TABLE big DROP CONSTRAINT f1",
        report: false,
    },
    Change {
        name: "set not null",
        sql: "ALTER TABLE big ALTER COLUMN a SET NOT NULL",
        back: "ALTER TABLE big ALTER COLUMN a DROP NOT NULL",
        report: false,
    },
    Change {
        name: "add unique",
        sql: "ALTER TABLE big ADD CONSTRAINT u1 UNIQUE (b)",
        back: "ALTER TABLE big DROP CONSTRAINT u1",
        report: false,
    },
    Change {
        name: "update every row",
        sql: "UPDATE big SET t = t + 1",
        back: "SELECT 1",
        report: false,
    },
    Change {
        name: "add column behind a report",
        sql: "ALTER TABLE big ADD COLUMN n1 int",
        back: "ALTER TABLE big DROP COLUMN n1",
        report: true,
    },
    Change {
        name: "drop index behind a report",
        sql: "DROP INDEX big_a",
        back: "CREATE INDEX big_a ON big (a)",
        report: true,
    },
];

/// One way of one change.
#[derive(Serialize, Clone)]
pub struct Way {
    pub took_s: f64,
    pub worst_read_ms: f64,
    pub worst_write_ms: f64,
}

#[derive(Serialize)]
pub struct Measured {
    pub change: String,
    /// As it stands, without a lock_timeout.
    pub by_hand: Way,
    /// lock_timeout 500 ms, again after 1, 2, 4 ... s: pgroll's way of waiting, by hand. Only where there is something to wait for.
    pub retried_500_ms: Option<Way>,
    pub pgctl: Way,
    /// The worst of reads and writes, by hand divided by pgctl.
    pub ratio: f64,
}

pub async fn cluster(postgres: &Path) -> Result<Cluster> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "ddl")
        .postgres(postgres)
        .rollout_role("app")
        .parameter("max_wal_size", "2GB")
        .build()?;
    cluster.start().await?;
    Ok(cluster)
}

pub async fn measure(cluster: &mut Cluster, rows: u64) -> Result<Vec<Measured>> {
    let primary = cluster.wait_all_in_sync(PATIENCE).await?;
    let server = cluster.node(&primary).pg_address()?;
    lab::sql::query(server, "CREATE ROLE app LOGIN").await?;
    lab::sql::query(server, "CREATE DATABASE app OWNER app").await?;
    let admin = connect(server, "postgres", "app").await?;
    admin.batch_execute("ALTER SCHEMA public OWNER TO app").await?;
    let owner = connect(server, "app", "app").await?;
    owner
        .batch_execute(&format!(
            "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(0, 999);
             CREATE TABLE big (id bigint PRIMARY KEY, a int, b text, p int, t int NOT NULL DEFAULT 0, w int NOT NULL DEFAULT 0);
             INSERT INTO big SELECT n, n % 10007, md5(n::text), n % 1000 FROM generate_series(0, {rows} - 1) n;
             CREATE INDEX big_a ON big (a);"
        ))
        .await?;
    owner.batch_execute("VACUUM ANALYZE big").await?;
    let mut measured = Vec::new();
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("change.sql");
    for change in &CHANGES {
        eprintln!("== {}", change.name);
        std::fs::write(&script, change.sql)?;
        let by_hand = one(server, rows, change, async || {
            Ok(owner.batch_execute(change.sql).await?)
        })
        .await?;
        restore(&owner, change).await?;
        let retried = if change.report {
            let way = one(server, rows, change, async || retried(&owner, change.sql).await).await?;
            restore(&owner, change).await?;
            Some(way)
        } else {
            None
        };
        let path = script.display().to_string();
        let pgctl = one(server, rows, change, async || {
            let words = ["ddl", "apply", "--yes", "--database", "app", path.as_str()];
            cluster.pgctl_ok(&words).await.map(drop)
        })
        .await?;
        restore(&owner, change).await?;
        let worst = |way: &Way| way.worst_read_ms.max(way.worst_write_ms);
        measured.push(Measured {
            change: change.name.to_owned(),
            ratio: worst(&by_hand) / worst(&pgctl).max(0.001),
            by_hand,
            retried_500_ms: retried,
            pgctl,
        });
    }
    Ok(measured)
}

async fn restore(owner: &tokio_postgres::Client, change: &Change) -> Result<()> {
    owner.batch_execute("RESET lock_timeout").await?;
    owner
        .batch_execute(change.back)
        .await
        .with_context(|| change.back.to_owned())?;
    owner.batch_execute("VACUUM ANALYZE big").await?;
    owner.batch_execute("CHECKPOINT").await.or_else(|error| {
        // Before 15 only superusers may.
        if error.code().is_some() {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    Ok(())
}

async fn retried(owner: &tokio_postgres::Client, sql: &str) -> Result<()> {
    owner.batch_execute("SET lock_timeout = '500ms'").await?;
    let mut pause = Duration::from_secs(1);
    loop {
        match owner.batch_execute(sql).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

async fn one(
    server: std::net::SocketAddr,
    rows: u64,
    change: &Change,
    run: impl AsyncFnOnce() -> Result<()>,
) -> Result<Way> {
    let load = Load::start(server, "app", rows, change.report).await?;
    if change.report {
        // In the middle of a report, not in the gap.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let begun = Instant::now();
    let ran = run().await;
    let took_s = begun.elapsed().as_secs_f64();
    let Worst { read_ms, write_ms } = load.stop().await?;
    ran.with_context(|| change.name.to_owned())?;
    eprintln!("   {took_s:.1} s, reads waited {read_ms:.0} ms, writes {write_ms:.0} ms");
    Ok(Way {
        took_s,
        worst_read_ms: read_ms,
        worst_write_ms: write_ms,
    })
}

pub fn table(measured: &[Measured]) -> String {
    if measured.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "| change | by hand: worst read, write | took | 500 ms and again | pgctl: worst read, write | took | ratio |\n|---|---|---|---|---|---|---|\n",
    );
    let pair = |way: &Way| format!("{:.0}, {:.0} ms", way.worst_read_ms, way.worst_write_ms);
    for row in measured {
        let retried = row.retried_500_ms.as_ref().map_or_else(
            || "-".to_owned(),
            |way| format!("{}, {:.1} s", pair(way), way.took_s),
        );
        text.push_str(&format!(
            "| {} | {} | {:.1} s | {retried} | {} | {:.1} s | {:.0} |\n",
            row.change,
            pair(&row.by_hand),
            row.by_hand.took_s,
            pair(&row.pgctl),
            row.pgctl.took_s,
            row.ratio
        ));
    }
    text
}
