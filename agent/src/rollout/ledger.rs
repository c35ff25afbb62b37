//! The rows in the database that say which steps have had their effect. Each is committed in the transaction of the effect, or
//! behind it, and reaches the standbys the same way: where the row is, the effect is. That they have reached the synchronous set
//! is made sure of by a commit of its own: one that waits keeps its locks meanwhile.

use super::job::{Job, Stop};
use super::sql::{Db, field, literal, name};
use agent_core::ids::Epoch;

const CREATE: &str = "BEGIN; CREATE SCHEMA IF NOT EXISTS pgctl; \
    CREATE TABLE IF NOT EXISTS pgctl.rollout_steps (rollout text NOT NULL, step int NOT NULL, epoch bigint NOT NULL, \
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), complete boolean NOT NULL, position text[], \
    bound text[], rows bigint NOT NULL DEFAULT 0, PRIMARY KEY (rollout, step)); \
    CREATE TABLE IF NOT EXISTS pgctl.versions (version text PRIMARY KEY, state text NOT NULL, expansion jsonb NOT NULL, \
    begun timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
    changed timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()); COMMIT";
/// A schema or table of that name that a lesser role owns could carry triggers, which would run with our rights.
const SAFE: &str = "SELECT coalesce(bool_and(r.rolsuper), false) FROM (\
    SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'pgctl' UNION ALL \
    SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'pgctl' AND relname IN ('rollout_steps', 'versions')) o JOIN pg_roles r ON r.oid = o.owner";

/// What the database says of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// It has had its effect; else it was only begun.
    pub complete: bool,
    /// Of a backfill: the key of the last row of the last batch, and of the last row that there was at the beginning, as
    /// PostgreSQL writes arrays of text.
    pub position: Option<String>,
    pub bound: Option<String>,
    pub rows: u64,
}

/// Sees to it that there is a ledger, which the role may write.
pub(super) async fn prepare(agent: &Db, role: &str) -> Result<(), Stop> {
    let role_text = literal(role);
    let usable = format!(
        "SELECT coalesce(has_schema_privilege({role_text}, to_regnamespace('pgctl')::oid, 'USAGE') AND \
         has_table_privilege({role_text}, to_regclass('pgctl.rollout_steps')::oid, 'INSERT') AND \
         has_table_privilege({role_text}, to_regclass('pgctl.versions')::oid, 'INSERT'), false)"
    );
    if !agent
        .truth("SELECT to_regclass('pgctl.rollout_steps') IS NOT NULL AND to_regclass('pgctl.versions') IS NOT NULL")
        .await?
    {
        agent.rows(CREATE).await?;
    }
    if !agent.truth(SAFE).await? {
        return Err(Stop::Refused(
            "the schema `pgctl` of this database belongs to a role that is no superuser; rename that schema"
                .to_owned(),
        ));
    }
    if !agent.truth(&usable).await? {
        let role = name(role);
        let grants = format!(
            "GRANT USAGE ON SCHEMA pgctl TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON pgctl.rollout_steps, pgctl.versions TO {role}"
        );
        agent.rows(&grants).await?;
    }
    Ok(())
}

/// The row of a step.
pub(super) async fn entry(db: &Db, job: &Job, step: u32) -> Result<Option<Entry>, Stop> {
    let sql = format!(
        "SELECT complete, position, bound, rows FROM pgctl.rollout_steps WHERE {}",
        this(job, step)
    );
    let rows = db.rows(&sql).await?;
    Ok(rows.first().map(|row| Entry {
        complete: field(row, 0) == "t",
        position: row.get(1).cloned().flatten(),
        bound: row.get(2).cloned().flatten(),
        rows: field(row, 3).parse().unwrap_or_default(),
    }))
}

/// How many steps from the first on have had their effect.
pub(super) async fn kept(agent: &Db, job: &Job) -> Result<u32, Stop> {
    if !agent
        .truth("SELECT to_regclass('pgctl.rollout_steps') IS NOT NULL")
        .await?
    {
        return Ok(0);
    }
    let sql = format!(
        "SELECT step FROM pgctl.rollout_steps WHERE rollout = {} AND complete ORDER BY step",
        literal(&job.rollout.id.0)
    );
    let rows = agent.rows(&sql).await?;
    let found = rows.iter().map(|row| field(row, 0).parse::<u32>());
    let kept = found
        .enumerate()
        .take_while(|(at, step)| step.as_ref().ok() == u32::try_from(*at).ok().as_ref());
    Ok(u32::try_from(kept.count()).unwrap_or(u32::MAX))
}

/// The statement that says that a step has had its effect.
pub(super) fn mark(job: &Job, step: u32) -> String {
    write(job, step, job.epoch, true)
}

/// The statement that says that a step is about to have its effect.
pub(super) fn begin(job: &Job, step: u32) -> String {
    write(job, step, job.epoch, false)
}

fn write(job: &Job, step: u32, epoch: Epoch, complete: bool) -> String {
    format!(
        "INSERT INTO pgctl.rollout_steps (rollout, step, epoch, complete) VALUES ({}, {step}, {epoch}, {complete}) \
         ON CONFLICT (rollout, step) DO UPDATE SET epoch = excluded.epoch, complete = excluded.complete, \
         at = pg_catalog.clock_timestamp()",
        literal(&job.rollout.id.0)
    )
}

/// The statement that forgets a step.
pub(super) fn forget(job: &Job, step: u32) -> String {
    format!("DELETE FROM pgctl.rollout_steps WHERE {}", this(job, step))
}

/// Which row is a step's, for WHERE.
pub(super) fn this(job: &Job, step: u32) -> String {
    format!("rollout = {} AND step = {step}", literal(&job.rollout.id.0))
}

/// Makes sure that the synchronous set has the row of a step, and all that was committed before it: a commit of its own that
/// waits for the set, without any lock that others need. A wait that was cancelled ends in a warning, and counts as nothing
/// known.
pub(super) async fn confirm(agent: &mut Db, job: &Job, step: u32) -> Result<(), Stop> {
    let touch = format!(
        "UPDATE pgctl.rollout_steps SET at = clock_timestamp() WHERE {} RETURNING 1",
        this(job, step)
    );
    agent.take_notices();
    if agent.run(&touch).await?.is_empty() {
        return Err(Stop::Unclear("the row of the step is not there".to_owned()));
    }
    let warnings: Vec<String> = agent
        .take_notices()
        .into_iter()
        .filter(|notice| notice.contains("synchronous") || notice.contains("committed locally"))
        .collect();
    if warnings.is_empty() {
        Ok(())
    } else {
        Err(Stop::Unclear(format!(
            "the commit was not acknowledged by the synchronous standbys: {}",
            warnings.join("; ")
        )))
    }
}
