//! Once the faults are over, writes are acknowledged again within a budget.

use super::{Finding, Nanos};
use std::collections::BTreeMap;

/// A span without faults: from when the last one was undone to when the next one was made.
#[derive(Clone, Debug)]
pub struct Calm {
    /// What was undone before it: for messages.
    pub after: String,
    /// When it began.
    pub from: Nanos,
    /// When it ended.
    pub to: Nanos,
}

/// Checks that in each calm that was longer than `budget` a write was acknowledged that was sent within it and not later
/// than `budget` after its beginning. `acks` are (sent, acknowledged), in any order.
pub fn check(acks: &[(Nanos, Nanos)], calms: &[Calm], budget: Nanos) -> Finding {
    let mut sorted = acks.to_vec();
    sorted.sort_unstable();
    let mut finding = Finding::new("recovery", 0);
    let mut longest = 0;
    for Calm { after, from, to } in calms {
        let first = first_after(&sorted, *from);
        let took = first.unwrap_or(*to).max(*from) - from;
        if first.is_none_or(|first| first > *to) && to - from <= budget {
            // The next fault came before the time was up: this calm shows nothing either way.
            continue;
        }
        finding.looked_at += 1;
        longest = longest.max(took);
        if took > budget || first.is_none() {
            finding.violated(format!(
                "{:.1} s after {after} was over, no write had been acknowledged; the budget is {:.1} s",
                took as f64 / 1e9,
                budget as f64 / 1e9
            ));
        }
    }
    finding.figures = BTreeMap::from([("longest_ms", longest / 1_000_000)]);
    finding
}

/// The first acknowledgement of a write that was sent at `from` or later.
fn first_after(sorted: &[(Nanos, Nanos)], from: Nanos) -> Option<Nanos> {
    let start = sorted.partition_point(|(sent, _)| *sent < from);
    sorted[start..].iter().map(|(_, acked)| *acked).min()
}

/// The longest time without an acknowledgement that touches `from..to`: when it began and how long it was. The run's begin
/// and end count as acknowledgements. `acked` must be sorted.
pub fn longest_gap(acked: &[Nanos], run: (Nanos, Nanos), from: Nanos, to: Nanos) -> (Nanos, Nanos) {
    let mut longest = (from, 0);
    let mut last = run.0;
    for at in acked.iter().copied().chain([run.1]) {
        if at > from && last < to && at - last > longest.1 {
            longest = (last, at - last);
        }
        last = last.max(at);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;

    fn calm(from: Nanos, to: Nanos) -> Calm {
        Calm {
            after: "a kill".to_owned(),
            from,
            to,
        }
    }

    #[test]
    fn a_write_within_the_budget_will_do() {
        let finding = check(&[(5, 6), (14, 15)], &[calm(10, 100)], 20);
        assert_eq!((finding.outcome, finding.looked_at), (Outcome::Holds, 1));
    }

    #[test]
    fn a_write_that_was_sent_before_shows_nothing() {
        assert_eq!(check(&[(5, 12)], &[calm(10, 100)], 20).outcome, Outcome::Violated);
    }

    #[test]
    fn a_write_that_comes_too_late_is_found() {
        assert_eq!(
            check(&[(40, 41)], &[calm(10, 100)], 20).outcome,
            Outcome::Violated
        );
    }

    #[test]
    fn silence_to_the_end_is_found() {
        assert_eq!(check(&[], &[calm(10, 100)], 20).outcome, Outcome::Violated);
    }

    #[test]
    fn a_calm_shorter_than_the_budget_shows_nothing() {
        let finding = check(&[(40, 41)], &[calm(10, 25)], 20);
        assert_eq!((finding.outcome, finding.looked_at), (Outcome::Holds, 0));
    }

    #[test]
    fn the_longest_gap_may_begin_before_the_span_and_end_after_it() {
        assert_eq!(longest_gap(&[10, 40, 45, 90], (0, 100), 20, 41), (10, 30));
        assert_eq!(longest_gap(&[10, 40], (0, 100), 50, 60), (40, 60));
    }
}
