//! All clients of a run, and what they remember in the end.

use crate::checker::append::{self, Txn};
use crate::checker::bank::Read;
use crate::checker::one_writer::Ack;
use crate::checker::{register, set, stale};
use crate::rng::Rng;
use crate::workload::{
    Append, Bank, Client, Kind, Live, Procedure, ReadAfterWrite, Register, Route, Seen, Set, Timing, Workload,
};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What all clients saw.
#[derive(Debug, Default)]
pub struct History {
    /// Every acknowledged write, of every workload, in the order of the acknowledgements.
    pub acks: Vec<Ack>,
    /// Acknowledged calls of each workload.
    pub acked_of: BTreeMap<&'static str, u64>,
    pub set: set::History,
    pub ops: Vec<register::Op>,
    pub txns: Vec<Txn>,
    pub reads: Vec<Read>,
    pub looks: Vec<stale::Look>,
    /// Why calls failed.
    pub failures: BTreeMap<String, u64>,
}

impl History {
    /// Calls whose end no client knows, of the workloads that remember them.
    pub fn unknown(&self) -> u64 {
        let ops = self
            .ops
            .iter()
            .filter(|op| op.answer == register::Answer::Unknown);
        let txns = self.txns.iter().filter(|txn| txn.end == append::End::Unknown);
        (self.set.unknown.len() + ops.count() + txns.count()) as u64
    }
}

/// What one client brings home.
enum Home {
    Set(Set),
    Register(Register),
    Append(Append),
    Bank(Bank),
    ReadAfterWrite(ReadAfterWrite),
    Procedure(Procedure),
}

/// Running clients.
pub struct Clients {
    stop: watch::Sender<bool>,
    /// What they have seen so far, together.
    pub live: Arc<Live>,
    /// The same, of each workload.
    pub live_of: BTreeMap<Kind, Arc<Live>>,
    tasks: Vec<(Kind, JoinHandle<(Home, Seen)>)>,
}

/// How many registers and lists a run of so many seconds may need.
pub fn keys(seconds: u64) -> u64 {
    300 + 10 * seconds
}

/// How clients behave that look for another server when theirs does not answer.
const RESTLESS: Timing = Timing {
    connect: Duration::from_secs(1),
    statement: Duration::from_secs(2),
    pace: Duration::from_millis(25),
    retry: Duration::from_millis(50),
};

/// How those behave that stay: they wait long for a server that does not answer.
const LOYAL: Timing = Timing {
    statement: Duration::from_secs(12),
    ..RESTLESS
};

impl Clients {
    /// Starts one client of each workload for each route.
    pub fn start(kinds: &[Kind], routes: &[Route], seconds: u64, mut rng: Rng) -> Clients {
        let (stop, stopped) = watch::channel(false);
        let mut clients = Clients {
            stop,
            live: Arc::default(),
            live_of: BTreeMap::new(),
            tasks: Vec::new(),
        };
        let calls = Arc::new(AtomicU64::new(0));
        let txns = Arc::new(AtomicU64::new(0));
        let keys = keys(seconds);
        let servers: Vec<_> = routes.iter().filter_map(Route::only_server).collect();
        let mut number = 0;
        for kind in kinds {
            for route in routes.iter().filter(|route| kind.takes(route)) {
                number += 1;
                let name = format!("{}-{}-{number}", kind.name(), route.name());
                let (calls, txns) = (Arc::clone(&calls), Arc::clone(&txns));
                let frame = Frame {
                    kind: *kind,
                    name: name.clone(),
                    route: route.clone(),
                    rng: rng.fork(),
                    stopped: stopped.clone(),
                };
                match kind {
                    Kind::Set => clients.add(frame, Set::new(number), Home::Set),
                    Kind::Register => clients.add(frame, Register::new(number, keys, calls), Home::Register),
                    Kind::Append => {
                        clients.add(frame, Append::new(&name, number, keys, txns), Home::Append);
                    }
                    Kind::Bank => clients.add(frame, Bank::new(&name), Home::Bank),
                    Kind::ReadAfterWrite => {
                        clients.add(frame, ReadAfterWrite::new(number, &servers), Home::ReadAfterWrite);
                    }
                    Kind::Procedure => clients.add(frame, Procedure::new(number), Home::Procedure),
                }
            }
        }
        clients
    }

    fn add<W: Workload + 'static>(
        &mut self,
        frame: Frame,
        workload: W,
        home: impl FnOnce(W) -> Home + Send + 'static,
    ) {
        let timing = if frame.route.is_loyal() { LOYAL } else { RESTLESS };
        let client = Client {
            name: frame.name,
            route: frame.route,
            timing,
            workload,
            rng: frame.rng,
        };
        let of_all = Arc::clone(&self.live);
        let of_kind = Arc::clone(self.live_of.entry(frame.kind).or_default());
        let stopped = frame.stopped;
        let task = tokio::spawn(async move {
            let (workload, seen) = client.run(&[&*of_all, &*of_kind], stopped).await;
            (home(workload), seen)
        });
        self.tasks.push((frame.kind, task));
    }

    /// Ends the clients, letting calls under way come to their end, and collects what they saw.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn stop(self) -> Result<History> {
        // Nobody listens only if every client has panicked already: the joins tell.
        let _ = self.stop.send(true);
        let mut history = History::default();
        for (kind, task) in self.tasks {
            let (home, seen) = task.await.context("a client panicked: a bug of this program")?;
            *history.acked_of.entry(kind.name()).or_default() += seen.acks.len() as u64;
            history.acks.extend(seen.acks);
            for (why, times) in seen.failures {
                *history.failures.entry(why).or_default() += times;
            }
            match home {
                Home::Set(Set { history: set, .. }) | Home::Procedure(Procedure { history: set, .. }) => {
                    history.set.acked.extend(set.acked);
                    history.set.unknown.extend(set.unknown);
                }
                Home::Register(register) => history.ops.extend(register.ops),
                Home::Append(append) => history.txns.extend(append.txns),
                Home::Bank(bank) => history.reads.extend(bank.reads),
                Home::ReadAfterWrite(looker) => history.looks.extend(looker.looks),
            }
        }
        history.acks.sort_by_key(|ack| ack.acked);
        Ok(history)
    }
}

struct Frame {
    kind: Kind,
    name: String,
    route: Route,
    rng: Rng,
    stopped: watch::Receiver<bool>,
}
