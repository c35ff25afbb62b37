//! Where and with what the figures were measured; without this they mean nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine and the versions.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    /// `AMD EPYC ...`
    pub processor: String,
    /// How many of them.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// The load of the last minute when the comparison began: of anything but a few tenths, beware.
    pub load_at_start: f64,
    /// `postgres (PostgreSQL) 18.6 ...`
    pub postgres: String,
    /// `patroni 4.1.5`; null if it did not take part.
    pub patroni: Option<String>,
    /// `etcd Version: 3.4.23`; null if it did not take part.
    pub etcd: Option<String>,
    /// Runs asked for.
    pub runs: u32,
    /// Rounds of each scenario in each run.
    pub rounds: u32,
    /// What pgbench aimed at beside the measured clients; null if it did not run.
    pub pgbench_per_second: Option<u32>,
}

impl Conditions {
    /// This machine, now.
    pub fn here(postgres: &Path, patroni: Option<&Path>, runs: u32) -> Conditions {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Conditions {
            processor: model.map_or("unknown".to_owned(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            load_at_start: load
                .split(' ')
                .next()
                .and_then(|first| first.parse().ok())
                .unwrap_or(f64::NAN),
            postgres: version(&postgres.join("postgres")).unwrap_or_else(|| "unknown".to_owned()),
            patroni: patroni.and_then(|dir| version(&dir.join("patroni"))),
            etcd: patroni.and_then(|_| version(Path::new("/usr/bin/etcd"))),
            runs,
            rounds: 1,
            pgbench_per_second: None,
        }
    }
}

fn version(program: &Path) -> Option<String> {
    let said = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).lines().next()?.to_owned())
}
