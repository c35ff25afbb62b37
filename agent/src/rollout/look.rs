//! Who holds a lock, and who waits for us.

use super::job::Stop;
use super::sql::{Db, field, literal, relation};
use agent_core::cluster::RolloutStep;
use agent_core::rollout::conflicting;
use futures::future::Either;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often it is looked who waits for us.
const SAMPLE: Duration = Duration::from_millis(20);

/// A relation that a step locks.
#[derive(Debug, Clone)]
pub(super) struct Target {
    oid: u32,
    /// The modes that cannot be held beside it.
    against: &'static [&'static str],
}

/// Somebody who holds, or waits for, a lock that a step cannot have beside it.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub pid: i32,
    /// For people.
    pub who: String,
    pub relation: String,
    /// Of its transaction, milliseconds.
    pub age_ms: u64,
    /// It may be cancelled: an ordinary client's session.
    pub ordinary: bool,
    pub idle: bool,
}

/// The relations of a step that are there.
pub(super) async fn targets(worker: &Db, step: &RolloutStep) -> Result<Vec<Target>, Stop> {
    let mut targets = Vec::new();
    for (name, mode) in &step.locks {
        let oid: u32 = worker.number(&format!("SELECT {}::oid", relation(name))).await?;
        if oid != 0 {
            targets.push(Target {
                oid,
                against: conflicting(mode),
            });
        }
    }
    Ok(targets)
}

/// Those in the way whose transactions are older than `patience_ms`, oldest first.
pub(super) async fn in_the_way(agent: &Db, targets: &[Target], patience_ms: u64) -> Result<Vec<Other>, Stop> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let conditions: Vec<String> = targets
        .iter()
        .map(|target| {
            let modes: Vec<String> = target.against.iter().map(|mode| literal(mode)).collect();
            format!(
                "(l.relation = {} AND l.mode IN ({}))",
                target.oid,
                modes.join(", ")
            )
        })
        .collect();
    let sql = format!(
        "SELECT a.pid, l.relation::regclass::text, age.ms, coalesce(a.application_name, ''), coalesce(a.usename, ''), \
         coalesce(a.state, ''), coalesce(a.backend_type, ''), coalesce(r.rolsuper OR r.rolreplication, true) \
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_roles r ON r.oid = a.usesysid \
         CROSS JOIN LATERAL (SELECT coalesce(round(extract(epoch FROM clock_timestamp() - a.xact_start) * 1000), 0)::bigint) age(ms) \
         WHERE l.locktype = 'relation' AND l.pid <> pg_backend_pid() AND a.application_name <> 'pgctl-rollout' \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND age.ms >= {patience_ms} AND ({}) ORDER BY age.ms DESC",
        conditions.join(" OR ")
    );
    let others = agent.rows(&sql).await?.into_iter().map(|row| {
        let (application, user) = (field(&row, 3), field(&row, 4));
        let client = field(&row, 6) == "client backend";
        let pid = field(&row, 0);
        let who = if client {
            format!("{user} ({application}, pid {pid}, {})", field(&row, 5))
        } else {
            format!("{} (pid {pid})", field(&row, 6))
        };
        Other {
            pid: pid.parse().unwrap_or_default(),
            who,
            relation: field(&row, 1).to_owned(),
            age_ms: field(&row, 2).parse().unwrap_or_default(),
            ordinary: client
                && field(&row, 7) == "f"
                && application != "pgctl-agent"
                && application != "pg_dump",
            idle: field(&row, 5).starts_with("idle in transaction"),
        }
    });
    Ok(others.collect())
}

/// Cancels what an ordinary client's session is doing; where it does nothing and keeps its locks, ends it.
pub(super) async fn cancel(agent: &Db, other: &Other) -> Result<(), Stop> {
    if !other.ordinary {
        return Ok(());
    }
    let how = if other.idle {
        "pg_terminate_backend"
    } else {
        "pg_cancel_backend"
    };
    tracing::warn!(
        who = other.who,
        age_ms = other.age_ms,
        how,
        "a session in the way of a rollout is cancelled"
    );
    agent.rows(&format!("SELECT {how}({})", other.pid)).await?;
    Ok(())
}

/// Does `work` in the session `pid`, and says how long anybody was seen to wait for it, milliseconds.
pub(super) async fn watched<T>(agent: &Db, pid: i32, work: impl Future<Output = T>) -> (T, u64) {
    // Who waits behind a request that itself waits counts as well: pg_blocking_pids knows the queue.
    let sql = format!(
        "SELECT coalesce(max(round(extract(epoch FROM clock_timestamp() - l.waitstart) * 1000)), 0)::bigint \
         FROM pg_locks l WHERE NOT l.granted AND l.waitstart IS NOT NULL AND {pid} = ANY (pg_blocking_pids(l.pid))"
    );
    let longest = AtomicU64::new(0);
    let outcome = {
        let watch = std::pin::pin!(watch(agent, &sql, &longest));
        match futures::future::select(std::pin::pin!(work), watch).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((never, _)) => match never {},
        }
    };
    (outcome, longest.into_inner())
}

async fn watch(agent: &Db, sql: &str, longest: &AtomicU64) -> Infallible {
    loop {
        tokio::time::sleep(SAMPLE).await;
        // PostgreSQL 13 has no `waitstart`: there the bound has to do.
        if let Ok(seen) = agent.number::<u64>(sql).await {
            longest.fetch_max(seen, Ordering::Relaxed);
        }
    }
}
