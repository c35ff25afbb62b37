//! Statements tried on an empty copy of the schema, on a server of its own: which locks they take, which files they write anew,
//! what they read from beginning to end. None of that depends on how many rows there are.

use super::sql::{Db, field, literal, name};
use crate::ports::{SchemaServer, SqlError, SqlRole, SqlRows, SqlSession};
use agent_core::cluster::{RolloutStep, StepClass};
use agent_core::rollout::strength;
use proto::rollout as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// No change of an empty schema takes so long.
const STEP_WITHIN: Duration = Duration::from_secs(30);
const LOAD_WITHIN: Duration = Duration::from_secs(120);

/// Traces steps one after the other, each on what those before it have made.
pub(super) async fn of(
    server: &dyn SchemaServer,
    database: &str,
    steps: &[RolloutStep],
) -> Result<Vec<wire::Traced>, String> {
    let dump = server.dump(database).await?;
    let said = |error: SqlError| error.message;
    let role = server.rollout_role().unwrap_or_default();
    let rights = rights(server, database, role).await.map_err(said)?;
    let scratch = server.scratch().await?;
    let loader = scratch
        .open(SqlRole::Agent, &["check_function_bodies=off"])
        .await
        .map_err(said)?;
    load(loader.as_ref(), &dump, &rights.memberships).await?;
    grant(loader.as_ref(), role, &rights).await.map_err(said)?;
    // Not as a superuser: what a script may do there is what it may do in the cluster.
    let mut session = scratch
        .open(
            SqlRole::Rollout,
            &["client_min_messages=debug1", "check_function_bodies=off"],
        )
        .await
        .map_err(said)?;
    let mut traced = Vec::new();
    for step in steps {
        traced.push(one(session.as_mut(), step).await);
    }
    Ok(traced)
}

/// What the role that carries schema changes out may do in the cluster.
struct Rights {
    superuser: bool,
    /// The roles that it is a member of.
    memberships: Vec<String>,
}

