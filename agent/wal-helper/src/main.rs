//! `pgctl-wal`: what PostgreSQL runs as `archive_command`, and as `restore_command` where an agent serves the WAL.
//!
//! ```text
//! pgctl-wal SOCKET push %p
//! pgctl-wal SOCKET get %f %p
//! pgctl-wal SOCKET get-or-stream %f %p
//! pgctl-wal SOCKET get-or-wait %f %p
//! ```
//!
//! It asks the agent over its Unix socket and has nothing else in it: no configuration, no TLS, no store.
//!
//! A push ends with 0 only when the agent has said that the file is durable, and never above 125, which would end the
//! server's archiver. A get ends with 0 when the whole file is in place, with 1 when it is known not to be there, and
//! otherwise with 200: the server then stops, instead of taking an outage for the end of all WAL. On a standby that follows
//! a primary 200 would end the server as well, and 1 makes it go on by streaming: that is what `get-or-stream` is for. It
//! also asks another question: the agent then answers from memory, because a server that waits here neither streams nor is
//! promoted. `get-or-wait` is for a server that is restored as a standby: after 1 it asks again, for as long as it takes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The agent bounds its own work; this is for one that hangs.
const ANSWER: Duration = Duration::from_secs(75);
/// The same for a standby, which the agent answers at once.
const ANSWER_TO_STANDBY: Duration = Duration::from_secs(10);
/// The agent said no, or could not be asked: the server keeps the file and asks again.
const FAILED: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// It is known not to be there.
const ABSENT: u8 = 1;
/// Recovery must not go on as if it were not there.
const STOP: u8 = 200;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let code = match words.as_slice() {
        [socket, "push", path] => push(Path::new(socket), path),
        [socket, "get", name, path] => get(
            Path::new(socket),
            &format!("get {name}"),
            Path::new(path),
            ANSWER,
            STOP,
        ),
        [socket, "get-or-wait", name, path] => get(
            Path::new(socket),
            &format!("get {name}"),
            Path::new(path),
            ANSWER,
            ABSENT,
        ),
        [socket, "get-or-stream", name, path] => {
            let question = format!("follow {name}");
            get(
                Path::new(socket),
                &question,
                Path::new(path),
                ANSWER_TO_STANDBY,
                ABSENT,
            )
        }
        _ => {
            complain("usage: pgctl-wal SOCKET push %p | get %f %p | get-or-stream %f %p | get-or-wait %f %p");
            // Also for a get: the server must not end its recovery because of a typing mistake.
            return ExitCode::from(if words.get(1) == Some(&"get") { STOP } else { USAGE });
        }
    };
    ExitCode::from(code)
}

fn push(socket: &Path, path: &str) -> u8 {
    match ask(socket, &format!("push {path}"), ANSWER) {
        Ok((answer, _)) if answer == "ok" => 0,
        Ok((answer, _)) => {
            complain(&format!("{path} is not archived: {answer}"));
            FAILED
        }
        Err(error) => {
            complain(&format!("{path} is not archived: {error}"));
            FAILED
        }
    }
}

fn get(socket: &Path, question: &str, path: &Path, within: Duration, otherwise: u8) -> u8 {
    match fetch(socket, question, path, within) {
        Ok(true) => 0,
        Ok(false) => ABSENT,
        // A standby asks several times a second; there its agent says what is wrong, and not the server's log.
        Err(_) if otherwise == ABSENT => ABSENT,
        Err(error) => {
            complain(&format!("{question}: it could not be fetched: {error}"));
            otherwise
        }
    }
}

/// Whether the file is there; it is in place then.
fn fetch(socket: &Path, question: &str, path: &Path, within: Duration) -> Result<bool, String> {
    let (answer, mut rest) = ask(socket, question, within)?;
    if answer == "absent" {
        return Ok(false);
    }
    let length = answer
        .strip_prefix("content ")
        .and_then(|length| length.parse::<u64>().ok());
    let length = length.ok_or(answer)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".pgctl");
    let unfinished = PathBuf::from(unfinished);
    let copied = File::create(&unfinished)
        .and_then(|mut file| std::io::copy(&mut (&mut rest).take(length), &mut file))
        .map_err(|error| format!("{}: {error}", unfinished.display()))
        .and_then(|copied| {
            (copied == length)
                .then_some(())
                .ok_or_else(|| format!("the agent gave {copied} bytes of {length}"))
        })
        .and_then(|()| std::fs::rename(&unfinished, path).map_err(|error| error.to_string()));
    if copied.is_err() {
        // What is left of it is of no use, and in nobody's way if it cannot be removed.
        let _ = std::fs::remove_file(&unfinished);
    }
    copied.map(|()| true)
}

/// The first line of the agent's answer, and what follows.
fn ask(socket: &Path, question: &str, within: Duration) -> Result<(String, BufReader<UnixStream>), String> {
    if question.contains('\n') {
        return Err("the name has a line break in it".to_owned());
    }
    let at = |error: std::io::Error| format!("the agent at {}: {error}", socket.display());
    // To connect takes no time or fails: the socket is on this machine.
    let mut stream = UnixStream::connect(socket).map_err(at)?;
    stream.set_read_timeout(Some(within)).map_err(at)?;
    stream.set_write_timeout(Some(within)).map_err(at)?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(at)?;
    let mut rest = BufReader::with_capacity(64 << 10, stream);
    let mut answer = String::new();
    rest.read_line(&mut answer).map_err(at)?;
    if !answer.ends_with('\n') {
        return Err("the agent went away before it answered".to_owned());
    }
    Ok((answer.trim_end().to_owned(), rest))
}

fn complain(what: &str) {
    // The server's log; if that is gone nobody can be told.
    let _ = writeln!(std::io::stderr(), "pgctl-wal: {what}");
}
