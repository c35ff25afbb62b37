//! An update of a whole table in batches along its primary key. The end of each batch is committed with it, so that whoever goes
//! on goes on exactly behind it: no row is changed twice, none is left out. Rows with keys behind the last one that there was at
//! the beginning are new, and not touched.

use super::job::{Job, Stop};
use super::ledger::{self, Entry};
use super::look;
use super::pressure;
use super::sql::{Db, field, name, relation};
use agent_core::cluster::{RolloutStep, StepReport};
use agent_core::rollout::{BATCH_SMALLEST, Trouble, next_batch, pause_ms, too_much, trouble};
use std::time::{Duration, Instant};

/// The first batch, rows.
const FIRST_BATCH: u64 = 500;
/// How long a batch may wait for rows that others have locked. They wait for us no longer than a batch takes.
const LOCK_TIMEOUT_MS: u64 = 2_000;
/// How often it is looked whether those that suffer have recovered.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is done to the rows. All is SQL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    pub table: &'a str,
    pub set: &'a str,
    /// Empty: every row.
    pub filter: &'a str,
}

/// A table's primary key: its columns as SQL, and their types.
struct Key {
    oid: u32,
    columns: Vec<String>,
    types: Vec<String>,
    rows: u64,
}

impl Key {
    async fn of(worker: &Db, table: &str) -> Result<Key, Stop> {
        let oid: u32 = worker.number(&format!("SELECT {}::oid", relation(table))).await?;
        if oid == 0 {
            return Err(Stop::Refused(format!("there is no table {table}")));
        }
        let sql = format!(
            "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_index i \
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place) \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid = {oid} AND i.indisprimary AND k.place <= i.indnkeyatts ORDER BY k.place"
        );
        let found = worker.rows(&sql).await?;
        if found.is_empty() {
            return Err(Stop::Refused(format!(
                "{table} has no primary key to go along: begin the rollout with --as-written, which runs it as one statement"
            )));
        }
        let rows =
            format!("SELECT greatest(reltuples, 0)::bigint FROM pg_catalog.pg_class WHERE oid = {oid}");
        Ok(Key {
            oid,
            columns: found.iter().map(|row| name(field(row, 0))).collect(),
            types: found.iter().map(|row| field(row, 1).to_owned()).collect(),
            rows: worker.number(&rows).await?,
        })
    }

    fn list(&self) -> String {
        self.columns.join(", ")
    }

    fn descending(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{column} DESC"))
            .collect();
        columns.join(", ")
    }

    /// The key as an array of text.
    fn as_texts(&self) -> String {
        let texts: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{column}::text"))
            .collect();
        format!("ARRAY[{}]", texts.join(", "))
    }

    /// A key that was kept as an array of text, as a row.
    fn row(&self, array: &str) -> String {
        let array = super::sql::literal(array);
        let values: Vec<String> = self
            .types
            .iter()
            .enumerate()
            .map(|(at, ty)| format!("(({array}::text[])[{}])::{ty}", at + 1))
            .collect();
        format!("({})", values.join(", "))
    }

    /// Behind one key and up to another, for WHERE.
    fn between(&self, behind: Option<&str>, up_to: &str) -> String {
        let list = self.list();
        let mut condition = format!("({list}) <= {}", self.row(up_to));
        if let Some(behind) = behind {
            condition.push_str(&format!(" AND ({list}) > {}", self.row(behind)));
        }
        condition
    }
}

