//! Where two timelines' histories part.

use agent_core::pg::{Lsn, Position, TimelineHistory, TimelineId};

/// The last point that the histories of `own` and `other` share, on the last timeline common to both; `None` if they
/// have not even the first one in common. Its LSN is the highest there is if both are the same timeline.
pub fn fork_point(own: &TimelineHistory, other: &TimelineHistory) -> Option<Position> {
    let mut shared = None;
    for ((timeline, end), (their_timeline, their_end)) in stages(own).into_iter().zip(stages(other)) {
        if timeline != their_timeline {
            break;
        }
        shared = Some(Position {
            timeline,
            lsn: end.min(their_end),
        });
        if end != their_end {
            break;
        }
    }
    shared
}

/// Each timeline with the point where it was left, the present one last and without an end.
fn stages(history: &TimelineHistory) -> Vec<(TimelineId, Lsn)> {
    let past = history
        .switches
        .iter()
        .map(|switch| (switch.timeline, switch.end));
    past.chain(std::iter::once((history.timeline, Lsn(u64::MAX))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::pg::TimelineSwitch;

    fn history(timeline: u32, switches: &[(u32, u64)]) -> TimelineHistory {
        let switches = switches
            .iter()
            .map(|(timeline, end)| TimelineSwitch {
                timeline: TimelineId(*timeline),
                end: Lsn(*end),
            })
            .collect();
        TimelineHistory {
            timeline: TimelineId(timeline),
            switches,
        }
    }

    fn at(timeline: u32, lsn: u64) -> Option<Position> {
        Some(Position {
            timeline: TimelineId(timeline),
            lsn: Lsn(lsn),
        })
    }

    #[test]
    fn an_old_primary_parts_where_its_successor_was_promoted() {
        assert_eq!(fork_point(&history(1, &[]), &history(4, &[(1, 100)])), at(1, 100));
        assert_eq!(
            fork_point(&history(4, &[(1, 100)]), &history(5, &[(1, 100), (4, 300)])),
            at(4, 300)
        );
    }

    #[test]
    fn two_children_of_one_timeline_part_where_the_first_left_it() {
        assert_eq!(
            fork_point(&history(2, &[(1, 100)]), &history(3, &[(1, 200)])),
            at(1, 100)
        );
        assert_eq!(
            fork_point(&history(3, &[(1, 200)]), &history(2, &[(1, 100)])),
            at(1, 100)
        );
    }

    #[test]
    fn one_timeline_never_parts_from_itself() {
        assert_eq!(fork_point(&history(1, &[]), &history(1, &[])), at(1, u64::MAX));
        assert_eq!(
            fork_point(&history(2, &[(1, 9)]), &history(2, &[(1, 9)])),
            at(2, u64::MAX)
        );
    }

    #[test]
    fn strangers_share_nothing() {
        assert_eq!(fork_point(&history(1, &[]), &history(3, &[(2, 100)])), None);
    }
}
