//! Random histories of a cluster, random policies: what the policy promises can be restored afterwards, and what the verdict
//! shows as restorable is.

use super::*;
use crate::catalogue::tests::entry;
use crate::catalogue::{Catalogue, complete};
use crate::inventory::tests::MIB;
use crate::inventory::{Inventory, Span};
use crate::marks::{Pin, Proof};
use crate::plan::{Target, plan};
use agent_core::pg::{Lsn, TimelineHistory, TimelineId, TimelineSwitch};
use std::collections::{BTreeMap, BTreeSet};

const HOUR: i64 = 3_600_000;

/// Numbers that are the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// 0 to `below` - 1.
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.roll(count) == 0
    }
}

struct World {
    dice: Dice,
    now_ms: i64,
    timeline: TimelineId,
    /// The segment that is written now.
    number: u64,
    newest_timeline: u32,
    inventory: Inventory,
    /// When each segment was full, which the store's clock says later, if ever.
    full_ms: BTreeMap<(TimelineId, u64), i64>,
    backups: Vec<Catalogue>,
    pins: Vec<Pin>,
    proofs: Vec<Proof>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            dice: Dice::new(seed),
            now_ms: 1_000 * HOUR,
            timeline: TimelineId(1),
            number: 1,
            newest_timeline: 1,
            inventory: Inventory {
                segment_bytes: MIB,
                ..Inventory::default()
            },
            full_ms: BTreeMap::new(),
            backups: Vec::new(),
            pins: Vec::new(),
            proofs: Vec::new(),
        }
    }

    fn live(&mut self) {
        for _ in 0..40 + self.dice.roll(120) {
            self.now_ms += i64::try_from(self.dice.roll(10)).expect("small") * HOUR;
            match self.dice.roll(20) {
                0..=3 => self.back_up(),
                4 => self.fail_over(),
                5 if self.dice.one_in(3) => self.recover_to_a_point(),
                6 if self.dice.one_in(2) => self.pin_or_prove(),
                _ => self.fill_a_segment(),
            }
        }
        // The catalogue is sorted by time.
        self.backups
            .sort_by(|a, b| (a.ended_ms, &a.id).cmp(&(b.ended_ms, &b.id)));
    }

    fn fill_a_segment(&mut self) {
        let at = (self.timeline, self.number);
        self.full_ms.insert(at, self.now_ms);
        if !self.dice.one_in(40) {
            let late = if self.dice.one_in(20) {
                self.dice.roll(30)
            } else {
                0
            };
            let stored = self.now_ms + i64::try_from(late).expect("small") * HOUR;
            self.inventory.segments.entry(at.0).or_default().insert(at.1);
            self.inventory.written_ms.insert(at, stored);
        }
        self.number += 1;
        self.now_ms += HOUR / 2;
    }

    fn back_up(&mut self) {
        let begun_ms = self.now_ms;
        let start = self.number * MIB + 40;
        for _ in 0..self.dice.roll(3) {
            self.fill_a_segment();
        }
        self.now_ms += HOUR / 4;
        let stop = self.number * MIB + 400;
        let id = format!("b{:03}", self.backups.len());
        let mut made = entry(&id, self.timeline.0, start, stop, self.now_ms);
        made.begun_ms = begun_ms;
        let inventory = &self.inventory;
        let before: Vec<&Catalogue> = self
            .backups
            .iter()
            .filter(|entry| entry.reaches(inventory, self.timeline) && entry.stop < made.start)
            .collect();
        if !before.is_empty() && !self.dice.one_in(3) {
            let newest = before[before.len() - 1].id.clone();
            made.parent = Some(newest);
        }
        self.backups.push(made);
    }

    fn fail_over(&mut self) {
        self.begin_timeline(self.timeline, self.number);
    }

    fn recover_to_a_point(&mut self) {
        let known: Vec<(TimelineId, u64)> = self.full_ms.keys().copied().collect();
        if !known.is_empty() {
            let (timeline, number) = known[self.dice.roll(known.len() as u64) as usize];
            self.begin_timeline(timeline, number);
        }
    }

    fn begin_timeline(&mut self, parent: TimelineId, number: u64) {
        self.newest_timeline += 1;
        let timeline = TimelineId(self.newest_timeline);
        let mut switches = self
            .inventory
            .histories
            .get(&parent)
            .map(|history| history.switches.clone())
            .unwrap_or_default();
        switches.push(TimelineSwitch {
            timeline: parent,
            end: Lsn(number * MIB + 500),
        });
        let history = TimelineHistory { timeline, switches };
        self.inventory.histories.insert(timeline, history);
        (self.timeline, self.number) = (timeline, number);
    }

    fn pin_or_prove(&mut self) {
        if self.backups.is_empty() {
            return;
        }
        let backup = self.backups[self.dice.roll(self.backups.len() as u64) as usize]
            .id
            .clone();
        if self.dice.one_in(2) {
            let at_ms = self.now_ms;
            self.proofs.push(Proof {
                backup,
                at_ms,
                node: String::new(),
            });
        } else {
            self.pins.push(Pin {
                backup,
                until_ms: self.dice.one_in(2).then_some(self.now_ms + 50 * HOUR),
                hold: self.dice.one_in(4),
                reason: String::new(),
                at_ms: self.now_ms,
            });
        }
    }

    fn policy(&mut self) -> Policy {
        let mut maybe = |most: u64| {
            let count = u32::try_from(self.dice.roll(most)).expect("small");
            if self.dice.one_in(2) { count } else { 0 }
        };
        let (daily, weekly, monthly, yearly) = (maybe(5), maybe(4), maybe(3), maybe(2));
        Policy {
            last: self
                .dice
                .one_in(2)
                .then(|| 1 + u32::try_from(self.dice.roll(4)).expect("small")),
            within: self.dice.one_in(2).then(|| Age {
                ms: i64::try_from(self.dice.roll(400)).expect("small") * HOUR,
            }),
            daily,
            weekly,
            monthly,
            yearly,
            ..Policy::default()
        }
    }

    fn decide(&self, policy: &Policy) -> Verdict {
        decide(
            policy,
            &Facts {
                backups: &self.backups,
                inventory: &self.inventory,
                pins: &self.pins,
                proofs: &self.proofs,
                busy: &[],
                now_ms: self.now_ms,
            },
        )
    }

    /// What is left when the verdict is carried out.
    fn without(&self, verdict: &Verdict) -> (Vec<Catalogue>, Inventory) {
        let goes: BTreeSet<&str> = verdict.expired.iter().map(|it| it.backup.as_str()).collect();
        let kept = self
            .backups
            .iter()
            .filter(|entry| !goes.contains(entry.id.as_str()));
        let mut inventory = self.inventory.clone();
        for doomed in &verdict.wal {
            for number in doomed.span.first..=doomed.span.last {
                inventory.forget(doomed.span.timeline, number);
            }
            inventory.expired.push(doomed.span);
        }
        (kept.cloned().collect(), inventory)
    }
}

