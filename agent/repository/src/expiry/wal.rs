//! Marking WAL that nobody needs, and deleting it when its time has come.

use super::seen::Seen;
use super::sweep::Sweeper;
use crate::envelope::Kind;
use crate::error::Error;
use crate::inventory::{Span, spans_of};
use crate::layout::Line;
use crate::marks;
use crate::repository::Repository;
use crate::retention::Verdict;
use crate::wal_name::WalName;
use agent_core::pg::TimelineId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// WAL that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WalMark {
    marked_ms: i64,
    due_ms: i64,
    spans: Vec<Span>,
}

/// WAL that is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Gone {
    spans: Vec<Span>,
}

/// What WAL of a line was deleted by retention.
pub(crate) async fn expired(repository: &Repository, line: &Line) -> Result<Vec<Span>, Error> {
    let records: Vec<(String, Gone)> = repository.read_all(&line.expired()).await?;
    Ok(merged(records.into_iter().flat_map(|(_, gone)| gone.spans)))
}

/// Brings the marks up to the verdict, and deletes what was marked for long enough.
pub(super) async fn mark_and_sweep(
    sweeper: &mut Sweeper<'_>,
    seen: &Seen,
    verdict: &Verdict,
) -> Result<(), Error> {
    let (repository, line) = (sweeper.repository, sweeper.line);
    let wanted: Vec<Span> = verdict.wal.iter().map(|doomed| doomed.span).collect();
    let marks: Vec<(String, WalMark)> = repository.read_all(&line.wal_marks()).await?;
    let mut marked = Vec::new();
    let mut due = Vec::new();
    for (key, mark) in marks {
        let left = common(&mark.spans, &wanted);
        let mut key = key;
        if left != merged(mark.spans.iter().copied()) {
            // Kept by now, or gone: it counts from the beginning if it is to go once more.
            let stale = key;
            key = write_mark(
                sweeper,
                &WalMark {
                    spans: left.clone(),
                    ..mark
                },
            )
            .await?;
            repository.delete(&stale).await?;
        }
        marked.extend(left.iter().copied());
        if mark.due_ms <= sweeper.now_ms {
            due.push((key, left));
        }
    }
    let unmarked: Vec<Span> = wanted.iter().flat_map(|span| span.without(&marked)).collect();
    if !unmarked.is_empty() {
        let mark = WalMark {
            marked_ms: sweeper.now_ms,
            due_ms: sweeper.now_ms.saturating_add(sweeper.policy.grace.ms),
            spans: unmarked.clone(),
        };
        let key = write_mark(sweeper, &mark).await?;
        if mark.due_ms <= sweeper.now_ms {
            due.push((key, unmarked));
        }
    }
    let spans = merged(due.iter().flat_map(|(_, spans)| spans.iter().copied()));
    sweep(sweeper, seen, &spans).await?;
    for (key, _) in due {
        repository.delete(&key).await?;
    }
    Ok(())
}

async fn write_mark(sweeper: &Sweeper<'_>, mark: &WalMark) -> Result<String, Error> {
    let name = marks::name(sweeper.repository)?;
    let key = sweeper.line.wal_mark(&name);
    sweeper
        .repository
        .create_json(key.clone(), Kind::Mark, &name, mark)
        .await?;
    Ok(key)
}

async fn sweep(sweeper: &mut Sweeper<'_>, seen: &Seen, spans: &[Span]) -> Result<(), Error> {
    let inventory = &seen.inventory;
    // What is marked and not deleted yet can still be kept: it keeps its WAL till then.
    let needed: Vec<Span> = seen
        .backups
        .iter()
        .flat_map(|entry| entry.own_spans(inventory))
        .collect();
    let mut gone: BTreeMap<TimelineId, BTreeSet<u64>> = BTreeMap::new();
    for span in spans.iter().flat_map(|span| span.without(&needed)) {
        if let Some(there) = inventory.segments.get(&span.timeline) {
            let numbers = there.range(span.first..=span.last).copied();
            gone.entry(span.timeline).or_default().extend(numbers);
        }
    }
    gone.retain(|_, numbers| !numbers.is_empty());
    if gone.is_empty() {
        return Ok(());
    }
    note(sweeper, &gone).await?;
    let mut keys = Vec::new();
    for (timeline, numbers) in &gone {
        for number in numbers {
            keys.push(sweeper.line.segment_key(&inventory.name_of(*timeline, *number)));
            sweeper.deleted.segments += 1;
            sweeper.deleted.stored_bytes += inventory.sizes.get(&(*timeline, *number)).unwrap_or(&0);
        }
    }
    sweeper.delete_all(keys).await?;
    sweep_small(sweeper, seen, &gone).await
}

