//! At no moment do two servers acknowledge writes.
//!
//! Each promotion begins a timeline with a higher number, so in a sound history a write that is *sent* after a later
//! timeline's first acknowledgement has *arrived* is never acknowledged by an earlier one. A write that was under way at
//! that moment proves nothing: its answer may have left the old server in time and been held up by the network. Clients
//! that write all the time make any real overlap show within one round trip.

use super::{Finding, Nanos};
use std::collections::BTreeMap;

/// One acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Just before the write (of a transaction: its commit) was sent.
    pub sent: Nanos,
    /// When the acknowledgement had arrived.
    pub acked: Nanos,
    /// The server that acknowledged.
    pub server: String,
    /// The timeline that it was writing.
    pub timeline: u32,
    /// The identity of its database.
    pub database: String,
    /// Which client: for messages.
    pub client: String,
}

/// One server writing one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The timeline.
    pub timeline: u32,
    /// The server.
    pub server: String,
    /// When its first acknowledgement arrived.
    pub first: Nanos,
    /// When its last one did.
    pub last: Nanos,
    /// How many there were.
    pub acks: u64,
}

/// The reigns in the order of their timelines; two of one timeline are two servers.
pub fn reigns(acks: &[Ack]) -> Vec<Reign> {
    let mut reigns: BTreeMap<(u32, &str), Reign> = BTreeMap::new();
    for ack in acks {
        let reign = reigns
            .entry((ack.timeline, &ack.server))
            .or_insert_with(|| Reign {
                timeline: ack.timeline,
                server: ack.server.clone(),
                first: ack.acked,
                last: ack.acked,
                acks: 0,
            });
        reign.first = reign.first.min(ack.acked);
        reign.last = reign.last.max(ack.acked);
        reign.acks += 1;
    }
    reigns.into_values().collect()
}

/// Checks the acknowledgements of all clients, in any order.
pub fn check(acks: &[Ack]) -> Finding {
    let mut finding = Finding::new("one writer", acks.len() as u64);
    let reigns = reigns(acks);
    for pair in reigns.windows(2) {
        if pair[0].timeline == pair[1].timeline {
            finding.violated(format!("two servers wrote one timeline: {:?}", pair));
        }
    }
    if let Some(first) = acks.first()
        && let Some(other) = acks.iter().find(|ack| ack.database != first.database)
    {
        finding.violated(format!(
            "there are two databases: {} of {} and {} of {}",
            first.database, first.server, other.database, other.server
        ));
    }
    // The earliest first acknowledgement of any later timeline, for each reign.
    let mut earliest: Option<&Reign> = None;
    let mut taken_over: BTreeMap<u32, &Reign> = BTreeMap::new();
    for reign in reigns.iter().rev() {
        if let Some(newer) = earliest.filter(|newer| newer.timeline > reign.timeline) {
            taken_over.insert(reign.timeline, newer);
        }
        if earliest.is_none_or(|known| reign.first < known.first) {
            earliest = Some(reign);
        }
    }
    let mut under_way = 0;
    let mut closest = u64::MAX;
    for ack in acks {
        let Some(newer) = taken_over.get(&ack.timeline) else {
            continue;
        };
        if ack.sent > newer.first {
            finding.violated(format!(
                "{} acknowledged on timeline {} a write of {} that was sent {} us after {} had acknowledged its first on \
                 timeline {}",
                ack.server,
                ack.timeline,
                ack.client,
                (ack.sent - newer.first) / 1_000,
                newer.server,
                newer.timeline
            ));
        } else if ack.acked > newer.first {
            under_way += 1;
            finding.note(format!(
                "no proof: {} on timeline {} answered {} {} us after {}'s first answer on timeline {}, to a write sent {} \
                 us before it",
                ack.server,
                ack.timeline,
                ack.client,
                (ack.acked - newer.first) / 1_000,
                newer.server,
                newer.timeline,
                (newer.first - ack.sent) / 1_000
            ));
        } else {
            closest = closest.min(newer.first - ack.acked);
        }
    }
    finding.figures = BTreeMap::from([("reigns", reigns.len() as u64), ("answers_under_way", under_way)]);
    if closest != u64::MAX {
        finding
            .figures
            .insert("shortest_silence_between_us", closest / 1_000);
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;

    /// An acknowledgement at `us` of a write that was sent 100 us before.
    fn ack(us: u64, timeline: u32, server: &str) -> Ack {
        Ack {
            sent: (us - 100) * 1_000,
            acked: us * 1_000,
            server: server.to_owned(),
            timeline,
            database: "7".to_owned(),
            client: "c1".to_owned(),
        }
    }

    #[test]
    fn one_after_the_other_is_well() {
        let finding = check(&[ack(1_000, 1, "a"), ack(2_000, 2, "b"), ack(3_000, 5, "a")]);
        assert_eq!(finding.outcome, Outcome::Holds);
        assert_eq!(finding.figures["shortest_silence_between_us"], 1_000);
    }

    #[test]
    fn an_old_primary_that_goes_on_for_a_moment_is_found() {
        let late = ack(2_101, 1, "a");
        let finding = check(&[ack(1_000, 1, "a"), ack(2_000, 2, "b"), late]);
        assert_eq!(finding.outcome, Outcome::Violated, "{finding:?}");
    }

    #[test]
    fn one_that_goes_on_after_two_more_is_found_too() {
        let acks = [
            ack(1_000, 1, "a"),
            ack(2_000, 2, "b"),
            ack(3_000, 3, "c"),
            ack(2_500, 1, "a"),
        ];
        assert_eq!(check(&acks).outcome, Outcome::Violated);
    }

    #[test]
    fn an_answer_that_was_under_way_is_no_proof_and_is_told() {
        let mut under_way = ack(5_000, 1, "a");
        under_way.sent = 1_900_000;
        let finding = check(&[ack(1_000, 1, "a"), ack(2_000, 2, "b"), under_way]);
        assert_eq!(finding.outcome, Outcome::Holds);
        assert_eq!(
            (finding.figures["answers_under_way"], finding.details.len()),
            (1, 1)
        );
    }

    #[test]
    fn two_servers_on_one_timeline_are_found() {
        assert_eq!(
            check(&[ack(1_000, 2, "a"), ack(2_000, 2, "b")]).outcome,
            Outcome::Violated
        );
    }

    #[test]
    fn a_second_database_is_found() {
        let mut other = ack(2_000, 2, "b");
        other.database = "8".to_owned();
        assert_eq!(check(&[ack(1_000, 1, "a"), other]).outcome, Outcome::Violated);
    }
}
