//! Which processes live on a host, seen from outside.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process of a host.
#[derive(Clone, Debug)]
pub struct ProcessInfo {
    /// Its id here, outside: the one to send signals to.
    pub pid: i32,
    /// Its id as the host itself (and `postmaster.pid`) sees it.
    pub inner_pid: i32,
    /// Its parent's id here; 0 if the parent is not visible.
    pub parent: i32,
    /// The kernel's name for it: the program's name, cut to 15 bytes.
    pub name: String,
    /// The kernel's state letter: `R`, `S`, `D`, `T` (stopped), `Z` (zombie) ...
    pub state: char,
}

impl ProcessInfo {
    /// Reads one process; `None` if it is gone.
    pub fn read(pid: i32) -> Option<ProcessInfo> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        Some(ProcessInfo {
            pid,
            inner_pid: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
            parent: field("PPid")?.parse().ok()?,
            name: field("Name")?.to_owned(),
            state: field("State")?.chars().next()?,
        })
    }

    /// Whether it can still run: not a zombie.
    pub fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// All processes in the same PID namespace as `init`, in no order.
pub fn in_namespace_of(init: i32) -> Vec<ProcessInfo> {
    let Ok(namespace) = fs::read_link(format!("/proc/{init}/ns/pid")) else {
        return Vec::new();
    };
    all_pids()
        .into_iter()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace))
        .filter_map(ProcessInfo::read)
        .collect()
}

/// The children of `parent`, in no order.
pub fn children_of(parent: i32) -> Vec<ProcessInfo> {
    all_pids()
        .into_iter()
        .filter_map(ProcessInfo::read)
        .filter(|process| process.parent == parent)
        .collect()
}

/// Sends a signal by process id.
///
/// # Errors
/// The process is gone, or not ours.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to process {pid}"))
}

/// Resident and proportional memory of a process and how much processor time it has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    /// Resident set, bytes (`VmRSS`).
    pub rss_bytes: u64,
    /// Proportional set, bytes: shared pages divided by their users (`smaps_rollup`).
    pub pss_bytes: u64,
    /// User and system time since its start, milliseconds (10 ms steps).
    pub cpu_ms: u64,
}

impl Footprint {
    /// Reads the footprint of one process.
    ///
    /// # Errors
    /// The process is gone, or `/proc` is not readable.
    pub fn read(pid: i32) -> Result<Footprint> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| {
            fs::read_to_string(proc.join(name)).with_context(|| format!("cannot read /proc/{pid}/{name}"))
        };
        let kib = |text: &str, key: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| {
                rest.trim_matches([':', ' ', '\t'])
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
                * 1024
        };
        let stat = read("stat")?;
        // The second field, the name in parentheses, may hold spaces: count from the last parenthesis.
        let after_name: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |index: usize| {
            after_name
                .get(index)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(Footprint {
            rss_bytes: kib(&read("status")?, "VmRSS"),
            pss_bytes: kib(&read("smaps_rollup")?, "Pss"),
            // Linux reports these in USER_HZ, which is 100 on every architecture that we run on.
            cpu_ms: (ticks(11) + ticks(12)) * 10,
        })
    }
}

fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let me = std::process::id() as i32;
        let info = ProcessInfo::read(me).expect("we exist");
        assert!(info.alive() && info.parent > 0);
        assert!(in_namespace_of(me).iter().any(|process| process.pid == me));
        let footprint = Footprint::read(me).expect("our own memory is readable");
        assert!(footprint.rss_bytes > 0 && footprint.pss_bytes > 0);
    }

    #[test]
    fn a_gone_process_is_none() {
        assert!(ProcessInfo::read(i32::MAX).is_none());
    }
}
