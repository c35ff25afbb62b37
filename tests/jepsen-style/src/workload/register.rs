//! Registers: read, write and compare-and-set, each in one statement.

use super::client::{Attempt, Timing, Workload, now};
use super::link::{CONFIRM, Link, Rows, TIMELINE, text, timeline};
use crate::checker::register::{Answer, Call, Op};
use crate::rng::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many calls a register gets, about, before its clients go on to the next ones: the search for an order of the calls
/// takes long for long histories.
const CALLS_PER_KEY: u64 = 120;

/// How many registers are in use at a time.
const KEYS_AT_ONCE: u64 = 3;

/// One client's calls.
#[derive(Debug)]
pub struct Register {
    calls_of_all: Arc<AtomicU64>,
    keys: u64,
    /// The last value seen of a register: what a compare-and-set expects.
    last: (u32, u64),
    next_value: u64,
    /// What was called, and what came back.
    pub ops: Vec<Op>,
}

impl Register {
    /// The workload of the client with this number, on `keys` registers; the counter is shared by all clients.
    pub fn new(number: u32, keys: u64, calls_of_all: Arc<AtomicU64>) -> Register {
        Register {
            calls_of_all,
            keys,
            last: (0, 0),
            // Every value is written once, so that a read tells whose write it saw.
            next_value: u64::from(number) * 1_000_000_000,
            ops: Vec::new(),
        }
    }

    fn choose(&mut self, rng: &mut Rng) -> (u32, Call) {
        let calls = self.calls_of_all.fetch_add(1, Ordering::Relaxed);
        let generation = calls / (CALLS_PER_KEY * KEYS_AT_ONCE);
        let key = (generation * KEYS_AT_ONCE + rng.below(KEYS_AT_ONCE)).min(self.keys - 1) as u32;
        let choice = rng.below(3);
        if choice == 0 {
            return (key, Call::Read);
        }
        self.next_value += 1;
        let to = self.next_value;
        if choice == 1 {
            return (key, Call::Write(to));
        }
        let from = if self.last.0 == key { self.last.1 } else { 0 };
        (key, Call::Cas { from, to })
    }
}

impl Workload for Register {
    async fn call(&mut self, link: &Link, rng: &mut Rng, timing: &Timing) -> Attempt {
        let (key, call) = self.choose(rng);
        let statement = match call {
            Call::Read => format!("SELECT {TIMELINE}, v, {CONFIRM} FROM jepsen_register WHERE k = {key}"),
            Call::Write(to) => {
                format!("UPDATE jepsen_register SET v = {to} WHERE k = {key} RETURNING {TIMELINE}, v")
            }
            // One that changes nothing saw something, and must be confirmed as a read is.
            Call::Cas { from, to } => format!(
                "WITH done AS (UPDATE jepsen_register SET v = {to} WHERE k = {key} AND v = {from} RETURNING v) \
                 SELECT {TIMELINE}, (SELECT v FROM done), {CONFIRM}"
            ),
        };
        let invoked = now();
        let result = link.run(&statement, timing.statement).await;
        let returned = now();
        let answer = match &result {
            Ok(rows) => answered(call, rows),
            Err(_) => Some(Answer::Unknown),
        };
        let Some(answer) = answer else {
            return Attempt::Broken(format!("an answer that makes no sense: {result:?}"));
        };
        match (call, answer) {
            (_, Answer::Value(value)) => self.last = (key, value),
            (Call::Write(to), Answer::Written) | (Call::Cas { to, .. }, Answer::Swapped(true)) => {
                self.last = (key, to);
            }
            _ => {}
        }
        self.ops.push(Op {
            key,
            call,
            answer,
            invoked,
            returned,
        });
        match result {
            Ok(rows) => match timeline(text(&rows, 0)) {
                Some(timeline) => Attempt::Acked {
                    sent: invoked,
                    timeline,
                },
                None => Attempt::Broken("an answer without a timeline".to_owned()),
            },
            Err(why) => Attempt::Broken(why.why().to_owned()),
        }
    }
}

fn answered(call: Call, rows: &Rows) -> Option<Answer> {
    let value = text(rows, 1);
    match call {
        Call::Read => Some(Answer::Value(value?.parse().ok()?)),
        Call::Write(_) => value.map(|_| Answer::Written),
        Call::Cas { .. } => Some(Answer::Swapped(value.is_some())),
    }
}
