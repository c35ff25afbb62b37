//! The kernel's table of processes, as far as it tells whose server a process belongs to.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A folder's identity, which a rename, a symbolic link or another mount of it does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderId {
    device: u64,
    inode: u64,
}

impl FolderId {
    pub fn of(path: &Path) -> Option<FolderId> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(FolderId {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The kernel's letter for its state.
    state: u8,
    /// When it was started, in clock ticks since boot: with `pid`, its identity for as long as the machine is up.
    pub started: u64,
}

impl Process {
    /// `None` where there is no such process.
    pub fn read(pid: i32) -> Option<Process> {
        // The name in it may be no text.
        let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&String::from_utf8_lossy(&line))
    }

    /// Everything that runs or waits now, zombies included.
    pub fn all() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// It can still execute: it is neither a zombie nor being taken apart.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Whether this very process, not a later one of the same id, is still alive.
    pub fn still_alive(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.started == self.started && now.is_alive())
    }

    /// Whether it is a server process at work on `data_dir`: PostgreSQL's processes never leave that folder. An
    /// operator's shell in the same folder is none.
    pub fn serves(&self, data_dir: FolderId) -> bool {
        FolderId::of(Path::new(&format!("/proc/{}/cwd", self.pid))) == Some(data_dir) && self.runs_postgres()
    }

    /// Compared by the program's name, not its path: a package upgrade replaces the file under a running server.
    fn runs_postgres(&self) -> bool {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok_and(|exe| {
            let name = exe
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            name.strip_suffix(" (deleted)").unwrap_or(&name) == "postgres"
        })
    }

    /// Whether it is one of the children that a postmaster forks; those replace their command line by a title.
    pub fn is_backend(&self) -> bool {
        self.title().starts_with("postgres: ")
    }

    /// The command line, or the title that PostgreSQL has put in its place.
    pub fn title(&self) -> String {
        let raw = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned()
    }
}

/// The postmaster of `data_dir`, wherever it was started from and whatever `postmaster.pid` says.
pub fn find_postmaster(data_dir: FolderId) -> Option<Process> {
    Process::all()
        .into_iter()
        .find(|process| is_postmaster(process, data_dir))
}

/// Whether `process` is alive and the postmaster of `data_dir`.
pub fn is_postmaster(process: &Process, data_dir: FolderId) -> bool {
    let fits = |process: &Process| process.is_alive() && process.serves(data_dir) && !process.is_backend();
    // A child that was forked a moment ago still carries its parent's command line.
    fits(process) && !Process::read(process.parent).is_some_and(|parent| fits(&parent))
}

fn parse_stat(line: &str) -> Option<Process> {
    // The second field is the name in parentheses, which may itself hold blanks and parentheses.
    let (head, rest) = line.split_at(line.rfind(')')?);
    let pid = head.split_whitespace().next()?.parse().ok()?;
    let mut fields = rest[1..].split_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        state,
        started,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_process_with_an_awkward_name() {
        let line = "4242 (a) b (c) S 17 4242 4242 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 1 1";
        let process = parse_stat(line).expect("a well-formed line");
        assert_eq!((process.pid, process.parent, process.started), (4242, 17, 98_765));
        assert!(process.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        let pid = i32::try_from(child.id()).expect("a process id");
        while Process::read(pid).is_some_and(|process| process.is_alive()) {
            std::thread::yield_now();
        }
        assert!(Process::read(pid).is_some(), "it was reaped by somebody else");
        child.wait().expect("to reap it");
    }

    #[test]
    fn this_test_is_no_server() {
        let own = Process::read(std::process::id().cast_signed()).expect("this process");
        let folder = FolderId::of(&std::env::current_dir().expect("a folder")).expect("its identity");
        assert!(!own.serves(folder));
        assert!(own.still_alive());
    }

    const LINE: &str = "4242 (a) b (c) S 17 4242 4242 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 1 1";

    #[test]
    fn a_process_whose_name_is_no_text_is_seen() {
        // A name is cut at 15 bytes, in the middle of a letter if it comes so.
        let line = b"4242 (\xc3\xa4\xc3) S 17 4242 4242 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 1 1";
        let process = parse_stat(&String::from_utf8_lossy(line)).expect("a well-formed line");
        assert_eq!((process.pid, process.started), (4242, 98_765));
    }

    proptest! {
        #[test]
        fn no_name_hides_a_process_or_makes_it_another(name in mangled::any_text(0..16)) {
            let line = LINE.replacen("a) b (c", &name, 1);
            let found = parse_stat(&line);
            prop_assert_eq!(found, parse_stat(LINE));
        }

        #[test]
        fn a_mangled_line_is_a_process_with_all_its_numbers_or_none(
            line in prop_oneof![mangled::any_text(0..120), mangled::text(LINE)],
        ) {
            if let Some(process) = parse_stat(&line) {
                let (name_end, fields) = (line.rfind(')').expect("a name"), &line);
                let fields: Vec<&str> = fields[name_end + 1..].split_whitespace().collect();
                prop_assert_eq!(fields[1].parse(), Ok(process.parent));
                prop_assert_eq!(fields[19].parse(), Ok(process.started));
            }
        }
    }
}