/// Notes what goes, with all that went before; then the older notes are of no use.
async fn note(sweeper: &Sweeper<'_>, gone: &BTreeMap<TimelineId, BTreeSet<u64>>) -> Result<(), Error> {
    let (repository, line) = (sweeper.repository, sweeper.line);
    let older: Vec<(String, Gone)> = repository.read_all(&line.expired()).await?;
    let now = gone
        .iter()
        .flat_map(|(timeline, numbers)| spans_of(*timeline, numbers.iter().copied()));
    let all = older
        .iter()
        .flat_map(|(_, gone)| gone.spans.iter().copied())
        .chain(now);
    let record = Gone { spans: merged(all) };
    let name = marks::name(repository)?;
    repository
        .create_json(line.expired_as(&name), Kind::Mark, &name, &record)
        .await?;
    for (key, _) in older {
        repository.delete(&key).await?;
    }
    Ok(())
}

/// Labels and unfinished segments of the same stretches.
async fn sweep_small(
    sweeper: &mut Sweeper<'_>,
    seen: &Seen,
    gone: &BTreeMap<TimelineId, BTreeSet<u64>>,
) -> Result<(), Error> {
    let segment_bytes = seen.inventory.segment_bytes;
    let mut keys = Vec::new();
    for folder in [sweeper.line.labels(), sweeper.line.partials()] {
        for listed in sweeper.repository.list(&folder).await? {
            let named = listed.key.split('/').rev().find_map(WalName::parse);
            let Some(WalName::Label(segment, _) | WalName::Partial(segment)) = named else {
                continue;
            };
            let number = segment.number(segment_bytes);
            let behind = gone
                .get(&segment.timeline)
                .and_then(|numbers| numbers.last())
                // Where a timeline was left its last segment is unfinished, and comes right after those that went.
                .is_some_and(|last| number <= last.saturating_add(1));
            if behind && !seen.still_has(segment.timeline, number, gone) {
                sweeper.deleted.stored_bytes += listed.bytes;
                keys.push(listed.key);
            }
        }
    }
    sweeper.delete_all(keys).await
}

impl Seen {
    fn still_has(
        &self,
        timeline: TimelineId,
        number: u64,
        gone: &BTreeMap<TimelineId, BTreeSet<u64>>,
    ) -> bool {
        let went = gone
            .get(&timeline)
            .is_some_and(|numbers| numbers.contains(&number));
        self.inventory.has(timeline, number) && !went
    }
}

/// The same stretches, sorted, with those that touch made one.
fn merged(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut all: Vec<Span> = spans.into_iter().collect();
    all.sort_by_key(|span| (span.timeline, span.first, span.last));
    let mut found: Vec<Span> = Vec::new();
    for span in all {
        match found.last_mut() {
            Some(last) if last.timeline == span.timeline && span.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(span.last);
            }
            _ => found.push(span),
        }
    }
    found
}

/// What is in both.
fn common(one: &[Span], other: &[Span]) -> Vec<Span> {
    let outside: Vec<Span> = one.iter().flat_map(|span| span.without(other)).collect();
    merged(one.iter().flat_map(|span| span.without(&outside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_merged_and_cut() {
        let span = |timeline, first, last| Span {
            timeline: TimelineId(timeline),
            first,
            last,
        };
        let all = [
            span(2, 5, 6),
            span(1, 4, 9),
            span(1, 10, 12),
            span(1, 2, 5),
            span(1, 20, 20),
        ];
        assert_eq!(merged(all), [span(1, 2, 12), span(1, 20, 20), span(2, 5, 6)]);
        assert_eq!(
            common(
                &[span(1, 2, 12)],
                &[span(1, 1, 3), span(1, 12, 15), span(2, 2, 12)]
            ),
            [span(1, 2, 3), span(1, 12, 12)]
        );
        assert_eq!(common(&[span(1, 2, 12)], &[]), []);
    }
}
