//! Rubbish on the socket of `pgctl-wal`: whatever is asked, nothing is called archived that is not, and the archive goes on.

use agent::archive::{Archive, ArchiveConfig, Sight};
use agent::ports::{ArchiveStream, BackupSource, SourceFacts};
use agent_core::pg::{Lsn, SystemId, TimelineHistory, TimelineId};
use futures::future::BoxFuture;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use repository::RepositoryConfig;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

const QUESTIONS: &[&str] = &[
    "push pg_wal/000000010000000000000001\n",
    "push pg_wal/000000010000000000000001.00000028.backup\n",
    "push ../../../../etc/passwd\n",
    "push pg_wal/00000002.history\n",
    "get 000000010000000000000001\n",
    "get ../state/identity.json\n",
    "follow 00000002.history\n",
    "follow 000000010000000000000001.partial\n",
];

/// A server without data: there is nothing that could be archived.
struct Nothing;

fn none<T>() -> BoxFuture<'static, Result<T, String>> {
    Box::pin(async { Err("there is no server".to_owned()) })
}

impl BackupSource for Nothing {
    fn facts(&self) -> BoxFuture<'_, Result<SourceFacts, String>> {
        none()
    }
    fn stream(
        &self,
        _: Option<u32>,
        _: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<Box<dyn ArchiveStream>, String>> {
        none()
    }
    fn switch_wal(&self) -> BoxFuture<'_, Result<Lsn, String>> {
        none()
    }
    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        none()
    }
    fn history_of(&self, _: TimelineId) -> Option<TimelineHistory> {
        None
    }
    fn identity(&self) -> Option<(SystemId, bool)> {
        Some((SystemId(7_000_000_000_000_000_001), false))
    }
    fn at_low_priority(&self, program: &str) -> std::process::Command {
        std::process::Command::new(program)
    }
    fn segment_bytes(&self) -> Option<u64> {
        Some(16 << 20)
    }
}

fn question() -> impl Strategy<Value = Vec<u8>> {
    let valid = || prop::sample::select(QUESTIONS);
    prop_oneof![
        6 => valid().prop_flat_map(|question| mangled::bytes(question.as_bytes())),
        2 => valid().prop_map(|question| question.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (1..20_000_usize).prop_map(|length| vec![b'x'; length]),
    ]
}

/// The answer; empty where none came before the connection was closed.
fn ask(socket: &Path, question: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // It may stop reading what is too long.
    let _ = stream.write_all(question);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn rubbish_archives_nothing_and_stops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        path
    };
    let (data, state, repository) = (dir("data"), dir("state"), dir("repository"));
    std::fs::create_dir_all(data.join("pg_wal/archive_status")).expect("folders");
    std::fs::write(state.join("identity.json"), "secret").expect("a file");
    let config = ArchiveConfig {
        cluster: "noise".to_owned(),
        node: "n1".to_owned(),
        data_dir: data,
        state_dir: state,
        socket: folder.path().join("wal.sock"),
        owner: (
            nix::unistd::Uid::effective().as_raw(),
            nix::unistd::Gid::effective().as_raw(),
        ),
        repositories: vec![RepositoryConfig::directory("near", &repository)],
    };
    let socket = config.socket.clone();
    let sight = Sight {
        holds: true,
        cluster_id: "c".to_owned(),
        ..Sight::default()
    };
    let _archive = Archive::start(config, Arc::new(Nothing), move || sight.clone()).expect("it starts");
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < PATIENCE, "it does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Whoever connects and says nothing keeps nobody waiting.
    let silent: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&socket).expect("it listens"))
        .collect();
    let config = mangled::cases(400);
    let cases = config.cases;
    let mut runner = TestRunner::new(config);
    for _ in 0..cases {
        let question = question().new_tree(&mut runner).expect("a case").current();
        let answer = String::from_utf8_lossy(&ask(&socket, &question)).into_owned();
        let shown = String::from_utf8_lossy(&question);
        assert_ne!(
            answer, "ok\n",
            "{shown}: nothing is there that could have been archived"
        );
        assert!(!answer.starts_with("content "), "{shown}: {answer}");
        assert!(!answer.contains("secret"), "{shown}: {answer}");
        assert!(
            answer.is_empty() || answer.lines().count() == 1 && answer.ends_with('\n'),
            "{shown}: {answer}"
        );
    }
    let answer = ask(&socket, b"get 000000010000000000000001\n");
    assert!(!answer.is_empty(), "it answers no more");
    drop(silent);
}
