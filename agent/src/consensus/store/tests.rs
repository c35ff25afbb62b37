use super::frame::HEADER_LEN;
use super::*;
use crate::consensus::StateMachine;
use crate::consensus::types::{
    Entry, LeaderId, LogId, Payload, Proposal, RaftTypes, Snapshot, SnapshotMeta, Vote,
};
use agent_core::cluster::Command;
use agent_core::time::WallTime;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id: 1 },
        index,
    }
}

fn note(term: u64, index: u64) -> Entry {
    let command = Command::Note {
        kind: "test".into(),
        text: format!("entry {index}"),
        at: WallTime(index),
    };
    Entry {
        log_id: log_id(term, index),
        payload: Payload::Normal(Proposal(command)),
    }
}

fn vote(term: u64) -> Vote {
    Vote {
        leader_id: LeaderId { term, node_id: 1 },
        committed: true,
    }
}

fn open_at(path: &Path) -> Result<(LogStore, Option<Snapshot>), OpenError> {
    let (store, worker, snapshot) = LogStore::open(Box::new(StateDir::open(path)?), true)?;
    worker.spawn().expect("a thread");
    Ok((store, snapshot))
}

/// The calls of [`RaftLogStorage`] with the types filled in.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> Result<(), String> {
    RaftLogStorageExt::<RaftTypes>::blocking_append(store, entries)
        .await
        .map_err(|error| error.to_string())
}
async fn save_vote(store: &mut LogStore, vote: Vote) -> io::Result<()> {
    RaftLogStorage::<RaftTypes>::save_vote(store, &vote).await
}
async fn truncate_after(store: &mut LogStore, last: LogId) -> io::Result<()> {
    RaftLogStorage::<RaftTypes>::truncate_after(store, Some(last)).await
}
async fn purge(store: &mut LogStore, upto: LogId) -> io::Result<()> {
    RaftLogStorage::<RaftTypes>::purge(store, upto).await
}
async fn save_committed(store: &mut LogStore, id: LogId) {
    RaftLogStorage::<RaftTypes>::save_committed(store, Some(id))
        .await
        .expect("memory only");
}

struct InTempDir;

impl StoreBuilder<RaftTypes, LogStore, StateMachine, tempfile::TempDir> for InTempDir {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), openraft::StorageError<RaftTypes>> {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, snapshot) = open_at(dir.path()).expect("opens");
        let (machine, _) = StateMachine::new(snapshot, store.jobs()).expect("readable");
        Ok((dir, store, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_own_suite_for_stores_passes() {
    Suite::<RaftTypes, LogStore, StateMachine, InTempDir, tempfile::TempDir>::test_all(InTempDir)
        .await
        .expect("the suite passes");
}

#[tokio::test]
async fn all_that_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut store, _) = open_at(dir.path()).expect("opens");
    save_vote(&mut store, vote(2)).await.expect("vote");
    append(&mut store, (0..10).map(|index| note(1, index)).collect())
        .await
        .expect("append");
    truncate_after(&mut store, log_id(1, 6)).await.expect("truncate");
    append(&mut store, vec![note(2, 7), note(2, 8)])
        .await
        .expect("append");
    save_committed(&mut store, log_id(2, 7)).await;
    let before = store.content();
    store.jobs().close().await;
    drop(store);

    let (store, _) = open_at(dir.path()).expect("opens again");
    assert_eq!(store.content(), before);
    assert_eq!(store.content().last(), Some(log_id(2, 8)));
}

#[tokio::test]
async fn a_purged_log_is_shorter_on_disk_and_complete_after_a_restart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut store, _) = open_at(dir.path()).expect("opens");
    save_vote(&mut store, vote(1)).await.expect("vote");
    append(&mut store, (0..500).map(|index| note(1, index)).collect())
        .await
        .expect("append");
    let long = std::fs::metadata(dir.path().join(LOG_FILE)).expect("log").len();
    store
        .jobs()
        .keep_snapshot(snapshot_upto(log_id(1, 489)))
        .await
        .expect("snapshot");
    purge(&mut store, log_id(1, 489)).await.expect("purge");
    append(&mut store, vec![note(1, 500)]).await.expect("append");
    let before = store.content();
    assert_eq!(before.entries.len(), 11);
    assert!(std::fs::metadata(dir.path().join(LOG_FILE)).expect("log").len() < long / 10);
    store.jobs().close().await;

    let (store, snapshot) = open_at(dir.path()).expect("opens again");
    assert_eq!(store.content(), before);
    assert_eq!(
        snapshot.and_then(|snapshot| snapshot.meta.last_log_id),
        Some(log_id(1, 489))
    );
}

