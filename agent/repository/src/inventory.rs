//! Which WAL is there, which is missing, and which of it belongs to a line of history.

use crate::envelope::HEADER_MAX;
use crate::error::Error;
use crate::given_up::{GivenUp, given_up};
use crate::layout::Line;
use crate::repository::Repository;
use crate::wal_name::{Segment, WalName};
use agent_core::pg::{Lsn, TimelineHistory, TimelineId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where PostgreSQL's default puts it; used where nothing says otherwise.
const SEGMENT_BYTES: u64 = 16 << 20;

/// What of a line's WAL is in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Bytes of each segment.
    pub segment_bytes: u64,
    /// The numbers of the segments of each timeline.
    pub segments: BTreeMap<TimelineId, BTreeSet<u64>>,
    /// The histories that are there.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// When each segment was written, by the store's clock, ms since 1970.
    pub written_ms: BTreeMap<(TimelineId, u64), i64>,
    /// Bytes of each segment, as it is stored.
    pub sizes: BTreeMap<(TimelineId, u64), u64>,
    /// Of all of them.
    pub stored_bytes: u64,
    /// What retention has deleted: it is missing and nobody misses it.
    pub expired: Vec<Span>,
    /// What nodes had to let go of: it is missing for good.
    pub given_up: Vec<GivenUp>,
}

/// Segments that should be there and are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hole {
    pub timeline: TimelineId,
    /// By name, both ends included.
    pub first: String,
    pub last: String,
    pub segments: u64,
    /// When the segment before it was archived, ms since 1970.
    pub after_ms: Option<i64>,
    /// When the one after it was.
    pub before_ms: Option<i64>,
    /// Why, where a node had to let go of any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
}

/// A stretch of one timeline on a line of history, by the numbers of segments, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub timeline: TimelineId,
    pub first: u64,
    pub last: u64,
}

impl Span {
    /// What is left of it without `others`, in pieces.
    #[must_use]
    pub fn without(self, others: &[Span]) -> Vec<Span> {
        let mut left = vec![self];
        for other in others.iter().filter(|other| other.timeline == self.timeline) {
            let mut pieces = Vec::new();
            for piece in left {
                if other.last < piece.first || other.first > piece.last {
                    pieces.push(piece);
                    continue;
                }
                if other.first > piece.first {
                    let last = other.first - 1;
                    pieces.push(Span { last, ..piece });
                }
                if other.last < piece.last {
                    let first = other.last + 1;
                    pieces.push(Span { first, ..piece });
                }
            }
            left = pieces;
        }
        left
    }

    /// Whether a segment is in it.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, number: u64) -> bool {
        self.timeline == timeline && (self.first..=self.last).contains(&number)
    }
}

/// `numbers` of one timeline, ascending, as spans.
pub(crate) fn spans_of(timeline: TimelineId, numbers: impl IntoIterator<Item = u64>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some(span) if span.last.checked_add(1) == Some(number) => span.last = number,
            _ => spans.push(Span {
                timeline,
                first: number,
                last: number,
            }),
        }
    }
    spans
}

/// Looks at what is there.
///
/// # Errors
/// The store does not list, or a history cannot be read.
pub async fn inventory(repository: &Repository, line: &Line) -> Result<Inventory, Error> {
    let mut names = Vec::new();
    let mut stored_bytes = 0;
    let mut samples = Vec::new();
    for listed in repository.list(&line.wal()).await? {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        if let Some(segment) = Segment::parse(name) {
            names.push((segment, listed.modified_ms, listed.bytes));
            stored_bytes += listed.bytes;
            if listed.bytes > HEADER_MAX as u64 / 16 {
                samples.push(listed.key);
            }
        }
    }
    let segment_bytes = segment_bytes(repository, &samples).await?;
    if !segment_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_bytes) {
        let why = format!("it says that segments have {segment_bytes} bytes");
        return Err(repository.damaged(&line.wal(), why));
    }
    let mut found = Inventory {
        segment_bytes,
        stored_bytes,
        ..Inventory::default()
    };
    for (segment, modified_ms, bytes) in names {
        let number = segment.number(segment_bytes);
        found.segments.entry(segment.timeline).or_default().insert(number);
        found.written_ms.insert((segment.timeline, number), modified_ms);
        found.sizes.insert((segment.timeline, number), bytes);
    }
    found.expired = crate::expiry::expired_wal(repository, line).await?;
    found.given_up = given_up(repository, line).await?;
    for listed in repository.list(&line.histories()).await? {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        if let Some(WalName::History(timeline)) = WalName::parse(name) {
            let fetched = repository.get_wal(line, WalName::History(timeline)).await?;
            let text = String::from_utf8_lossy(&fetched.content);
            let history = TimelineHistory::parse(timeline, &text)
                .ok_or_else(|| repository.damaged(&listed.key, "it is no timeline history"))?;
            found.histories.insert(timeline, history);
        }
    }
    Ok(found)
}

