//! One situation, one verdict.

use super::*;
use crate::catalogue::Catalogue;
use crate::catalogue::tests::entry;
use crate::inventory::Inventory;
use crate::inventory::tests::{MIB, made_of};
use crate::marks::{Pin, Proof};
use agent_core::pg::TimelineId;

const HOUR: i64 = 3_600_000;
const DAY: u64 = 24;

/// A segment is written in each hour and stored at its end.
pub(super) fn written(mut inventory: Inventory) -> Inventory {
    for (timeline, numbers) in &inventory.segments {
        for number in numbers {
            let at = i64::try_from(number + 1).expect("an hour") * HOUR;
            inventory.written_ms.insert((*timeline, *number), at);
            inventory.sizes.insert((*timeline, *number), 100);
        }
    }
    inventory
}

/// Taken in the middle of an hour; needs the segment of that hour and no other.
pub(super) fn backup(id: &str, timeline: u32, hour: u64) -> Catalogue {
    let ended = i64::try_from(hour).expect("an hour") * HOUR + HOUR / 2;
    let mut made = entry(id, timeline, hour * MIB + 40, hour * MIB + 400, ended);
    made.stored_bytes = 7;
    made
}

fn increment(id: &str, of: &str, hour: u64) -> Catalogue {
    Catalogue {
        parent: Some(of.to_owned()),
        ..backup(id, 1, hour)
    }
}

fn pin(backup: &str, until_ms: Option<i64>, hold: bool) -> Pin {
    Pin {
        backup: backup.to_owned(),
        until_ms,
        hold,
        reason: String::new(),
        at_ms: 0,
    }
}

struct Scene {
    backups: Vec<Catalogue>,
    inventory: Inventory,
    pins: Vec<Pin>,
    proofs: Vec<Proof>,
    now_hour: u64,
}

impl Scene {
    /// WAL of `hours` hours on one timeline.
    fn new(hours: u64, backups: Vec<Catalogue>) -> Scene {
        Scene {
            backups,
            inventory: written(made_of(&[(1, 0..=hours - 1)], &[])),
            pins: Vec::new(),
            proofs: Vec::new(),
            now_hour: hours,
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
                now_ms: i64::try_from(self.now_hour).expect("hours") * HOUR,
            },
        )
    }

    /// The names of what is kept, and the WAL that goes as timeline, first and last.
    fn outcome(&self, policy: &Policy) -> (String, Vec<(u32, u64, u64)>) {
        let verdict = self.decide(policy);
        let kept: Vec<&str> = verdict.kept.iter().map(|kept| kept.backup.as_str()).collect();
        let wal = verdict.wal.iter().map(|doomed| {
            let span = doomed.span;
            assert_eq!(doomed.stored_bytes, 100 * (span.last - span.first + 1));
            (span.timeline.0, span.first, span.last)
        });
        assert_eq!(verdict.kept.len() + verdict.expired.len(), self.backups.len());
        (kept.join(" "), wal.collect())
    }
}

fn last(count: u32) -> Policy {
    Policy {
        last: Some(count),
        ..Policy::default()
    }
}

fn within(text: &str) -> Policy {
    Policy {
        within: Some(text.parse().expect("an age")),
        ..Policy::default()
    }
}

/// A backup each day from hour 10 on, `b0` to `b6`.
fn week() -> Scene {
    let backups = (0..7).map(|day| backup(&format!("b{day}"), 1, day * DAY + 10));
    Scene::new(7 * DAY, backups.collect())
}

#[test]
fn so_many_as_the_policy_says_are_kept_with_all_wal_since() {
    let first_hour = |day: u64| day * DAY + 10;
    assert_eq!(
        week().outcome(&last(2)),
        ("b5 b6".to_owned(), vec![(1, 0, first_hour(5) - 1)])
    );
    assert_eq!(week().outcome(&last(1)).0, "b6");
    assert_eq!(
        week().outcome(&last(7)),
        ("b0 b1 b2 b3 b4 b5 b6".to_owned(), vec![(1, 0, 9)])
    );
    assert_eq!(week().outcome(&last(100)).0, "b0 b1 b2 b3 b4 b5 b6");
}

#[test]
fn every_moment_of_the_time_within_can_be_restored() {
    // At hour 168, three days back is hour 96: between b3 (hour 82) and b4 (hour 106).
    let (kept, wal) = week().outcome(&within("3d"));
    assert_eq!((kept.as_str(), wal), ("b3 b4 b5 b6", vec![(1, 0, 81)]));
    let verdict = week().decide(&within("3d"));
    assert_eq!(verdict.kept[0].reasons, [Reason::BeginsWindow]);
    assert_eq!(week().outcome(&within("0s")).0, "b6", "now can be restored");
    assert_eq!(week().outcome(&within("52w")).0, "b0 b1 b2 b3 b4 b5 b6");
}

#[test]
fn a_clock_that_is_wrong_does_not_take_everything() {
    let mut ahead = week();
    ahead.now_hour = 100 * 365 * DAY;
    assert_eq!(ahead.outcome(&within("1d")).0, "b6");
    let mut behind = week();
    behind.now_hour = 0;
    assert_eq!(behind.outcome(&within("1d")).0, "b0 b1 b2 b3 b4 b5 b6");
}

