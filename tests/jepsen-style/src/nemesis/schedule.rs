//! Which faults come when: from the seed alone, so that the same seed and options make the same schedule.

use super::fault::Fault;
use crate::rng::Rng;
use std::time::Duration;

/// Whom a fault is for. Who that is, is known when it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whom {
    /// The node that says that it is primary.
    Primary,
    /// One of the other data nodes.
    Standby,
    /// The node that leads the agents' group.
    RaftLeader,
    /// Any node, a witness too.
    Any,
}

/// One fault of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub fault: Fault,
    /// For whom.
    pub whom: Whom,
    /// A number for whatever else is to be chosen.
    pub pick: u64,
}

/// What comes after the faults of a step were undone and writes are acknowledged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The next step, after this time: perhaps before all standbys are back.
    For(Duration),
    /// The next step when all nodes are in sync.
    InSync,
}

/// One or two faults, for how long, and what then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What goes wrong.
    pub faults: Vec<Planned>,
    /// For how long.
    pub hold: Duration,
    /// What comes after it.
    pub rest: Rest,
}

/// The steps of a run, without end. `faults` must not be empty.
pub fn schedule(mut rng: Rng, faults: Vec<Fault>) -> impl Iterator<Item = Step> {
    // Every kind comes once before any comes again.
    let mut deck: Vec<Fault> = Vec::new();
    std::iter::from_fn(move || {
        if deck.is_empty() {
            deck = shuffled(&faults, &mut rng);
        }
        let first = deck.pop()?;
        let mut step = vec![planned(first, &mut rng)];
        if rng.chance(30) && !first.stands_alone() {
            let fits = |other: &Fault| !other.stands_alone() && other.family() != first.family();
            if let Some(at) = deck.iter().position(fits) {
                step.push(planned(deck.remove(at), &mut rng));
            }
        }
        let hold = match rng.below(10) {
            0..2 => rng.between(100, 1_000),
            2..7 => rng.between(1_000, 4_000),
            _ => rng.between(4_000, 9_000),
        };
        let rest = if rng.chance(50) {
            Rest::InSync
        } else {
            Rest::For(Duration::from_millis(rng.between(200, 5_000)))
        };
        Some(Step {
            faults: step,
            hold: Duration::from_millis(hold),
            rest,
        })
    })
}

fn planned(fault: Fault, rng: &mut Rng) -> Planned {
    let whom = match rng.below(100) {
        0..50 => Whom::Primary,
        50..70 => Whom::Standby,
        70..85 => Whom::RaftLeader,
        _ => Whom::Any,
    };
    Planned {
        fault,
        whom,
        pick: rng.next(),
    }
}

fn shuffled(faults: &[Fault], rng: &mut Rng) -> Vec<Fault> {
    let mut deck = faults.to_vec();
    for i in (1..deck.len()).rev() {
        deck.swap(i, rng.below(i as u64 + 1) as usize);
    }
    deck
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_schedule() {
        let first = |seed| -> Vec<Step> { schedule(Rng::new(seed), Fault::ALL.to_vec()).take(100).collect() };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn every_fault_comes() {
        let steps = schedule(Rng::new(3), Fault::ALL.to_vec()).take(Fault::ALL.len());
        let mut seen: Vec<Fault> = steps
            .flat_map(|step| step.faults)
            .map(|planned| planned.fault)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, Fault::ALL);
    }

    #[test]
    fn two_at_a_time_are_of_different_families_and_some_are_never_two() {
        let mut pairs = 0;
        for step in schedule(Rng::new(4), Fault::ALL.to_vec()).take(1_000) {
            if let [a, b] = step.faults.as_slice() {
                pairs += 1;
                assert_ne!(a.fault.family(), b.fault.family());
                assert!(!a.fault.stands_alone() && !b.fault.stands_alone());
            }
        }
        assert!(pairs > 100, "only {pairs} pairs");
    }
}
