//! Expiry that is killed at any call, that runs twice at once, and that meets people and backups on its way.

use super::*;
use crate::backup::{BackupFacts, BackupWriter};
use crate::catalogue::{Catalogue, backups};
use crate::envelope::Kind;
use crate::faulty_store::{FaultyStore, keys};
use crate::inventory::inventory;
use crate::marks::{Pin, pin, pins, unpin};
use crate::retention::Age;
use crate::tar;
use crate::wal_name::Segment;
use agent_core::pg::{Lsn, SystemId, TimelineId};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const DAY: i64 = 86_400_000;

fn line() -> Line {
    Line::new("demo", SystemId(1))
}

/// Later than anything that the store's clock says: this is when expiry runs.
#[expect(clippy::disallowed_methods, reason = "the store in memory goes by it")]
fn later(days: i64) -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(now.as_millis()).expect("fits") + days * DAY
}

/// The server's archive of a data directory that needs WAL from `start` to `stop`.
fn archive(start: u64, stop: u64) -> Vec<u8> {
    let manifest = format!(
        r#"{{"Files": [], "WAL-Ranges": [{{"Timeline": 1, "Start-LSN": "{}", "End-LSN": "{}"}}]}}"#,
        Lsn(start),
        Lsn(stop)
    );
    [
        tar::tests::entry("global/pg_control", b'0', &[7; 8192]),
        tar::tests::entry("backup_manifest", b'0', manifest.as_bytes()),
        vec![0; 1024],
    ]
    .concat()
}

async fn back_up(
    repository: &Repository,
    id: &str,
    segment: u64,
    parent: Option<&str>,
) -> Result<Catalogue, Error> {
    let facts = BackupFacts {
        id: id.to_owned(),
        line: line(),
        system_id: SystemId(1),
        node: "n1".to_owned(),
        from_standby: true,
        server_version: 180_000,
        segment_bytes: MIB,
        begun_ms: later(0) + i64::try_from(segment).expect("small") * 1000,
        parent: parent.map(str::to_owned),
    };
    let ended_ms = facts.begun_ms + 500;
    let mut writer = BackupWriter::begin(std::slice::from_ref(repository), facts).await?;
    writer
        .write(&archive(segment * MIB + 40, segment * MIB + 400))
        .await?;
    writer.finish(ended_ms).await
}

/// Backups f1, i1, f2, f3 with WAL from segment 1 to 20, and what a backup that was broken off has left.
async fn base() -> Arc<InMemory> {
    let inner = Arc::new(InMemory::new());
    let repository = Repository::over(Arc::clone(&inner) as Arc<dyn ObjectStore>)
        .await
        .expect("opens");
    for number in 1..=20 {
        let segment = Segment::numbered(TimelineId(1), number, MIB);
        let key = line().segment(segment);
        let name = segment.to_string();
        // Some bytes that do not compress: only of an object that is no husk the size of segments is learnt.
        let mut content = vec![0; 1 << 20];
        for (at, byte) in content.iter_mut().take(600).enumerate() {
            *byte = blake3::hash(&[number as u8, at as u8, (at >> 8) as u8]).as_bytes()[0];
        }
        repository
            .create(key, Kind::Segment, &name, BTreeMap::new(), content)
            .await
            .expect("is created");
    }
    for (id, segment, parent) in [
        ("f1", 3, None),
        ("i1", 6, Some("f1")),
        ("f2", 9, None),
        ("f3", 15, None),
    ] {
        back_up(&repository, id, segment, parent).await.expect("is made");
    }
    let debris = line().part("debris", 0);
    repository
        .create(
            debris,
            Kind::Part,
            "debris/000000",
            BTreeMap::new(),
            b"half".to_vec(),
        )
        .await
        .expect("is created");
    inner
}

fn forked(inner: &InMemory) -> Arc<InMemory> {
    Arc::new(inner.fork())
}

async fn open(inner: &Arc<InMemory>) -> Repository {
    Repository::over(Arc::clone(inner) as Arc<dyn ObjectStore>)
        .await
        .expect("opens")
}

fn policy(grace_days: i64) -> Policy {
    Policy {
        last: Some(1),
        grace: Age { ms: grace_days * DAY },
        ..Policy::default()
    }
}

