//! What a restored server may fetch, and what it must find. The plan of its restore lies in its data directory, so that
//! "it is not there" is an answer only where the plan allows it: anything else would end the recovery early, and the server
//! would be promoted without the rest of its WAL.

use crate::error::Error;
use crate::inventory::{Inventory, Span};
use crate::layout::Line;
use crate::plan::Plan;
use crate::repository::Repository;
use crate::wal::Fetched;
use crate::wal_name::{Segment, WalName};
use agent_core::pg::TimelineId;
use serde::{Deserialize, Serialize};

/// What a recovery goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryOrder {
    /// The id of the repository that it was planned with.
    pub repository_id: String,
    pub cluster: String,
    pub incarnation: String,
    pub segment_bytes: u64,
    /// The timeline to recover along, and its ancestors.
    pub timelines: Vec<TimelineId>,
    /// The stretches of WAL to replay, oldest first.
    pub spans: Vec<Span>,
    /// Everything up to here was there when the plan was made.
    pub reach: (TimelineId, u64),
    /// There was WAL beyond the reach, behind a hole.
    pub hole_beyond: bool,
}

/// What the absence of a file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// It must be there: something is wrong with the repository.
    Wrong,
    /// The WAL ends here.
    TheEnd,
    /// It is not looked for in the repository at all: that WAL is not on this recovery's line.
    NotAsked,
}

impl RecoveryOrder {
    /// The order for `plan`.
    #[must_use]
    pub fn of(plan: &Plan, repository: &Repository, line: &Line, inventory: &Inventory) -> RecoveryOrder {
        let ancestors = inventory
            .histories
            .get(&plan.timeline)
            .map(|history| history.switches.iter().map(|switch| switch.timeline));
        let timelines = ancestors.into_iter().flatten().chain([plan.timeline]);
        RecoveryOrder {
            repository_id: repository.id().to_owned(),
            cluster: line.cluster().to_owned(),
            incarnation: line.incarnation().to_owned(),
            segment_bytes: inventory.segment_bytes,
            timelines: timelines.collect(),
            spans: plan.spans.clone(),
            reach: plan.reach_at,
            hole_beyond: !plan.holes.is_empty(),
        }
    }

    /// Fetches a file for the recovery; `None` where the server may take it that there is none.
    ///
    /// # Errors
    /// Everything else: the recovery must stop, not end.
    pub async fn fetch(&self, repository: &Repository, name: WalName) -> Result<Option<Fetched>, Error> {
        if repository.id() != self.repository_id {
            return Err(Error::NotThisOne {
                repository: repository.name().to_owned(),
                why: "it is another repository than the one that this restore was planned with".to_owned(),
            });
        }
        let absence = self.absence(name);
        if absence == Absence::NotAsked {
            return Ok(None);
        }
        let line = Line::of_parts(&self.cluster, &self.incarnation);
        match repository.get_wal(&line, name).await {
            Ok(fetched) => Ok(Some(fetched)),
            Err(error) if error.is_missing() && absence == Absence::TheEnd => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn absence(&self, name: WalName) -> Absence {
        match name {
            WalName::Segment(segment) => self.absence_of_segment(segment),
            // The first timeline has no history. Those that this recovery goes along have; what lies behind is looked for by
            // the server to find a free number.
            WalName::History(TimelineId(1)) => Absence::TheEnd,
            WalName::History(timeline) if self.timelines.contains(&timeline) => Absence::Wrong,
            WalName::History(_) | WalName::Label(..) => Absence::TheEnd,
            WalName::Partial(_) => Absence::NotAsked,
        }
    }

    fn absence_of_segment(&self, segment: Segment) -> Absence {
        let number = segment.number(self.segment_bytes.max(1));
        let of_timeline = |span: &&Span| span.timeline == segment.timeline;
        let on_line = |span: &&Span| (span.first..=span.last).contains(&number);
        if !self.spans.iter().filter(of_timeline).any(|span| on_line(&span)) {
            return Absence::NotAsked;
        }
        let (timeline, reach) = self.reach;
        if number <= reach {
            Absence::Wrong
        } else if segment.timeline < timeline || self.hole_beyond {
            // There is more behind it: to end here would be to lose that.
            Absence::Wrong
        } else {
            Absence::TheEnd
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_missing_and_what_may_not() {
        let span = |timeline, first, last| Span {
            timeline: TimelineId(timeline),
            first,
            last,
        };
        let order = RecoveryOrder {
            repository_id: "r".to_owned(),
            cluster: "demo".to_owned(),
            incarnation: "1".to_owned(),
            segment_bytes: 1 << 20,
            timelines: vec![TimelineId(1), TimelineId(3)],
            spans: vec![span(1, 4, 9), span(3, 10, u64::MAX)],
            reach: (TimelineId(3), 12),
            hole_beyond: false,
        };
        let segment =
            |timeline, number| WalName::Segment(Segment::numbered(TimelineId(timeline), number, 1 << 20));
        let history = |timeline| WalName::History(TimelineId(timeline));
        use Absence::{NotAsked, TheEnd, Wrong};
        for (name, expected, what) in [
            (segment(1, 4), Wrong, "the first one"),
            (segment(1, 9), Wrong, "the last one before the fork"),
            (
                segment(3, 9),
                NotAsked,
                "the server tries the newest timeline first",
            ),
            (
                segment(1, 10),
                NotAsked,
                "beyond the fork, however much of it is there",
            ),
            (segment(2, 8), NotAsked, "another line"),
            (segment(3, 12), Wrong, "the last one that was there"),
            (segment(3, 13), TheEnd, "the end of the archive"),
            (history(1), TheEnd, "the first timeline has none"),
            (history(3), Wrong, "the line's own"),
            (history(4), TheEnd, "a number that is free"),
        ] {
            assert_eq!(order.absence(name), expected, "{what}");
        }
        let holed = RecoveryOrder {
            hole_beyond: true,
            ..order
        };
        assert_eq!(
            holed.absence(segment(3, 13)),
            Wrong,
            "there is more behind the hole"
        );
    }
}
