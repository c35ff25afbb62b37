//! A procedure that inserts and commits for seconds, and says of each commit that it is done.
//!
//! Only this goes on in a server process whose main process was killed: all others notice it when they next wait, for a client
//! or for a standby. It waits for a program instead, which notices nothing.

use super::client::{Attempt, Timing, Workload, Write, now};
use super::link::{Link, Notices, timeline};
use crate::checker::set::{Element, History};
use crate::rng::Rng;
use lab::Mono;
use std::time::Duration;
use tokio::time::sleep;

/// How many rows one call inserts: some four seconds of them.
const ROWS: u64 = 70;

/// How long the client rests after a call.
const REST: Duration = Duration::from_secs(2);

/// How much earlier than the server's clock says a row may have begun, because its clock is read at another moment here.
const CLOCKS_NS: u64 = 1_000_000;

/// What is made before the run.
pub const DEFINITION: &str = "
    CREATE TABLE jepsen_nothing (nothing text);
    CREATE PROCEDURE jepsen_insert(client int, from_seq bigint, rows int) LANGUAGE plpgsql AS $$
    DECLARE
        began bigint;
        timeline text;
    BEGIN
        FOR i IN 0 .. rows - 1 LOOP
            began := extract(epoch FROM clock_timestamp()) * 1000000;
            INSERT INTO jepsen_set VALUES (client, from_seq + i);
            timeline := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
            COMMIT;
            RAISE NOTICE 'committed % % %', from_seq + i, timeline, began;
            COPY jepsen_nothing FROM PROGRAM 'sleep 0.05';
        END LOOP;
    END $$;";

/// One client's calls.
#[derive(Debug)]
pub struct Procedure {
    number: u32,
    next: u64,
    /// What became of the rows.
    pub history: History,
}

impl Procedure {
    /// The workload of the client with this number.
    pub fn new(number: u32) -> Procedure {
        Procedure {
            number,
            next: 1,
            history: History::default(),
        }
    }

    /// Takes note of what the server said was committed.
    fn note(&mut self, heard: Notices) -> Vec<Write> {
        let mut writes = Vec::new();
        for (acked, said) in heard {
            if let Some((seq, timeline, began)) = committed(&said) {
                self.history.acked.insert((self.number, seq));
                let sent = Mono::of_wall_clock(began).nanos().saturating_sub(CLOCKS_NS);
                writes.push(Write {
                    sent: sent.min(acked),
                    acked,
                    timeline,
                });
            }
        }
        writes
    }
}

impl Workload for Procedure {
    async fn call(&mut self, link: &Link, _: &mut Rng, timing: &Timing) -> Attempt {
        let from = self.next;
        self.next += ROWS;
        let call = format!("CALL jepsen_insert({}, {from}, {ROWS})", self.number);
        let began = now();
        let ended = link.run(&call, timing.statement).await;
        let writes = self.note(link.heard());
        let all = (from..from + ROWS).map(|seq| (self.number, seq));
        let silent: Vec<Element> = all
            .filter(|element| !self.history.acked.contains(element))
            .collect();
        // Each may be there: what the server said may have been lost on the way.
        self.history.unknown.extend(silent);
        let broken = ended.err().map(|why| why.why().to_owned());
        if broken.is_none() {
            sleep(REST).await;
        }
        debug_assert!(writes.iter().all(|write| write.acked >= began));
        Attempt::Went { writes, broken }
    }
}

/// Reads what the procedure says: the row, its timeline, and when it began, in microseconds since 1970.
fn committed(said: &str) -> Option<(u64, u32, u64)> {
    let mut words = said.strip_prefix("committed ")?.split(' ');
    let (seq, written_on, began) = (words.next()?, words.next(), words.next()?);
    Some((seq.parse().ok()?, timeline(written_on)?, began.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_procedure_says() {
        assert_eq!(
            committed("committed 71 0000000A 1760000000000000"),
            Some((71, 10, 1_760_000_000_000_000))
        );
        assert_eq!(committed("something else"), None);
    }

    #[test]
    fn a_row_that_nobody_heard_of_may_be_there() {
        let mut procedure = Procedure::new(1);
        let writes = procedure.note(vec![(now(), "committed 5 00000002 1760000000000000".to_owned())]);
        assert_eq!(writes.len(), 1);
        assert!(procedure.history.acked.contains(&(1, 5)));
    }
}