#[tokio::test]
async fn an_older_snapshot_never_replaces_a_newer_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open_at(dir.path()).expect("opens");
    store
        .jobs()
        .keep_snapshot(snapshot_upto(log_id(2, 9)))
        .await
        .expect("snapshot");
    store
        .jobs()
        .keep_snapshot(snapshot_upto(log_id(1, 5)))
        .await
        .expect("nothing to do");
    store.jobs().close().await;
    let (_, snapshot) = open_at(dir.path()).expect("opens again");
    assert_eq!(
        snapshot.and_then(|snapshot| snapshot.meta.last_log_id),
        Some(log_id(2, 9))
    );
}

#[tokio::test]
async fn a_log_without_its_snapshot_is_refused_and_says_how_to_recover() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut store, _) = open_at(dir.path()).expect("opens");
    append(&mut store, (0..9).map(|index| note(1, index)).collect())
        .await
        .expect("append");
    store
        .jobs()
        .keep_snapshot(snapshot_upto(log_id(1, 5)))
        .await
        .expect("snapshot");
    purge(&mut store, log_id(1, 5)).await.expect("purge");
    store.jobs().close().await;
    drop(store);
    std::fs::remove_file(dir.path().join(SNAPSHOT_FILE)).expect("remove");
    let error = open_at(dir.path()).err().expect("refused").to_string();
    assert!(
        error.contains(SNAPSHOT_FILE) && error.contains(RECOVERY),
        "{error}"
    );
}

fn snapshot_upto(last: LogId) -> Snapshot {
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        ..SnapshotMeta::default()
    };
    Snapshot {
        meta,
        snapshot: b"{}".to_vec(),
    }
}

/// A directory in memory. It can be told to fail, and it knows what would survive a crash.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Files>>);

#[derive(Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    /// How much of the log was synced.
    durable: usize,
    /// Calls that change something, so far.
    calls: usize,
    /// The call that fails; every later one too, as on a full disk.
    fail_at: Option<(usize, io::ErrorKind)>,
}

impl Memory {
    fn change<T>(&self, change: impl FnOnce(&mut Files) -> T) -> io::Result<T> {
        let mut files = self.0.lock().expect("no panic");
        files.calls += 1;
        match files.fail_at {
            Some((at, kind)) if files.calls == at => Err(kind.into()),
            _ => Ok(change(&mut files)),
        }
    }

    fn after_a_crash(&self) -> Memory {
        let files = self.0.lock().expect("no panic");
        let mut kept = files.files.clone();
        kept.get_mut(LOG_FILE).expect("a log").truncate(files.durable);
        Memory(Arc::new(Mutex::new(Files {
            files: kept,
            durable: files.durable,
            ..Files::default()
        })))
    }

    fn with_log(bytes: &[u8]) -> Memory {
        let files = BTreeMap::from([(LOG_FILE.to_owned(), bytes.to_vec())]);
        Memory(Arc::new(Mutex::new(Files {
            files,
            durable: bytes.len(),
            ..Files::default()
        })))
    }

    fn log(&self) -> Vec<u8> {
        self.0.lock().expect("no panic").files[LOG_FILE].clone()
    }

    fn open(&self) -> Result<LogStore, OpenError> {
        let (store, worker, _) = LogStore::open(Box::new(self.clone()), true)?;
        worker.spawn().expect("a thread");
        Ok(store)
    }
}