async fn rights(server: &dyn SchemaServer, database: &str, role: &str) -> Result<Rights, SqlError> {
    let agent = Db::open(server, database, SqlRole::Agent, &[]).await?;
    let role = literal(role);
    let superuser = agent
        .truth(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = {role}"))
        .await?;
    let sql = format!(
        "SELECT r.rolname FROM pg_roles r JOIN pg_roles own ON own.rolname = {role} \
         WHERE pg_has_role(own.oid, r.oid, 'MEMBER') AND r.oid <> own.oid AND NOT r.rolsuper AND NOT own.rolsuper \
         AND r.rolname <> 'pg_database_owner'"
    );
    let memberships = agent.rows(&sql).await?;
    Ok(Rights {
        superuser,
        memberships: memberships.iter().map(|row| field(row, 0).to_owned()).collect(),
    })
}

async fn grant(session: &dyn SqlSession, role: &str, rights: &Rights) -> Result<(), SqlError> {
    let quoted = name(role);
    let mut script = format!(
        "{} ALTER ROLE {quoted} LOGIN; ALTER DATABASE postgres OWNER TO {quoted};",
        make_role(role)
    );
    if rights.superuser {
        script.push_str(&format!(" ALTER ROLE {quoted} SUPERUSER;"));
    }
    for membership in &rights.memberships {
        script.push_str(&format!(" GRANT {} TO {quoted};", name(membership)));
    }
    session.rows(&script).await.map(drop)
}

fn make_role(role: &str) -> String {
    format!(
        "DO $pgctl$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {0}) THEN \
         EXECUTE format('CREATE ROLE %I', {0}); END IF; END $pgctl$;",
        literal(role)
    )
}

/// Loads a dump. Roles that it names are made first, without rights: it is theirs to own.
async fn load(session: &dyn SqlSession, dump: &str, memberships: &[String]) -> Result<(), String> {
    let mut script = String::new();
    for role in roles(dump).iter().chain(memberships) {
        script.push_str(&make_role(role));
    }
    // Newer versions of pg_dump frame their output with commands to psql.
    for line in dump
        .lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
    {
        script.push_str(line);
        script.push('\n');
    }
    let loaded = tokio::time::timeout(LOAD_WITHIN, session.rows(&script)).await;
    loaded
        .map_err(|_| format!("the schema was not loaded within {LOAD_WITHIN:?}"))?
        .map(drop)
        .map_err(|error| format!("the schema does not load on an empty server: {}", error.message))
}

/// The roles that a dump names: `OWNER TO`, `GRANT ... TO`, `FOR ROLE`.
fn roles(dump: &str) -> BTreeSet<String> {
    let mut roles = BTreeSet::new();
    for line in dump.lines() {
        let relevant = line.contains(" OWNER TO ")
            || line.starts_with("GRANT ")
            || line.starts_with("REVOKE ")
            || line.starts_with("ALTER DEFAULT PRIVILEGES ")
            || line.starts_with("CREATE POLICY ");
        if !relevant {
            continue;
        }
        for marker in [" TO ", " FROM ", " FOR ROLE "] {
            for (at, _) in line.match_indices(marker) {
                let rest = &line[at + marker.len()..];
                let role = match rest.strip_prefix('"') {
                    Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
                    None => rest
                        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                };
                if !role.is_empty() && !role.eq_ignore_ascii_case("public") {
                    roles.insert(role);
                }
            }
        }
    }
    roles
}

async fn one(session: &mut dyn SqlSession, step: &RolloutStep) -> wire::Traced {
    let mut traced = wire::Traced::default();
    let why = match &step.class {
        StepClass::Transaction | StepClass::Backfill { .. } => None,
        StepClass::CreateIndex { .. } => {
            Some("CREATE INDEX CONCURRENTLY runs in no transaction, in which locks could be seen")
        }
        StepClass::DropIndex { .. } => {
            Some("DROP INDEX CONCURRENTLY runs in no transaction, in which locks could be seen")
        }
        StepClass::Reindex { .. } => {
            Some("REINDEX CONCURRENTLY runs in no transaction, in which locks could be seen")
        }
        StepClass::Detach { .. } => {
            Some("DETACH CONCURRENTLY runs in no transaction, in which locks could be seen")
        }
        StepClass::Outside => Some("it runs in no transaction, in which locks could be seen"),
    };
    if let Some(why) = why {
        // It runs all the same: whether it can, and what those behind it find, is worth knowing.
        why.clone_into(&mut traced.not_traced);
        if let Err(error) = bounded(session, &step.sql.join("; ")).await {
            traced.error = error.message;
        }
        session.take_notices();
        return traced;
    }
    if let Err(error) = looked_at(session, step, &mut traced).await {
        traced.error = error.message;
        // A transaction that failed is of no use to those behind it.
        let _ = session.rows("ROLLBACK").await;
        session.take_notices();
    }
    traced
}

async fn looked_at(
    session: &mut dyn SqlSession,
    step: &RolloutStep,
    traced: &mut wire::Traced,
) -> Result<(), SqlError> {
    for setting in &step.settings {
        bounded(session, setting).await?;
    }
    session.rows("BEGIN").await?;
    let before = relations(session).await?;
    let scans_before = scans(session).await?;
    session.take_notices();
    for sql in &step.sql {
        bounded(session, sql).await?;
    }
    traced.said = session
        .take_notices()
        .into_iter()
        .filter_map(|notice| telling(&notice))
        .collect();
    let mut locks: BTreeMap<String, String> = BTreeMap::new();
    let held = "SELECT relation, mode FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() \
                AND locktype = 'relation' AND granted";
    for row in session.rows(held).await? {
        let Some(known) = before.get(field(&row, 0)) else {
            continue;
        };
        let mode = field(&row, 1).to_owned();
        let strongest = locks.entry(known.name.clone()).or_insert_with(|| mode.clone());
        if strength(&mode) > strength(strongest) {
            *strongest = mode;
        }
    }
    // What everybody takes who names a table is not worth telling.
    traced.locks = locks
        .into_iter()
        .filter(|(_, mode)| strength(mode) > strength("RowShareLock"))
        .map(|(relation, mode)| wire::Lock { relation, mode })
        .collect();
    let after = relations(session).await?;
    let scans_after = scans(session).await?;
    for (oid, known) in &before {
        let table = matches!(known.kind.as_str(), "r" | "m");
        if table && after.get(oid).is_some_and(|now| now.file != known.file) {
            traced.rewrites.push(known.name.clone());
        }
        if scans_after.get(oid).unwrap_or(&0) > scans_before.get(oid).unwrap_or(&0) {
            traced.scans.push(known.name.clone());
        }
    }
    session.rows("COMMIT").await?;
    Ok(())
}

/// What the server says of its own accord that a reader of the plan should know.
fn telling(notice: &str) -> Option<String> {
    let text = notice.split_once(": ").map_or(notice, |(_, text)| text);
    let known = [
        "rewriting table",
        "verifying table",
        "validating foreign key constraint",
        "building index",
        "partition constraint",
        "existing constraints",
    ];
    known
        .iter()
        .any(|start| text.starts_with(start) || text.contains(start))
        .then(|| text.to_owned())
}

async fn bounded(session: &dyn SqlSession, sql: &str) -> Result<SqlRows, SqlError> {
    match tokio::time::timeout(STEP_WITHIN, session.rows(sql)).await {
        Ok(answer) => answer,
        Err(_) => Err(SqlError {
            code: None,
            message: format!("it was not done on an empty schema within {STEP_WITHIN:?}"),
        }),
    }
}

struct Relation {
    name: String,
    kind: String,
    file: String,
}

async fn relations(session: &dyn SqlSession) -> Result<BTreeMap<String, Relation>, SqlError> {
    let sql = "SELECT c.oid, CASE WHEN n.nspname = 'public' THEN pg_catalog.quote_ident(c.relname) \
               ELSE pg_catalog.format('%I.%I', n.nspname, c.relname) END, c.relkind, c.relfilenode \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind <> 'S'";
    let rows = session.rows(sql).await?;
    let relations = rows.into_iter().map(|row| {
        let relation = Relation {
            name: field(&row, 1).to_owned(),
            kind: field(&row, 2).to_owned(),
            file: field(&row, 3).to_owned(),
        };
        (field(&row, 0).to_owned(), relation)
    });
    Ok(relations.collect())
}

async fn scans(session: &dyn SqlSession) -> Result<BTreeMap<String, u64>, SqlError> {
    let sql = "SELECT relid, coalesce(seq_scan, 0) FROM pg_catalog.pg_stat_xact_user_tables";
    let rows = session.rows(sql).await?;
    let scans = rows.into_iter().map(|row| {
        (
            field(&row, 0).to_owned(),
            field(&row, 1).parse().unwrap_or_default(),
        )
    });
    Ok(scans.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_that_a_dump_names_are_found() {
        let dump = "ALTER TABLE public.t OWNER TO app;\nGRANT SELECT ON TABLE public.t TO \"Read Only\";\n\
                    GRANT ALL ON SCHEMA public TO PUBLIC;\nREVOKE ALL ON TABLE t FROM PUBLIC;\n\
                    ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public GRANT SELECT ON TABLES TO reader;\n\
                    COMMENT ON TABLE t IS 'from A TO b';\n";
        let found: Vec<String> = roles(dump).into_iter().collect();
        assert_eq!(found, ["Read Only", "app", "owner", "reader"]);
    }

    #[test]
    fn of_what_the_server_says_only_the_work_it_does_is_told() {
        assert_eq!(
            telling("DEBUG: rewriting table \"t\"").as_deref(),
            Some("rewriting table \"t\"")
        );
        assert_eq!(telling("DEBUG: CommitTransaction(1)"), None);
    }
}
