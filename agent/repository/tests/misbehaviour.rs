//! A store that fails, throttles, forgets, lies and damages: what is said to be archived is, and nothing wrong comes out.

#![cfg(feature = "s3")]

use agent_core::pg::{SystemId, TimelineId};
use repository::{
    Error, Line, Repository, RepositoryConfig, S3, Segment, Source, WalFileContent, WalName, mend_segment,
    verify,
};
use scripted_store::{Act, Asked, Call, ScriptedStore};
use std::net::Ipv4Addr;
use std::time::Duration;

const SYSTEM: SystemId = SystemId(77);

fn config(store: &ScriptedStore, name: &str) -> RepositoryConfig {
    let mut config = RepositoryConfig::directory(name, "/");
    config.path = None;
    config.s3 = Some(S3 {
        bucket: name.to_owned(),
        prefix: String::new(),
        region: Some("us-east-1".to_owned()),
        endpoint: Some(store.endpoint()),
        access_key_id: Some("test".to_owned()),
        secret_access_key: Some("test".to_owned()),
    });
    config
}

fn segment(number: u64, fill: u8) -> WalFileContent {
    const MIB: u64 = 1 << 20;
    let segment = Segment::numbered(TimelineId(1), number, MIB);
    let mut content: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8 ^ fill).collect();
    content[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
    content[2..4].copy_from_slice(&2_u16.to_le_bytes());
    content[4..8].copy_from_slice(&1_u32.to_le_bytes());
    content[8..16].copy_from_slice(&(number * MIB).to_le_bytes());
    content[24..32].copy_from_slice(&SYSTEM.0.to_le_bytes());
    content[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    WalFileContent::check(WalName::Segment(segment), SYSTEM, content).expect("a segment")
}

fn source(line: &Line) -> Source {
    Source {
        line: line.clone(),
        node: "n1".to_owned(),
        epoch: 1,
        now: String::new(),
        diverged: false,
    }
}

struct Rig {
    store: ScriptedStore,
    repository: Repository,
    line: Line,
}

impl Rig {
    async fn new() -> Rig {
        let store = ScriptedStore::start(Ipv4Addr::LOCALHOST).await.expect("a server");
        let repository = Repository::open_to_write(&config(&store, "b"), None).await;
        Rig {
            repository: repository.expect("opens"),
            line: Line::new("demo", SYSTEM),
            store,
        }
    }

    async fn put(&self, file: &WalFileContent) -> Result<repository::Stored, Error> {
        self.repository.put_wal(file, &source(&self.line)).await
    }

    async fn comes_out(&self, file: &WalFileContent) -> Result<bool, Error> {
        let fetched = self.repository.get_wal(&self.line, file.name).await?;
        Ok(fetched.header.hash == file.hash())
    }
}

/// Only puts of WAL, and only the first one of each.
fn of_wal(call: &Call) -> bool {
    call.asked == Asked::Put && call.key.contains("/wal/")
}

#[tokio::test]
async fn a_store_is_not_taken_at_its_word() {
    let rig = Rig::new().await;
    for (number, act) in [(1, Act::Forget), (2, Act::SayExists), (3, Act::KeepHalf)] {
        let file = segment(number, 1);
        rig.store
            .script(move |call| if of_wal(call) { act } else { Act::Serve });
        let said = rig.put(&file).await;
        assert!(said.is_err(), "{act:?} counts as archived: {said:?}");
        assert!(said.is_err_and(|error| !error.is_missing()), "{act:?}");
        rig.store.behave();
        if act == Act::KeepHalf {
            // What is there is damaged, and not overwritten by anybody who comes along.
            let again = rig.put(&file).await;
            assert!(matches!(again, Err(Error::Damaged { .. })), "{again:?}");
        } else {
            rig.put(&file).await.expect("the server asks again");
            assert!(rig.comes_out(&file).await.expect("is there"), "{act:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_second_writer() {
    let rig = Rig::new().await;
    let file = segment(1, 1);
    let calls = std::sync::atomic::AtomicU64::new(0);
    rig.store.script(move |call| {
        let first = of_wal(call) && calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if first { Act::LoseAnswer } else { Act::Serve }
    });
    rig.put(&file).await.expect("it is there, and it is ours");
    assert!(rig.comes_out(&file).await.expect("is there"));
    let other = rig.put(&segment(1, 2)).await;
    assert!(matches!(other, Err(Error::Different { .. })), "{other:?}");
}

#[tokio::test]
async fn a_store_that_throttles_and_dawdles_is_waited_for() {
    let rig = Rig::new().await;
    rig.store.script(|call| match call.number % 3 {
        0 => Act::Refuse(503),
        1 => Act::Dawdle(Duration::from_millis(30)),
        _ => Act::Serve,
    });
    for number in 1..4 {
        let file = segment(number, 1);
        rig.put(&file).await.expect("in the end");
        assert!(rig.comes_out(&file).await.expect("in the end"));
    }
}

#[tokio::test]
async fn a_full_store_says_so_and_leaves_nothing_half() {
    let rig = Rig::new().await;
    let before = rig.store.keys();
    rig.store.script(|call| {
        if call.asked == Asked::Put {
            Act::Refuse(507)
        } else {
            Act::Serve
        }
    });
    let said = rig.put(&segment(1, 1)).await;
    assert!(matches!(said, Err(Error::Store { .. })), "{said:?}");
    assert_eq!(rig.store.keys(), before);
    // A bucket that cannot be written to is not opened either.
    let opened = Repository::open_to_write(&config(&rig.store, "other"), None).await;
    assert!(opened.is_err());
}

#[tokio::test]
async fn what_is_damaged_never_comes_out_and_is_mended_from_another_repository() {
    let rig = Rig::new().await;
    let far = Repository::open_to_write(&config(&rig.store, "far"), None).await;
    let far = far.expect("opens");
    let files: Vec<WalFileContent> = (1..5).map(|number| segment(number, 1)).collect();
    for file in &files {
        rig.put(file).await.expect("put");
        far.put_wal(file, &source(&rig.line)).await.expect("put");
    }
    rig.store.script(|call| {
        let get = call.asked == Asked::Get && call.key.starts_with("b/demo");
        if get { Act::Corrupt } else { Act::Serve }
    });
    let damaged = rig.comes_out(&files[0]).await;
    assert!(matches!(damaged, Err(Error::Damaged { .. })), "{damaged:?}");
    rig.store.behave();
    // One is damaged at rest, one is gone, and the newest is only not there yet.
    rig.store.change(|objects| {
        let key = |name: &WalFileContent| {
            let name = name.name.to_string();
            let mut keys = objects
                .keys()
                .filter(|key| key.starts_with("b/") && key.ends_with(&name));
            keys.next().expect("it is there").clone()
        };
        let (second, third, last) = (key(&files[1]), key(&files[2]), key(&files[3]));
        let mut bytes = objects[&second].to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        objects.insert(second, bytes.into());
        objects.remove(&third);
        let _ = last;
    });
    let name = |file: &WalFileContent| match file.name {
        WalName::Segment(segment) => segment,
        _ => unreachable!("they are segments"),
    };
    for (file, mends) in [(&files[0], false), (&files[1], true), (&files[2], true)] {
        let mended = mend_segment(&rig.repository, &rig.line, std::slice::from_ref(&far), name(file)).await;
        assert_eq!(mended.expect("answers"), mends, "{}", file.name);
        assert!(rig.comes_out(file).await.expect("is whole"));
    }
    let beyond = mend_segment(
        &rig.repository,
        &rig.line,
        std::slice::from_ref(&far),
        name(&segment(9, 1)),
    )
    .await;
    assert!(!beyond.expect("answers"), "nobody has it");
    let verified = verify(&rig.repository, &rig.line, None, None, |_, _| {}).await;
    assert_eq!(verified.expect("reads").findings, []);
    assert!(
        rig.store
            .keys()
            .iter()
            .any(|key| key.contains("b/demo/77/quarantine/verify/"))
    );
}

/// Many short lives of a store that does all of it, in an order that a seed makes; PGCTL_TEST_ROUNDS for more of them.
#[tokio::test]
async fn whatever_a_store_does_what_it_is_said_to_have_is_there() {
    let rounds: u64 = std::env::var("PGCTL_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(6);
    let first: u64 = std::env::var("PGCTL_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    for seed in first..first + rounds {
        round(seed).await;
    }
}

async fn round(seed: u64) {
    let rig = Rig::new().await;
    rig.store.script(move |call| {
        let mut number =
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ call.number.wrapping_mul(0xD1B5_4A32_D192_ED03);
        number ^= number >> 31;
        match number.wrapping_mul(0x94D0_49BB_1331_11EB) >> 58 {
            0..=3 => Act::Refuse(503),
            4..=6 => Act::Refuse(500),
            7..=9 => Act::LoseAnswer,
            10..=12 => Act::Forget,
            13..=15 => Act::SayExists,
            16..=18 => Act::Corrupt,
            19..=21 => Act::Dawdle(Duration::from_millis(5)),
            _ => Act::Serve,
        }
    });
    let files: Vec<WalFileContent> = (1..9).map(|number| segment(number, 1)).collect();
    let mut archived = Vec::new();
    for file in &files {
        // The server asks again until it is told that it is done.
        let mut tries = 0;
        while let Err(error) = rig.put(file).await {
            tries += 1;
            assert!(tries < 40, "seed {seed}: never archived: {error}");
            let different = matches!(error, Error::Different { .. });
            assert!(!different, "seed {seed}: nobody else writes: {error}");
        }
        archived.push(file);
        // A read gives what was put, or an error that is none of "it is not there".
        match rig.comes_out(file).await {
            Ok(same) => assert!(same, "seed {seed}: {} has other content", file.name),
            Err(error) => assert!(!error.is_missing(), "seed {seed}: {error}"),
        }
    }
    rig.store.behave();
    for file in archived {
        let whole = rig.comes_out(file).await;
        assert!(
            whole.is_ok_and(|same| same),
            "seed {seed}: {} is said to be archived",
            file.name
        );
    }
    let verified = verify(&rig.repository, &rig.line, None, None, |_, _| {}).await;
    let verified = verified.expect("reads all of it");
    assert_eq!(verified.findings, [], "seed {seed}");
}