/// How large the line's segments are, by one of those named.
async fn segment_bytes(repository: &Repository, samples: &[String]) -> Result<u64, Error> {
    // Retention deletes the oldest meanwhile, perhaps.
    for key in samples.iter().rev() {
        match repository.header(key).await {
            Ok(header) => return Ok(header.bytes),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(SEGMENT_BYTES)
}

impl Inventory {
    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub fn number_of(&self, lsn: Lsn) -> u64 {
        lsn.0 / self.segment_bytes.max(1)
    }

    /// The name of a segment.
    #[must_use]
    pub fn name_of(&self, timeline: TimelineId, number: u64) -> String {
        Segment::numbered(timeline, number, self.segment_bytes.max(1)).to_string()
    }

    /// Whether that segment is there.
    #[must_use]
    pub fn has(&self, timeline: TimelineId, number: u64) -> bool {
        self.segments
            .get(&timeline)
            .is_some_and(|there| there.contains(&number))
    }

    /// Every timeline that is known of: from segments, from histories, and as somebody's ancestor.
    #[must_use]
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        let ancestors = self.histories.values().flat_map(|history| &history.switches);
        self.segments
            .keys()
            .chain(self.histories.keys())
            .copied()
            .chain(ancestors.map(|switch| switch.timeline))
            .collect()
    }

    /// The timeline that was written to last.
    #[must_use]
    pub fn current_timeline(&self) -> Option<TimelineId> {
        let newest = self.written_ms.iter().max_by_key(|(of, ms)| (**ms, **of));
        newest
            .map(|((timeline, _), _)| *timeline)
            .or(self.newest_timeline())
    }

    /// Forgets segments.
    pub(crate) fn forget(&mut self, timeline: TimelineId, number: u64) {
        if let Some(there) = self.segments.get_mut(&timeline) {
            there.remove(&number);
            if there.is_empty() {
                self.segments.remove(&timeline);
            }
        }
        self.written_ms.remove(&(timeline, number));
        let bytes = self.sizes.remove(&(timeline, number)).unwrap_or(0);
        self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
    }

    /// The newest timeline: of those that have a history or segments, the highest number.
    #[must_use]
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        let with_segments = self.segments.keys().next_back().copied();
        let with_history = self.histories.keys().next_back().copied();
        with_segments.max(with_history)
    }

    /// Every segment that is missing between the oldest and the newest WAL that is known of, on every timeline.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        let gaps = self.unexpected_gaps().into_iter();
        gaps.map(|gap| self.hole(gap.timeline, gap.first, gap.last))
            .collect()
    }

    /// [`Inventory::holes`] by number.
    pub(crate) fn unexpected_gaps(&self) -> Vec<Span> {
        let mut holes = Vec::new();
        for timeline in self.timelines() {
            let there = self.segments.get(&timeline);
            // Where a later timeline left this one, everything before that point must be there.
            let left = self
                .histories
                .values()
                .filter_map(parent)
                .filter(|(of, _)| *of == timeline)
                .filter_map(|(_, end)| self.number_of(end).checked_sub(1));
            let last = left.chain(there.and_then(|there| there.last().copied())).max();
            let begun = self.histories.get(&timeline).and_then(parent);
            let first = match begun {
                Some((_, at)) => Some(self.number_of(at)),
                None => there.and_then(|there| there.first().copied()),
            };
            if let (Some(first), Some(last)) = (first, last) {
                let gaps = self.gaps(Span {
                    timeline,
                    first,
                    last,
                });
                holes.extend(gaps.into_iter().flat_map(|gap| gap.without(&self.expired)));
            }
        }
        holes
    }

    /// What of a span is missing.
    #[must_use]
    pub fn missing(&self, span: Span) -> Vec<Hole> {
        let gaps = self.gaps(span).into_iter();
        gaps.map(|gap| self.hole(gap.timeline, gap.first, gap.last))
            .collect()
    }

    pub(crate) fn gaps(&self, span: Span) -> Vec<Span> {
        let mut gaps = Vec::new();
        let nothing = BTreeSet::new();
        let there = self.segments.get(&span.timeline).unwrap_or(&nothing);
        let mut expected = span.first;
        let inside = there.range(span.first..=span.last.max(span.first));
        for next in inside.copied().chain([span.last.saturating_add(1)]) {
            if next > expected {
                gaps.push(Span {
                    timeline: span.timeline,
                    first: expected,
                    last: next - 1,
                });
            }
            expected = next.saturating_add(1);
        }
        gaps
    }

    fn hole(&self, timeline: TimelineId, first: u64, last: u64) -> Hole {
        let written = |number: Option<u64>| self.written_ms.get(&(timeline, number?)).copied();
        Hole {
            timeline,
            first: self.name_of(timeline, first),
            last: self.name_of(timeline, last),
            segments: last - first + 1,
            given_up: self.given_up_in(timeline, first, last),
            after_ms: written(first.checked_sub(1)),
            before_ms: written(last.checked_add(1)),
        }
    }

    fn given_up_in(&self, timeline: TimelineId, first: u64, last: u64) -> Option<String> {
        let span = Span {
            timeline,
            first,
            last,
        };
        let bytes = self.segment_bytes.max(1);
        let named = |name: &String| {
            let segment = Segment::parse(name);
            segment.is_some_and(|segment| span.contains(segment.timeline, segment.number(bytes)))
        };
        let one = self.given_up.iter().find(|one| one.segments.iter().any(named))?;
        Some(format!("{} has given it up: {}", one.node, one.why))
    }

    /// Whether a node had to let go of that segment.
    pub(crate) fn was_given_up(&self, timeline: TimelineId, number: u64) -> bool {
        self.given_up_in(timeline, number, number).is_some()
    }

    /// The stretches of WAL that lead from `start` on `from` to the end of `to`, oldest first; the last one is open and
    /// ends with `u64::MAX`. `None` if `to` does not descend from that point.
    #[must_use]
    pub fn line_of(&self, from: TimelineId, start: Lsn, to: TimelineId) -> Option<Vec<Span>> {
        let mut first = self.number_of(start);
        if from == to {
            let last = u64::MAX;
            return Some(vec![Span {
                timeline: to,
                first,
                last,
            }]);
        }
        let history = self.histories.get(&to)?;
        let begin = history
            .switches
            .iter()
            .position(|switch| switch.timeline == from)?;
        if history.switches[begin].end < start {
            return None;
        }
        let mut spans = Vec::new();
        for switch in &history.switches[begin..] {
            let left = self.number_of(switch.end);
            // The segment in which a timeline was left is on the next timeline, which begins with a copy of it.
            if left > first {
                spans.push(Span {
                    timeline: switch.timeline,
                    first,
                    last: left - 1,
                });
                first = left;
            }
        }
        spans.push(Span {
            timeline: to,
            first,
            last: u64::MAX,
        });
        Some(spans)
    }

    /// The newest segment that is reached on `spans` without a hole; `None` if the first one is missing.
    #[must_use]
    pub fn reach(&self, spans: &[Span]) -> Option<(TimelineId, u64)> {
        let mut reached = None;
        for span in spans {
            let mut number = span.first;
            while number <= span.last && self.has(span.timeline, number) {
                reached = Some((span.timeline, number));
                number += 1;
            }
            if number <= span.last {
                break;
            }
        }
        reached
    }
}