/// The segments that can be replayed from `entry` along `timeline`; worked out one by one.
fn replayable(entry: &Catalogue, inventory: &Inventory, timeline: TimelineId) -> BTreeSet<(TimelineId, u64)> {
    let mut found = BTreeSet::new();
    if !entry.reaches(inventory, timeline) {
        return found;
    }
    let history = inventory.histories.get(&timeline);
    let timeline_of = |number: u64| {
        let switches = history
            .map(|history| history.switches.as_slice())
            .unwrap_or_default();
        let on = switches.iter().find(|switch| number < switch.end.0 / MIB);
        on.map_or(timeline, |switch| switch.timeline)
    };
    let mut number = entry.start.0 / MIB;
    while inventory.has(timeline_of(number), number) {
        found.insert((timeline_of(number), number));
        number += 1;
    }
    found
}

/// For each complete backup the segments that can be replayed from it.
type Ways<'a> = Vec<(&'a Catalogue, BTreeSet<(TimelineId, u64)>)>;

fn ways<'a>(backups: &'a [Catalogue], inventory: &Inventory, timeline: TimelineId) -> Ways<'a> {
    complete(backups, inventory)
        .into_iter()
        .map(|entry| (entry, replayable(entry, inventory, timeline)))
        .collect()
}

/// The backups from which the moment can be restored in which a segment became full.
fn restorable<'a>(ways: &Ways<'a>, at: (TimelineId, u64)) -> Vec<&'a Catalogue> {
    ways.iter()
        .filter(|(entry, _)| entry.stop.0 <= (at.1 + 1) * MIB)
        .filter(|(_, segments)| segments.contains(&at))
        .map(|(entry, _)| *entry)
        .collect()
}

