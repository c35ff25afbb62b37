//! Which backups go by a policy, and which WAL nobody needs then.

use super::calendar::Stretch;
use super::policy::Policy;
use crate::catalogue::{Catalogue, chain, complete};
use crate::inventory::{Inventory, Span, spans_of};
use crate::marks::{Pin, Proof};
use agent_core::pg::TimelineId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// For how long a backup whose WAL is missing is waited for.
const YOUNG_MS: i64 = 2 * 86_400_000;

/// All that a verdict may look at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Oldest first.
    pub backups: &'a [Catalogue],
    pub inventory: &'a Inventory,
    pub pins: &'a [Pin],
    pub proofs: &'a [Proof],
    /// Backups that somebody is at: their claim stands.
    pub busy: &'a [String],
    /// The wall clock, ms since 1970.
    pub now_ms: i64,
}

/// Why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is among the newest.
    Last,
    /// It ended within the time of which every moment is kept.
    Within,
    /// Moments at the beginning of that time are restored from it.
    BeginsWindow,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// Until ms since 1970; without an end where there is none.
    Pinned(Option<i64>),
    /// A legal hold.
    Held,
    /// Nothing newer is complete.
    Newest,
    /// Nothing newer was proven by a restore.
    NewestProven,
    /// It lacks WAL, which may still come.
    WaitingForWal,
    /// Its making is under way: the cluster says so.
    UnderWay,
    /// The named backup is an increment of it.
    NeededBy(String),
}

/// A backup that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub backup: String,
    pub reasons: Vec<Reason>,
}

/// A backup that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expired {
    pub backup: String,
    pub stored_bytes: u64,
}

/// WAL that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doomed {
    #[serde(flatten)]
    pub span: Span,
    pub stored_bytes: u64,
}

/// What stays and what goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Oldest first.
    pub kept: Vec<Kept>,
    /// Oldest first; what is an increment comes after what it is an increment of.
    pub expired: Vec<Expired>,
    pub wal: Vec<Doomed>,
}

/// Judges.
#[must_use]
pub fn decide(policy: &Policy, facts: &Facts<'_>) -> Verdict {
    let whole = complete(facts.backups, facts.inventory);
    let mut docket = Docket {
        facts,
        reasons: BTreeMap::new(),
        current: facts.inventory.current_timeline(),
        whole,
    };
    docket.keep_newest();
    docket.keep_last(policy);
    docket.keep_within(policy);
    for (stretch, count, reason) in [
        (Stretch::Day, policy.daily, Reason::Daily),
        (Stretch::Week, policy.weekly, Reason::Weekly),
        (Stretch::Month, policy.monthly, Reason::Monthly),
        (Stretch::Year, policy.yearly, Reason::Yearly),
    ] {
        docket.keep_one_of_each(stretch, count, &reason);
    }
    docket.keep_pinned();
    docket.keep_young();
    docket.keep_busy();
    docket.keep_chains();
    let wal = docket.wal_that_goes();
    let mut verdict = Verdict {
        wal,
        ..Verdict::default()
    };
    for entry in facts.backups {
        match docket.reasons.remove(&entry.id) {
            Some(reasons) => verdict.kept.push(Kept {
                backup: entry.id.clone(),
                reasons: reasons.into_iter().collect(),
            }),
            None => verdict.expired.push(Expired {
                backup: entry.id.clone(),
                stored_bytes: entry.stored_bytes,
            }),
        }
    }
    verdict
}

struct Docket<'a> {
    facts: &'a Facts<'a>,
    reasons: BTreeMap<String, BTreeSet<Reason>>,
    /// The timeline that the cluster was on last.
    current: Option<TimelineId>,
    /// The backups that can be restored, oldest first.
    whole: Vec<&'a Catalogue>,
}

