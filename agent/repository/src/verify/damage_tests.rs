//! Repositories that are damaged in every way, looked at and mended.

use super::*;
use crate::backup::{BackupFacts, BackupWriter};
use crate::config::RepositoryConfig;
use crate::expiry::expire;
use crate::retention::{Age, Policy};
use crate::survey::{adopt, rekey, survey};
use crate::tar;
use crate::wal::{Source, WalFileContent};
use crate::wal_name::{Segment, WalName};
use crate::{Secret, page_header};
use agent_core::pg::{Lsn, SystemId, TimelineId};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn line() -> Line {
    Line::new("demo", SystemId(77))
}

fn segment_name(number: u64) -> String {
    Segment::numbered(TimelineId(1), number, MIB).to_string()
}

fn segment_key(number: u64) -> String {
    line().segment_key(&segment_name(number))
}

struct Rig {
    folder: TempDir,
    configs: Vec<RepositoryConfig>,
    repositories: Vec<Repository>,
}

impl Rig {
    /// Two repositories with one backup and WAL from 3 to 8, the second of them encrypted.
    async fn new() -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let mut configs = Vec::new();
        for name in ["near", "far"] {
            let place = folder.path().join(name);
            fs::create_dir(&place).expect("a folder");
            configs.push(RepositoryConfig::directory(name, place));
        }
        let key = folder.path().join("key");
        fs::write(&key, "0f".repeat(32)).expect("a key");
        configs[1].key_file = Some(key);
        let mut repositories = Vec::new();
        for config in &configs {
            repositories.push(Repository::open_to_write(config, None).await.expect("opens"));
        }
        let rig = Rig {
            folder,
            configs,
            repositories,
        };
        for repository in &rig.repositories {
            let repository = repository.for_wal(&line()).await.expect("has a key");
            for number in 3..=8 {
                let segment = Segment::numbered(TimelineId(1), number, MIB);
                let content = page_header::tests::segment_file(segment, 77, 9);
                let file = WalFileContent::check(WalName::Segment(segment), SystemId(77), content)
                    .expect("a segment");
                let source = Source {
                    line: line(),
                    node: "n1".to_owned(),
                    epoch: 1,
                    now: String::new(),
                    diverged: false,
                };
                repository.put_wal(&file, &source).await.expect("is put");
            }
        }
        rig.back_up("b1", b"15\n").await;
        rig
    }

    async fn back_up(&self, id: &str, version: &[u8]) {
        let sum: String = crc32c::crc32c(b"15\n")
            .to_le_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let manifest = format!(
            r#"{{"Files": [{{"Path": "PG_VERSION", "Size": 3, "Checksum-Algorithm": "CRC32C", "Checksum": "{sum}"}}],
                "WAL-Ranges": [{{"Timeline": 1, "Start-LSN": "{}", "End-LSN": "{}"}}]}}"#,
            Lsn(4 * MIB + 40),
            Lsn(5 * MIB + 40)
        );
        let large: Vec<u8> = (0..18_u32 << 20).map(|at| (at >> 9) as u8).collect();
        let archive = [
            tar::tests::entry("PG_VERSION", b'0', version),
            tar::tests::entry("large", b'0', &large),
            tar::tests::entry("backup_manifest", b'0', manifest.as_bytes()),
            vec![0; 1024],
        ]
        .concat();
        let facts = BackupFacts {
            id: id.to_owned(),
            line: line(),
            system_id: SystemId(77),
            node: "n1".to_owned(),
            from_standby: true,
            server_version: 150_000,
            segment_bytes: MIB,
            begun_ms: 1,
            parent: None,
        };
        let mut writer = BackupWriter::begin(&self.repositories, facts)
            .await
            .expect("begins");
        writer.write(&archive).await.expect("takes it");
        writer.finish(2).await.expect("is finished");
    }

    fn path(&self, repository: usize, key: &str) -> PathBuf {
        self.folder.path().join(&self.configs[repository].name).join(key)
    }

    async fn open(&self, repository: usize) -> Repository {
        Repository::open(&self.configs[repository]).await.expect("opens")
    }

    async fn verify(&self, repository: usize) -> Verified {
        let opened = self.open(repository).await;
        verify(&opened, &line(), None, None, |_, _| {})
            .await
            .expect("is read")
    }

    async fn mend(&self, repository: usize, findings: &mut [Finding]) -> u64 {
        let sources = [self.open(0).await, self.open(1).await];
        mend(&sources[repository], &line(), &sources, findings)
            .await
            .expect("takes it")
    }
}

