//! Serializability of transactions that append to lists and read them.
//!
//! A list shows its own history: the order of its elements is the order of the appends, and a read shows how many of them it
//! saw. From this follow the dependencies between transactions, without guessing:
//!
//! * *ww*: appended the next element of a list;
//! * *wr*: read a list whose last element the other appended;
//! * *rw*: read a list before the other appended its next element;
//! * *real time*: began after the other's end was known.
//!
//! A cycle of dependencies means that no order of the transactions explains what was seen. The names of the anomalies are
//! Adya's, as far as they can be told apart from lists.

mod cycles;
mod graph;

use super::{Finding, Nanos};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Appended an element to a list. Each element is appended by one transaction only.
    Append { list: u32, element: u64 },
    /// Read a list.
    Read { list: u32, elements: Vec<u64> },
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its commit was acknowledged.
    Committed,
    /// Its commit was never asked for.
    Aborted,
    /// Its commit was asked for; what became of it is not known.
    Unknown,
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct Txn {
    /// Who ran it: for messages.
    pub who: String,
    /// What it did, and saw.
    pub steps: Vec<Step>,
    /// How it ended.
    pub end: End,
    /// Just before its first step was sent.
    pub invoked: Nanos,
    /// When the acknowledgement of its commit had arrived; without meaning unless it is [`End::Committed`].
    pub returned: Nanos,
}

impl Txn {
    fn appends(&self) -> impl Iterator<Item = (u32, u64)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Append { list, element } => Some((*list, *element)),
            Step::Read { .. } => None,
        })
    }

    fn reads(&self) -> impl Iterator<Item = (u32, &[u64])> {
        self.steps.iter().filter_map(|step| match step {
            Step::Read { list, elements } => Some((*list, elements.as_slice())),
            Step::Append { .. } => None,
        })
    }
}

/// Checks all transactions of a run against each other and against the lists as they were in the end.
pub fn check(txns: &[Txn], last: &BTreeMap<u32, Vec<u64>>) -> Finding {
    let count = |end| txns.iter().filter(|txn| txn.end == end).count() as u64;
    let mut finding = Finding::new("list append", count(End::Committed));
    finding.figures = BTreeMap::from([
        ("committed", count(End::Committed)),
        ("aborted", count(End::Aborted)),
        ("unknown", count(End::Unknown)),
        ("lists", last.len() as u64),
    ]);
    let mut appended: HashMap<(u32, u64), usize> = HashMap::new();
    for (index, txn) in txns.iter().enumerate() {
        for append in txn.appends() {
            if appended.insert(append, index).is_some() {
                finding.violated(format!("{append:?} was appended twice: the history is not sound"));
            }
        }
    }
    own_appends(txns, &mut finding);
    let orders = orders(txns, last, &mut finding);
    values(txns, &orders, &appended, &mut finding);
    // Where lists contradict each other, dependencies mean nothing.
    if finding.outcome == super::Outcome::Holds {
        let history = graph::History {
            txns,
            orders: &orders,
            appended: &appended,
        };
        cycles::find(&history, &mut finding);
    }
    finding
}

/// A transaction sees its own appends.
fn own_appends(txns: &[Txn], finding: &mut Finding) {
    for txn in txns.iter().filter(|txn| txn.end == End::Committed) {
        let mut expected: BTreeMap<u32, (Option<&[u64]>, Vec<u64>)> = BTreeMap::new();
        for step in &txn.steps {
            match step {
                Step::Append { list, element } => expected.entry(*list).or_default().1.push(*element),
                Step::Read { list, elements } => {
                    let (before, since) = expected.entry(*list).or_default();
                    let own = elements.ends_with(since);
                    let rest = &elements[..elements.len().saturating_sub(since.len())];
                    if !own || before.is_some_and(|before| before != rest) {
                        finding.violated(format!(
                            "internal: {} read list {list} as {elements:?}, which does not follow from its own steps {:?}",
                            txn.who, txn.steps
                        ));
                    }
                    *before = Some(elements);
                    since.clear();
                }
            }
        }
    }
}

