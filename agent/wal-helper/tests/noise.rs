//! An agent that answers rubbish: PostgreSQL must never be told that WAL is safe, or that there is none, without the agent's word.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

const ANSWERS: &[&[u8]] = &[
    b"ok\n",
    b"absent\n",
    b"content 5\nhello",
    b"content 300\nshort",
    b"repository near: no answer\n",
];

fn answer() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(ANSWERS).prop_flat_map(mangled::bytes),
        1 => prop::sample::select(ANSWERS).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn helper(arguments: &[&str]) -> Option<i32> {
    let done = Command::new(env!("CARGO_BIN_EXE_pgctl-wal"))
        .args(arguments)
        .output()
        .expect("it runs");
    done.status.code()
}

/// Answers two questions with the same.
fn agent(socket: &Path, answer: Vec<u8>) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        for _ in 0..2 {
            let (stream, _) = listener.accept().expect("a question");
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).expect("a line");
            // Whoever asked may be gone already.
            let _ = (&stream).write_all(&answer);
        }
    })
}

#[test]
fn rubbish_means_neither_archived_nor_absent() {
    let config = mangled::cases(200);
    let cases = config.cases;
    let mut runner = TestRunner::new(config);
    for _ in 0..cases {
        let answer = answer().new_tree(&mut runner).expect("a case").current();
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, into) = (folder.path().join("s"), folder.path().join("RECOVERYXLOG"));
        let running = agent(&socket, answer.clone());
        let (socket, path) = (socket.display().to_string(), into.display().to_string());
        let (line, rest) = match answer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (Some(answer[..end].trim_ascii_end()), &answer[end + 1..]),
            None => (None, &[][..]),
        };
        let pushed = helper(&[&socket, "push", "pg_wal/000000010000000000000001"]);
        assert_eq!(
            pushed,
            Some(if line == Some(b"ok") { 0 } else { 1 }),
            "{answer:?}"
        );
        let got = helper(&[&socket, "get", "000000010000000000000001", &path]);
        let content = std::fs::read(&into).ok();
        match got {
            Some(0) => {
                let content = content.expect("a file");
                let head = format!("content {}", content.len());
                let said = String::from_utf8_lossy(line.unwrap_or_default());
                let length = said.strip_prefix("content ").map(str::parse::<usize>);
                assert_eq!(length, Some(Ok(content.len())), "{said} is not {head}");
                assert_eq!(content, rest[..content.len()], "{answer:?}");
            }
            Some(1) => assert_eq!((line, content), (Some(&b"absent"[..]), None), "{answer:?}"),
            Some(200) => assert_eq!(content, None, "{answer:?}"),
            other => panic!("exit code {other:?} for {answer:?}"),
        }
        running.join().expect("asked twice");
        let left = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left, 1 + usize::from(into.exists()), "nothing unfinished is left");
    }
}
