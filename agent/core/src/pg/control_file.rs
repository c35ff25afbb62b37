use super::{Lsn, SystemId, TimelineId};
use serde::{Deserialize, Serialize};

/// The cluster state that `global/pg_control` records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlState {
    StartingUp,
    /// A clean shutdown of a primary: its last WAL record is the shutdown checkpoint.
    ShutDown,
    /// A clean shutdown of a standby.
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// What decisions need to know of `pg_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    /// Which database cluster this is.
    pub system_id: SystemId,
    /// Whether and how it was shut down.
    pub state: ControlState,
    /// Where the last checkpoint's record starts.
    pub checkpoint: Lsn,
    /// Where redo would start.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// How far recovery must reach before the data is consistent (zero on a primary).
    pub min_recovery: Lsn,
    /// Whether pages carry checksums.
    pub checksums: bool,
}
