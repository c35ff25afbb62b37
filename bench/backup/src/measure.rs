//! Time, processor time and memory of what others do.

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a backlog is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than any drain.
const DRAIN_WITHIN: Duration = Duration::from_secs(1800);

/// By measure and contestant, one figure of each round.
#[derive(Debug, Default)]
pub struct Samples {
    pub figures: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

impl Samples {
    pub fn add(&mut self, measure: &'static str, contestant: &'static str, figure: f64) {
        self.figures
            .entry((measure, contestant))
            .or_default()
            .push(figure);
    }

    pub fn median(&self, measure: &'static str, contestant: &'static str) -> Option<f64> {
        let mut all = self.figures.get(&(measure, contestant))?.clone();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        Some(if all.len().is_multiple_of(2) {
            f64::midpoint(all[middle - 1], all[middle])
        } else {
            all[middle]
        })
    }
}

/// From here on what our children leave behind is ours, so that its processor time is counted.
pub fn adopt_orphans() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Waits for children that nobody waits for.
pub fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// User time of all children that have ended, seconds.
pub fn user_seconds() -> Result<f64> {
    reap();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let user = usage.user_time();
    Ok(user.tv_sec() as f64 + user.tv_usec() as f64 / 1e6)
}

/// The load of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(f64::NAN)
}

/// How many files wait to be archived.
pub fn waiting(data: &Path) -> u64 {
    let entries = fs::read_dir(data.join("pg_wal/archive_status"))
        .into_iter()
        .flatten()
        .flatten();
    let ready = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".ready"));
    ready.count() as u64
}

/// Segments a second, from the first of `all` that is archived to the last; from `begun` on if none was seen in between.
pub fn drained(data: &Path, all: u64, begun: Instant) -> Result<f64> {
    let mut first = None;
    loop {
        let left = waiting(data);
        if left == 0 {
            let (since, then) = first.unwrap_or((begun, all));
            return Ok(then as f64 / since.elapsed().as_secs_f64());
        }
        if left < all && first.is_none() {
            first = Some((Instant::now(), left));
        }
        anyhow::ensure!(begun.elapsed() < DRAIN_WITHIN, "{left} of {all} files still wait");
        std::thread::sleep(LOOK);
    }
}

/// The most memory that a process has ever had in use, MiB.
pub fn peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}