/// All that is in the catalogue has all of its content and WAL.
async fn check_whole(repository: &Repository, what: &str) -> BTreeSet<String> {
    let there = inventory(repository, &line()).await.expect("lists");
    let all = backups(repository, &line()).await.expect("lists");
    for entry in &all {
        assert_eq!(entry.lacks(&there), [], "{what}: {} lacks WAL", entry.id);
        assert!(
            crate::catalogue::chain(&all, &entry.id).is_some(),
            "{what}: {}",
            entry.id
        );
        for number in 0..entry.parts.len() {
            let read = repository.read(&line().part(&entry.id, number)).await;
            assert!(read.is_ok(), "{what}: {}: {read:?}", entry.id);
        }
    }
    assert_eq!(there.holes(), [], "{what}: retention looks like a hole");
    all.into_iter().map(|entry| entry.id).collect()
}

/// Keys without those whose names are random.
async fn shape(inner: &InMemory) -> Vec<String> {
    let mut found = keys(inner).await;
    for key in &mut found {
        if key.contains("/expired/") {
            key.truncate(key.rfind('/').expect("a folder"));
        }
    }
    found.dedup();
    found
}

async fn run(repository: &Repository, now_ms: i64) -> Result<Expiry, Error> {
    expire(repository, &line(), &policy(1), now_ms, &[], false).await
}

#[tokio::test]
async fn what_goes_is_marked_and_goes_a_grace_later() {
    let inner = base().await;
    let repository = open(&inner).await;
    let before = keys(&inner).await;
    let preview = expire(&repository, &line(), &policy(1), later(3), &[], true)
        .await
        .expect("previews");
    assert_eq!(keys(&inner).await, before, "a preview changes nothing");
    let names: Vec<&str> = preview.going.iter().map(|going| going.backup.as_str()).collect();
    assert_eq!(names, ["f1", "i1", "f2", "debris"]);
    assert_eq!((preview.before.len(), preview.after.len()), (1, 1));
    assert_eq!(preview.before[0].backups, ["f1", "i1", "f2", "f3"]);
    assert_eq!(preview.after[0].backups, ["f3"]);
    assert!(preview.wal_bytes > 0);

    let first = run(&repository, later(3)).await.expect("runs");
    assert_eq!(first.deleted, Deleted::default());
    assert_eq!(check_whole(&repository, "marked").await.len(), 4);
    assert_eq!(marked(&repository, &line()).await.expect("lists").len(), 4);
    let early = run(&repository, later(3) + DAY / 2).await.expect("runs");
    assert_eq!(early.deleted, Deleted::default());
    let second = run(&repository, later(5)).await.expect("runs");
    assert_eq!(second.deleted.backups, ["debris", "f2", "i1", "f1"]);
    assert_eq!(second.deleted.segments, 14);
    let left = check_whole(&repository, "swept").await;
    assert_eq!(left, BTreeSet::from(["f3".to_owned()]));
    let keys = keys(&inner).await;
    for gone in ["f1", "i1", "f2", "debris", "expiring"] {
        assert!(
            !keys.iter().any(|key| key.contains(&format!("/{gone}"))),
            "{gone}: {keys:?}"
        );
    }
    let third = run(&repository, later(6)).await.expect("runs");
    assert_eq!(third.deleted, Deleted::default());
}

#[tokio::test]
async fn a_pin_in_the_grace_rescues_a_backup_and_what_it_is_an_increment_of() {
    let inner = base().await;
    let repository = open(&inner).await;
    run(&repository, later(3)).await.expect("marks");
    let mine = Pin {
        backup: "i1".to_owned(),
        until_ms: None,
        hold: false,
        reason: "audit".to_owned(),
        at_ms: 0,
    };
    pin(&repository, &line(), &mine).await.expect("is pinned");
    let swept = run(&repository, later(5)).await.expect("sweeps");
    assert_eq!(swept.deleted.backups, ["debris", "f2"]);
    assert_eq!(swept.rescued, ["f1", "i1"]);
    assert_eq!(check_whole(&repository, "pinned").await.len(), 3);
    assert_eq!(
        unpin(&repository, &line(), "i1", true).await.expect("lists"),
        0,
        "no hold"
    );
    assert_eq!(unpin(&repository, &line(), "i1", false).await.expect("lists"), 1);
    let again = run(&repository, later(7)).await.expect("marks");
    assert_eq!(again.deleted.backups, [""; 0], "a new grace begins");
    run(&repository, later(9)).await.expect("sweeps");
    assert_eq!(check_whole(&repository, "swept").await.len(), 1);
    assert!(pin(&repository, &line(), &mine).await.is_err(), "it is gone");
}