/// The timeline from which `history`'s own one was begun, and where.
fn parent(history: &TimelineHistory) -> Option<(TimelineId, Lsn)> {
    history
        .switches
        .last()
        .map(|switch| (switch.timeline, switch.end))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use agent_core::pg::TimelineSwitch;

    pub(crate) const MIB: u64 = 1 << 20;

    pub(crate) fn made_of(
        segments: &[(u32, std::ops::RangeInclusive<u64>)],
        histories: &[(u32, &[(u32, u64)])],
    ) -> Inventory {
        let mut inventory = Inventory {
            segment_bytes: MIB,
            ..Inventory::default()
        };
        for (timeline, range) in segments {
            let there = inventory.segments.entry(TimelineId(*timeline)).or_default();
            there.extend(range.clone());
        }
        for (timeline, switches) in histories {
            let switches = switches.iter().map(|(timeline, end)| TimelineSwitch {
                timeline: TimelineId(*timeline),
                end: Lsn(*end),
            });
            let timeline = TimelineId(*timeline);
            inventory.histories.insert(
                timeline,
                TimelineHistory {
                    timeline,
                    switches: switches.collect(),
                },
            );
        }
        inventory
    }

    fn shown(holes: &[Hole]) -> Vec<(u32, u64)> {
        holes
            .iter()
            .map(|hole| (hole.timeline.0, hole.segments))
            .collect()
    }

    #[test]
    fn a_failover_that_left_segments_behind_shows_as_a_hole() {
        // The old primary archived up to 6, and the new one begins in the middle of 10.
        let history: &[(u32, u64)] = &[(1, 10 * MIB + 5)];
        let inventory = made_of(&[(1, 3..=6), (2, 10..=12)], &[(2, history)]);
        let holes = inventory.holes();
        assert_eq!(shown(&holes), [(1, 3)]);
        assert_eq!(holes[0].first, inventory.name_of(TimelineId(1), 7));
        assert_eq!(holes[0].last, inventory.name_of(TimelineId(1), 9));
    }

    #[test]
    fn the_segment_in_which_a_timeline_was_left_is_not_missed() {
        for end in [10 * MIB, 10 * MIB + 1, 11 * MIB - 1] {
            let history: &[(u32, u64)] = &[(1, end)];
            let inventory = made_of(&[(1, 3..=9), (2, 10..=12)], &[(2, history)]);
            assert_eq!(shown(&inventory.holes()), [], "left at {end}");
        }
    }

    #[test]
    fn holes_in_the_middle_and_at_the_beginning_of_a_timeline_are_found() {
        let history: &[(u32, u64)] = &[(1, 10 * MIB + 5)];
        let inventory = made_of(&[(1, 3..=4), (1, 6..=9), (2, 12..=12)], &[(2, history)]);
        assert_eq!(shown(&inventory.holes()), [(1, 1), (2, 2)]);
        let nothing = made_of(&[], &[(2, history)]);
        assert_eq!(shown(&nothing.holes()), [], "nothing is known to have been there");
        let all_gone = made_of(&[(2, 10..=10)], &[(2, history)]);
        assert_eq!(shown(&all_gone.holes()), [], "the parent was never archived");
    }

    #[test]
    fn what_retention_deleted_is_no_hole() {
        let history: &[(u32, u64)] = &[(1, 10 * MIB + 5)];
        let mut inventory = made_of(&[(1, 3..=4), (2, 16..=17), (2, 20..=22)], &[(2, history)]);
        assert_eq!(shown(&inventory.holes()), [(1, 5), (2, 6), (2, 2)]);
        let span = |timeline, first, last| Span {
            timeline: TimelineId(timeline),
            first,
            last,
        };
        inventory.expired = vec![span(1, 1, 9), span(2, 10, 12), span(2, 14, 15), span(3, 1, 99)];
        assert_eq!(shown(&inventory.holes()), [(2, 1), (2, 2)]);
        let own = span(2, 10, 22);
        assert_eq!(
            inventory.missing(own).len(),
            2,
            "a restore misses it all the same"
        );
    }

    #[test]
    fn a_line_goes_from_timeline_to_timeline() {
        let third: &[(u32, u64)] = &[(1, 10 * MIB + 5), (2, 10 * MIB + 9)];
        let second: &[(u32, u64)] = &[(1, 10 * MIB + 5)];
        let inventory = made_of(&[(1, 3..=9), (3, 10..=14)], &[(2, second), (3, third)]);
        let spans = inventory
            .line_of(TimelineId(1), Lsn(4 * MIB), TimelineId(3))
            .expect("a line");
        let span = |timeline, first, last| Span {
            timeline: TimelineId(timeline),
            first,
            last,
        };
        assert_eq!(
            spans,
            [span(1, 4, 9), span(3, 10, u64::MAX)],
            "timeline 2 has no segment of its own"
        );
        assert_eq!(inventory.reach(&spans), Some((TimelineId(3), 14)));
        assert_eq!(
            inventory.line_of(TimelineId(1), Lsn(11 * MIB), TimelineId(3)),
            None,
            "it was left before that point"
        );
        assert_eq!(inventory.line_of(TimelineId(4), Lsn(0), TimelineId(3)), None);
        let holed = made_of(&[(1, 4..=5), (1, 7..=9), (3, 10..=14)], &[(3, third)]);
        let spans = holed
            .line_of(TimelineId(1), Lsn(4 * MIB), TimelineId(3))
            .expect("a line");
        assert_eq!(holed.reach(&spans), Some((TimelineId(1), 5)));
    }
}