impl Directory for Memory {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().expect("no panic").files.get(name).cloned())
    }
    fn replace(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.change(|files| {
            if name == LOG_FILE {
                files.durable = contents.len();
            }
            files.files.insert(name.to_owned(), contents.to_vec());
        })
    }
    fn open_to_append(&mut self, _name: &str) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(self.clone()))
    }
    fn show(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

impl AppendFile for Memory {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.change(|files| {
            let log = files.files.get_mut(LOG_FILE).expect("a log");
            log.truncate(usize::try_from(len).expect("small"));
            files.durable = log.len();
        })
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A failing write leaves half of it behind.
        let next = self.calls() + 1;
        let half = self
            .0
            .lock()
            .expect("no panic")
            .fail_at
            .is_some_and(|(at, _)| at == next);
        let written = if half { &bytes[..bytes.len() / 2] } else { bytes };
        let log = |files: &mut Files| {
            files
                .files
                .get_mut(LOG_FILE)
                .expect("a log")
                .extend_from_slice(written)
        };
        if half {
            log(&mut self.0.lock().expect("no panic"));
        }
        self.change(|files| {
            if !half {
                log(files)
            }
        })
    }
    fn sync(&mut self) -> io::Result<()> {
        self.change(|files| files.durable = files.files[LOG_FILE].len())
    }
}

impl Memory {
    fn calls(&self) -> usize {
        self.0.lock().map(|files| files.calls).unwrap_or_default()
    }
}

/// A history of every kind of record, and the log's bytes and contents after each step.
async fn history() -> Vec<(Vec<u8>, LogContent)> {
    let memory = Memory::default();
    let mut store = memory.open().expect("opens");
    let mut steps = vec![(memory.log(), store.content())];
    for step in 0..6 {
        match step {
            0 => save_vote(&mut store, vote(1)).await.expect("vote"),
            1 => append(&mut store, vec![note(1, 0), note(1, 1), note(1, 2)])
                .await
                .expect("append"),
            2 => save_vote(&mut store, vote(2)).await.expect("vote"),
            3 => truncate_after(&mut store, log_id(1, 1)).await.expect("truncate"),
            4 => append(&mut store, vec![note(2, 2), note(2, 3)])
                .await
                .expect("append"),
            _ => {
                save_committed(&mut store, log_id(2, 2)).await;
                append(&mut store, vec![note(2, 4)]).await.expect("append");
            }
        }
        steps.push((memory.log(), store.content()));
    }
    steps
}

#[tokio::test]
async fn a_log_cut_at_any_byte_opens_with_all_that_was_durable_before_the_cut() {
    let steps = history().await;
    let (whole, _) = steps.last().expect("steps");
    for len in HEADER_LEN..=whole.len() {
        let (durable, content) = steps
            .iter()
            .rfind(|(bytes, _)| bytes.len() <= len)
            .expect("the header");
        let memory = Memory::with_log(&whole[..len]);
        let store = memory
            .open()
            .unwrap_or_else(|error| panic!("cut at {len}: {error}"));
        assert_eq!(&store.content(), content, "cut at {len}");
        assert_eq!(
            &memory.log(),
            durable,
            "cut at {len}: the torn record must be gone"
        );
    }
    for len in 0..HEADER_LEN {
        assert!(
            matches!(
                Memory::with_log(&whole[..len]).open(),
                Err(OpenError::Damaged { .. })
            ),
            "cut at {len}"
        );
    }
}

#[tokio::test]
async fn a_log_with_any_byte_flipped_is_refused_and_says_how_to_recover() {
    let steps = history().await;
    let (whole, _) = steps.last().expect("steps");
    for at in 0..whole.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            let error = Memory::with_log(&bytes)
                .open()
                .err()
                .unwrap_or_else(|| panic!("byte {at} ^ {mask:#x}"));
            let told = error.to_string();
            assert!(
                told.contains("memory/raft.log") && told.contains(RECOVERY),
                "byte {at} ^ {mask:#x}: {told}"
            );
        }
    }
}

#[tokio::test]
async fn a_torn_tail_is_followed_by_new_records_and_not_by_rubbish() {
    let steps = history().await;
    let (whole, _) = steps.last().expect("steps");
    let memory = Memory::with_log(&whole[..whole.len() - 3]);
    let mut store = memory.open().expect("opens");
    append(&mut store, vec![note(3, 4)]).await.expect("append");
    assert_eq!(
        memory.after_a_crash().open().expect("opens").content(),
        store.content()
    );
}

async fn append_next(store: &mut LogStore) -> Result<(), String> {
    let next = store.content().last().map_or(0, |last| last.index + 1);
    append(store, vec![note(1, next)]).await
}

