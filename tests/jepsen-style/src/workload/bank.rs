//! Transfers between accounts, and looks at all of them.

use super::append::rolled_back;
use super::client::{Attempt, Timing, Workload, now};
use super::link::{CONFIRM, Failed, Link, TIMELINE, text, timeline};
use crate::checker::bank::Read;
use crate::rng::Rng;
use std::collections::BTreeMap;

/// How many accounts there are.
pub const ACCOUNTS: u32 = 8;

/// How much money there is.
pub const TOTAL: i64 = 100 * ACCOUNTS as i64;

/// One client's transfers and looks.
#[derive(Debug)]
pub struct Bank {
    name: String,
    /// What its confirmed looks saw.
    pub reads: Vec<Read>,
}

impl Bank {
    /// The workload of the client of this name.
    pub fn new(name: &str) -> Bank {
        Bank {
            name: name.to_owned(),
            reads: Vec::new(),
        }
    }

    async fn look(&mut self, link: &Link, timing: &Timing) -> Attempt {
        let select = format!(
            "SELECT {TIMELINE}, (SELECT string_agg(account || ' ' || balance, ',') FROM jepsen_bank), {CONFIRM}"
        );
        let sent = now();
        let rows = match link.run(&select, timing.statement).await {
            Ok(rows) => rows,
            Err(why) => return Attempt::Broken(why.why().to_owned()),
        };
        self.reads.push(Read {
            who: format!("{}/{}", self.name, self.reads.len()),
            balances: balances(text(&rows, 1).unwrap_or_default()),
        });
        match timeline(text(&rows, 0)) {
            Some(timeline) => Attempt::Acked { sent, timeline },
            None => Attempt::Broken("an answer without a timeline".to_owned()),
        }
    }
}

impl Workload for Bank {
    async fn call(&mut self, link: &Link, rng: &mut Rng, timing: &Timing) -> Attempt {
        if rng.chance(40) {
            return self.look(link, timing).await;
        }
        let from = rng.below(ACCOUNTS.into());
        let to = (from + rng.between(1, u64::from(ACCOUNTS) - 1)) % u64::from(ACCOUNTS);
        let timeline = match transfer(link, timing, from, to, rng.between(1, 30)).await {
            Ok(timeline) => timeline,
            Err(why) => return rolled_back(link, timing, why).await,
        };
        let sent = now();
        match link.run("COMMIT", timing.statement).await {
            Ok(_) => Attempt::Acked { sent, timeline },
            Err(Failed::Refused(why)) => Attempt::Refused(why),
            Err(Failed::Broken(why)) => Attempt::Broken(why),
        }
    }
}

/// Moves money if there is enough, up to the commit.
async fn transfer(link: &Link, timing: &Timing, from: u64, to: u64, amount: u64) -> Result<u32, Failed> {
    link.run("BEGIN ISOLATION LEVEL SERIALIZABLE", timing.statement)
        .await?;
    let select = format!("SELECT balance FROM jepsen_bank WHERE account = {from}");
    let rows = link.run(&select, timing.statement).await?;
    let balance: u64 = text(&rows, 0).and_then(|text| text.parse().ok()).unwrap_or(0);
    if balance >= amount {
        for (account, sign) in [(from, '-'), (to, '+')] {
            let update =
                format!("UPDATE jepsen_bank SET balance = balance {sign} {amount} WHERE account = {account}");
            link.run(&update, timing.statement).await?;
        }
    }
    let rows = link
        .run(&format!("SELECT {TIMELINE}, {CONFIRM}"), timing.statement)
        .await?;
    timeline(text(&rows, 0)).ok_or_else(|| Failed::Broken("an answer without a timeline".to_owned()))
}

/// Reads `0 100,1 95`.
pub fn balances(text: &str) -> BTreeMap<u32, i64> {
    text.split(',')
        .filter_map(|one| {
            let (account, balance) = one.split_once(' ')?;
            Some((account.parse().ok()?, balance.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_balances_as_they_are_asked_for() {
        assert_eq!(balances("0 100,1 -5"), BTreeMap::from([(0, 100), (1, -5)]));
        assert_eq!(balances(""), BTreeMap::new());
    }
}
