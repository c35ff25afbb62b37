use super::Lsn;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a timeline: one line of history of a database cluster, begun by each promotion.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One line of a timeline's history file: `timeline` was left at `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where it was left: WAL of that timeline beyond this point does not belong to the history.
    pub end: Lsn,
}

/// Where a timeline came from: its ancestors with the points at which they were left, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline whose history this is.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first.
    pub switches: Vec<TimelineSwitch>,
}

impl TimelineHistory {
    /// Reads the content of a `.history` file: lines of `timeline<TAB>lsn<TAB>reason`, with blank lines and `#`
    /// comments allowed. `None` where a line has another form.
    #[must_use]
    pub fn parse(timeline: TimelineId, content: &str) -> Option<TimelineHistory> {
        let mut switches = Vec::new();
        for line in content
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let mut words = line.split_whitespace();
            let timeline = TimelineId(words.next()?.parse().ok()?);
            let end = words.next()?.parse().ok()?;
            switches.push(TimelineSwitch { timeline, end });
        }
        Some(TimelineHistory { timeline, switches })
    }

    /// Where WAL of `timeline` stops being part of this history: `None` if that timeline is no ancestor,
    /// the highest LSN if it is this timeline itself.
    #[must_use]
    pub fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        if timeline == self.timeline {
            return Some(Lsn(u64::MAX));
        }
        self.switches
            .iter()
            .find(|switch| switch.timeline == timeline)
            .map(|switch| switch.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_history_file() {
        let content = "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t0/5000000\tbefore\n";
        let history = TimelineHistory::parse(TimelineId(3), content).expect("a well-formed file");
        assert_eq!(history.end_of(TimelineId(1)), Some(Lsn(0x300_0148)));
        assert_eq!(history.end_of(TimelineId(2)), Some(Lsn(0x500_0000)));
        assert_eq!(history.end_of(TimelineId(3)), Some(Lsn(u64::MAX)));
        assert_eq!(history.end_of(TimelineId(4)), None);
    }

    #[test]
    fn refuses_what_is_no_history_file() {
        assert_eq!(TimelineHistory::parse(TimelineId(2), "garbage"), None);
        assert_eq!(TimelineHistory::parse(TimelineId(2), "1\tnot-an-lsn"), None);
    }

    const FILE: &str = "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t16/B374D848\tbefore\n";

    proptest! {
        #[test]
        fn a_history_is_read_line_by_line_or_not_at_all(
            content in prop_oneof![mangled::any_text(0..80), mangled::text(FILE)],
        ) {
            let lines = content
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'));
            if let Some(history) = TimelineHistory::parse(TimelineId(3), &content) {
                let lines: Vec<&str> = lines.collect();
                prop_assert_eq!(history.switches.len(), lines.len(), "a line was left out");
                for (switch, line) in history.switches.iter().zip(lines) {
                    let mut words = line.split_whitespace();
                    prop_assert_eq!(words.next().and_then(|word| word.parse().ok()), Some(switch.timeline.0));
                    prop_assert_eq!(words.next().and_then(|word| word.parse().ok()), Some(switch.end));
                }
            }
        }
    }
}