pub(super) async fn carry(
    job: &Job,
    number: u32,
    step: &RolloutStep,
    work: Work<'_>,
    agent: &Db,
    known: Option<Entry>,
) -> Result<StepReport, Stop> {
    let worker = job.worker(step).await?;
    let key = Key::of(&worker, work.table).await?;
    let begun = Instant::now();
    let mut report = StepReport {
        epoch: job.epoch,
        ..StepReport::default()
    };
    let mut entry = match known {
        Some(entry) => entry,
        None => begin(job, number, &worker, &key, work).await?,
    };
    let first_rows = entry.rows;
    let mut confirming = job.agent().await?;
    let mut size = FIRST_BATCH;
    let mut commit_ms = 0;
    let Some(bound) = entry.bound.clone() else {
        worker.rows(&ledger::mark(job, number)).await?;
        report.note = "the table was empty".to_owned();
        return Ok(report);
    };
    loop {
        job.go_on()?;
        wait_for_relief(job, agent, key.oid, commit_ms).await?;
        let started = Instant::now();
        let batch = batch(job, number, &worker, &key, work, &entry, &bound, size);
        let (outcome, stall) = look::watched(agent, worker.pid, batch).await;
        report.stall_ms = report.stall_ms.max(stall);
        match outcome? {
            Batch::Locked => {
                report.tries += 1;
                size = (size / 2).max(BATCH_SMALLEST);
                let pause = pause_ms(report.tries.min(5), rand::random_range(0..1000));
                tokio::time::sleep(Duration::from_millis(pause)).await;
                continue;
            }
            Batch::Last => break,
            Batch::Done(after) => entry = after,
        }
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.held_ms = report.held_ms.max(took);
        size = next_batch(size, took, &job.rollout.plan.limits);
        let waited = Instant::now();
        ledger::confirm(&mut confirming, job, number).await?;
        commit_ms = u64::try_from(waited.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stall_ms = report.stall_ms;
        job.tell(|live| {
            live.doing = "backfilling";
            live.detail = format!("{size} rows at a time");
            live.stall_ms = stall_ms;
            live.rows = entry.rows;
            live.rows_total = key.rows.max(entry.rows);
            let seconds = begun.elapsed().as_secs_f64().max(0.001);
            live.rows_per_s = ((entry.rows - first_rows) as f64 / seconds) as u64;
            live.eta_s = (live.rows_total - live.rows).checked_div(live.rows_per_s);
        });
    }
    report.rows = entry.rows;
    report.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Writes down up to which key the rows count that are there now.
async fn begin(job: &Job, number: u32, worker: &Db, key: &Key, work: Work<'_>) -> Result<Entry, Stop> {
    let bound = format!(
        "SELECT {} FROM {} ORDER BY {} LIMIT 1",
        key.as_texts(),
        work.table,
        key.descending()
    );
    let sql = format!(
        "BEGIN; {}; UPDATE pgctl.rollout_steps SET bound = ({bound}) WHERE {}; COMMIT",
        ledger::begin(job, number),
        ledger::this(job, number)
    );
    worker.run(&sql).await?;
    Ok(ledger::entry(worker, job, number).await?.unwrap_or_default())
}

enum Batch {
    /// Committed; what the ledger says now.
    Done(Entry),
    /// No row was left, and the step is done.
    Last,
    /// Others hold the rows.
    Locked,
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the one statement")]
async fn batch(
    job: &Job,
    number: u32,
    worker: &Db,
    key: &Key,
    work: Work<'_>,
    entry: &Entry,
    bound: &str,
    size: u64,
) -> Result<Batch, Stop> {
    let attempt = async {
        worker
            .rows(&format!("BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
            .await?;
        let behind = entry.position.as_deref();
        let end = format!(
            "SELECT {} FROM (SELECT {list} FROM {} WHERE {} ORDER BY {list} LIMIT {size}) chunk ORDER BY {} LIMIT 1",
            key.as_texts(),
            work.table,
            key.between(behind, bound),
            key.descending(),
            list = key.list()
        );
        let Some(end) = worker.text(&end).await? else {
            worker.rows(&ledger::mark(job, number)).await?;
            worker.run("COMMIT").await?;
            return Ok((Batch::Last, String::new()));
        };
        let filter = if work.filter.is_empty() {
            String::new()
        } else {
            format!(" AND ({})", work.filter)
        };
        let update = format!(
            "WITH changed AS (UPDATE {} SET {} WHERE {}{filter} RETURNING 1) SELECT count(*) FROM changed",
            work.table,
            work.set,
            key.between(behind, &end)
        );
        let changed = worker.run(&update).await?;
        let changed: u64 = super::sql::first(changed)
            .and_then(|count| count.parse().ok())
            .unwrap_or(0);
        let kept = format!(
            "UPDATE pgctl.rollout_steps SET position = {}, rows = rows + {changed}, epoch = {} WHERE {}",
            super::sql::literal(&end),
            job.epoch,
            ledger::this(job, number)
        );
        worker.rows(&kept).await?;
        let done = Batch::Done(Entry {
            position: Some(end),
            rows: entry.rows + changed,
            ..entry.clone()
        });
        Ok((done, "COMMIT".to_owned()))
    };
    match attempt.await {
        Ok((batch, commit)) => {
            if !commit.is_empty() {
                // Not here any more if the epoch is over.
                job.still_ours()?;
                worker.run(&commit).await?;
            }
            Ok(batch)
        }
        Err::<_, crate::ports::SqlError>(error) => match trouble(error.code.as_deref()) {
            Trouble::Locked => {
                worker.rows("ROLLBACK").await?;
                Ok(Batch::Locked)
            }
            Trouble::Lost | Trouble::Refused => Err(error.into()),
        },
    }
}

/// Waits while anybody suffers more than is allowed.
async fn wait_for_relief(job: &Job, agent: &Db, table: u32, mut commit_ms: u64) -> Result<(), Stop> {
    loop {
        job.go_on()?;
        let pressure = pressure::look(job, agent, table, commit_ms).await?;
        let Some(why) = too_much(&pressure, &job.rollout.plan.limits) else {
            return Ok(());
        };
        job.tell(|live| {
            live.doing = "throttled";
            live.detail = why;
        });
        // A slow commit is reason for one pause, not for waiting until there is a quicker one.
        tokio::time::sleep(LOOK_AGAIN.max(Duration::from_millis(commit_ms.min(5_000)))).await;
        commit_ms = 0;
    }
}
