//! Who depends on whom.

use super::{End, Nanos, Txn};
use std::collections::{BTreeMap, HashMap};

/// Why one transaction comes before another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// It appended the element before.
    Ww,
    /// It appended the last element that the other read.
    Wr,
    /// It read a list before the other appended.
    Rw,
    /// It was over before the other began; also between the moments themselves.
    RealTime,
}

/// Transactions whose lists do not contradict each other.
pub struct History<'a> {
    pub txns: &'a [Txn],
    pub orders: &'a BTreeMap<u32, Vec<u64>>,
    pub appended: &'a HashMap<(u32, u64), usize>,
}

/// Edges from each node to later ones. The first nodes are the transactions; behind them come moments.
pub struct Graph {
    pub edges: Vec<Vec<(usize, Why)>>,
}

impl Graph {
    pub fn new(history: &History) -> Graph {
        let mut graph = Graph {
            edges: vec![Vec::new(); history.txns.len()],
        };
        graph.lists(history);
        graph.real_time(history.txns);
        for edges in &mut graph.edges {
            edges.sort_unstable();
            edges.dedup();
        }
        graph
    }

    fn add(&mut self, from: usize, to: usize, why: Why) {
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    fn lists(&mut self, history: &History) {
        let writer = |list: u32, element: Option<&u64>| {
            element.and_then(|element| history.appended.get(&(list, *element)).copied())
        };
        for (list, elements) in history.orders {
            for pair in elements.windows(2) {
                if let (Some(first), Some(then)) = (writer(*list, pair.first()), writer(*list, pair.get(1))) {
                    self.add(first, then, Why::Ww);
                }
            }
        }
        let committed = history
            .txns
            .iter()
            .enumerate()
            .filter(|(_, txn)| txn.end == End::Committed);
        for (reader, txn) in committed {
            for (list, elements) in txn.reads() {
                if let Some(before) = writer(list, elements.last()) {
                    self.add(before, reader, Why::Wr);
                }
                let next = history
                    .orders
                    .get(&list)
                    .and_then(|whole| whole.get(elements.len()));
                if let Some(after) = writer(list, next) {
                    self.add(reader, after, Why::Rw);
                }
            }
        }
    }

    /// An edge for each pair would be too many: a chain of moments stands for them. A transaction leads to the moment
    /// of its end, a moment to the next, and to those that began after it.
    fn real_time(&mut self, txns: &[Txn]) {
        let mut ends: Vec<(Nanos, usize)> = txns
            .iter()
            .enumerate()
            .filter(|(_, txn)| txn.end == End::Committed)
            .map(|(index, txn)| (txn.returned, index))
            .collect();
        ends.sort_unstable();
        let first = self.edges.len();
        self.edges.extend((0..ends.len()).map(|_| Vec::new()));
        for (i, (_, txn)) in ends.iter().enumerate() {
            self.edges[*txn].push((first + i, Why::RealTime));
            if i + 1 < ends.len() {
                self.edges[first + i].push((first + i + 1, Why::RealTime));
            }
        }
        for (index, txn) in txns.iter().enumerate() {
            let before = ends.partition_point(|(end, _)| *end < txn.invoked);
            if before > 0 {
                self.edges[first + before - 1].push((index, Why::RealTime));
            }
        }
    }

    /// Groups of nodes of which each can be reached from each, by edges that `allowed` lets through; only groups of more
    /// than one. Tarjan's algorithm, without recursion.
    pub fn knots(&self, allowed: impl Fn(Why) -> bool) -> Vec<Vec<usize>> {
        let mut tarjan = Tarjan::new(self.edges.len());
        let mut knots = Vec::new();
        for root in 0..self.edges.len() {
            if tarjan.seen(root) {
                continue;
            }
            let mut work = vec![(root, 0)];
            tarjan.enter(root);
            while let Some((node, edge)) = work.pop() {
                let mut descend = None;
                for (offset, (to, why)) in self.edges[node].iter().enumerate().skip(edge) {
                    if !allowed(*why) {
                        continue;
                    }
                    if !tarjan.seen(*to) {
                        descend = Some((offset, *to));
                        break;
                    }
                    tarjan.leads_to(node, *to);
                }
                if let Some((offset, to)) = descend {
                    // The edge is looked at again on the way back, when it is known how far `to` leads.
                    work.push((node, offset));
                    work.push((to, 0));
                    tarjan.enter(to);
                } else if let Some(knot) = tarjan.leave(node) {
                    knots.push(knot);
                }
            }
        }
        knots
    }
}

struct Tarjan {
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
}

impl Tarjan {
    fn new(count: usize) -> Tarjan {
        Tarjan {
            index: vec![None; count],
            low: vec![0; count],
            on_stack: vec![false; count],
            stack: Vec::new(),
            next: 0,
        }
    }

    fn seen(&self, node: usize) -> bool {
        self.index[node].is_some()
    }

    fn enter(&mut self, node: usize) {
        self.index[node] = Some(self.next);
        self.low[node] = self.next;
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    fn leads_to(&mut self, node: usize, to: usize) {
        if self.on_stack[to] {
            self.low[node] = self.low[node].min(self.low[to]);
        }
    }

    /// The group that is complete with `node`, if it is one of more than one.
    fn leave(&mut self, node: usize) -> Option<Vec<usize>> {
        if Some(self.low[node]) != self.index[node] {
            return None;
        }
        let start = self.stack.iter().rposition(|member| *member == node)?;
        let knot = self.stack.split_off(start);
        for member in &knot {
            self.on_stack[*member] = false;
        }
        (knot.len() > 1).then_some(knot)
    }
}
