//! Every acknowledged insert is there in the end, once; nothing is there that nobody inserted.

use super::Finding;
use std::collections::{BTreeMap, BTreeSet};

/// An inserted element: which client, and its how manieth.
pub type Element = (u32, u64);

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Inserts that were acknowledged.
    pub acked: BTreeSet<Element>,
    /// Inserts whose end is not known: each may be there or not.
    pub unknown: BTreeSet<Element>,
}

/// Compares with what was found in the end: each element and how often it is there.
pub fn check(history: &History, found: &BTreeMap<Element, u64>) -> Finding {
    let mut finding = Finding::new("set", history.acked.len() as u64);
    let lost: Vec<&Element> = lost(history, found).collect();
    let doubled = || found.iter().filter(|(_, times)| **times > 1);
    let made_up = || {
        found
            .keys()
            .filter(|element| !history.acked.contains(element) && !history.unknown.contains(element))
    };
    let recovered = history
        .unknown
        .iter()
        .filter(|element| found.contains_key(element));
    finding.figures = BTreeMap::from([
        ("acked", history.acked.len() as u64),
        ("lost", lost.len() as u64),
        ("doubled", doubled().count() as u64),
        ("made_up", made_up().count() as u64),
        ("unknown", history.unknown.len() as u64),
        ("unknown_and_there", recovered.count() as u64),
    ]);
    for element in lost {
        finding.violated(format!("{element:?} was acknowledged and is not there"));
    }
    for (element, times) in doubled() {
        finding.violated(format!("{element:?} is there {times} times"));
    }
    for element in made_up() {
        finding.violated(format!("{element:?} is there and was never sent"));
    }
    finding
}

/// The acknowledged elements that are not there.
pub fn lost<'a>(
    history: &'a History,
    found: &'a BTreeMap<Element, u64>,
) -> impl Iterator<Item = &'a Element> {
    history
        .acked
        .iter()
        .filter(|element| !found.contains_key(element))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;

    fn history(acked: &[u64], unknown: &[u64]) -> History {
        let elements = |seqs: &[u64]| seqs.iter().map(|seq| (1, *seq)).collect();
        History {
            acked: elements(acked),
            unknown: elements(unknown),
        }
    }

    fn found(seqs: &[u64]) -> BTreeMap<Element, u64> {
        let mut found = BTreeMap::new();
        for seq in seqs {
            *found.entry((1, *seq)).or_default() += 1;
        }
        found
    }

    #[test]
    fn all_acknowledged_elements_are_there() {
        let finding = check(&history(&[1, 2, 3], &[]), &found(&[3, 2, 1]));
        assert_eq!(finding.outcome, Outcome::Holds);
        assert_eq!(finding.looked_at, 3);
    }

    #[test]
    fn an_unknown_insert_may_be_there_or_not() {
        let finding = check(&history(&[1], &[2, 3]), &found(&[1, 3]));
        assert_eq!(finding.outcome, Outcome::Holds);
        assert_eq!(finding.figures["unknown_and_there"], 1);
    }

    #[test]
    fn a_lost_element_is_found() {
        let finding = check(&history(&[1, 2], &[]), &found(&[1]));
        assert_eq!(finding.outcome, Outcome::Violated);
        assert_eq!(finding.figures["lost"], 1);
    }

    #[test]
    fn an_element_inserted_twice_is_found() {
        assert_eq!(
            check(&history(&[1], &[]), &found(&[1, 1])).outcome,
            Outcome::Violated
        );
    }

    #[test]
    fn an_element_that_nobody_sent_is_found() {
        assert_eq!(
            check(&history(&[1], &[2]), &found(&[1, 7])).outcome,
            Outcome::Violated
        );
    }
}