#[test]
fn the_calendar_keeps_one_of_each_with_only_its_own_wal() {
    let backups = (0..60).map(|day| backup(&format!("d{day:02}"), 1, day * DAY + 1));
    let scene = Scene::new(60 * DAY, backups.collect());
    // 1970-01-01 is a Thursday: Mondays are the days 4, 11, 18, 25, 32, 39, 46 and 53; months begin on 0 and 31.
    let policy = Policy {
        daily: 3,
        weekly: 3,
        monthly: 12,
        ..Policy::default()
    };
    let (kept, wal) = scene.outcome(&policy);
    assert_eq!(kept, "d30 d45 d52 d57 d58 d59");
    let hour = |day: u64| day * DAY + 1;
    let between = |from: u64, to: u64| (1, hour(from) + 1, hour(to) - 1);
    assert_eq!(
        wal,
        [
            (1, 0, hour(30) - 1),
            between(30, 45),
            between(45, 52),
            between(52, 57),
            between(57, 58),
            between(58, 59)
        ],
        "all since the newest one stays"
    );
    let yearly = Policy {
        yearly: 5,
        ..Policy::default()
    };
    assert_eq!(scene.outcome(&yearly).0, "d59");
}

#[test]
fn pins_and_holds_keep_until_they_end() {
    let mut scene = week();
    let now = i64::try_from(scene.now_hour).expect("hours") * HOUR;
    scene.pins = vec![
        pin("b0", None, false),
        pin("b1", Some(now + 1), false),
        pin("b2", Some(now), false),
        pin("b3", Some(now - 9), true),
        pin("gone", None, true),
    ];
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!(kept, "b0 b1 b3 b6");
    assert!(wal.contains(&(1, 0, 9)) && wal.contains(&(1, 11, 33)), "{wal:?}");
    let verdict = scene.decide(&last(1));
    let reasons: Vec<&[Reason]> = verdict.kept.iter().map(|kept| kept.reasons.as_slice()).collect();
    assert_eq!(
        reasons[..3],
        [
            [Reason::Pinned(None)],
            [Reason::Pinned(Some(now + 1))],
            [Reason::Held]
        ]
    );
}

#[test]
fn the_newest_that_was_proven_stays() {
    let mut scene = week();
    let proof = |backup: &str| Proof {
        backup: backup.to_owned(),
        at_ms: 0,
        node: String::new(),
    };
    scene.proofs = vec![proof("b1"), proof("b2"), proof("gone")];
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!(kept, "b2 b6");
    assert_eq!(wal, [(1, 0, 57), (1, 59, 153)]);
    scene.proofs.push(proof("b6"));
    assert_eq!(scene.outcome(&last(1)).0, "b6");
}

#[test]
fn a_chain_counts_once_and_stays_whole() {
    let backups = vec![
        backup("f1", 1, 10),
        increment("i1", "f1", 20),
        increment("i2", "i1", 30),
        backup("f2", 1, 40),
        increment("i3", "f2", 50),
        increment("i4", "i3", 60),
    ];
    let scene = Scene::new(70, backups.clone());
    assert_eq!(scene.outcome(&last(1)), ("f2 i3 i4".to_owned(), vec![(1, 0, 39)]));
    assert_eq!(scene.outcome(&last(2)).0, "f1 i1 i2 f2 i3 i4");
    // Of hour 70, 35 hours back is hour 35: i2 begins the window, and needs what it is an increment of.
    let (kept, wal) = scene.outcome(&within("35h"));
    assert_eq!(kept, "f1 i1 i2 f2 i3 i4");
    assert_eq!(wal, [(1, 0, 9), (1, 11, 19), (1, 21, 29)]);
    let mut pinned = Scene::new(70, backups.clone());
    pinned.pins = vec![pin("i1", None, false)];
    assert_eq!(pinned.outcome(&last(1)).0, "f1 i1 f2 i3 i4");
    let mut broken = Scene::new(70, backups);
    broken.backups.remove(3);
    // i3 and i4 can not be restored: what counts is what can.
    assert_eq!(broken.outcome(&last(1)).0, "f1 i1 i2");
}

#[test]
fn the_calendar_prefers_full_backups() {
    let backups = vec![
        backup("f1", 1, 1),
        increment("i1", "f1", 20),
        backup("f2", 1, 30),
        increment("i2", "f2", 40),
    ];
    let scene = Scene::new(50, backups);
    let daily = Policy {
        daily: 2,
        ..Policy::default()
    };
    // The newest of all stays whatever it is.
    assert_eq!(scene.outcome(&daily).0, "f1 f2 i2");
}