/// The order of each list's elements: as it was in the end, which every read must have seen the beginning of (but for the
/// reader's own appends, which are in it too once it has committed).
fn orders(txns: &[Txn], last: &BTreeMap<u32, Vec<u64>>, finding: &mut Finding) -> BTreeMap<u32, Vec<u64>> {
    for (list, elements) in last {
        let distinct: BTreeSet<&u64> = elements.iter().collect();
        if distinct.len() != elements.len() {
            finding.violated(format!("list {list} holds an element twice: {elements:?}"));
        }
    }
    let mut told = BTreeSet::new();
    for txn in txns.iter().filter(|txn| txn.end == End::Committed) {
        for (list, elements) in txn.reads() {
            let whole = last.get(&list).map_or(&[][..], Vec::as_slice);
            if !whole.starts_with(elements) && told.insert(list) {
                let same = whole.iter().zip(elements).take_while(|(a, b)| a == b).count();
                finding.violated(format!(
                    "incompatible order: {} read list {list} as {:?} from element {same} on, in the end it was {:?}",
                    txn.who,
                    &elements[same..],
                    &whole[same..whole.len().min(same + 8)]
                ));
            }
        }
    }
    last.clone()
}

/// Every acknowledged append is in its list; every element in a list was appended by somebody who may have committed; and
/// nobody read the middle of a transaction.
fn values(
    txns: &[Txn],
    orders: &BTreeMap<u32, Vec<u64>>,
    appended: &HashMap<(u32, u64), usize>,
    finding: &mut Finding,
) {
    let there: BTreeSet<(u32, u64)> = orders
        .iter()
        .flat_map(|(list, elements)| elements.iter().map(move |element| (*list, *element)))
        .collect();
    for txn in txns.iter().filter(|txn| txn.end == End::Committed) {
        for append in txn.appends().filter(|append| !there.contains(append)) {
            finding.violated(format!("lost: {} appended {append:?}", txn.who));
        }
    }
    // All or nothing, also of a transaction of unknown end.
    for txn in txns.iter().filter(|txn| txn.end == End::Unknown) {
        let present = txn.appends().filter(|append| there.contains(append)).count();
        if present != 0 && present != txn.appends().count() {
            finding.violated(format!(
                "torn: only a part of {} is there: {:?}",
                txn.who, txn.steps
            ));
        }
    }
    let reads = txns
        .iter()
        .enumerate()
        .filter(|(_, txn)| txn.end == End::Committed)
        .flat_map(|(index, txn)| {
            txn.reads()
                .map(move |(list, elements)| (Some(index), list, elements))
        });
    let ends = orders
        .iter()
        .map(|(list, elements)| (None, *list, elements.as_slice()));
    for (reader, list, elements) in reads.chain(ends) {
        let who = reader.map_or("the last look", |reader| txns[reader].who.as_str());
        for element in elements {
            match appended.get(&(list, *element)).map(|writer| &txns[*writer]) {
                None => finding.violated(format!(
                    "made up: {who} saw {element} in list {list}, which nobody appended"
                )),
                Some(writer) if writer.end == End::Aborted => finding.violated(format!(
                    "G1a: {who} saw {element} in list {list}, appended by {}, which never committed",
                    writer.who
                )),
                Some(_) => {}
            }
        }
        let Some(element) = elements.last() else { continue };
        let Some(writer) = appended.get(&(list, *element)).copied() else {
            continue;
        };
        if Some(writer) == reader {
            continue;
        }
        let later = txns[writer]
            .appends()
            .filter(|(other, _)| *other == list)
            .skip_while(|(_, other)| other != element)
            .nth(1);
        if let Some((_, later)) = later {
            finding.violated(format!(
                "G1b: {who} saw list {list} end with {element}, but {} had also appended {later}",
                txns[writer].who
            ));
        }
    }
}

#[cfg(test)]
mod tests;
