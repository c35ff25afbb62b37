//! An agent that dies at the n-th thing that it does: its sessions with the server and its words to the group go through here.

use agent::ports::{
    Consensus, ProposeError, SchemaServer, ScratchServer, SqlError, SqlRole, SqlRows, SqlSession,
};
use agent::postgres::Instance;
use agent_core::cluster::{Applied, ClusterState, Command, Member};
use agent_core::ids::{NodeId, RequestId};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What is seen of the thing at which an agent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It is not done.
    Before,
    /// It was sent: the server goes on with it, and finds nobody to tell.
    Amid,
    /// It is done, and the agent does not learn of it.
    After,
    /// As `After`, and every process of the server is killed with the agent.
    WithTheServer,
}

/// When and how an agent dies.
pub struct Fate {
    at: u32,
    pub death: Death,
    done: AtomicU32,
    dead: watch::Sender<bool>,
}

/// What a thing that is about to be done has to expect.
enum Lot {
    Lives,
    Dies(Death),
    IsDead,
}

impl Fate {
    /// Dies at the thing with that number, counted from 0.
    pub fn at(number: u32, death: Death) -> Arc<Fate> {
        Arc::new(Fate {
            at: number,
            death,
            done: AtomicU32::new(0),
            dead: watch::channel(false).0,
        })
    }

    pub fn none() -> Arc<Fate> {
        Fate::at(u32::MAX, Death::Before)
    }

    /// How many things were begun.
    pub fn done(&self) -> u32 {
        self.done.load(Ordering::SeqCst)
    }

    pub async fn comes(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    fn next(&self) -> Lot {
        match self.done.fetch_add(1, Ordering::SeqCst) {
            number if number < self.at => Lot::Lives,
            number if number == self.at => Lot::Dies(self.death),
            _ => Lot::IsDead,
        }
    }

    /// Ends the agent, of which this is the last thing.
    async fn die<T>(&self) -> T {
        self.dead.send_replace(true);
        std::future::pending().await
    }

    /// Does a thing, or dies over it.
    async fn over<T>(&self, thing: impl Future<Output = T>) -> T {
        match self.next() {
            Lot::Lives => thing.await,
            Lot::IsDead | Lot::Dies(Death::Before) => self.die().await,
            Lot::Dies(Death::Amid) => {
                // Long enough for it to be on its way; what is quick is done by then.
                let _ = tokio::time::timeout(Duration::from_millis(2), thing).await;
                self.die().await
            }
            Lot::Dies(Death::After | Death::WithTheServer) => {
                thing.await;
                self.die().await
            }
        }
    }
}

/// The server, as a mortal agent reaches it.
pub struct MortalServer {
    pub server: Instance,
    pub fate: Arc<Fate>,
}

struct MortalSession {
    session: Box<dyn SqlSession>,
    fate: Arc<Fate>,
}

impl SqlSession for MortalSession {
    fn rows<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<SqlRows, SqlError>> {
        // Looking who waits is done by the clock: it would make the numbers of all other things differ from run to run.
        if sql.contains("pg_blocking_pids") {
            return self.session.rows(sql);
        }
        Box::pin(self.fate.over(self.session.rows(sql)))
    }

    fn take_notices(&mut self) -> Vec<String> {
        self.session.take_notices()
    }
}

impl SchemaServer for MortalServer {
    fn open<'a>(
        &'a self,
        database: &'a str,
        role: SqlRole,
        settings: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Box<dyn SqlSession>, SqlError>> {
        Box::pin(async move {
            let open = SchemaServer::open(&self.server, database, role, settings);
            let session = self.fate.over(open).await?;
            let fate = Arc::clone(&self.fate);
            Ok(Box::new(MortalSession { session, fate }) as Box<dyn SqlSession>)
        })
    }

    fn dump<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<String, String>> {
        self.server.dump(database)
    }

    fn scratch(&self) -> BoxFuture<'_, Result<Box<dyn ScratchServer>, String>> {
        self.server.scratch()
    }

    fn server_version(&self) -> u32 {
        self.server.server_version()
    }

    fn rollout_role(&self) -> Option<&str> {
        self.server.rollout_role()
    }

    fn archive_queue(&self) -> u64 {
        0
    }

    fn room(&self) -> Option<(u64, u64)> {
        None
    }
}

/// The replicated state of a group of one.
#[derive(Clone)]
pub struct Group {
    pub state: Arc<watch::Sender<Arc<ClusterState>>>,
}

impl Group {
    pub fn change<T>(&self, change: impl FnOnce(&mut ClusterState) -> T) -> T {
        let mut answer = None;
        self.state
            .send_modify(|state| answer = Some(change(Arc::make_mut(state))));
        answer.unwrap()
    }
}

/// The group, as a mortal agent reaches it.
pub struct MortalSeat {
    pub node: NodeId,
    pub group: Group,
    pub fate: Arc<Fate>,
}

impl Consensus for MortalSeat {
    fn state(&self) -> Arc<ClusterState> {
        self.group.state.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.group.state.subscribe()
    }

    fn node_id(&self) -> NodeId {
        self.node
    }

    fn raft_leader(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn leads(&self) -> bool {
        true
    }

    fn applied_index(&self) -> u64 {
        0
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn propose(&self, command: Command, _: Duration) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(async move {
            let apply = async { self.group.change(|state| state.apply(&command)) };
            self.fate.over(apply).await.map_err(ProposeError::Rejected)
        })
    }

    fn add_member(&self, _: RequestId, _: Member) -> BoxFuture<'_, Result<NodeId, ProposeError>> {
        none_such()
    }

    fn remove_member(&self, _: RequestId, _: NodeId) -> BoxFuture<'_, Result<(), ProposeError>> {
        none_such()
    }
}

fn none_such<T: Send + 'static>() -> BoxFuture<'static, Result<T, ProposeError>> {
    let detail = "a group of one has no other members".to_owned();
    Box::pin(std::future::ready(Err(ProposeError::Stopped { detail })))
}
