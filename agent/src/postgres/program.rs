//! Running PostgreSQL's own programs as jobs of the agent: `initdb`, `pg_basebackup`, `pg_rewind`.

use super::{Instance, PgError};
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// How much of a program's output to keep for error messages, bytes.
const KEPT_OUTPUT: usize = 16 << 10;

/// The longest line, bytes: what is longer is taken for several.
const LINE_MAX: usize = 64 << 10;

/// A program to run as the server's user.
pub struct Program {
    name: &'static str,
    args: Vec<OsString>,
    env: Vec<(&'static str, String)>,
}

impl Program {
    pub fn new(name: &'static str) -> Program {
        Program {
            name,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Program {
        self.args.push(arg.into());
        self
    }

    /// For what must not show in the process table.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: String) -> Program {
        self.env.push((name, value));
        self
    }
}

impl Instance {
    /// Runs `program` to its end and gives what it wrote, with the same in a transcript in the agent's directory.
    /// `progress` may swallow lines. The program is killed if this future is dropped; if the agent dies it ends at the
    /// next line it writes, because nobody reads any more.
    ///
    /// # Errors
    /// [`PgError::Program`] with the last lines of the output if it cannot be started or fails.
    pub(super) async fn run(
        &self,
        program: Program,
        mut progress: impl FnMut(&str) -> bool + Send,
    ) -> Result<String, PgError> {
        let path = self.binaries().program(program.name);
        let process = |action: &str| {
            let action = format!("{action} {}", path.display());
            move |source| PgError::Process { action, source }
        };
        let log = self.transcript(program.name);
        let mut transcript = std::fs::File::create(&log).map_err(PgError::file("create", &log))?;
        let (reader, writer) = std::io::pipe().map_err(process("open a pipe for"))?;
        let mut command = self.account().command(&path, |_| {});
        command
            .args(&program.args)
            .env("LC_ALL", "C")
            .envs(program.env.iter().map(|(k, v)| (k, v)));
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(process("open a pipe for"))?)
            .stderr(writer);
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(process("start"))?;
        // The command holds the writing end of the pipe: without this the end of the output would never come.
        drop(command);
        let mut reader =
            pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(process("read from"))?;
        let mut lines = Lines::default();
        let mut output = String::new();
        let mut buffer = vec![0; 8192];
        loop {
            let length = reader.read(&mut buffer).await.map_err(process("read from"))?;
            for line in lines.take(&buffer[..length]) {
                if progress(&line) {
                    continue;
                }
                // A full disk under the transcript must not fail the job.
                let _ = writeln!(transcript, "{line}");
                output.push_str(&line);
                output.push('\n');
                trim_front(&mut output);
            }
            if length == 0 {
                break;
            }
        }
        let status = child.wait().await.map_err(process("wait for"))?;
        if status.success() {
            return Ok(output);
        }
        let said: Vec<&str> = output
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(4)
            .collect();
        Err(PgError::Program {
            program: program.name,
            status: status.to_string(),
            said: said.into_iter().rev().collect::<Vec<_>>().join(" | "),
            advice: advice(&output),
            log,
        })
    }

    pub(super) fn transcript(&self, program: &str) -> PathBuf {
        self.config().state_dir.join(format!("{program}.log"))
    }
}

/// Splits output at line ends and at the carriage returns of progress reports.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` complete; no bytes mean the end, which completes the last one.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let complete = match self.rest.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')) {
            _ if bytes.is_empty() => self.rest.len(),
            Some(last) => last + 1,
            None if self.rest.len() > LINE_MAX => self.rest.len(),
            None => return Vec::new(),
        };
        let taken: Vec<u8> = self.rest.drain(..complete).collect();
        let lines = taken
            .split(|byte| matches!(byte, b'\n' | b'\r'))
            .filter(|line| !line.is_empty());
        lines
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }
}

fn trim_front(output: &mut String) {
    if output.len() > 2 * KEPT_OUTPUT {
        let from = (output.len() - KEPT_OUTPUT..).find(|at| output.is_char_boundary(*at));
        output.drain(..from.unwrap_or(0));
    }
}

/// What to do about the usual causes, by what the programs say in the C locale.
fn advice(output: &str) -> &'static str {
    let causes = [
        (
            "No space left on device",
            "free space on the file system of the data directory",
        ),
        (
            "password authentication failed",
            "the role's password differs on the source: have the primary set its roles",
        ),
        (
            "no pg_hba.conf entry",
            "the source's pg_hba.conf lacks the agents' block: is an agent in charge there?",
        ),
        (
            "Connection refused",
            "check that the source is up and its listen_addresses cover that address",
        ),
        ("could not translate host name", "check the source's address"),
        ("timeout expired", "check the network to the source"),
        (
            "could not open file",
            "the WAL back to the fork is gone here: make a new copy (reinit)",
        ),
        (
            "could not find previous WAL record",
            "the WAL back to the fork is gone here: make a new copy (reinit)",
        ),
        (
            "Permission denied",
            "check the owner and mode of every folder on the way to the data directory",
        ),
    ];
    let known = causes.iter().find(|(sign, _)| output.contains(sign));
    known.map_or("see what it said", |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_is_split_at_progress_reports_too() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"  1/10 kB\r  2/"), vec!["  1/10 kB"]);
        assert_eq!(lines.take(b"10 kB\r\ndone"), vec!["  2/10 kB"]);
        assert_eq!(lines.take(b""), vec!["done"]);
        assert!(lines.take(b"").is_empty());
    }

    #[test]
    fn a_full_disk_is_told_from_a_wrong_password() {
        assert!(advice("write failed: No space left on device").contains("space"));
        assert!(advice("FATAL:  password authentication failed for user \"r\"").contains("password"));
    }

    #[test]
    fn a_program_that_never_ends_its_line_takes_no_more_memory_than_one_line_may() {
        let mut lines = Lines::default();
        let mut taken = 0;
        for _ in 0..100 {
            taken += lines.take(&[b'x'; 8192]).iter().map(String::len).sum::<usize>();
            assert!(lines.rest.len() <= LINE_MAX);
        }
        taken += lines.take(b"").iter().map(String::len).sum::<usize>();
        assert_eq!(taken, 100 * 8192, "nothing is lost");
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_output_comes_in_pieces(
            output in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                mangled::bytes("  1/10 kB\r  2/10 kB\r\npg_basebackup: warning: ä\ndone".as_bytes()),
            ],
            ends in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut ends: Vec<usize> = ends.iter().map(|end| end.index(output.len() + 1)).collect();
            ends.push(output.len());
            ends.sort_unstable();
            let (mut lines, mut found, mut from) = (Lines::default(), Vec::new(), 0);
            for end in ends {
                if end > from {
                    found.extend(lines.take(&output[from..end]));
                    from = end;
                }
            }
            found.extend(lines.take(b""));
            let whole: Vec<String> = output
                .split(|byte| matches!(byte, b'\n' | b'\r'))
                .filter(|line| !line.is_empty())
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect();
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn what_is_kept_of_the_output_is_its_end_and_bounded(
            pieces in proptest::collection::vec((mangled::any_text(0..9), 1..2_000_usize), 0..12),
        ) {
            let (mut kept, mut all) = (String::new(), String::new());
            for (text, times) in &pieces {
                let piece = &text.repeat(*times);
                kept.push_str(piece);
                all.push_str(piece);
                trim_front(&mut kept);
                prop_assert!(kept.len() <= 2 * KEPT_OUTPUT && all.ends_with(&kept));
            }
        }
    }
}
