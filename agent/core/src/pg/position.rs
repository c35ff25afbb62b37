use super::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How far a server's durable WAL reaches: on which timeline, up to where.
///
/// Positions are ordered by timeline first. That is sound only because timeline numbers are reserved in the
/// replicated state before each promotion, so that within a cluster a number has one owner and a higher number means
/// a later epoch: a long tail on an abandoned timeline never wins over a short one on its successor.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The timeline of the last record.
    pub timeline: TimelineId,
    /// The end of the last record that is safe on disk.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}