impl Docket<'_> {
    fn keep(&mut self, id: &str, reason: Reason) {
        self.reasons.entry(id.to_owned()).or_default().insert(reason);
    }

    fn on_current_line(&self, entry: &Catalogue) -> bool {
        self.current
            .is_some_and(|current| entry.reaches(self.facts.inventory, current))
    }

    /// Whatever the policy says: the newest on the cluster's line, the newest of all, and the newest that was restored once.
    fn keep_newest(&mut self) {
        let newest = self.whole.last().map(|entry| entry.id.clone());
        let on_line = self.newest(|entry| self.on_current_line(entry));
        let proven = |entry: &Catalogue| self.facts.proofs.iter().any(|proof| proof.backup == entry.id);
        let proven_on_line = self.newest(|entry| proven(entry) && self.on_current_line(entry));
        let newest_proven = proven_on_line.or_else(|| self.newest(proven));
        for id in newest.into_iter().chain(on_line) {
            self.keep(&id, Reason::Newest);
        }
        if let Some(id) = newest_proven {
            self.keep(&id, Reason::NewestProven);
        }
    }

    fn newest(&self, fits: impl Fn(&Catalogue) -> bool) -> Option<String> {
        let newest = self.whole.iter().rev().find(|entry| fits(entry));
        newest.map(|entry| entry.id.clone())
    }

    /// A chain counts as one. What lies on a line that the cluster has left stays until so many newer ones are on its own.
    fn keep_last(&mut self, policy: &Policy) {
        let Some(last) = policy.last else { return };
        let fulls = self.whole.iter().filter(|entry| entry.parent.is_none());
        let ours: Vec<&Catalogue> = fulls
            .clone()
            .copied()
            .filter(|entry| self.on_current_line(entry))
            .collect();
        let newer_than =
            |full: &Catalogue| ours.iter().filter(|entry| entry.ended_ms > full.ended_ms).count();
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        let kept: Vec<String> = fulls
            .filter(|full| newer_than(full) < last)
            .map(|full| full.id.clone())
            .collect();
        for id in kept {
            let increments = self.increments_of(&id);
            for id in increments.into_iter().chain([id]) {
                self.keep(&id, Reason::Last);
            }
        }
    }

    fn increments_of(&self, full: &str) -> Vec<String> {
        let of_it = self.whole.iter().filter(|entry| {
            entry.id != full
                && chain(self.facts.backups, &entry.id)
                    .and_then(|chain| chain.first().map(|root| root.id == full))
                    .unwrap_or(false)
        });
        of_it.map(|entry| entry.id.clone()).collect()
    }

    fn keep_within(&mut self, policy: &Policy) {
        let Some(within) = policy.within else { return };
        let begin = self.facts.now_ms.saturating_sub(within.ms);
        let inside = self.whole.iter().filter(|entry| entry.ended_ms > begin);
        let inside: Vec<String> = inside.map(|entry| entry.id.clone()).collect();
        for id in inside {
            self.keep(&id, Reason::Within);
        }
        // Moments before the first backup inside are restored from the one before, on each line that was written to then.
        let inventory = self.facts.inventory;
        let written = |timeline: TimelineId| {
            let of = inventory.written_ms.range((timeline, 0)..=(timeline, u64::MAX));
            of.map(|(_, ms)| *ms).max()
        };
        for timeline in inventory.timelines() {
            let active = Some(timeline) == self.current || written(timeline).is_some_and(|ms| ms >= begin);
            let before = self.newest(|entry| entry.ended_ms <= begin && entry.reaches(inventory, timeline));
            if let (true, Some(id)) = (active, before) {
                self.keep(&id, Reason::BeginsWindow);
            }
        }
    }

    /// The newest of each of the last `count` stretches of the calendar that have one; a full one before an increment, and
    /// one on the cluster's line before one on another.
    fn keep_one_of_each(&mut self, stretch: Stretch, count: u32, reason: &Reason) {
        let mut best: BTreeMap<i64, &Catalogue> = BTreeMap::new();
        let better = |one: &Catalogue, other: &Catalogue| {
            let rank = |entry: &Catalogue| {
                let full = entry.parent.is_none();
                (self.on_current_line(entry), full, entry.ended_ms)
            };
            (rank(one), &one.id) > (rank(other), &other.id)
        };
        for entry in self.whole.iter().copied() {
            let place = best.entry(stretch.of(entry.ended_ms)).or_insert(entry);
            if better(entry, place) {
                *place = entry;
            }
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let newest = best.values().rev().take(count);
        let newest: Vec<String> = newest.map(|entry| entry.id.clone()).collect();
        for id in newest {
            self.keep(&id, reason.clone());
        }
    }

    fn keep_pinned(&mut self) {
        for pin in self.facts.pins {
            if pin.hold {
                self.keep(&pin.backup, Reason::Held);
            } else if pin.until_ms.is_none_or(|until| until > self.facts.now_ms) {
                self.keep(&pin.backup, Reason::Pinned(pin.until_ms));
            }
        }
    }

    /// A backup without all of its WAL is of no use, unless that comes yet.
    fn keep_young(&mut self) {
        let since = self.facts.now_ms.saturating_sub(YOUNG_MS);
        let newest = self.whole.last().map(|entry| entry.ended_ms);
        let waiting = self.facts.backups.iter().filter(|entry| {
            let may_come = entry.ended_ms > since || newest.is_none_or(|newest| newest < entry.ended_ms);
            may_come && !entry.lacks(self.facts.inventory).is_empty()
        });
        let waiting: Vec<String> = waiting.map(|entry| entry.id.clone()).collect();
        for id in waiting {
            self.keep(&id, Reason::WaitingForWal);
        }
    }

    fn keep_busy(&mut self) {
        for id in self.facts.busy {
            if self.facts.backups.iter().any(|entry| entry.id == *id) {
                self.keep(id, Reason::UnderWay);
            }
        }
    }

    fn keep_chains(&mut self) {
        let kept: Vec<String> = self.reasons.keys().cloned().collect();
        for id in kept {
            // With a link missing it is whatever is still there of it.
            let mut wanted = self.parent_of(&id);
            let mut steps = 0;
            while let Some(parent) = wanted.filter(|_| steps <= self.facts.backups.len()) {
                self.keep(&parent, Reason::NeededBy(id.clone()));
                wanted = self.parent_of(&parent);
                steps += 1;
            }
        }
        let known: BTreeSet<&str> = self.facts.backups.iter().map(|entry| entry.id.as_str()).collect();
        self.reasons.retain(|id, _| known.contains(id.as_str()));
    }

    fn parent_of(&self, id: &str) -> Option<String> {
        let entry = self.facts.backups.iter().find(|entry| entry.id == id)?;
        entry.parent.clone()
    }

    /// Segments that no kept backup needs, and that were stored before the oldest one began from which all moments are kept:
    /// what came later may belong to a line whose history is not there yet.
    fn wal_that_goes(&self) -> Vec<Doomed> {
        let inventory = self.facts.inventory;
        let kept = |entry: &&Catalogue| self.reasons.contains_key(&entry.id);
        let opens_a_window = |entry: &&&Catalogue| {
            self.reasons.get(&entry.id).is_some_and(|reasons| {
                reasons.iter().any(|reason| {
                    matches!(
                        reason,
                        Reason::Last | Reason::Within | Reason::BeginsWindow | Reason::Newest
                    )
                })
            })
        };
        let mut needed = Vec::new();
        for entry in self.facts.backups.iter().filter(kept) {
            needed.extend(entry.own_spans(inventory));
        }
        let mut horizon = None;
        for entry in self.whole.iter().filter(opens_a_window) {
            horizon = Some(horizon.unwrap_or(entry.begun_ms).min(entry.begun_ms));
            for timeline in inventory.timelines().into_iter().chain([entry.timeline]) {
                if entry.reaches(inventory, timeline) {
                    let line = inventory.line_of(entry.origin(inventory), entry.start, timeline);
                    needed.extend(line.into_iter().flatten());
                }
            }
        }
        // Without a backup that can be restored nothing is known to be of no use.
        let Some(horizon) = horizon else {
            return Vec::new();
        };
        let mut doomed = Vec::new();
        for (timeline, numbers) in &inventory.segments {
            let stored_before = |number: &u64| {
                let written = inventory.written_ms.get(&(*timeline, *number));
                written.is_some_and(|written| *written < horizon)
            };
            let on_it: Vec<Span> = needed
                .iter()
                .filter(|span| span.timeline == *timeline)
                .copied()
                .collect();
            let unneeded = numbers
                .iter()
                .copied()
                .filter(|number| !on_it.iter().any(|span| span.contains(*timeline, *number)))
                .filter(stored_before);
            for span in spans_of(*timeline, unneeded) {
                let sizes = inventory
                    .sizes
                    .range((*timeline, span.first)..=(*timeline, span.last));
                doomed.push(Doomed {
                    span,
                    stored_bytes: sizes.map(|(_, bytes)| bytes).sum(),
                });
            }
        }
        doomed
    }
}
