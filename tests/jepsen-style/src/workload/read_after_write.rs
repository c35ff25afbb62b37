//! Inserts, each followed by a look at a standby that has come so far.

use super::client::{Attempt, Timing, Workload, now};
use super::link::{Link, Route, TIMELINE, text, timeline};
use crate::checker::stale::{Look, Standby, lsn};
use crate::rng::Rng;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a standby may take to come so far, before the client looks all the same and goes on.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Between two questions to a standby.
const POLL: Duration = Duration::from_millis(10);

/// A server, and the connection to it if there is one.
struct Follower {
    name: String,
    route: Route,
    link: Option<Link>,
}

/// One client's inserts and looks.
pub struct ReadAfterWrite {
    number: u32,
    seq: u64,
    followers: Vec<Follower>,
    /// What the standbys showed.
    pub looks: Vec<Look>,
}

impl ReadAfterWrite {
    /// The workload of the client with this number, which looks at these servers.
    pub fn new(number: u32, servers: &[(String, SocketAddr)]) -> ReadAfterWrite {
        let follower = |(name, server): &(String, SocketAddr)| Follower {
            name: name.clone(),
            route: Route::Direct {
                name: name.clone(),
                server: *server,
            },
            link: None,
        };
        ReadAfterWrite {
            number,
            seq: 0,
            followers: servers.iter().map(follower).collect(),
            looks: Vec::new(),
        }
    }

    /// Looks at one server, if it is a standby that answers.
    async fn look(&mut self, which: usize, written_to: u64, timeline: u32, timing: &Timing) {
        let follower = &mut self.followers[which];
        if follower.link.is_none() {
            follower.link = follower.route.connect(timing.connect).await.ok();
        }
        let Some(link) = &follower.link else { return };
        let select = format!(
            "SELECT count(*) FROM jepsen_read_after_write WHERE client = {} AND seq = {}",
            self.number, self.seq
        );
        let end = Instant::now() + PATIENCE;
        let standby = loop {
            match standby(link, timing).await {
                Some(Some(standby)) if standby.is_past(timeline, written_to) => break standby,
                Some(Some(standby)) if Instant::now() >= end => break standby,
                Some(Some(_)) => sleep(POLL).await,
                Some(None) => return,
                None => {
                    follower.link = None;
                    return;
                }
            }
        };
        // Asked only after that, by a statement that sees at least what was there then.
        match link.run(&select, timing.statement).await {
            Ok(rows) => self.looks.push(Look {
                who: format!("{}/{}", self.number, self.seq),
                server: follower.name.clone(),
                at: now(),
                timeline,
                written_to,
                standby,
                seen: text(&rows, 0) == Some("1"),
            }),
            Err(_) => follower.link = None,
        }
    }
}

impl Workload for ReadAfterWrite {
    async fn call(&mut self, link: &Link, rng: &mut Rng, timing: &Timing) -> Attempt {
        self.seq += 1;
        let insert = format!(
            "INSERT INTO jepsen_read_after_write VALUES ({}, {}) RETURNING {TIMELINE}",
            self.number, self.seq
        );
        let sent = now();
        let written_on = match link.run(&insert, timing.statement).await {
            Ok(rows) => timeline(text(&rows, 0)),
            Err(why) => return Attempt::Broken(why.why().to_owned()),
        };
        let Some(written_on) = written_on else {
            return Attempt::Broken("an insert without a timeline".to_owned());
        };
        // At least the end of the commit. If the server is none any more, the row is acknowledged all the same.
        let position = link
            .run("SELECT pg_current_wal_insert_lsn()", timing.statement)
            .await;
        if let Some(written_to) = position.ok().as_ref().and_then(|rows| lsn(text(rows, 0)?)) {
            let which = rng.below(self.followers.len() as u64) as usize;
            self.look(which, written_to, written_on, timing).await;
        }
        Attempt::Acked {
            sent,
            timeline: written_on,
        }
    }
}

/// How far a server is: `Some(None)` if it is no standby, `None` if it does not answer.
async fn standby(link: &Link, timing: &Timing) -> Option<Option<Standby>> {
    let ask = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), \
               (SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming')";
    let rows = link.run(ask, timing.statement).await.ok()?;
    if text(&rows, 0) != Some("t") {
        return Some(None);
    }
    Some(Some(Standby {
        replayed_to: text(&rows, 1).and_then(lsn)?,
        streams: text(&rows, 2).and_then(|timeline| timeline.parse().ok()),
    }))
}
