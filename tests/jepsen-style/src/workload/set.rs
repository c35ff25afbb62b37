//! Inserts of rows that are all different.

use super::client::{Attempt, Timing, Workload, now};
use super::link::{Link, TIMELINE, text, timeline};
use crate::checker::set::History;
use crate::rng::Rng;

/// One client's inserts.
#[derive(Debug)]
pub struct Set {
    number: u32,
    seq: u64,
    /// What became of them.
    pub history: History,
}

impl Set {
    /// The workload of the client with this number.
    pub fn new(number: u32) -> Set {
        Set {
            number,
            seq: 0,
            history: History::default(),
        }
    }
}

impl Workload for Set {
    async fn call(&mut self, link: &Link, _: &mut Rng, timing: &Timing) -> Attempt {
        self.seq += 1;
        let element = (self.number, self.seq);
        let insert = format!(
            "INSERT INTO jepsen_set VALUES ({}, {}) RETURNING {TIMELINE}",
            self.number, self.seq
        );
        let sent = now();
        match link.run(&insert, timing.statement).await {
            Ok(rows) => {
                self.history.acked.insert(element);
                match timeline(text(&rows, 0)) {
                    Some(timeline) => Attempt::Acked { sent, timeline },
                    None => Attempt::Broken("an insert without a timeline".to_owned()),
                }
            }
            // An error may be older than the commit, or from a server that could not tell.
            Err(why) => {
                self.history.unknown.insert(element);
                Attempt::Broken(why.why().to_owned())
            }
        }
    }
}
