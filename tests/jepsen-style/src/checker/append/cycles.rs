//! Cycles of dependencies, by the names of what they mean.

use super::graph::{Graph, History, Why};
use crate::checker::Finding;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A kind of cycle: it has an edge of kind `with`, and otherwise only edges of `back`.
struct Anomaly {
    name: &'static str,
    with: Why,
    back: &'static [Why],
}

/// From the worst to the mildest: what is one of an earlier kind is not looked for among the later ones.
const ANOMALIES: [Anomaly; 8] = [
    Anomaly {
        name: "G0",
        with: Why::Ww,
        back: &[Why::Ww],
    },
    Anomaly {
        name: "G1c",
        with: Why::Wr,
        back: &[Why::Ww, Why::Wr],
    },
    Anomaly {
        name: "G-single",
        with: Why::Rw,
        back: &[Why::Ww, Why::Wr],
    },
    Anomaly {
        name: "G2",
        with: Why::Rw,
        back: &[Why::Ww, Why::Wr, Why::Rw],
    },
    Anomaly {
        name: "G0 in real time",
        with: Why::Ww,
        back: &[Why::Ww, Why::RealTime],
    },
    Anomaly {
        name: "G1c in real time",
        with: Why::Wr,
        back: &[Why::Ww, Why::Wr, Why::RealTime],
    },
    Anomaly {
        name: "G-single in real time",
        with: Why::Rw,
        back: &[Why::Ww, Why::Wr, Why::RealTime],
    },
    Anomaly {
        name: "G2 in real time",
        with: Why::Rw,
        back: &[Why::Ww, Why::Wr, Why::Rw, Why::RealTime],
    },
];

/// How many cycles of a kind are looked at for the shortest.
const TRIES: usize = 50;

/// Reports the worst kind of cycle, by the shortest example that was found.
pub fn find(history: &History, finding: &mut Finding) {
    let graph = Graph::new(history);
    let edges = |why| graph.edges.iter().flatten().filter(|(_, w)| *w == why).count() as u64;
    for (name, why) in [("ww", Why::Ww), ("wr", Why::Wr), ("rw", Why::Rw)] {
        finding.figures.insert(name, edges(why));
    }
    for anomaly in &ANOMALIES {
        if let Some(cycle) = example(&graph, anomaly) {
            finding.violated(format!("{}: {}", anomaly.name, told(history, &cycle)));
            return;
        }
    }
}

fn example(graph: &Graph, anomaly: &Anomaly) -> Option<Vec<(usize, Why)>> {
    let allowed = |why| why == anomaly.with || anomaly.back.contains(&why);
    let mut shortest: Option<Vec<(usize, Why)>> = None;
    let mut tries = 0;
    for knot in graph.knots(allowed) {
        let knot: BTreeSet<usize> = knot.into_iter().collect();
        for from in &knot {
            for (to, why) in &graph.edges[*from] {
                if *why != anomaly.with || !knot.contains(to) || tries == TRIES {
                    continue;
                }
                tries += 1;
                if let Some(path) = path(graph, *to, *from, &knot, anomaly.back)
                    && shortest.as_ref().is_none_or(|known| path.len() + 1 < known.len())
                {
                    let mut cycle = vec![(*from, *why)];
                    cycle.extend(path);
                    shortest = Some(cycle);
                }
            }
        }
    }
    shortest
}

/// The shortest way from one node to another within a knot: each node with the kind of the edge that leaves it.
fn path(
    graph: &Graph,
    from: usize,
    to: usize,
    knot: &BTreeSet<usize>,
    allowed: &[Why],
) -> Option<Vec<(usize, Why)>> {
    let mut came: HashMap<usize, (usize, Why)> = HashMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut path = Vec::new();
            let mut at = to;
            while at != from {
                let (before, why) = came.get(&at).copied()?;
                path.push((before, why));
                at = before;
            }
            path.reverse();
            return Some(path);
        }
        for (next, why) in &graph.edges[node] {
            if allowed.contains(why) && knot.contains(next) && *next != from && !came.contains_key(next) {
                came.insert(*next, (node, *why));
                queue.push_back(*next);
            }
        }
    }
    None
}

/// `c1/4 {...} -ww-> c2/7 {...} -rw-> (back)`; moments are left out.
fn told(history: &History, cycle: &[(usize, Why)]) -> String {
    let mut text = String::new();
    for (node, why) in cycle {
        if let Some(txn) = history.txns.get(*node) {
            text.push_str(&format!("{} {:?} -{why:?}-> ", txn.who, txn.steps));
        }
    }
    text + "(back to the first)"
}
