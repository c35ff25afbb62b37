//! Two versions of a schema side by side, on real servers: the steps as a rollout would run them, without the cluster.

mod meanings;
mod refusals;
mod side_by_side;
mod way_back;

use super::server::{Server, rows};
use ddl::expand::{
    Change, Contraction, Expansion, FACTS_SQL, Facts, Keep, Permits, VERSIONS_SQL, Version, changes,
    contract, steps, survey,
};
use ddl::plan::{Class, Step};
use tokio_postgres::Client;

/// As the agent makes it.
const LEDGER: &str = "
CREATE SCHEMA pgctl;
CREATE TABLE pgctl.versions (version text PRIMARY KEY, state text NOT NULL, expansion jsonb NOT NULL,
    begun timestamptz NOT NULL DEFAULT clock_timestamp(), changed timestamptz NOT NULL DEFAULT clock_timestamp());
GRANT USAGE ON SCHEMA pgctl TO app; GRANT SELECT, INSERT, UPDATE, DELETE ON pgctl.versions TO app;
";

/// A database of its own kind, owned by a role without special rights, as a rollout works in it.
pub struct Stage {
    /// A superuser's session.
    pub admin: Client,
    /// In the name of the role that carries changes out.
    pub worker: Client,
}

impl Stage {
    pub async fn set(server: &Server, setup: &str) -> Stage {
        let admin = server.connect().await.expect("a connection");
        admin
            .batch_execute(
                "DROP SCHEMA IF EXISTS app_v3 CASCADE; DROP SCHEMA IF EXISTS app_v2 CASCADE; DROP SCHEMA IF EXISTS pgctl CASCADE; \
                 DO $$ BEGIN CREATE ROLE app; CREATE ROLE program; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 GRANT CREATE ON DATABASE postgres TO app;",
            )
            .await
            .expect("a clean database");
        server.prepare(&admin, "").await.expect("a schema");
        admin
            .batch_execute("ALTER SCHEMA public OWNER TO app; GRANT USAGE ON SCHEMA public TO program")
            .await
            .expect("rights");
        admin.batch_execute(LEDGER).await.expect("a ledger");
        let worker = server.connect().await.expect("a connection");
        worker.batch_execute("SET ROLE app").await.expect("a role");
        worker.batch_execute(setup).await.expect("the setup runs");
        Stage { admin, worker }
    }

    pub async fn one(&self, sql: &str) -> String {
        one(&self.admin, sql).await
    }

    pub async fn facts(&self, tables: &[String]) -> Facts {
        let names: Vec<String> = tables.iter().map(|name| format!("'{name}'")).collect();
        let sql = FACTS_SQL
            .replace(":role", "'app'")
            .replace(":tables", &format!("ARRAY[{}]::text[]", names.join(", ")));
        // As the agent asks: names come out whole.
        let answer = format!("SET search_path = pg_catalog; {sql}; ");
        let text = one(&self.admin, &answer).await;
        self.admin
            .batch_execute("RESET search_path")
            .await
            .expect("a setting");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub async fn versions(&self) -> Vec<Version> {
        let text = self.one(VERSIONS_SQL).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub async fn survey(
        &self,
        version: &str,
        script: &str,
        permits: Permits,
    ) -> Result<Expansion, Vec<String>> {
        let change: Change = changes(&[("change.sql".to_owned(), script.to_owned())])?;
        let tables: Vec<String> = change.tables.keys().map(ToString::to_string).collect();
        let (facts, versions) = (self.facts(&tables).await, self.versions().await);
        survey(version, &change, &facts, &versions, permits).map(|survey| survey.expansion)
    }

    pub async fn plan(&self, script: &str) -> Vec<Step> {
        let expansion = self.survey("app_v2", script, Permits::default()).await;
        let expansion = expansion.unwrap_or_else(|refusals| panic!("refused: {refusals:?}"));
        steps(&expansion).expect("steps")
    }

    pub async fn contraction(&self, keep: Keep, unused_for_s: Option<u64>) -> Result<Vec<Step>, Vec<String>> {
        let versions = self.versions().await;
        let version = versions.last().expect("a version");
        let tables: Vec<String> = version
            .expansion
            .tables
            .iter()
            .map(ddl::expand::Table::sql)
            .collect();
        let facts = self.facts(&tables).await;
        contract(version, &facts, &versions, Contraction { keep, unused_for_s })
    }

    /// Runs steps as a rollout does.
    pub async fn run(&self, steps: &[Step]) -> Result<(), tokio_postgres::Error> {
        for step in steps {
            self.step(step).await?;
        }
        Ok(())
    }

    pub async fn step(&self, step: &Step) -> Result<(), tokio_postgres::Error> {
        match &step.class {
            Class::Transaction => {
                let settings = step.settings.join("; ");
                self.worker.batch_execute(&settings).await?;
                self.worker.batch_execute("BEGIN").await?;
                for sql in &step.sql {
                    if let Err(error) = self.worker.batch_execute(sql).await {
                        self.worker.batch_execute("ROLLBACK; RESET ALL").await?;
                        return Err(error);
                    }
                }
                self.worker.batch_execute("COMMIT; RESET ALL").await
            }
            Class::Backfill { table, set, filter } => {
                for part in 0..10 {
                    let batch = format!("UPDATE {table} SET {set} WHERE id % 10 = {part} AND ({filter})");
                    self.worker.batch_execute(&batch).await?;
                }
                Ok(())
            }
            _ => self.worker.batch_execute(&step.sql.join("; ")).await,
        }
    }

    /// Takes steps back, last first.
    pub async fn undo(&self, steps: &[Step]) -> Result<(), tokio_postgres::Error> {
        for step in steps.iter().rev() {
            let undo = match &step.class {
                Class::CreateIndex { index, .. } => {
                    format!("DROP INDEX CONCURRENTLY IF EXISTS public.{index}")
                }
                _ => format!("BEGIN; {}; COMMIT", step.undo.join("; ")),
            };
            assert!(
                !step.undo.is_empty() || matches!(step.class, Class::CreateIndex { .. }),
                "{step:?}"
            );
            self.worker.batch_execute(&undo).await?;
        }
        Ok(())
    }

    /// All that there is, as text: columns, indexes, constraints, triggers, views, functions, schemas.
    pub async fn schema(&self) -> String {
        self.one(
            "SELECT string_agg(line, chr(10) ORDER BY line) FROM (\
             SELECT format('column %s.%s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
               pg_get_expr(d.adbin, d.adrelid)) AS line FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
               LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE a.attnum > 0 AND NOT a.attisdropped \
               AND c.relkind IN ('r', 'v') AND c.relnamespace::regnamespace::text IN ('public', 'app_v2') \
             UNION ALL SELECT pg_get_indexdef(indexrelid) || ' ' || indisvalid FROM pg_index \
               WHERE indrelid::regclass::text IN (SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace) \
             UNION ALL SELECT format('%s %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated) \
               FROM pg_constraint WHERE conrelid <> 0 AND contype <> 'n' AND connamespace = 'public'::regnamespace \
             UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal \
             UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' \
             UNION ALL SELECT 'version ' || version || state FROM pgctl.versions \
             UNION ALL SELECT 'sequence ' || oid::regclass FROM pg_class WHERE relkind = 'S') lines",
        )
        .await
    }
}

/// The last value of the last row.
pub async fn one(client: &Client, sql: &str) -> String {
    let found = rows(client, sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    found
        .last()
        .and_then(|row| row.first())
        .cloned()
        .unwrap_or_else(|| panic!("no row for {sql}"))
}

/// What the server has said.
pub fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
