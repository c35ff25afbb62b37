//! Histories: a timeline is a branch that leaves its parent at a point. Two branches may carry one number only if a
//! mutant let them; servers compare numbers, the checks compare branches.

use agent_core::pg::{Lsn, Position, TimelineHistory, TimelineId, TimelineSwitch};

/// A point of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub branch: usize,
    pub lsn: u64,
}

#[derive(Debug)]
struct Branch {
    timeline: u32,
    parent: Option<Place>,
}

#[derive(Debug, Default)]
pub struct Wal {
    branches: Vec<Branch>,
}

impl Wal {
    pub fn begin(&mut self, timeline: u32, parent: Option<Place>) -> usize {
        self.branches.push(Branch { timeline, parent });
        self.branches.len() - 1
    }

    pub fn timeline(&self, branch: usize) -> u32 {
        self.branches[branch].timeline
    }

    pub fn position(&self, place: Place) -> Position {
        Position {
            timeline: TimelineId(self.timeline(place.branch)),
            lsn: Lsn(place.lsn),
        }
    }

    /// Whether whoever stands at `whole` has everything up to `part`.
    pub fn contains(&self, whole: Place, part: Place) -> bool {
        let mut at = whole;
        loop {
            if at.branch == part.branch {
                return part.lsn <= at.lsn;
            }
            match self.branches[at.branch].parent {
                Some(parent) => {
                    at = Place {
                        branch: parent.branch,
                        lsn: parent.lsn.min(at.lsn),
                    }
                }
                None => return false,
            }
        }
    }

    /// What the branch's history file says.
    pub fn history(&self, branch: usize) -> TimelineHistory {
        let mut switches = Vec::new();
        let mut at = self.branches[branch].parent;
        while let Some(place) = at {
            switches.push(TimelineSwitch {
                timeline: TimelineId(self.timeline(place.branch)),
                end: Lsn(place.lsn),
            });
            at = self.branches[place.branch].parent;
        }
        switches.reverse();
        TimelineHistory {
            timeline: TimelineId(self.timeline(branch)),
            switches,
        }
    }

    /// Whether a server at `upstream` lets one at `standby` stream, by the numbers that it goes by.
    pub fn would_stream(&self, upstream: Place, standby: Place) -> bool {
        let number = self.timeline(standby.branch);
        let mut at = Some(upstream);
        while let Some(place) = at {
            if self.timeline(place.branch) == number {
                return standby.lsn <= place.lsn;
            }
            at = self.branches[place.branch].parent;
        }
        false
    }
}
