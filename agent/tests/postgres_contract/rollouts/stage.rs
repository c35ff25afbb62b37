//! A database to change, and agents that live and die over it.

use super::mortal::{Death, Fate, Group, MortalSeat, MortalServer};
use crate::bench::{Bench, Node, PATIENCE, conf};
use agent::ports::SchemaServer;
use agent::rollout::Rollouts;
use agent_core::cluster::{
    Applied, ClusterState, Command, Rejected, RolloutAct, RolloutLimits, RolloutPhase, RolloutPlan,
    RolloutStep, StepClass,
};
use agent_core::ids::{Epoch, NodeId, RequestId};
use agent_core::pg::TimelineId;
use agent_core::time::WallTime;
use ddl::plan::{Class, PlanOptions, Step};
use std::sync::Arc;
use tokio::sync::watch;

const ME: NodeId = NodeId(1);
const DATABASE: &str = "app";
pub const OWNER: &str = "app";

/// What there is before each change.
const SETUP: &str = "
DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION app; SET ROLE app;
CREATE TYPE mood AS ENUM ('fine', 'so-so');
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, mail text, mood mood, touched int NOT NULL DEFAULT 0);
INSERT INTO customers SELECT n, 'name ' || n, n || '@example', 'fine' FROM generate_series(1, 300) n;
CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, amount int, state text, touched int NOT NULL DEFAULT 0);
INSERT INTO orders SELECT n, 1 + n % 300, n % 1000, 'open' FROM generate_series(1, 700) n;
CREATE INDEX orders_state ON orders (state);
CREATE INDEX orders_amount ON orders (amount, id);
CREATE TABLE parts (day int NOT NULL, id int NOT NULL, x int, touched int NOT NULL DEFAULT 0, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES IN (3);
INSERT INTO parts SELECT 1 + n % 3, n, n FROM generate_series(1, 300) n;
";

/// The rows of all tables and the names of whatever is broken: what a dump of the schema does not show.
const CONTENT: &str = "
SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM (
  SELECT c.oid::regclass || ' ' || (xpath('/row/t/text()', query_to_xml(format(
    'SELECT count(*) || '' '' || coalesce(md5(string_agg(r::text, '','' ORDER BY r::text)), '''') AS t FROM %s r', c.oid::regclass),
    false, true, '')))[1]::text AS line
  FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
  UNION ALL SELECT 'invalid index ' || indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive)
  UNION ALL SELECT 'half detached ' || inhrelid::regclass FROM pg_inherits WHERE to_jsonb(pg_inherits) ->> 'inhdetachpending' = 'true'
) lines";

/// A server with a database, and the state of a group of one.
pub struct Stage {
    pub node: Node,
    group: Group,
    timeline: u32,
    changes: u32,
}

/// How an agent's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By its fate.
    Died,
    /// The rollout has come to an end, or waits for an operator.
    Rests(RolloutPhase),
}

impl Stage {
    pub async fn set(bench: &Bench) -> Stage {
        let mut config = bench.config("n1");
        config.rollout_role = Some(OWNER.to_owned());
        let node = Node::open(config);
        node.pg.initdb().await.unwrap();
        let mut stage = Stage {
            node,
            group: Group {
                state: Arc::new(watch::channel(Arc::new(ClusterState::default())).0),
            },
            timeline: 1,
            changes: 0,
        };
        stage.begin_epoch();
        stage.start().await;
        stage.node.pg.ensure_roles().await.unwrap();
        for sql in [
            "CREATE ROLE app LOGIN".to_owned(),
            format!("CREATE DATABASE {DATABASE} OWNER app"),
        ] {
            stage.node.pg.run_sql(&sql).await.unwrap();
        }
        stage
    }

    /// Starts the server, as a primary on a new timeline.
    async fn start(&mut self) {
        self.node.pg.start(&conf(None)).await.unwrap();
        self.node.until_standby(|_| true).await;
        self.timeline += 1;
        self.node
            .pg
            .promote(TimelineId(self.timeline), PATIENCE)
            .await
            .unwrap();
        self.node.until_primary(|_| true).await;
    }

    /// Grants another epoch, as after a failover to this same node.
    pub fn begin_epoch(&self) {
        self.group.change(|state| {
            state.epoch = Epoch(state.epoch.0 + 1);
            state.holder = Some(ME);
        });
    }

    fn session(&self) -> MortalServer {
        MortalServer {
            server: self.node.pg.clone(),
            fate: Fate::none(),
        }
    }

    async fn ask(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let server = self.session();
        let role = agent::ports::SqlRole::Agent;
        let session = server
            .open(DATABASE, role, &["search_path=public"])
            .await
            .unwrap();
        session
            .rows(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// Makes everything as it was in the beginning.
    pub async fn reset(&self) {
        // A rollout that failed would wait for an operator, and the next one for it.
        self.group
            .change(|state| state.rollouts = agent_core::cluster::Rollouts::default());
        // What an agent that died has left running would wait for us, or we for it.
        let left = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pgctl-rollout'";
        let old =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgctl-rollout'";
        let version = self.node.pg.server_version();
        self.ask(if version >= 140_000 { left } else { old }).await;
        self.ask(SETUP).await;
    }

    /// The schema, and what is in it.
    pub async fn picture(&self) -> String {
        let dump = self.session().dump(DATABASE).await.unwrap();
        // Newer servers put a random word around it.
        let schema: Vec<&str> = dump
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
            .collect();
        let content = self.ask(CONTENT).await;
        format!(
            "{}\n{}",
            schema.join("\n"),
            content[0][0].clone().unwrap_or_default()
        )
    }

    /// The steps of a script, as `pgctl ddl apply` would send them.
    pub async fn plan(&self, script: &str) -> Vec<RolloutStep> {
        let dump = self.session().dump(DATABASE).await.unwrap();
        let options = PlanOptions {
            lint: ddl::lint::Options {
                pg: u16::try_from(self.node.pg.server_version() / 10_000).unwrap(),
                ..ddl::lint::Options::default()
            },
            as_written: false,
        };
        let files = [("change.sql".to_owned(), script.to_owned())];
        let steps = ddl::plan::plan(&files, &ddl::lint::schema(&dump), &options);
        let steps = steps.unwrap_or_else(|why| panic!("{script}\n{why:?}"));
        steps.into_iter().map(kept).collect()
    }

    /// Orders a rollout.
    pub fn order(&mut self, steps: &[RolloutStep]) {
        self.changes += 1;
        let plan = RolloutPlan {
            name: "change.sql".to_owned(),
            database: DATABASE.to_owned(),
            steps: steps.to_vec(),
            // Several batches: there is more to die in.
            limits: RolloutLimits {
                batch_ms: 2,
                ..RolloutLimits::default()
            },
        };
        let request = RequestId(format!("change-{}", self.changes));
        self.direct(Some(request), RolloutAct::Start { plan }).unwrap();
    }

    /// Orders that it be undone; `false`: that is refused.
    pub fn order_undo(&self) -> bool {
        let id = RequestId(format!("change-{}", self.changes));
        self.direct(None, RolloutAct::Abort { id, undo: true }).is_ok()
    }

    fn direct(&self, request: Option<RequestId>, act: RolloutAct) -> Result<Applied, Rejected> {
        let command = Command::Rollout {
            request,
            act: Box::new(act),
            at: WallTime(1),
        };
        self.group.change(|state| state.apply(&command))
    }

    fn phase(state: &ClusterState) -> RolloutPhase {
        state
            .rollouts
            .current
            .as_ref()
            .map(|rollout| rollout.phase)
            .unwrap_or_default()
    }

    /// What is said of the rollout.
    pub fn message(&self) -> String {
        let state = self.group.state.borrow().clone();
        state
            .rollouts
            .current
            .as_ref()
            .map(|rollout| rollout.message.clone())
            .unwrap_or_default()
    }

    /// One agent's life.
    pub async fn live(&mut self, fate: &Arc<Fate>) -> End {
        let epoch = self.group.state.borrow().epoch;
        let server = MortalServer {
            server: self.node.pg.clone(),
            fate: Arc::clone(fate),
        };
        let seat = MortalSeat {
            node: ME,
            group: self.group.clone(),
            fate: Arc::clone(fate),
        };
        let rollouts = Rollouts::new(Arc::new(seat), Some(Arc::new(server)), move || Some(epoch));
        let (_stop, stopped) = watch::channel(false);
        let mut states = self.group.state.subscribe();
        let rests = states.wait_for(|state| {
            matches!(
                Stage::phase(state),
                RolloutPhase::Done | RolloutPhase::Aborted | RolloutPhase::Failed
            )
        });
        let end = tokio::select! {
            biased;
            () = fate.comes() => End::Died,
            () = rollouts.run(stopped) => unreachable!("nobody stopped it"),
            state = tokio::time::timeout(PATIENCE, rests) => {
                let state = state.unwrap_or_else(|_| panic!("it comes to no end: {}", self.message()));
                End::Rests(Stage::phase(&state.unwrap()))
            }
        };
        if end == End::Died && fate.death == Death::WithTheServer {
            self.node.pg.killer().kill(PATIENCE).unwrap();
            self.node.pg.wait_exit(PATIENCE).await.unwrap();
            self.start().await;
            self.begin_epoch();
        }
        end
    }
}

fn kept(step: Step) -> RolloutStep {
    let class = match step.class {
        Class::Transaction => StepClass::Transaction,
        Class::CreateIndex {
            table,
            index,
            unique,
            definition,
        } => StepClass::CreateIndex {
            table,
            index,
            unique,
            definition,
        },
        Class::DropIndex { index, if_exists } => StepClass::DropIndex { index, if_exists },
        Class::Reindex { relation } => StepClass::Reindex { relation },
        Class::Detach { parent, child } => StepClass::Detach { parent, child },
        Class::Backfill { table, set, filter } => StepClass::Backfill { table, set, filter },
        Class::Outside => StepClass::Outside,
    };
    RolloutStep {
        sql: step.sql,
        settings: step.settings,
        class,
        locks: step.locks,
        patient: step.patient,
        undo: step.undo,
        line: u32::try_from(step.line).unwrap(),
    }
}
