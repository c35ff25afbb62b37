//! What the step under way is doing: known on this node only, and forgotten with it.

/// A picture of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub step: u32,
    pub doing: &'static str,
    pub detail: String,
    /// How often locks were asked for.
    pub tries: u32,
    /// The longest that another session was seen to wait for it, milliseconds.
    pub stall_ms: u64,
    /// Of a backfill.
    pub rows: u64,
    pub rows_total: u64,
    pub rows_per_s: u64,
    pub eta_s: Option<u64>,
}
