//! Whether WAL belongs to the cluster's line, or lies beyond the point where the cluster left its timeline.
//!
//! An old primary may have written WAL that no other node received. It must not get under the names that everybody reads:
//! a node that has not seen the new timeline's history yet could replay it.

use super::sight::Sight;
use agent_core::pg::{Lsn, TimelineHistory, TimelineId};

/// Where a segment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    OnTheLine,
    /// Beyond the fork: it is kept, and apart.
    Diverged,
    /// A later timeline was reserved, and where it begins is not known yet: ask again.
    NotKnownYet,
}

/// Where the segment of `timeline` that ends at `end` belongs. `history` gives what is known of a later timeline.
pub(super) fn placement(
    timeline: TimelineId,
    end: Lsn,
    sight: &Sight,
    history: impl Fn(TimelineId) -> Option<TimelineHistory>,
) -> Placement {
    let later = sight
        .grants
        .iter()
        .rev()
        .filter(|(granted, _)| *granted > timeline);
    let mut unknown_from = None;
    for (granted, stood) in later {
        // A number that was skipped has a history without content; one that was never used has none.
        let known = history(*granted).filter(|history| !history.switches.is_empty());
        let Some(history) = known else {
            unknown_from = Some(unknown_from.map_or(*stood, |earlier: Lsn| earlier.min(*stood)));
            continue;
        };
        return match history.end_of(timeline) {
            // The segment in which the fork lies is on the new timeline as well, which begins with a copy of it.
            Some(fork) if end <= fork => Placement::OnTheLine,
            _ => Placement::Diverged,
        };
    }
    match unknown_from {
        Some(stood) if end > stood => Placement::NotKnownYet,
        _ => Placement::OnTheLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::pg::TimelineSwitch;

    fn history(timeline: u32, switches: &[(u32, u64)]) -> TimelineHistory {
        TimelineHistory {
            timeline: TimelineId(timeline),
            switches: switches
                .iter()
                .map(|(timeline, end)| TimelineSwitch {
                    timeline: TimelineId(*timeline),
                    end: Lsn(*end),
                })
                .collect(),
        }
    }

    #[test]
    fn wal_belongs_to_the_line_up_to_the_fork() {
        let sight = |grants: &[(u32, u64)]| Sight {
            grants: grants
                .iter()
                .map(|(timeline, stood)| (TimelineId(*timeline), Lsn(*stood)))
                .collect(),
            ..Sight::default()
        };
        let second = || history(2, &[(1, 1000)]);
        let fourth = || history(4, &[(1, 1000), (2, 3000)]);
        type Histories = Vec<TimelineHistory>;
        let cases: [(&str, Sight, u32, u64, Histories, Placement); 12] = [
            (
                "the only timeline",
                sight(&[(1, 0)]),
                1,
                900,
                vec![],
                Placement::OnTheLine,
            ),
            (
                "nothing is known of any grant",
                sight(&[]),
                1,
                900,
                vec![],
                Placement::OnTheLine,
            ),
            (
                "the newest timeline",
                sight(&[(1, 0), (2, 990)]),
                2,
                1900,
                vec![second()],
                Placement::OnTheLine,
            ),
            (
                "before the fork",
                sight(&[(1, 0), (2, 990)]),
                1,
                900,
                vec![second()],
                Placement::OnTheLine,
            ),
            (
                "it ends at the fork",
                sight(&[(1, 0), (2, 990)]),
                1,
                1000,
                vec![second()],
                Placement::OnTheLine,
            ),
            (
                "the fork is within it",
                sight(&[(1, 0), (2, 990)]),
                1,
                1001,
                vec![second()],
                Placement::Diverged,
            ),
            (
                "beyond the fork",
                sight(&[(1, 0), (2, 990)]),
                1,
                5000,
                vec![second()],
                Placement::Diverged,
            ),
            (
                "the fork is not known, and it is before it",
                sight(&[(1, 0), (2, 990)]),
                1,
                990,
                vec![],
                Placement::OnTheLine,
            ),
            (
                "the fork is not known",
                sight(&[(1, 0), (2, 990)]),
                1,
                1000,
                vec![],
                Placement::NotKnownYet,
            ),
            (
                "a grant that came to nothing, and the next one",
                sight(&[(1, 0), (2, 990), (4, 2990)]),
                1,
                1000,
                vec![history(2, &[]), fourth()],
                Placement::OnTheLine,
            ),
            (
                "the newest grant is not known, an older fork is",
                sight(&[(1, 0), (2, 990), (4, 2990)]),
                1,
                1001,
                vec![second()],
                Placement::Diverged,
            ),
            (
                "a timeline that the cluster's line does not go through",
                sight(&[(1, 0), (3, 990), (4, 2990)]),
                3,
                500,
                vec![fourth()],
                Placement::Diverged,
            ),
        ];
        for (what, sight, timeline, end, histories, expected) in cases {
            let known = |of| histories.iter().find(|history| history.timeline == of).cloned();
            let found = placement(TimelineId(timeline), Lsn(end), &sight, known);
            assert_eq!(found, expected, "{what}");
        }
    }
}
