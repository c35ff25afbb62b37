//! What PostgreSQL makes of an exit code decides over data, so each one is tested: 0 for a push only with the agent's word, never
//! more than 125; for a get 1 only with the agent's word, and 200 for everything that is in doubt.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

fn helper(arguments: &[&str]) -> Option<i32> {
    let done = Command::new(env!("CARGO_BIN_EXE_pgctl-wal"))
        .args(arguments)
        .output()
        .expect("it runs");
    done.status.code()
}

/// An agent that answers one question with `answer`, and gives the question.
fn agent(socket: &Path, answer: &'static [u8]) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a question");
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question).expect("a line");
        // Whoever asked may be gone already.
        let _ = (&stream).write_all(answer);
        question
    })
}

#[test]
fn a_push_is_done_only_with_the_agents_word() {
    let cases: [(&'static [u8], i32); 5] = [
        (b"ok\n", 0),
        (b"repository near: no answer\n", 1),
        (b"okay\n", 1),
        (b"ok", 1),
        (b"", 1),
    ];
    for (answer, code) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let asked = agent(&socket, answer);
        let socket = socket.display().to_string();
        assert_eq!(
            helper(&[&socket, "push", "pg_wal/000000010000000000000001"]),
            Some(code),
            "{answer:?}"
        );
        assert_eq!(
            asked.join().expect("asked"),
            "push pg_wal/000000010000000000000001\n"
        );
    }
}

/// What the agent answers; the exit codes of `get` and `get-or-stream`; what is in the file then.
type Case = (&'static [u8], i32, i32, Option<&'static [u8]>);

#[test]
fn a_get_takes_nothing_for_absent_but_the_agents_word() {
    let cases: [Case; 6] = [
        (b"content 5\nhello", 0, 0, Some(b"hello")),
        (b"absent\n", 1, 1, None),
        (b"repository near: no answer\n", 200, 1, None),
        (b"content 6\nhello", 200, 1, None),
        (b"content x\nhello", 200, 1, None),
        (b"", 200, 1, None),
    ];
    for (answer, code, streaming, content) in cases {
        for (verb, asks, code) in [("get", "get", code), ("get-or-stream", "follow", streaming)] {
            let folder = tempfile::tempdir().expect("a folder");
            let (socket, into) = (folder.path().join("s"), folder.path().join("RECOVERYXLOG"));
            let asked = agent(&socket, answer);
            let (socket, path) = (socket.display().to_string(), into.display().to_string());
            assert_eq!(
                helper(&[&socket, verb, "00000002.history", &path]),
                Some(code),
                "{verb} {answer:?}"
            );
            assert_eq!(asked.join().expect("asked"), format!("{asks} 00000002.history\n"));
            assert_eq!(std::fs::read(&into).ok().as_deref(), content, "{answer:?}");
            let left = std::fs::read_dir(folder.path()).expect("a folder").count();
            assert_eq!(
                left,
                1 + usize::from(content.is_some()),
                "nothing unfinished is left"
            );
        }
    }
}

#[test]
fn without_an_agent_wal_stays_and_a_recovery_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = folder.path().join("nobody").display().to_string();
    let path = folder.path().join("x").display().to_string();
    assert_eq!(helper(&[&nobody, "push", "pg_wal/x"]), Some(1));
    assert_eq!(helper(&[&nobody, "get", "x", &path]), Some(200));
    assert_eq!(helper(&[&nobody, "get-or-stream", "x", &path]), Some(1));
    assert_eq!(
        helper(&[&nobody, "get"]),
        Some(200),
        "a mistake in the command must not end a recovery"
    );
    assert_eq!(helper(&[&nobody, "push"]), Some(2));
    assert_eq!(helper(&[]), Some(2));
}
