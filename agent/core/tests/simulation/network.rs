//! Who hears whom. A link is cut in one direction or in both; what is sent over an open one may be lost or late.

use crate::clock::{MS, Time};
use crate::rng::Rng;

/// A firewall's or a full queue's idea of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagrams {
    Pass,
    Drop,
    Delay(Time),
}

#[derive(Debug, Clone)]
pub struct Network {
    nodes: usize,
    cut: Vec<bool>,
    /// What happens to datagrams, and to nothing else, on their way from one node to another.
    datagrams: Vec<Datagrams>,
    /// Datagrams lost, per thousand.
    pub loss: u64,
    /// The longest delay of what is not lost.
    pub longest: Time,
}

impl Network {
    pub fn new(nodes: usize) -> Network {
        Network {
            nodes,
            cut: vec![false; nodes * nodes],
            datagrams: vec![Datagrams::Pass; nodes * nodes],
            loss: 0,
            longest: 20 * MS,
        }
    }

    pub fn open(&self, from: usize, to: usize) -> bool {
        !self.cut[from * self.nodes + to]
    }

    /// Whether a connection between the two can live.
    pub fn both(&self, a: usize, b: usize) -> bool {
        self.open(a, b) && self.open(b, a)
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut[from * self.nodes + to] = true;
        }
    }

    pub fn datagrams(&self, from: usize, to: usize) -> Datagrams {
        self.datagrams[from * self.nodes + to]
    }

    pub fn treat_datagrams(&mut self, from: usize, to: usize, how: Datagrams) {
        if from != to {
            self.datagrams[from * self.nodes + to] = how;
        }
    }

    pub fn heal(&mut self) {
        self.cut.fill(false);
        self.datagrams.fill(Datagrams::Pass);
        self.loss = 0;
        self.longest = 20 * MS;
    }

    pub fn delay(&self, rng: &mut Rng) -> Time {
        if rng.chance(950) {
            rng.between(100, 900)
        } else {
            rng.mostly_short(100, self.longest)
        }
    }
}