/// Runs a history of votes, entries, snapshots and purges with the call number `fail_at` failing, and says what was acknowledged.
async fn run_until_failure(memory: &Memory) -> (LogContent, bool) {
    let mut store = memory.open().expect("opens");
    let mut acknowledged = store.content();
    for step in 0..40_u64 {
        let done = match step % 4 {
            0 => save_vote(&mut store, vote(step + 1)).await.is_ok(),
            3 if step > 8 => {
                let last = log_id(1, step / 4 - 2);
                store.jobs().keep_snapshot(snapshot_upto(last)).await.is_ok()
                    && purge(&mut store, last).await.is_ok()
            }
            _ => append_next(&mut store).await.is_ok(),
        };
        if !done {
            assert!(store.health().failure().is_some());
            assert!(
                save_vote(&mut store, vote(99)).await.is_err(),
                "a store that failed once stays dead"
            );
            assert!(append_next(&mut store).await.is_err());
            return (acknowledged, true);
        }
        acknowledged = store.content();
    }
    (acknowledged, false)
}

#[tokio::test]
async fn whichever_call_fails_the_store_dies_and_a_restart_finds_all_that_was_acknowledged() {
    let counting = Memory::default();
    run_until_failure(&counting).await;
    let calls = counting.calls();
    assert!(calls > 60, "{calls}");
    // The first call creates the file: without it there is no store.
    for fail_at in 2..=calls {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let memory = Memory::default();
            memory.0.lock().expect("no panic").fail_at = Some((fail_at, kind));
            let (acknowledged, failed) = run_until_failure(&memory).await;
            assert!(failed, "call {fail_at}");
            for after in [memory.after_a_crash(), Memory::with_all(&memory)] {
                let (store, ..) = LogStore::open(Box::new(after), true)
                    .unwrap_or_else(|error| panic!("call {fail_at}: {error}"));
                let found = store.content();
                assert!(
                    found.vote >= acknowledged.vote,
                    "call {fail_at}: {found:?}\n{acknowledged:?}"
                );
                assert!(
                    found.last() >= acknowledged.last(),
                    "call {fail_at}: {found:?}\n{acknowledged:?}"
                );
                for (index, entry) in &acknowledged.entries {
                    let purged = found.purged.is_some_and(|purged| purged.index >= *index);
                    assert!(
                        purged || found.entries.get(index) == Some(entry),
                        "call {fail_at}: entry {index}"
                    );
                }
            }
        }
    }
}

impl Memory {
    /// The process died and the machine lived on: what was written is there, synced or not.
    fn with_all(memory: &Memory) -> Memory {
        let files = memory.0.lock().expect("no panic").files.clone();
        Memory(Arc::new(Mutex::new(Files {
            files,
            ..Files::default()
        })))
    }
}

#[tokio::test]
async fn a_full_disk_is_called_by_its_name() {
    let memory = Memory::default();
    let mut store = memory.open().expect("opens");
    let next = memory.calls() + 1;
    memory.0.lock().expect("no panic").fail_at = Some((next, io::ErrorKind::StorageFull));
    let error = save_vote(&mut store, vote(1))
        .await
        .expect_err("no space")
        .to_string();
    assert!(error.contains("free space"), "{error}");
    assert_eq!(store.health().failure(), Some(error));
}

#[tokio::test]
async fn a_closed_store_frees_the_directory_and_takes_nothing_more() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut store, _) = open_at(dir.path()).expect("opens");
    assert!(matches!(open_at(dir.path()), Err(OpenError::InUse { .. })));
    store.jobs().close().await;
    assert!(save_vote(&mut store, vote(1)).await.is_err());
    open_at(dir.path()).expect("free");
}

#[tokio::test]
async fn a_missing_log_is_refused_where_there_must_be_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let state_dir = StateDir::open(dir.path()).expect("opens");
    let error = LogStore::open(Box::new(state_dir), false).err().expect("refused");
    assert!(matches!(error, OpenError::Incomplete { .. }), "{error}");
}

#[tokio::test]
async fn reading_a_range_that_is_none_gives_nothing() {
    let memory = Memory::default();
    let mut store = memory.open().expect("opens");
    append(&mut store, vec![note(1, 0), note(1, 1)])
        .await
        .expect("append");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = RaftLogReader::<RaftTypes>::try_get_log_entries(&mut store, 5..2)
        .await
        .expect("reads");
    assert!(backwards.is_empty());
    assert_eq!(
        RaftLogReader::<RaftTypes>::try_get_log_entries(&mut store, 1..)
            .await
            .expect("reads")
            .len(),
        1
    );
}
