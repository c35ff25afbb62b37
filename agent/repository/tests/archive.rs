//! Archived WAL in a directory: twice, at once, damaged, differing, and in a repository that is not there.

use agent_core::pg::{SystemId, TimelineId};
use repository::{
    Error, Line, Repository, RepositoryConfig, Segment, Source, Stored, WalFileContent, WalName,
};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SYSTEM: SystemId = SystemId(77);

struct Rig {
    folder: TempDir,
    config: RepositoryConfig,
    repository: Repository,
    line: Line,
}

impl Rig {
    async fn new(change: impl FnOnce(&Path, &mut RepositoryConfig)) -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("repository");
        fs::create_dir(&place).expect("a folder");
        let mut config = RepositoryConfig::directory("main", place);
        change(folder.path(), &mut config);
        let line = Line::new("demo", SYSTEM);
        let opened = Repository::open_to_write(&config, None).await.expect("opens");
        let repository = opened.for_wal(&line).await.expect("has a key");
        Rig {
            folder,
            config,
            repository,
            line,
        }
    }

    async fn plain() -> Rig {
        Rig::new(|_, _| {}).await
    }

    fn source(&self, node: &str) -> Source {
        Source {
            line: self.line.clone(),
            node: node.to_owned(),
            epoch: 3,
            now: "2026-11-21T07:00:00Z".to_owned(),
            diverged: false,
        }
    }

    /// Where an object lies on the disk.
    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join("repository/demo/77").join(below)
    }

    fn path_of(&self, file: &WalFileContent) -> PathBuf {
        let name = file.name.to_string();
        self.path(&format!("wal/{}/{}/{name}", &name[..8], &name[8..16]))
    }

    /// The names below a folder of the line.
    fn names(&self, below: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(below)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

fn segment(number: u64, fill: u8) -> WalFileContent {
    const MIB: u64 = 1 << 20;
    let segment = Segment::numbered(TimelineId(1), number, MIB);
    let mut content = vec![fill; 1 << 20];
    content[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
    content[2..4].copy_from_slice(&2_u16.to_le_bytes());
    content[4..8].copy_from_slice(&1_u32.to_le_bytes());
    content[8..16].copy_from_slice(&(number * MIB).to_le_bytes());
    content[24..32].copy_from_slice(&SYSTEM.0.to_le_bytes());
    content[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    WalFileContent::check(WalName::Segment(segment), SYSTEM, content).expect("a segment")
}

fn history(timeline: u32, text: &str) -> WalFileContent {
    WalFileContent::check(WalName::History(TimelineId(timeline)), SYSTEM, text.into()).expect("a history")
}

#[tokio::test]
async fn what_was_put_comes_out_and_may_be_put_again() {
    let rig = Rig::plain().await;
    let file = segment(5, 1);
    let first = rig
        .repository
        .put_wal(&file, &rig.source("n1"))
        .await
        .expect("put");
    assert!(matches!(first, Stored::Written(_)));
    for node in ["n1", "n2"] {
        let again = rig
            .repository
            .put_wal(&file, &rig.source(node))
            .await
            .expect("put");
        assert_eq!(again, Stored::Already);
        assert!(
            rig.repository
                .has_wal(&file, &rig.source(node))
                .await
                .expect("told")
        );
    }
    let reader = Repository::open(&rig.config).await.expect("opens");
    let fetched = reader.get_wal(&rig.line, file.name).await.expect("comes out");
    assert_eq!(fetched.header.hash, file.hash());
    assert_eq!(fetched.header.about["node"], "n1");
    let missing = reader.get_wal(&rig.line, segment(6, 1).name).await;
    assert!(missing.is_err_and(|error| error.is_missing()));
}

#[tokio::test]
async fn another_codec_writes_the_same_content_under_the_same_name() {
    let rig = Rig::plain().await;
    let file = segment(5, 1);
    rig.repository
        .put_wal(&file, &rig.source("n1"))
        .await
        .expect("put");
    let mut other = rig.config.clone();
    other.compression = repository::Codec::Lz4;
    let other = Repository::open_to_write(&other, Some(rig.repository.id()))
        .await
        .expect("opens");
    let again = other.put_wal(&file, &rig.source("n2")).await.expect("put");
    assert_eq!(again, Stored::Already);
}

#[tokio::test]
async fn differing_content_is_refused_and_put_into_quarantine() {
    let rig = Rig::plain().await;
    let (theirs, ours) = (segment(5, 1), segment(5, 2));
    rig.repository
        .put_wal(&theirs, &rig.source("n1"))
        .await
        .expect("put");
    for _ in 0..2 {
        let refused = rig.repository.put_wal(&ours, &rig.source("n2")).await;
        assert!(matches!(refused, Err(Error::Different { .. })), "{refused:?}");
    }
    let kept = rig
        .repository
        .get_wal(&rig.line, theirs.name)
        .await
        .expect("comes out");
    assert_eq!(kept.header.hash, theirs.hash());
    assert_eq!(
        rig.names("quarantine/n2").len(),
        1,
        "once, however often it was tried"
    );

    let (first, second) = (history(2, "1\t0/500000\tx\n"), history(2, "1\t0/600000\tx\n"));
    rig.repository
        .put_wal(&first, &rig.source("n1"))
        .await
        .expect("put");
    rig.repository
        .put_wal(&first, &rig.source("n2"))
        .await
        .expect("the same again");
    let refused = rig.repository.put_wal(&second, &rig.source("n2")).await;
    assert!(
        matches!(refused, Err(Error::Different { .. })),
        "two owners of one timeline"
    );
}

#[tokio::test]
async fn partial_segments_of_two_nodes_do_not_meet() {
    let rig = Rig::plain().await;
    let partial = |fill| {
        let whole = segment(5, fill);
        let WalName::Segment(name) = whole.name else {
            unreachable!("it was made as one")
        };
        let mut content = vec![fill; 1 << 20];
        content[..40].copy_from_slice(&first_bytes(&whole));
        WalFileContent::check(WalName::Partial(name), SYSTEM, content).expect("a partial segment")
    };
    for node in ["n1", "n2"] {
        for fill in [1, 2] {
            let put = rig.repository.put_wal(&partial(fill), &rig.source(node)).await;
            put.expect("a partial segment never blocks the archiver");
        }
    }
    assert_eq!(rig.names("partial/000000010000000000000005.partial").len(), 4);
    assert!(!rig.path_of(&segment(5, 1)).exists(), "none became a whole one");
}

/// The header of a segment, which the content's owner does not give out.
fn first_bytes(file: &WalFileContent) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2_u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(5 * file.segment_bytes).to_le_bytes());
    bytes[24..32].copy_from_slice(&SYSTEM.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    bytes
}

#[tokio::test]
async fn wal_beyond_a_fork_is_kept_apart() {
    let rig = Rig::plain().await;
    let file = segment(5, 1);
    let source = Source {
        diverged: true,
        ..rig.source("n1")
    };
    rig.repository.put_wal(&file, &source).await.expect("put");
    assert_eq!(rig.names("diverged/n1").len(), 1);
    let get = rig.repository.get_wal(&rig.line, file.name).await;
    assert!(
        get.is_err_and(|error| error.is_missing()),
        "it does not pollute the line"
    );
    let theirs = segment(5, 2);
    rig.repository
        .put_wal(&theirs, &rig.source("n2"))
        .await
        .expect("the line goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_writers_at_once_one_wins_and_the_other_knows() {
    for round in 0..20 {
        let rig = Rig::plain().await;
        let (a, b) = (segment(round, 1), segment(round, 2));
        let (one, two) = (rig.source("n1"), rig.source("n2"));
        let (first, second) =
            tokio::join!(rig.repository.put_wal(&a, &one), rig.repository.put_wal(&b, &two));
        let won = [&first, &second].iter().filter(|it| it.is_ok()).count();
        assert_eq!(won, 1, "{first:?} {second:?}");
        let kept = rig
            .repository
            .get_wal(&rig.line, a.name)
            .await
            .expect("comes out");
        let winner = if first.is_ok() { a.hash() } else { b.hash() };
        assert_eq!(kept.header.hash, winner);

        let rig = Rig::plain().await;
        let (first, second) =
            tokio::join!(rig.repository.put_wal(&a, &one), rig.repository.put_wal(&a, &two));
        assert!(
            first.is_ok() && second.is_ok(),
            "the same content: {first:?} {second:?}"
        );
    }
}

#[tokio::test]
async fn damaged_objects_are_neither_given_out_nor_taken_for_archived() {
    let file = segment(5, 1);
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 5] = [
        ("a bad byte", |object| {
            let middle = object.len() - 20;
            object[middle] ^= 1;
        }),
        ("cut off", |object| object.truncate(object.len() - 1)),
        ("cut off in the header", |object| object.truncate(50)),
        ("empty", Vec::clear),
        ("something else", |object| *object = b"x".repeat(500)),
    ];
    for (what, harm) in harms {
        let rig = Rig::plain().await;
        rig.repository
            .put_wal(&file, &rig.source("n1"))
            .await
            .expect("put");
        let path = rig.path_of(&file);
        let mut object = fs::read(&path).expect("is there");
        harm(&mut object);
        fs::write(&path, object).expect("can be written");
        let get = rig.repository.get_wal(&rig.line, file.name).await;
        assert!(
            matches!(get, Err(Error::Damaged { .. } | Error::Store { .. })),
            "{what}: {get:?}"
        );
        if what != "a bad byte" {
            let put = rig.repository.put_wal(&file, &rig.source("n1")).await;
            assert!(put.is_err(), "{what}: taken for archived: {put:?}");
        }
    }
}

#[tokio::test]
async fn an_object_under_anothers_name_is_not_given_out() {
    let rig = Rig::plain().await;
    let (five, six) = (segment(5, 1), segment(6, 1));
    rig.repository
        .put_wal(&five, &rig.source("n1"))
        .await
        .expect("put");
    fs::copy(rig.path_of(&five), rig.path_of(&six)).expect("copies");
    let get = rig.repository.get_wal(&rig.line, six.name).await;
    assert!(matches!(get, Err(Error::Damaged { .. })), "{get:?}");
    let put = rig.repository.put_wal(&six, &rig.source("n1")).await;
    assert!(matches!(put, Err(Error::Different { .. })), "{put:?}");
}

#[tokio::test]
async fn a_repository_that_lost_its_mount_never_says_not_found() {
    let rig = Rig::plain().await;
    let file = segment(5, 1);
    rig.repository
        .put_wal(&file, &rig.source("n1"))
        .await
        .expect("put");
    let place = rig.folder.path().join("repository");
    fs::rename(&place, rig.folder.path().join("elsewhere")).expect("moves");
    for there in [false, true] {
        if there {
            fs::create_dir(&place).expect("an empty mount point");
        }
        for number in [5, 6] {
            let get = rig.repository.get_wal(&rig.line, segment(number, 1).name).await;
            assert!(get.as_ref().is_err_and(|error| !error.is_missing()), "{get:?}");
        }
        assert!(Repository::open(&rig.config).await.is_err());
        let writer = Repository::open_to_write(&rig.config, Some(rig.repository.id())).await;
        assert!(writer.is_err(), "it must not begin a new one on the wrong disk");
    }
    let other = Repository::open_to_write(&rig.config, None)
        .await
        .expect("begins");
    assert_ne!(other.id(), rig.repository.id());
    let known = Repository::open_to_write(&rig.config, Some(rig.repository.id())).await;
    assert!(known.is_err(), "another repository is not taken for the old one");
}

#[tokio::test]
async fn several_may_begin_a_repository_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = RepositoryConfig::directory("main", folder.path());
    let (a, b) = tokio::join!(
        Repository::open_to_write(&config, None),
        Repository::open_to_write(&config, None)
    );
    assert_eq!(a.expect("opens").id(), b.expect("opens").id());
    let leftovers = fs::read_dir(folder.path().join("probe")).map_or(0, Iterator::count);
    assert_eq!(leftovers, 0, "the probe cleans up");
}

#[tokio::test]
async fn encrypted_wal_needs_the_key_it_was_written_with() {
    let rig = Rig::new(|folder, config| {
        let file = folder.join("key");
        fs::write(&file, "0f".repeat(32)).expect("a key");
        config.key_file = Some(file);
    })
    .await;
    let file = segment(5, b'x');
    rig.repository
        .put_wal(&file, &rig.source("n1"))
        .await
        .expect("put");
    let reader = Repository::open(&rig.config).await.expect("opens");
    let fetched = reader.get_wal(&rig.line, file.name).await.expect("comes out");
    assert_eq!(fetched.header.hash, file.hash());
    // Another start of an agent has another data key, and the same content is the same all the same.
    let other = Repository::open_to_write(&rig.config, None).await.expect("opens");
    let other = other.for_wal(&rig.line).await.expect("has a key");
    assert_eq!(
        other.put_wal(&file, &rig.source("n2")).await.expect("put"),
        Stored::Already
    );

    fs::write(rig.folder.path().join("key"), "1f".repeat(32)).expect("another key");
    let stranger = Repository::open(&rig.config).await.expect("opens");
    let get = stranger.get_wal(&rig.line, file.name).await;
    assert!(matches!(get, Err(Error::Key { .. })), "{get:?}");
    let mut keyless = rig.config.clone();
    keyless.key_file = None;
    let get = Repository::open(&keyless)
        .await
        .expect("opens")
        .get_wal(&rig.line, file.name)
        .await;
    assert!(matches!(get, Err(Error::Key { .. })), "{get:?}");
    let object = fs::read(rig.path_of(&file)).expect("is there");
    assert!(!object.windows(8).any(|window| window == b"xxxxxxxx"));
}

/// A small file system of its own; taken off again at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn of_three_mib(place: &Path) -> Option<SmallDisk> {
        fs::create_dir(place).expect("a folder");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(place)
            .output();
        mounted
            .is_ok_and(|done| done.status.success())
            .then(|| SmallDisk(place.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nothing is to be done about it here.
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .output();
    }
}

#[tokio::test]
async fn a_full_disk_takes_nothing_half_and_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::of_three_mib(&folder.path().join("disk")) else {
        eprintln!("SKIPPED: no file system can be mounted here");
        return;
    };
    let mut config = RepositoryConfig::directory("main", &disk.0);
    config.compression = repository::Codec::None;
    let line = Line::new("demo", SYSTEM);
    let repository = Repository::open_to_write(&config, None).await.expect("opens");
    let source = Source {
        line: line.clone(),
        node: "n1".to_owned(),
        epoch: 3,
        now: String::new(),
        diverged: false,
    };
    let files: Vec<WalFileContent> = (1..6).map(|number| segment(number, 1)).collect();
    let mut taken = 0;
    for file in &files {
        // As often as a server asks: what a failure leaves behind must not eat the room up.
        for _ in 0..4 {
            match repository.put_wal(file, &source).await {
                Ok(_) => {
                    taken += 1;
                    break;
                }
                Err(error) => assert!(matches!(error, Error::Store { .. }), "{error}"),
            }
        }
    }
    assert_eq!(taken, 2, "3 MiB hold two segments of 1 MiB");
    let there = repository::inventory(&repository, &line).await.expect("lists");
    assert_eq!(there.segments[&TimelineId(1)].len(), 2, "{there:?}");
    let verified = repository::verify(&repository, &line, None, None, |_, _| {}).await;
    assert_eq!(verified.expect("reads").findings, []);
    let name = files[0].name.to_string();
    let lies = disk
        .0
        .join(format!("demo/77/wal/{}/{}/{name}", &name[..8], &name[8..16]));
    fs::remove_file(lies).expect("makes room");
    repository
        .put_wal(&files[2], &source)
        .await
        .expect("there is room");
}