fn shown(verified: &Verified) -> Vec<(String, Wrong)> {
    let found = verified.findings.iter();
    found
        .map(|finding| (finding.key.clone(), finding.wrong))
        .collect()
}

#[tokio::test]
async fn a_repository_that_is_whole_has_no_findings() {
    let rig = Rig::new().await;
    for repository in [0, 1] {
        let opened = rig.open(repository).await;
        let mut told = (0, 0);
        let verified = verify(&opened, &line(), None, None, |done, all| told = (done, all))
            .await
            .expect("is read");
        assert_eq!(shown(&verified), []);
        assert_eq!((verified.backups, verified.objects), (1, verified.all_objects));
        assert_eq!(told, (verified.stored_bytes, verified.stored_bytes));
        let one = verify(&opened, &line(), None, Some("b1"), |_, _| {})
            .await
            .expect("is read");
        // Two parts, entry, manifest, and the segments 4 and 5.
        assert_eq!((one.objects, shown(&one)), (6, vec![]));
        assert!(
            verify(&opened, &line(), None, Some("b2"), |_, _| {})
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn every_kind_of_damage_is_found_and_mended_from_the_other_repository() {
    let part = line().part("b1", 1);
    let keys = [segment_key(5), part, line().backup("b1"), line().manifest("b1")];
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 3] = [
        ("a bad byte", |object| {
            let at = object.len() - 20;
            object[at] ^= 1;
        }),
        ("cut off", |object| object.truncate(object.len() / 2)),
        ("empty", Vec::clear),
    ];
    let rig = Rig::new().await;
    for repository in [0, 1] {
        for key in &keys {
            for (what, harm) in &harms {
                let path = rig.path(repository, key);
                let whole = fs::read(&path).expect("is there");
                let mut object = whole.clone();
                harm(&mut object);
                fs::write(&path, object).expect("is written");
                let mut verified = rig.verify(repository).await;
                assert!(
                    shown(&verified).contains(&(key.clone(), Wrong::Damaged)),
                    "{what} of {key}: {:?}",
                    verified.findings
                );
                assert_eq!(
                    rig.mend(repository, &mut verified.findings).await,
                    1,
                    "{what} of {key}"
                );
                assert_eq!(shown(&rig.verify(repository).await), [], "{what} of {key}");
            }
            // Gone altogether. That an entry is gone nobody can tell: then there is no such backup.
            if key.ends_with("/backup") || key.ends_with("/manifest") {
                continue;
            }
            fs::remove_file(rig.path(repository, key)).expect("is there");
            let mut verified = rig.verify(repository).await;
            assert_eq!(shown(&verified), [(key.clone(), Wrong::Missing)]);
            assert_eq!(rig.mend(repository, &mut verified.findings).await, 1, "{key}");
            assert_eq!(shown(&rig.verify(repository).await), [], "{key}");
        }
    }
}

#[tokio::test]
async fn what_differs_in_two_repositories_is_not_mended() {
    let rig = Rig::new().await;
    // The other repository has another content under that name, and our header still says what ours was.
    let other = Segment::numbered(TimelineId(1), 5, MIB);
    let content = page_header::tests::segment_file(other, 77, 1);
    fs::remove_file(rig.path(1, &segment_key(5))).expect("is there");
    let file = WalFileContent::check(WalName::Segment(other), SystemId(77), content).expect("a segment");
    let source = Source {
        line: line(),
        node: "n2".to_owned(),
        epoch: 2,
        now: String::new(),
        diverged: false,
    };
    rig.repositories[1].put_wal(&file, &source).await.expect("is put");
    let path = rig.path(0, &segment_key(5));
    let mut object = fs::read(&path).expect("is there");
    let at = object.len() - 20;
    object[at] ^= 1;
    fs::write(&path, &object).expect("is written");
    let mut verified = rig.verify(0).await;
    assert_eq!(rig.mend(0, &mut verified.findings).await, 0);
    assert_eq!(fs::read(&path).expect("is there"), object, "it was not touched");
}

#[tokio::test]
async fn an_exchanged_segment_a_hole_and_an_unsound_archive_are_found() {
    let rig = Rig::new().await;
    fs::copy(rig.path(0, &segment_key(3)), rig.path(0, &segment_key(6))).expect("is copied");
    fs::remove_file(rig.path(0, &segment_key(7))).expect("is there");
    // Its files are not those of its manifest, and it was written like that.
    rig.back_up("b2", b"16\n").await;
    let mut verified = rig.verify(0).await;
    let mut expected = [
        (line().backup("b2"), Wrong::Unsound),
        (segment_key(6), Wrong::Misnamed),
        (segment_key(7), Wrong::Missing),
    ];
    expected.sort();
    assert_eq!(shown(&verified), expected);
    assert_eq!(rig.mend(0, &mut verified.findings).await, 2);
    assert_eq!(
        shown(&rig.verify(0).await),
        [(line().backup("b2"), Wrong::Unsound)]
    );
}

#[tokio::test]
async fn without_its_data_key_everything_is_unreadable_and_mended_with_a_new_one() {
    let rig = Rig::new().await;
    let keys = fs::read_dir(rig.path(1, &line().keys())).expect("keys");
    for key in keys.flatten() {
        fs::remove_file(key.path()).expect("is there");
    }
    let mut verified = rig.verify(1).await;
    assert!(
        verified
            .findings
            .iter()
            .all(|finding| finding.wrong == Wrong::Unreadable)
    );
    // Six segments; the entry first, without which the parts cannot be told.
    let first = rig.mend(1, &mut verified.findings).await;
    assert!(first >= 7, "{first}");
    let mut again = rig.verify(1).await;
    rig.mend(1, &mut again.findings).await;
    assert_eq!(shown(&rig.verify(1).await), []);
}

#[tokio::test]
async fn a_repository_is_surveyed_adopted_and_given_a_new_key() {
    let rig = Rig::new().await;
    fs::write(rig.path(0, "demo/77/wal/00000001/00000000/x#12"), "half").expect("is written");
    fs::write(rig.path(0, "lost+found"), "").expect("is written");
    let seen = survey(&rig.configs[0]).await.expect("is read");
    assert_eq!(seen.id.as_deref(), Some(rig.repositories[0].id()));
    assert_eq!(seen.strange, ["lost+found"]);
    assert_eq!(seen.temporary.len(), 1);
    assert_eq!((seen.lines.len(), seen.lines[0].heaps["wal"].objects), (1, 6));
    let far = survey(&rig.configs[1]).await.expect("is read");
    let ours = Secret::parse(&"0f".repeat(32)).expect("a key");
    assert_eq!(far.lines[0].keys, BTreeMap::from([(ours.id(), 2)]));

    // Its marker is lost.
    let id = rig.repositories[0].id().to_owned();
    assert_eq!(
        adopt(&rig.configs[0], None).await.expect("is one"),
        (id.clone(), false)
    );
    assert!(
        adopt(&rig.configs[0], Some("abcd")).await.is_err(),
        "it has another id"
    );
    fs::remove_file(rig.path(0, "repository.json")).expect("is there");
    assert!(Repository::open(&rig.configs[0]).await.is_err());
    assert!(adopt(&rig.configs[0], Some("../x")).await.is_err());
    assert_eq!(
        adopt(&rig.configs[0], Some(&id)).await.expect("adopts"),
        (id.clone(), true)
    );
    assert_eq!(rig.open(0).await.id(), id);
    let empty = rig.folder.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    let nothing = adopt(&RepositoryConfig::directory("empty", empty), None).await;
    assert!(nothing.is_err(), "an empty mount point is no lost repository");

    // The operator's key is changed.
    let mut renewed = rig.configs[1].clone();
    let file = rig.folder.path().join("new key");
    fs::write(&file, "1f".repeat(32)).expect("a key");
    renewed.key_file = Some(file);
    let wrong = Secret::parse(&"2f".repeat(32)).expect("a key");
    assert!(rekey(&renewed, &wrong).await.is_err());
    let done = rekey(&renewed, &ours).await.expect("is changed");
    assert_eq!((done.changed, done.already), (2, 0));
    let again = rekey(&renewed, &ours).await.expect("is repeated");
    assert_eq!((again.changed, again.already), (0, 2));
    let opened = Repository::open(&renewed).await.expect("opens");
    let verified = verify(&opened, &line(), None, None, |_, _| {})
        .await
        .expect("is read");
    assert_eq!(shown(&verified), []);
    assert!(
        !shown(&rig.verify(1).await).is_empty(),
        "the old key opens nothing any more"
    );
}

#[tokio::test]
async fn expiry_takes_the_data_keys_of_what_goes_and_no_others() {
    let rig = Rig::new().await;
    rig.back_up("b1-0123456789abcdef", b"15\n").await;
    rig.back_up("b2", b"15\n").await;
    let opened = rig.open(1).await;
    let policy = Policy {
        last: Some(1),
        grace: Age { ms: 0 },
        ..Policy::default()
    };
    // All of them ended at the same moment: the last by name stays.
    let done = expire(&opened, &line(), &policy, i64::MAX / 2, &[], false)
        .await
        .expect("runs");
    assert_eq!(
        done.deleted.backups,
        Vec::<String>::new(),
        "none is newer than the others"
    );
    let daily = Policy {
        last: None,
        yearly: 1,
        ..policy
    };
    let done = expire(&opened, &line(), &daily, i64::MAX / 2, &[], false)
        .await
        .expect("runs");
    assert_eq!(done.deleted.backups.len(), 2, "{done:?}");
    assert_eq!(shown(&rig.verify(1).await), []);
    let keys = fs::read_dir(rig.path(1, &line().keys())).expect("keys").count();
    assert_eq!(keys, 2, "one for WAL, and the backup's own");
}

#[tokio::test]
async fn a_backup_whose_writer_died_between_the_repositories_is_taken_up() {
    let rig = Rig::new().await;
    let (id, ids) = ("b1", ["b0".to_owned(), "b1".to_owned()]);
    let taken = async || {
        let taken = crate::take_up(&rig.repositories, &line(), &ids).await;
        taken.expect("answers").map(|entry| entry.id)
    };
    let lose = |key: String| fs::remove_file(rig.path(1, &key)).expect("it was there");
    assert_eq!(taken().await.as_deref(), Some(id), "it is everywhere");
    lose(line().backup(id));
    assert_eq!(taken().await.as_deref(), Some(id));
    let entry = crate::backups(&rig.repositories[1], &line())
        .await
        .expect("lists")
        .remove(0);
    assert_eq!(
        crate::backups(&rig.repositories[0], &line())
            .await
            .expect("lists"),
        [entry]
    );
    // Retention is at it.
    lose(line().backup(id));
    rig.repositories[1]
        .create_json(line().sweep(id), crate::Kind::Mark, id, &())
        .await
        .expect("is marked");
    assert_eq!(taken().await, None);
    rig.repositories[1]
        .delete(&line().sweep(id))
        .await
        .expect("is deleted");
    lose(line().part(id, 1));
    assert_eq!(taken().await, None, "half of it is there");
    assert_eq!(
        crate::backups(&rig.repositories[1], &line())
            .await
            .expect("lists"),
        []
    );
}
