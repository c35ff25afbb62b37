//! PostgreSQL's own vocabulary as types.

mod control_file;
mod lsn;
mod position;
mod timeline;

pub use control_file::{ControlFile, ControlState};
pub use lsn::{Lsn, ParseLsnError};
pub use position::Position;
pub use timeline::{TimelineHistory, TimelineId, TimelineSwitch};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number that `initdb` gives to a database cluster; two data directories with different ones are unrelated.
/// Written as text everywhere because JSON readers lose digits of numbers this large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<SystemId> for String {
    fn from(id: SystemId) -> String {
        id.0.to_string()
    }
}

impl TryFrom<String> for SystemId {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(SystemId)
    }
}
