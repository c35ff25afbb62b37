//! Linearizability of registers with read, write and compare-and-set.
//!
//! The search is Wing and Gong's with Lowe's memory, as porcupine does it, for each key by itself: try every call that may
//! come next, remember which sets of calls with which value led nowhere. A call of unknown end may take effect at any time
//! after it began, or never (which is the same as after everything else).

use super::{Finding, Nanos};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What was asked of a register. Registers begin as 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Its value.
    Read,
    /// To hold this.
    Write(u64),
    /// To hold `to` if it holds `from`.
    Cas { from: u64, to: u64 },
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To a read.
    Value(u64),
    /// To a write.
    Written,
    /// To a compare-and-set: whether it was done.
    Swapped(bool),
    /// Nothing that says how it ended.
    Unknown,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Op {
    /// Of which register.
    pub key: u32,
    /// What was asked.
    pub call: Call,
    /// What came back.
    pub answer: Answer,
    /// Just before it was sent.
    pub invoked: Nanos,
    /// When the answer had arrived; without meaning where it is unknown.
    pub returned: Nanos,
}

/// Checks every key. `budget` is the largest number of steps of the search for one key; beyond it the key is undecided.
pub fn check(ops: &[Op], budget: u64) -> Finding {
    let mut finding = Finding::new("register", ops.len() as u64);
    let mut keys: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        keys.entry(op.key).or_default().push(op);
    }
    let (mut steps_most, mut undecided) = (0, 0);
    for (key, ops) in &keys {
        let mut search = Search::new(ops, budget);
        let result = search.run();
        steps_most = steps_most.max(search.steps);
        match result {
            Some(true) => {}
            Some(false) => finding.violated(format!(
                "key {key}: no order explains its {} calls; the longest that was found explains {}, and then none of \
                 these can come next: {:?}",
                ops.len(),
                search.deepest.0,
                search.deepest.1
            )),
            None => {
                undecided += 1;
                finding.undecided(format!(
                    "key {key}: given up after {budget} steps over {} calls",
                    ops.len()
                ));
            }
        }
    }
    finding.figures = BTreeMap::from([
        ("keys", keys.len() as u64),
        ("keys_undecided", undecided),
        ("steps_most", steps_most),
        (
            "unknown",
            ops.iter().filter(|op| op.answer == Answer::Unknown).count() as u64,
        ),
    ]);
    finding
}

/// The value after a call, if its answer is possible at a register that holds `value`.
fn step(op: &Op, value: u64) -> Option<u64> {
    match (op.call, op.answer) {
        (Call::Read, Answer::Value(read)) => (read == value).then_some(value),
        (Call::Write(to), Answer::Written | Answer::Unknown) => Some(to),
        (Call::Cas { from, to }, Answer::Swapped(true)) => (from == value).then_some(to),
        (Call::Cas { from, .. }, Answer::Swapped(false)) => (from != value).then_some(value),
        (Call::Cas { from, to }, Answer::Unknown) => Some(if from == value { to } else { value }),
        (Call::Read, Answer::Unknown) => Some(value),
        // An answer to another question: nothing explains it.
        _ => None,
    }
}

struct Search<'a> {
    /// By the time of the call.
    ops: Vec<&'a Op>,
    known: usize,
    budget: u64,
    steps: u64,
    /// How many calls the longest order holds, and what could have come next there.
    deepest: (usize, Vec<&'a Op>),
}