#[tokio::test]
async fn what_a_drill_has_proven_stays_and_what_it_has_not_does_not() {
    let inner = base().await;
    let repository = open(&inner).await;
    for (id, backup, succeeded) in [("d1", "i1", true), ("d2", "f2", false)] {
        let evidence = serde_json::json!({
            "id": id, "node": "n2", "succeeded": succeeded, "backup": backup, "began_unix_ms": 7, "timeline": 1,
        });
        repository
            .create_json(format!("{}/drills/{id}", line()), Kind::Mark, id, &evidence)
            .await
            .expect("is written");
    }
    run(&repository, later(3)).await.expect("marks");
    run(&repository, later(5)).await.expect("sweeps");
    let left = check_whole(&repository, "proven").await;
    assert_eq!(left, ["f1", "f3", "i1"].map(str::to_owned).into());
}

#[tokio::test]
async fn expiry_killed_at_any_call_leaves_all_that_is_catalogued_whole_and_is_gone_on_with() {
    let base = base().await;
    let clean = forked(&base);
    let repository = open(&clean).await;
    run(&repository, later(3)).await.expect("marks");
    run(&repository, later(5)).await.expect("sweeps");
    let expected = shape(&clean).await;
    let mut broken_off = 0;
    for effect in [false, true] {
        for calls in 1.. {
            let inner = forked(&base);
            // Opening takes calls of its own.
            let faulty = FaultyStore::broken_after(&inner, calls + 10, effect);
            let victim = Repository::over(faulty).await.expect("opens");
            let marking = run(&victim, later(3)).await;
            let sweeping = match &marking {
                Ok(_) => run(&victim, later(5)).await.map(drop),
                Err(_) => Err(Error::Refused {
                    name: String::new(),
                    why: String::new(),
                }),
            };
            let what = format!("killed at call {calls}, effect {effect}");
            let repository = open(&inner).await;
            let left = check_whole(&repository, &what).await;
            assert!(left.contains("f3"), "{what}");
            if marking.is_err() {
                assert_eq!(left.len(), 4, "{what}: gone without its grace");
            }
            run(&repository, later(5)).await.expect("goes on");
            check_whole(&repository, &what).await;
            run(&repository, later(7)).await.expect("goes on");
            check_whole(&repository, &what).await;
            assert_eq!(shape(&inner).await, expected, "{what}");
            if sweeping.is_ok() {
                break;
            }
            broken_off += 1;
        }
    }
    assert!(broken_off > 100, "{broken_off} places to be killed at");
}

