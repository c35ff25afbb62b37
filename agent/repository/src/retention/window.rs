//! From when to when a restore can go.

use crate::catalogue::{Catalogue, complete};
use crate::inventory::Inventory;
use agent_core::pg::{Lsn, TimelineId};
use serde::Serialize;

/// A stretch of time every moment of which can be restored, on one line of history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The timeline that it ends on.
    pub timeline: TimelineId,
    /// The end of the backup that it begins with, ms since 1970.
    pub from_ms: i64,
    pub from_lsn: Lsn,
    /// The last segment.
    pub to: String,
    /// When that was archived, ms since 1970: what was committed just before is in it.
    pub to_ms: Option<i64>,
    /// The backups in it.
    pub backups: Vec<String>,
    #[serde(skip)]
    reach: u64,
}

/// The windows that these backups and this WAL give, by line and time. A backup all of whose later WAL is gone is a window of
/// its own.
#[must_use]
pub fn windows(backups: &[Catalogue], inventory: &Inventory) -> Vec<Window> {
    let whole = complete(backups, inventory);
    let timelines = inventory.timelines();
    let mut found: Vec<Window> = Vec::new();
    for timeline in &timelines {
        let mut of_line: Vec<Window> = Vec::new();
        let reaching = whole.iter().filter(|entry| entry.reaches(inventory, *timeline));
        for entry in reaching {
            let spans = inventory.line_of(entry.origin(inventory), entry.start, *timeline);
            let Some(reach) = spans.and_then(|spans| inventory.reach(&spans)) else {
                continue;
            };
            // What ends on an earlier timeline is shown there; what goes on along a later one is shown with that.
            if reach.0 != *timeline || goes_on(entry, inventory, *timeline, reach.1) {
                continue;
            }
            match of_line.iter_mut().find(|window| window.reach == reach.1) {
                Some(window) => window.backups.push(entry.id.clone()),
                None => of_line.push(Window {
                    timeline: *timeline,
                    from_ms: entry.ended_ms,
                    from_lsn: entry.stop,
                    to: inventory.name_of(reach.0, reach.1),
                    to_ms: inventory.written_ms.get(&reach).copied(),
                    backups: vec![entry.id.clone()],
                    reach: reach.1,
                }),
            }
        }
        found.extend(of_line);
    }
    found.sort_by_key(|window| (window.from_ms, window.timeline));
    found
}

/// Whether all of `timeline` up to segment `reach` is but the beginning of a later timeline's line.
fn goes_on(entry: &Catalogue, inventory: &Inventory, timeline: TimelineId, reach: u64) -> bool {
    let later = inventory.histories.keys().filter(|later| **later != timeline);
    later
        .filter(|later| entry.reaches(inventory, **later))
        .filter_map(|later| inventory.line_of(entry.origin(inventory), entry.start, *later))
        .any(|spans| {
            let whole = spans
                .iter()
                .any(|span| span.timeline == timeline && span.last != u64::MAX && span.last >= reach);
            whole && inventory.reach(&spans).is_some_and(|(end, _)| end != timeline)
        })
}