/// A place in the search: what has taken effect, and which calls may come next.
struct Place {
    done: Vec<u64>,
    known_done: usize,
    depth: usize,
    value: u64,
    next: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(ops: &[&'a Op], budget: u64) -> Search<'a> {
        let mut ops: Vec<&Op> = matters(ops);
        ops.sort_by_key(|op| op.invoked);
        let known = ops.iter().filter(|op| op.answer != Answer::Unknown).count();
        Search {
            ops,
            known,
            budget,
            steps: 0,
            deepest: (0, Vec::new()),
        }
    }

    /// Whether there is an order; `None` if the budget is used up.
    fn run(&mut self) -> Option<bool> {
        let mut seen: HashSet<(Vec<u64>, u64)> = HashSet::new();
        let mut stack = vec![self.place(vec![0; self.ops.len().div_ceil(64)], 0, 0, 0)];
        while let Some(place) = stack.last_mut() {
            if place.known_done == self.known {
                return Some(true);
            }
            let Some(index) = place.next.pop() else {
                stack.pop();
                continue;
            };
            self.steps += 1;
            if self.steps > self.budget {
                return None;
            }
            let op = self.ops[index];
            let Some(value) = step(op, place.value) else {
                continue;
            };
            let mut done = place.done.clone();
            done[index / 64] |= 1 << (index % 64);
            let known_done = place.known_done + usize::from(op.answer != Answer::Unknown);
            let depth = place.depth + 1;
            if seen.insert((done.clone(), value)) {
                let place = self.place(done, known_done, depth, value);
                stack.push(place);
            }
        }
        Some(false)
    }

    /// Calls that may come next are those that began before any other call that is not done yet ended.
    fn place(&mut self, done: Vec<u64>, known_done: usize, depth: usize, value: u64) -> Place {
        let open = |index: &usize| done[index / 64] & (1 << (index % 64)) == 0;
        let mut horizon = Nanos::MAX;
        let mut next = Vec::new();
        for index in (0..self.ops.len()).filter(open) {
            let op = self.ops[index];
            if op.invoked > horizon {
                break;
            }
            if op.answer != Answer::Unknown {
                horizon = horizon.min(op.returned);
            }
            next.push(index);
        }
        next.retain(|index| self.ops[*index].invoked <= horizon);
        // Taken from the end: calls of known end first, the earliest of them first.
        next.sort_by_key(|index| {
            (
                self.ops[*index].answer != Answer::Unknown,
                std::cmp::Reverse(*index),
            )
        });
        if depth >= self.deepest.0 {
            self.deepest = (
                depth,
                next.iter().rev().take(4).map(|index| self.ops[*index]).collect(),
            );
        }
        Place {
            done,
            known_done,
            depth,
            value,
            next,
        }
    }
}

/// Leaves out calls of unknown end that cannot matter: reads, and changes to a value that nobody ever saw (unless a failed
/// compare-and-set may need it to explain what it did not find).
fn matters<'a>(ops: &[&'a Op]) -> Vec<&'a Op> {
    let mut seen = BTreeSet::new();
    let mut last_miss = None;
    for op in ops {
        match (op.call, op.answer) {
            (_, Answer::Value(value)) => {
                seen.insert(value);
            }
            (Call::Cas { .. }, Answer::Swapped(false)) => last_miss = last_miss.max(Some(op.returned)),
            (Call::Cas { from, .. }, _) => {
                seen.insert(from);
            }
            _ => {}
        }
    }
    let matters = |op: &&&Op| match (op.call, op.answer) {
        (Call::Read, Answer::Unknown) => false,
        (Call::Write(to) | Call::Cas { to, .. }, Answer::Unknown) => {
            seen.contains(&to) || last_miss > Some(op.invoked)
        }
        _ => true,
    };
    ops.iter().filter(matters).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;
    use crate::rng::Rng;

    fn op(call: Call, answer: Answer, invoked: Nanos, returned: Nanos) -> Op {
        Op {
            key: 0,
            call,
            answer,
            invoked,
            returned,
        }
    }

    fn read(value: u64, invoked: Nanos, returned: Nanos) -> Op {
        op(Call::Read, Answer::Value(value), invoked, returned)
    }

    fn write(value: u64, invoked: Nanos, returned: Nanos) -> Op {
        op(Call::Write(value), Answer::Written, invoked, returned)
    }

    fn lost_write(value: u64, invoked: Nanos) -> Op {
        op(Call::Write(value), Answer::Unknown, invoked, 0)
    }

    fn cas(from: u64, to: u64, swapped: bool, invoked: Nanos, returned: Nanos) -> Op {
        op(
            Call::Cas { from, to },
            Answer::Swapped(swapped),
            invoked,
            returned,
        )
    }

    fn outcome(ops: &[Op]) -> Outcome {
        check(ops, 100_000).outcome
    }

    #[test]
    fn calls_one_after_the_other_are_explained() {
        let ops = [
            read(0, 1, 2),
            write(1, 3, 4),
            read(1, 5, 6),
            cas(1, 2, true, 7, 8),
            cas(1, 3, false, 9, 10),
            read(2, 11, 12),
        ];
        assert_eq!(outcome(&ops), Outcome::Holds);
    }

    #[test]
    fn a_read_beside_a_write_may_see_either() {
        for seen in [0, 1] {
            assert_eq!(outcome(&[write(1, 1, 10), read(seen, 2, 9)]), Outcome::Holds);
        }
    }

    #[test]
    fn a_stale_read_is_found() {
        assert_eq!(outcome(&[write(1, 1, 2), read(0, 3, 4)]), Outcome::Violated);
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        let ops = [write(1, 1, 10), read(1, 2, 3), read(0, 4, 5)];
        assert_eq!(outcome(&ops), Outcome::Violated);
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_eq!(
            outcome(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]),
            Outcome::Violated
        );
    }

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        assert_eq!(outcome(&[read(7, 1, 2)]), Outcome::Violated);
    }

    #[test]
    fn two_swaps_of_one_value_are_found() {
        assert_eq!(
            outcome(&[cas(0, 1, true, 1, 5), cas(0, 2, true, 2, 6)]),
            Outcome::Violated
        );
    }

    #[test]
    fn an_unknown_write_may_show_at_any_later_time_or_never() {
        assert_eq!(outcome(&[lost_write(1, 1), read(0, 2, 3)]), Outcome::Holds);
        assert_eq!(
            outcome(&[lost_write(1, 1), read(0, 2, 3), read(1, 4, 5)]),
            Outcome::Holds
        );
    }

    #[test]
    fn an_unknown_write_shows_once() {
        let ops = [lost_write(1, 1), read(1, 2, 3), write(2, 4, 5), read(1, 6, 7)];
        assert_eq!(outcome(&ops), Outcome::Violated);
    }

    #[test]
    fn an_unknown_write_cannot_show_before_it_was_sent() {
        assert_eq!(outcome(&[read(1, 1, 2), lost_write(1, 3)]), Outcome::Violated);
    }

    #[test]
    fn an_unseen_unknown_write_may_be_why_a_swap_failed() {
        let ops = [lost_write(1, 1), cas(0, 2, false, 2, 3)];
        assert_eq!(outcome(&ops), Outcome::Holds);
    }

    #[test]
    fn keys_are_apart() {
        let mut other = read(0, 3, 4);
        other.key = 1;
        assert_eq!(outcome(&[write(1, 1, 2), other]), Outcome::Holds);
    }

    #[test]
    fn a_search_beyond_its_budget_is_no_pass() {
        assert_eq!(
            check(&[write(1, 1, 2), read(1, 3, 4)], 1).outcome,
            Outcome::Undecided
        );
    }

    /// A history as a real register makes it: each call takes effect at a moment between its begin and its end.
    fn made(seed: u64, clients: u64, calls: usize) -> Vec<Op> {
        let mut rng = Rng::new(seed);
        let mut free_at: Vec<Nanos> = (0..clients).map(|i| 10 * i).collect();
        let mut planned: Vec<(Nanos, Op)> = Vec::new();
        for written in 1..=calls as u64 {
            let client = rng.below(clients) as usize;
            let invoked = free_at[client] + rng.between(1, 30);
            let effect = invoked + rng.between(1, 50);
            let returned = effect + rng.between(1, 50);
            free_at[client] = returned;
            let call = match rng.below(3) {
                0 => Call::Read,
                1 => Call::Write(written),
                _ => Call::Cas { from: 0, to: written },
            };
            planned.push((effect, op(call, Answer::Unknown, invoked, returned)));
        }
        planned.sort_by_key(|(effect, _)| *effect);
        let mut value = 0;
        let mut ops = Vec::new();
        for (_, mut op) in planned {
            if let Call::Cas { from, .. } = &mut op.call
                && rng.chance(60)
            {
                *from = value;
            }
            let happens = !rng.chance(3);
            op.answer = match op.call {
                _ if !happens => Answer::Unknown,
                Call::Read => Answer::Value(value),
                Call::Write(_) => Answer::Written,
                Call::Cas { from, .. } => Answer::Swapped(from == value),
            };
            // Of the calls without an answer half take effect.
            if happens || rng.chance(50) {
                match op.call {
                    Call::Write(to) => value = to,
                    Call::Cas { from, to } if from == value => value = to,
                    _ => {}
                }
            }
            ops.push(op);
        }
        ops
    }

    #[test]
    fn what_a_register_does_is_explained() {
        for seed in 0..40 {
            let finding = check(&made(seed, 6, 150), 1_000_000);
            assert_eq!(finding.outcome, Outcome::Holds, "seed {seed}: {finding:?}");
        }
    }

    #[test]
    fn one_wrong_answer_is_never_passed() {
        let mut found = 0;
        for seed in 0..40 {
            let mut ops = made(seed, 6, 150);
            let mut rng = Rng::new(seed);
            let reads: Vec<usize> = (0..ops.len())
                .filter(|i| matches!(ops[*i].answer, Answer::Value(_)))
                .collect();
            let wrong = reads[rng.below(reads.len() as u64) as usize];
            ops[wrong].answer = Answer::Value(1_000_000);
            let outcome = check(&ops, 1_000_000).outcome;
            assert_ne!(outcome, Outcome::Holds, "seed {seed}");
            found += u64::from(outcome == Outcome::Violated);
        }
        assert!(found >= 38, "only {found} of 40 were decided");
    }
}