#[test]
fn a_line_that_the_cluster_has_left_is_judged_by_time_and_not_by_number() {
    // A recovery to hour 20 of timeline 1 began timeline 3; timeline 2 was a failover in hour 40 that was undone by it.
    let second: &[(u32, u64)] = &[(1, 40 * MIB + 5)];
    let third: &[(u32, u64)] = &[(1, 20 * MIB + 5)];
    let mut inventory = written(made_of(
        &[(1, 0..=39), (2, 40..=59), (3, 20..=29)],
        &[(2, second), (3, third)],
    ));
    // What was written on timeline 3 was written after the rest.
    for number in 20..=29 {
        inventory
            .written_ms
            .insert((TimelineId(3), number), (number as i64 + 61) * HOUR);
    }
    let mut scene = Scene::new(
        60,
        vec![backup("a", 1, 10), backup("b", 1, 30), backup("c", 2, 50)],
    );
    scene.inventory = inventory;
    scene.now_hour = 91;
    // Nothing newer is on the cluster's line than a, and from it alone hour 25 of timeline 3 can be restored.
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!((kept.as_str(), wal), ("a b c", vec![(1, 0, 9)]));
    // A backup of timeline 3 takes the place of all of them.
    scene.backups.push(Catalogue {
        ended_ms: 86 * HOUR + HOUR / 2,
        begun_ms: 86 * HOUR,
        ..backup("d", 3, 25)
    });
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!(kept, "d");
    assert_eq!(wal, [(1, 0, 39), (2, 40, 59), (3, 20, 24)]);
    // A time within which timeline 2 was written to keeps what restores it.
    let (kept, _) = scene.outcome(&within("40h"));
    assert_eq!(kept, "a c d", "a begins timeline 3, c timeline 2");
}

#[test]
fn after_a_failover_what_reaches_the_new_line_counts() {
    let second: &[(u32, u64)] = &[(1, 40 * MIB + 5)];
    let mut scene = Scene::new(
        60,
        vec![backup("a", 1, 10), backup("b", 1, 30), backup("c", 2, 50)],
    );
    scene.inventory = written(made_of(&[(1, 0..=39), (2, 40..=59)], &[(2, second)]));
    assert_eq!(
        scene.outcome(&last(1)),
        ("c".to_owned(), vec![(1, 0, 39), (2, 40, 49)])
    );
    assert_eq!(scene.outcome(&last(2)), ("b c".to_owned(), vec![(1, 0, 29)]));
}

#[test]
fn a_new_line_whose_history_is_not_there_yet_is_left_alone() {
    let mut scene = week();
    let segments = [(1, 0..=100), (2, 90..=167)];
    scene.inventory = written(made_of(&segments, &[]));
    scene.backups.truncate(4);
    // From which of them the new line goes on is not known, so all of them may be needed.
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!((kept.as_str(), wal), ("b0 b1 b2 b3", vec![(1, 0, 9)]));
    let (kept, wal) = scene.outcome(&within("1d"));
    assert_eq!((kept.as_str(), wal), ("b3", vec![(1, 0, 81)]));
}

#[test]
fn a_backup_that_lacks_wal_does_not_count_and_is_waited_for() {
    let mut scene = week();
    let segments = [(1, 0..=153), (1, 155..=167)];
    scene.inventory = written(made_of(&segments, &[]));
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!(
        (kept.as_str(), wal),
        ("b5 b6", vec![(1, 0, 129)]),
        "b6 lacks segment 154"
    );
    scene.now_hour += 10 * DAY;
    assert_eq!(scene.outcome(&last(1)).0, "b5 b6", "nothing newer is complete");
    scene.backups.push(backup("b7", 1, 160));
    assert_eq!(scene.outcome(&last(1)).0, "b7");
}

#[test]
fn without_a_complete_backup_nothing_goes() {
    let mut scene = week();
    scene.inventory = written(made_of(&[(1, 161..=167)], &[]));
    scene.now_hour += 1000 * DAY;
    let (kept, wal) = scene.outcome(&last(1));
    assert_eq!((kept.as_str(), wal), ("b0 b1 b2 b3 b4 b5 b6", vec![]));
    scene.backups.clear();
    assert_eq!(scene.outcome(&last(1)), (String::new(), vec![]));
}

#[test]
fn wal_that_was_stored_after_the_window_began_stays() {
    let mut scene = week();
    // A standby brought an old segment late.
    scene.inventory.written_ms.insert((TimelineId(1), 3), 160 * HOUR);
    let (_, wal) = scene.outcome(&last(1));
    assert_eq!(wal, [(1, 0, 2), (1, 4, 153)]);
}

#[test]
fn windows_show_what_can_be_restored() {
    let second: &[(u32, u64)] = &[(1, 40 * MIB + 5)];
    let backups = vec![backup("a", 1, 10), backup("b", 1, 30), backup("c", 2, 50)];
    let inventory = written(made_of(
        &[(1, 10..=10), (1, 30..=39), (2, 40..=59)],
        &[(2, second)],
    ));
    let found = windows(&backups, &inventory);
    let shown: Vec<(u32, i64, Option<i64>, String)> = found
        .iter()
        .map(|window| {
            let hours = |ms: i64| ms / HOUR;
            (
                window.timeline.0,
                hours(window.from_ms),
                window.to_ms.map(hours),
                window.backups.join(" "),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (1, 10, Some(11), "a".to_owned()),
            (2, 30, Some(60), "b c".to_owned())
        ]
    );
}