#[tokio::test]
async fn two_runs_at_once_do_no_more_than_one() {
    let base = base().await;
    let clean = forked(&base);
    let repository = open(&clean).await;
    run(&repository, later(3)).await.expect("marks");
    run(&repository, later(5)).await.expect("sweeps");
    let expected = shape(&clean).await;
    for seed in 0..60 {
        let inner = forked(&base);
        let one = Repository::over(FaultyStore::shuffled(&inner, 2 * seed))
            .await
            .expect("opens");
        let two = Repository::over(FaultyStore::shuffled(&inner, 2 * seed + 77_777))
            .await
            .expect("opens");
        for day in [3, 5] {
            let (a, b) = tokio::join!(run(&one, later(day)), run(&two, later(day)));
            a.expect("runs");
            b.expect("runs");
            check_whole(&one, &format!("seed {seed} day {day}")).await;
        }
        run(&one, later(7)).await.expect("cleans up");
        assert_eq!(shape(&inner).await, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn a_pin_that_was_granted_holds_however_it_meets_the_sweep() {
    let base = base().await;
    run(&open(&base).await, later(3)).await.expect("marks");
    let (mut granted, mut refused) = (0, 0);
    for seed in 0..120 {
        let inner = forked(&base);
        let sweeper = Repository::over(FaultyStore::shuffled(&inner, 2 * seed))
            .await
            .expect("opens");
        let person = Repository::over(FaultyStore::shuffled(&inner, 2 * seed + 99_999))
            .await
            .expect("opens");
        let mine = Pin {
            backup: "f2".to_owned(),
            until_ms: None,
            hold: seed % 2 == 0,
            reason: String::new(),
            at_ms: 0,
        };
        let pinning = async {
            for _ in 0..seed * 6 {
                tokio::task::yield_now().await;
            }
            pin(&person, &line(), &mine).await
        };
        let (swept, pinned) = tokio::join!(run(&sweeper, later(5)), pinning);
        swept.expect("runs");
        let what = format!("seed {seed}: {pinned:?}");
        let left = check_whole(&person, &what).await;
        if pinned.is_ok() {
            granted += 1;
            assert!(left.contains("f2"), "{what}");
            run(&person, later(8)).await.expect("runs");
            run(&person, later(10)).await.expect("runs");
            assert!(check_whole(&person, &what).await.contains("f2"), "{what}");
        } else {
            refused += 1;
            assert_eq!(pins(&person, &line()).await.expect("lists"), [], "{what}");
        }
    }
    assert!(
        granted > 5 && refused > 5,
        "{granted} granted, {refused} refused: they never met"
    );
}

#[tokio::test]
async fn an_increment_that_was_finished_has_all_that_it_is_an_increment_of() {
    let base = base().await;
    run(&open(&base).await, later(3)).await.expect("marks");
    let (mut finished, mut refused) = (0, 0);
    for seed in 0..120 {
        let inner = forked(&base);
        let sweeper = Repository::over(FaultyStore::shuffled(&inner, 2 * seed))
            .await
            .expect("opens");
        let writer = Repository::over(FaultyStore::shuffled(&inner, 2 * seed + 55_555))
            .await
            .expect("opens");
        let writing = async {
            for _ in 0..seed * 6 {
                tokio::task::yield_now().await;
            }
            back_up(&writer, "late", 10, Some("f2")).await
        };
        let (swept, written) = tokio::join!(run(&sweeper, later(5)), writing);
        swept.expect("runs");
        let what = format!("seed {seed}: {written:?}");
        let all = backups(&writer, &line()).await.expect("lists");
        for entry in &all {
            assert!(
                crate::catalogue::chain(&all, &entry.id).is_some(),
                "{what}: {}",
                entry.id
            );
        }
        let there = all.iter().any(|entry| entry.id == "late");
        assert_eq!(there, written.is_ok(), "{what}");
        if there {
            finished += 1;
        } else {
            refused += 1;
        }
    }
    assert!(
        finished > 5 && refused > 5,
        "{finished} finished, {refused} refused: they never met"
    );
}

#[tokio::test]
async fn a_backup_that_was_taken_for_given_up_is_not_finished_without_its_content() {
    let inner = base().await;
    let repository = open(&inner).await;
    let facts = BackupFacts {
        id: "slow".to_owned(),
        line: line(),
        system_id: SystemId(1),
        node: "n1".to_owned(),
        from_standby: true,
        server_version: 180_000,
        segment_bytes: MIB,
        begun_ms: later(0),
        parent: None,
    };
    let mut writer = BackupWriter::begin(std::slice::from_ref(&repository), facts)
        .await
        .expect("begins");
    let long = [
        tar::tests::entry("base/1", b'0', &vec![1; 17 << 20]),
        archive(15 * MIB + 40, 15 * MIB + 400),
    ]
    .concat();
    writer.write(&long).await.expect("takes it");
    // The first part is on its way to the store.
    while !keys(&inner).await.iter().any(|key| key.contains("slow/parts")) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    run(&repository, later(3)).await.expect("marks");
    run(&repository, later(5)).await.expect("sweeps");
    assert!(
        !keys(&inner).await.iter().any(|key| key.contains("slow")),
        "it was given up"
    );
    let late = writer.finish(later(5)).await;
    assert!(late.is_err(), "{late:?}");
    let left = backups(&repository, &line()).await.expect("lists");
    assert!(!left.iter().any(|entry| entry.id == "slow"));
}

#[tokio::test]
async fn a_backup_that_is_being_made_is_left_alone_however_long_it_takes() {
    let inner = base().await;
    let repository = open(&inner).await;
    let goes = |busy: &'static [&'static str]| {
        let (repository, busy) = (
            repository.clone(),
            busy.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>(),
        );
        async move {
            // By the store's clock all of it was written just now: so late that this is long ago.
            let seen = expire(&repository, &line(), &policy(0), i64::MAX / 2, &busy, true).await;
            let going = seen.expect("previews").going.into_iter();
            going.map(|going| going.backup).collect::<Vec<String>>()
        }
    };
    assert_eq!(goes(&[]).await, ["f1", "i1", "f2", "debris"]);
    assert_eq!(
        goes(&["debris"]).await,
        ["f1", "i1", "f2"],
        "nothing but parts so far"
    );
    assert_eq!(
        goes(&["i1"]).await,
        ["f2", "debris"],
        "it waits for its WAL; and what it is made of"
    );
    expire(
        &repository,
        &line(),
        &policy(0),
        i64::MAX / 2,
        &["f2".to_owned(), "debris".to_owned()],
        false,
    )
    .await
    .expect("goes");
    assert_eq!(
        check_whole(&repository, "busy").await,
        BTreeSet::from(["f2".to_owned(), "f3".to_owned()])
    );
    assert!(keys(&inner).await.contains(&line().part("debris", 0)));
}