fn check(seed: u64) {
    let mut world = World::new(seed);
    world.live();
    let policy = world.policy();
    let verdict = world.decide(&policy);
    let (kept, left) = world.without(&verdict);
    let say = |what: String| format!("seed {seed}: {what}; {policy:?}");

    // What is kept and could be restored still can.
    let before = complete(&world.backups, &world.inventory);
    let after: BTreeSet<&str> = complete(&kept, &left).iter().map(|it| it.id.as_str()).collect();
    for entry in &before {
        let is_kept = kept.iter().any(|it| it.id == entry.id);
        assert!(
            !is_kept || after.contains(entry.id.as_str()),
            "{}",
            say(format!("{} is kept and broken", entry.id))
        );
    }
    assert_eq!(
        before.is_empty(),
        after.is_empty(),
        "{}",
        say("nothing is left".to_owned())
    );
    for pin in &world.pins {
        let counts = pin.hold || pin.until_ms.is_none_or(|until| until > world.now_ms);
        let kept = kept.iter().any(|entry| entry.id == pin.backup);
        assert!(!counts || kept, "{}", say(format!("{pin:?}")));
    }
    let proven = |id: &str| world.proofs.iter().any(|proof| proof.backup == id);
    assert_eq!(
        before.iter().any(|entry| proven(&entry.id)),
        after.iter().any(|id| proven(id)),
        "{}",
        say("no proven backup is left".to_owned())
    );

    // Every moment that could be restored within the time can be.
    let begin = policy.within.map(|within| world.now_ms - within.ms);
    // And so can all since the oldest of the newest full ones on the cluster's line.
    let current = world.inventory.current_timeline();
    let on_line: Vec<&&Catalogue> = before
        .iter()
        .filter(|entry| {
            entry.parent.is_none() && current.is_some_and(|it| entry.reaches(&world.inventory, it))
        })
        .collect();
    let last = policy.last.map_or(1, |last| last as usize);
    let since = on_line.iter().rev().nth(last - 1).or(on_line.first());
    for timeline in world.inventory.timelines() {
        let ways_before = ways(&world.backups, &world.inventory, timeline);
        let ways_after = ways(&kept, &left, timeline);
        for (at, full_ms) in &world.full_ms {
            let was = restorable(&ways_before, *at);
            let inside = !was.is_empty() && begin.is_some_and(|begin| *full_ms > begin);
            let of_last = policy.last.is_some()
                && since.is_some_and(|since| was.iter().any(|entry| entry.id == since.id));
            if inside || of_last {
                assert!(
                    !restorable(&ways_after, *at).is_empty(),
                    "{}",
                    say(format!("{at:?} on the way to {timeline} is lost"))
                );
            }
        }
    }

    // What is shown as a window is one.
    for window in windows(&kept, &left) {
        let from = kept
            .iter()
            .find(|entry| entry.id == window.backups[0])
            .expect("a backup");
        let to = crate::wal_name::Segment::parse(&window.to)
            .expect("a name")
            .number(MIB);
        for number in from.stop.0 / MIB..=to {
            let target = Target::Lsn(Lsn((number * MIB).max(from.stop.0)));
            let planned = plan(&kept, &left, &target, Some(&from.id), Some(window.timeline));
            assert!(
                planned.is_ok(),
                "{}",
                say(format!("{window:?} at {number}: {planned:?}"))
            );
        }
    }

    // Once is enough, and retention looks like no hole.
    let again = decide(
        &policy,
        &Facts {
            backups: &kept,
            inventory: &left,
            pins: &world.pins,
            proofs: &world.proofs,
            busy: &[],
            now_ms: world.now_ms,
        },
    );
    assert!(
        again.expired.is_empty(),
        "{}",
        say(format!("{:?}", again.expired))
    );
    let counted = |inventory: &Inventory| -> u64 { inventory.holes().iter().map(|hole| hole.segments).sum() };
    assert!(
        counted(&left) <= counted(&world.inventory),
        "{}",
        say(format!("{:?}", left.holes()))
    );
    let gone: Vec<Span> = verdict.wal.iter().map(|doomed| doomed.span).collect();
    assert!(
        gone.iter().all(|span| span.last != u64::MAX),
        "{}",
        say("an open span goes".to_owned())
    );
}

#[test]
fn what_a_policy_promises_is_kept_in_any_history() {
    let rounds = std::env::var("PGCTL_RETENTION_SEEDS")
        .ok()
        .and_then(|it| it.parse().ok());
    for seed in 0..rounds.unwrap_or(300) {
        check(seed);
    }
}
