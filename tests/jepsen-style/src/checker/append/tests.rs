//! Histories that serial executions make, and one for each thing that must not be.

use super::*;
use crate::checker::Outcome;
use crate::rng::Rng;

fn append(list: u32, element: u64) -> Step {
    Step::Append { list, element }
}

fn read(list: u32, elements: &[u64]) -> Step {
    Step::Read {
        list,
        elements: elements.to_vec(),
    }
}

/// A transaction that committed within a time of its own unless the test says otherwise: all at once, so that real time
/// says nothing.
fn txn(who: &str, steps: &[Step]) -> Txn {
    Txn {
        who: who.to_owned(),
        steps: steps.to_vec(),
        end: End::Committed,
        invoked: 1,
        returned: 1_000,
    }
}

fn at(invoked: Nanos, returned: Nanos, mut txn: Txn) -> Txn {
    (txn.invoked, txn.returned) = (invoked, returned);
    txn
}

fn ended(end: End, mut txn: Txn) -> Txn {
    txn.end = end;
    txn
}

fn last(lists: &[(u32, &[u64])]) -> BTreeMap<u32, Vec<u64>> {
    lists
        .iter()
        .map(|(list, elements)| (*list, elements.to_vec()))
        .collect()
}

#[track_caller]
fn holds(txns: &[Txn], last: &BTreeMap<u32, Vec<u64>>) {
    let finding = check(txns, last);
    assert_eq!(finding.outcome, Outcome::Holds, "{finding:?}");
}

#[track_caller]
fn violates(word: &str, txns: &[Txn], last: &BTreeMap<u32, Vec<u64>>) {
    let finding = check(txns, last);
    assert_eq!(finding.outcome, Outcome::Violated, "{finding:?}");
    assert!(
        finding.details.iter().any(|detail| detail.starts_with(word)),
        "expected {word}: {finding:?}"
    );
}

#[test]
fn transactions_in_some_order_are_serializable() {
    let txns = [
        txn("a", &[append(1, 1), read(2, &[])]),
        txn(
            "b",
            &[read(1, &[1]), append(2, 2), append(1, 3), read(1, &[1, 3])],
        ),
        txn("c", &[read(1, &[1, 3]), read(2, &[2])]),
    ];
    holds(&txns, &last(&[(1, &[1, 3]), (2, &[2])]));
}

#[test]
fn an_unknown_transaction_may_have_committed_or_not() {
    let lost = ended(End::Unknown, txn("b", &[append(1, 2)]));
    let txns = [txn("a", &[append(1, 1)]), lost];
    holds(&txns, &last(&[(1, &[1, 2])]));
    holds(&txns, &last(&[(1, &[1])]));
}

#[test]
fn a_lost_append_is_found() {
    violates(
        "lost",
        &[txn("a", &[append(1, 1)]), txn("b", &[append(1, 2)])],
        &last(&[(1, &[2])]),
    );
}

#[test]
fn a_torn_transaction_is_found() {
    let torn = ended(End::Unknown, txn("a", &[append(1, 1), append(2, 2)]));
    violates("torn", &[torn], &last(&[(1, &[1]), (2, &[])]));
}

#[test]
fn an_element_of_nobody_is_found() {
    violates("made up", &[txn("a", &[append(1, 1)])], &last(&[(1, &[1, 9])]));
}

#[test]
fn lists_that_grew_in_two_ways_are_found() {
    let txns = [
        txn("a", &[append(1, 1)]),
        txn("b", &[append(1, 2)]),
        txn("c", &[read(1, &[2])]),
    ];
    violates("incompatible order", &txns, &last(&[(1, &[1, 2])]));
}

#[test]
fn an_element_that_was_appended_twice_is_found() {
    violates("list 1", &[txn("a", &[append(1, 1)])], &last(&[(1, &[1, 1])]));
}

#[test]
fn g1a_an_aborted_append_is_found() {
    let aborted = ended(End::Aborted, txn("b", &[append(1, 2)]));
    violates(
        "G1a",
        &[txn("a", &[append(1, 1)]), aborted],
        &last(&[(1, &[1, 2])]),
    );
}

#[test]
fn g1b_the_middle_of_a_transaction_is_found() {
    let txns = [
        txn("a", &[append(1, 1), append(1, 2)]),
        txn("b", &[read(1, &[1])]),
    ];
    violates("G1b", &txns, &last(&[(1, &[1, 2])]));
}

#[test]
fn a_transaction_that_does_not_see_its_own_append_is_found() {
    let txns = [txn("a", &[append(1, 1), read(1, &[])])];
    violates("internal", &txns, &last(&[(1, &[1])]));
}

#[test]
fn a_list_that_changes_within_a_transaction_is_found() {
    let txns = [
        txn("a", &[read(1, &[]), read(1, &[1])]),
        txn("b", &[append(1, 1)]),
    ];
    violates("internal", &txns, &last(&[(1, &[1])]));
}

