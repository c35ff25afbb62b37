//! One client: connects, calls, remembers, and connects again.

use super::link::{Link, Route};
use crate::checker::Nanos;
use crate::checker::one_writer::Ack;
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long a client waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For a connection, each address.
    pub connect: Duration,
    /// For the answer to one statement.
    pub statement: Duration,
    /// Between two calls.
    pub pace: Duration,
    /// Before the next attempt to connect.
    pub retry: Duration,
}

/// What a call came to.
#[derive(Debug)]
pub enum Attempt {
    /// A write was acknowledged: of a transaction, its commit was `sent` at that moment.
    Acked { sent: Nanos, timeline: u32 },
    /// Several writes were acknowledged on the way, and then the call ended well or, for this reason, the connection.
    Went {
        writes: Vec<Write>,
        broken: Option<String>,
    },
    /// Nothing was acknowledged; the connection is good for the next call.
    Refused(String),
    /// Nothing was acknowledged, and the connection is to be given up.
    Broken(String),
}

/// One acknowledged write.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// When it was sent, or began, at the earliest.
    pub sent: Nanos,
    /// When the acknowledgement arrived.
    pub acked: Nanos,
    /// The timeline that it was written on.
    pub timeline: u32,
}

/// What a client calls, and its memory of it.
pub trait Workload: Send {
    /// Makes one call and remembers what is to be checked of it.
    fn call(&mut self, link: &Link, rng: &mut Rng, timing: &Timing) -> impl Future<Output = Attempt> + Send;
}

/// What all clients of a run have seen up to now, for whoever waits for it.
#[derive(Debug, Default)]
pub struct Live {
    acked: AtomicU64,
    last_sent: AtomicU64,
}

impl Live {
    /// Acknowledged writes so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// When the acknowledged write was sent that was sent last.
    pub fn last_sent(&self) -> Nanos {
        self.last_sent.load(Ordering::Relaxed)
    }
}

/// What one client saw, beside what its workload remembers.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every acknowledged write.
    pub acks: Vec<Ack>,
    /// Why calls and connections failed, and how often.
    pub failures: BTreeMap<String, u64>,
}

/// A client.
pub struct Client<W> {
    pub name: String,
    pub route: Route,
    pub timing: Timing,
    pub workload: W,
    pub rng: Rng,
}

impl<W: Workload> Client<W> {
    /// Goes on, through whatever happens, until told to stop; counts in each of `live`.
    pub async fn run(mut self, live: &[&Live], stopped: watch::Receiver<bool>) -> (W, Seen) {
        let mut seen = Seen::default();
        while !*stopped.borrow() {
            match self.route.connect(self.timing.connect).await {
                Ok(link) => {
                    let why = self.serve(&link, live, &stopped, &mut seen).await;
                    if let Some(why) = why {
                        *seen.failures.entry(why).or_default() += 1;
                    }
                }
                Err(why) => *seen.failures.entry(format!("connect: {why:#}")).or_default() += 1,
            }
            sleep(self.timing.retry).await;
        }
        (self.workload, seen)
    }

    /// Calls until the connection breaks, and tells why.
    async fn serve(
        &mut self,
        link: &Link,
        live: &[&Live],
        stopped: &watch::Receiver<bool>,
        seen: &mut Seen,
    ) -> Option<String> {
        while !*stopped.borrow() {
            if self.route.is_loyal() {
                match link.is_standby(self.timing.statement).await {
                    Ok(false) => {}
                    Ok(true) => {
                        sleep(4 * self.timing.retry).await;
                        continue;
                    }
                    Err(why) => return Some(why.why().to_owned()),
                }
            }
            match self.workload.call(link, &mut self.rng, &self.timing).await {
                Attempt::Acked { sent, timeline } => {
                    let acked = now();
                    let write = Write {
                        sent,
                        acked,
                        timeline,
                    };
                    self.note(write, link, live, seen);
                }
                Attempt::Went { writes, broken } => {
                    for write in writes {
                        self.note(write, link, live, seen);
                    }
                    if broken.is_some() {
                        return broken;
                    }
                }
                Attempt::Refused(why) => *seen.failures.entry(why).or_default() += 1,
                Attempt::Broken(why) => return Some(why),
            }
            sleep(self.timing.pace).await;
        }
        None
    }

    fn note(&self, write: Write, link: &Link, live: &[&Live], seen: &mut Seen) {
        seen.acks.push(Ack {
            sent: write.sent,
            acked: write.acked,
            server: link.server.clone(),
            timeline: write.timeline,
            database: link.database.clone(),
            client: self.name.clone(),
        });
        for live in live {
            live.acked.fetch_add(1, Ordering::Relaxed);
            live.last_sent.fetch_max(write.sent, Ordering::Relaxed);
        }
    }
}

/// The present moment.
pub fn now() -> Nanos {
    lab::Mono::now().nanos()
}
