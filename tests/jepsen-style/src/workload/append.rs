//! Serializable transactions of one to four steps on lists.

use super::client::{Attempt, Timing, Workload, now};
use super::link::{CONFIRM, Failed, Link, Rows, TIMELINE, text, timeline};
use crate::checker::append::{End, Step, Txn};
use crate::rng::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many transactions use a list, about, before the clients go on to the next ones.
const TXNS_PER_LIST: u64 = 40;

/// How many lists are in use at a time.
const LISTS_AT_ONCE: u64 = 4;

/// One client's transactions.
#[derive(Debug)]
pub struct Append {
    name: String,
    txns_of_all: Arc<AtomicU64>,
    lists: u64,
    next_element: u64,
    /// What they did and saw.
    pub txns: Vec<Txn>,
}

impl Append {
    /// The workload of the client with this number, on `lists` lists; the counter is shared by all clients.
    pub fn new(name: &str, number: u32, lists: u64, txns_of_all: Arc<AtomicU64>) -> Append {
        Append {
            name: name.to_owned(),
            txns_of_all,
            lists,
            next_element: u64::from(number) * 1_000_000_000,
            txns: Vec::new(),
        }
    }

    /// Runs the steps; `Ok` with the timeline if all is ready for the commit.
    async fn steps(
        &mut self,
        link: &Link,
        rng: &mut Rng,
        timing: &Timing,
        txn: &mut Txn,
    ) -> Result<u32, Failed> {
        let calls = self.txns_of_all.fetch_add(1, Ordering::Relaxed);
        let generation = calls / (TXNS_PER_LIST * LISTS_AT_ONCE);
        link.run("BEGIN ISOLATION LEVEL SERIALIZABLE", timing.statement)
            .await?;
        for _ in 0..rng.between(1, 4) {
            let list = (generation * LISTS_AT_ONCE + rng.below(LISTS_AT_ONCE)).min(self.lists - 1) as u32;
            if rng.chance(50) {
                self.next_element += 1;
                let element = self.next_element;
                // Noted before it is sent: from now on it may be there.
                txn.steps.push(Step::Append { list, element });
                let update = format!("UPDATE jepsen_append SET v = v || {element}::bigint WHERE k = {list}");
                link.run(&update, timing.statement).await?;
            } else {
                let select = format!("SELECT v FROM jepsen_append WHERE k = {list}");
                let rows = link.run(&select, timing.statement).await?;
                let Some(elements) = elements(text(&rows, 0)) else {
                    return Err(Failed::Broken(format!("list {list} is not there: {rows:?}")));
                };
                txn.steps.push(Step::Read { list, elements });
            }
        }
        let confirm = format!("SELECT {TIMELINE}, {CONFIRM}");
        let rows: Rows = link.run(&confirm, timing.statement).await?;
        timeline(text(&rows, 0)).ok_or_else(|| Failed::Broken("an answer without a timeline".to_owned()))
    }
}

impl Workload for Append {
    async fn call(&mut self, link: &Link, rng: &mut Rng, timing: &Timing) -> Attempt {
        let mut txn = Txn {
            who: format!("{}/{}", self.name, self.txns.len()),
            steps: Vec::new(),
            end: End::Aborted,
            invoked: now(),
            returned: 0,
        };
        let ready = self.steps(link, rng, timing, &mut txn).await;
        let attempt = match ready {
            Ok(timeline) => {
                let sent = now();
                let committed = link.run("COMMIT", timing.statement).await;
                txn.returned = now();
                match committed {
                    Ok(_) => {
                        txn.end = End::Committed;
                        Attempt::Acked { sent, timeline }
                    }
                    Err(why) => {
                        txn.end = End::Unknown;
                        given_up(why)
                    }
                }
            }
            Err(why) => rolled_back(link, timing, why).await,
        };
        self.txns.push(txn);
        attempt
    }
}

fn given_up(why: Failed) -> Attempt {
    match why {
        Failed::Refused(why) => Attempt::Refused(why),
        Failed::Broken(why) => Attempt::Broken(why),
    }
}

/// Ends a transaction whose commit was not asked for.
pub async fn rolled_back(link: &Link, timing: &Timing, why: Failed) -> Attempt {
    match (&why, link.run("ROLLBACK", timing.statement).await) {
        (Failed::Refused(why), Ok(_)) => Attempt::Refused(why.clone()),
        _ => Attempt::Broken(why.why().to_owned()),
    }
}

/// Reads `{1,2,3}`.
pub fn elements(text: Option<&str>) -> Option<Vec<u64>> {
    let inner = text?.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    inner.split(',').map(|element| element.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_arrays_as_the_server_writes_them() {
        assert_eq!(elements(Some("{}")), Some(vec![]));
        assert_eq!(elements(Some("{5,17}")), Some(vec![5, 17]));
        assert_eq!(elements(Some("{5,NULL}")), None);
        assert_eq!(elements(None), None);
    }
}