#[test]
fn g0_a_cycle_of_writes_is_found() {
    let txns = [
        txn("a", &[append(1, 1), append(2, 2)]),
        txn("b", &[append(1, 3), append(2, 4)]),
    ];
    violates("G0:", &txns, &last(&[(1, &[1, 3]), (2, &[4, 2])]));
}

#[test]
fn g1c_a_cycle_of_information_is_found() {
    let txns = [
        txn("a", &[append(1, 1), read(2, &[2])]),
        txn("b", &[append(2, 2), read(1, &[1])]),
    ];
    violates("G1c:", &txns, &last(&[(1, &[1]), (2, &[2])]));
}

#[test]
fn g_single_a_read_skew_is_found() {
    let txns = [
        txn("a", &[append(1, 1), append(2, 2)]),
        txn("b", &[read(1, &[]), read(2, &[2])]),
    ];
    violates("G-single:", &txns, &last(&[(1, &[1]), (2, &[2])]));
}

#[test]
fn g2_a_write_skew_is_found() {
    let txns = [
        txn("a", &[read(1, &[]), append(2, 2)]),
        txn("b", &[read(2, &[]), append(1, 1)]),
    ];
    violates("G2:", &txns, &last(&[(1, &[1]), (2, &[2])]));
}

#[test]
fn a_stale_read_is_only_wrong_in_real_time() {
    let write = at(1, 10, txn("a", &[append(1, 1)]));
    let stale = txn("b", &[read(1, &[])]);
    let end = last(&[(1, &[1])]);
    holds(&[write.clone(), at(5, 20, stale.clone())], &end);
    violates("G-single in real time", &[write, at(11, 20, stale)], &end);
}

#[test]
fn an_append_before_an_older_one_is_wrong_in_real_time() {
    let txns = [
        at(1, 10, txn("a", &[append(1, 1)])),
        at(11, 20, txn("b", &[append(1, 2)])),
    ];
    violates("G0 in real time", &txns, &last(&[(1, &[2, 1])]));
}

/// Transactions executed one after the other, told as if they had overlapped.
fn serial(seed: u64, count: u64) -> (Vec<Txn>, BTreeMap<u32, Vec<u64>>) {
    let mut rng = Rng::new(seed);
    let mut lists: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut txns = Vec::new();
    let mut element = 0;
    for number in 0..count {
        let effect = 100 * number + 50;
        let end = match rng.below(20) {
            0 => End::Aborted,
            1 => End::Unknown,
            _ => End::Committed,
        };
        let happens = end == End::Committed || (end == End::Unknown && rng.chance(50));
        let mut state = lists.clone();
        let steps = (0..rng.between(1, 4)).map(|_| {
            let list = (number / 40 * 3 + rng.below(3)) as u32;
            let elements = state.entry(list).or_default();
            if rng.chance(50) {
                element += 1;
                elements.push(element);
                append(list, element)
            } else {
                read(list, elements)
            }
        });
        let steps: Vec<Step> = steps.collect();
        if happens {
            lists = state;
        }
        txns.push(Txn {
            who: format!("t{number}"),
            steps,
            end,
            invoked: effect - rng.between(0, 250).min(effect),
            returned: effect + rng.between(0, 250),
        });
    }
    (txns, lists)
}

#[test]
fn what_serial_executions_make_is_serializable() {
    for seed in 0..30 {
        let (txns, lists) = serial(seed, 400);
        let finding = check(&txns, &lists);
        assert_eq!(finding.outcome, Outcome::Holds, "seed {seed}: {finding:?}");
        assert!(finding.looked_at > 300);
    }
}

#[test]
fn a_read_that_misses_its_last_element_is_always_found() {
    for seed in 0..30 {
        let (mut txns, lists) = serial(seed, 400);
        let mut rng = Rng::new(seed);
        // One whose list was last appended to by somebody whose end was known before.
        let appended: HashMap<(u32, u64), (End, Nanos)> = txns
            .iter()
            .flat_map(|txn| txn.appends().map(|append| (append, (txn.end, txn.returned))))
            .collect();
        let candidates: Vec<usize> = (0..txns.len())
            .filter(|index| {
                let txn = &txns[*index];
                let [Step::Read { list, elements }] = txn.steps.as_slice() else {
                    return false;
                };
                let before = elements.last().and_then(|last| appended.get(&(*list, *last)));
                txn.end == End::Committed
                    && before.is_some_and(|(end, returned)| *end == End::Committed && *returned < txn.invoked)
            })
            .collect();
        let index = candidates[rng.below(candidates.len() as u64) as usize];
        if let Step::Read { elements, .. } = &mut txns[index].steps[0] {
            elements.pop();
        }
        let finding = check(&txns, &lists);
        assert_eq!(finding.outcome, Outcome::Violated, "seed {seed}: {finding:?}");
    }
}
