//! What the clients saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Mono;

/// A row's identity: the client that wrote it, and that client's count, from 1.
pub type RowId = (u32, u64);

/// One acknowledged row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// Which row.
    pub id: RowId,
    /// Just before it was sent.
    pub sent: Mono,
    /// When the acknowledgement had arrived.
    pub acked: Mono,
    /// Who acknowledged: the server's own address, also behind a proxy.
    pub server: SocketAddr,
    /// The timeline that this server was writing.
    pub timeline: u32,
}

/// A time in which nobody got an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The last acknowledgement before it.
    pub from: Mono,
    /// The first acknowledgement after it, or the end of the run.
    pub to: Mono,
}

impl Gap {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// All that the clients of one run saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// When the run began and ended.
    pub run: Gap,
    /// Acknowledged rows in the order in which they were acknowledged.
    pub acks: Vec<Ack>,
    /// Rows that were sent and then neither acknowledged nor refused for certain: they may or may not be there.
    pub unknown: Vec<RowId>,
    /// Why calls failed, with how often and when last: for messages.
    pub failures: BTreeMap<String, (u64, Mono)>,
}

impl History {
    /// The longest time without an acknowledgement that ended after `after` (it may have begun before it). If
    /// nothing was acknowledged after `after`, it lasts until the end of the run.
    pub fn longest_gap(&self, after: Mono) -> Gap {
        self.longest_gap_between(after, self.run.to)
    }

    /// As [`History::longest_gap`], of the gaps that began before `before`.
    pub fn longest_gap_between(&self, after: Mono, before: Mono) -> Gap {
        let mut longest = Gap {
            from: after,
            to: after,
        };
        let mut last = self.run.from;
        for at in self.acks.iter().map(|ack| ack.acked).chain([self.run.to]) {
            let gap = Gap { from: last, to: at };
            if at > after && last < before && gap.length() > longest.length() {
                longest = gap;
            }
            last = at;
        }
        longest
    }

    /// Acknowledged rows.
    pub fn acked(&self) -> u64 {
        self.acks.len() as u64
    }

    /// The first acknowledgement of a row that was sent after `after`; of any server, or of one.
    pub fn first_ack_after(&self, after: Mono, server: Option<SocketAddr>) -> Option<&Ack> {
        self.acks
            .iter()
            .find(|ack| ack.sent >= after && server.is_none_or(|server| server == ack.server))
    }

    /// The last acknowledgement by one server.
    pub fn last_ack_of(&self, server: SocketAddr) -> Option<&Ack> {
        self.acks.iter().rev().find(|ack| ack.server == server)
    }

    /// Proof that two servers were writable at once, if the clients saw any: a row that was *sent* after a row on a
    /// later timeline had been *acknowledged*, and was acknowledged itself; or one timeline with two servers.
    ///
    /// Each promotion begins a timeline with a higher number, so in a healthy history timelines never go back.
    pub fn two_writers(&self) -> Option<(&Ack, &Ack)> {
        let mut first_of: BTreeMap<u32, &Ack> = BTreeMap::new();
        for ack in &self.acks {
            let first = first_of.entry(ack.timeline).or_insert(ack);
            if first.server != ack.server {
                return Some((first, ack));
            }
        }
        self.acks.iter().find_map(|late| {
            let newer = first_of.range(late.timeline + 1..).map(|(_, first)| *first);
            newer
                .into_iter()
                .find(|newer| late.sent > newer.acked)
                .map(|newer| (newer, late))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An acknowledgement of a row sent one millisecond before.
    fn ack(at_ms: u64, timeline: u32, port: u16) -> Ack {
        let at = Mono::at_ms;
        Ack {
            id: (1, at_ms),
            sent: at(at_ms - 1),
            acked: at(at_ms),
            server: SocketAddr::from(([127, 0, 0, 1], port)),
            timeline,
        }
    }

    fn history(acks: Vec<Ack>) -> History {
        let run = Gap {
            from: Mono::at_ms(0),
            to: Mono::at_ms(10_000),
        };
        History {
            run,
            acks,
            unknown: Vec::new(),
            failures: BTreeMap::new(),
        }
    }

    #[test]
    fn a_gap_may_begin_before_the_fault_but_must_end_after_it() {
        let h = history(vec![
            ack(1000, 1, 1),
            ack(4000, 1, 1),
            ack(5000, 1, 1),
            ack(7000, 2, 2),
            ack(9500, 2, 2),
        ]);
        assert_eq!(
            h.longest_gap(Mono::at_ms(5100)).length(),
            Duration::from_millis(2500)
        );
        assert_eq!(
            h.longest_gap_between(Mono::at_ms(5100), Mono::at_ms(6000)),
            Gap {
                from: Mono::at_ms(5000),
                to: Mono::at_ms(7000)
            }
        );
    }

    #[test]
    fn silence_after_the_fault_is_a_gap_to_the_end() {
        let h = history(vec![ack(1000, 1, 1)]);
        assert_eq!(
            h.longest_gap(Mono::at_ms(1500)).length(),
            Duration::from_millis(9000)
        );
    }

    #[test]
    fn roles_that_move_and_come_back_are_not_two_writers() {
        let h = history(vec![ack(1000, 1, 1), ack(2000, 2, 2), ack(3000, 3, 1)]);
        assert!(h.two_writers().is_none());
    }

    #[test]
    fn an_old_primary_that_goes_on_is_found() {
        let h = history(vec![ack(1000, 1, 1), ack(2000, 2, 2), ack(2500, 1, 1)]);
        let (newer, late) = h
            .two_writers()
            .expect("server 1 acknowledged after server 2 had taken over");
        assert_eq!((newer.server.port(), late.server.port()), (2, 1));
    }

    #[test]
    fn an_acknowledgement_that_was_under_way_is_no_proof() {
        let mut under_way = ack(2001, 1, 1);
        under_way.sent = Mono::at_ms(1900);
        assert!(
            history(vec![ack(1000, 1, 1), ack(2000, 2, 2), under_way])
                .two_writers()
                .is_none()
        );
    }

    #[test]
    fn one_timeline_on_two_servers_is_found() {
        assert!(
            history(vec![ack(1000, 2, 1), ack(2000, 2, 2)])
                .two_writers()
                .is_some()
        );
    }
}
