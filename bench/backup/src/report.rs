//! The file with the figures, and the table.

use crate::measure::{Samples, load};
use crate::server::{FLOOR, Ground, NOTHING};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine and the versions: without these the figures mean nothing.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    processor: String,
    cores: usize,
    load_at_start: f64,
    postgres: String,
    pgbackrest: String,
    rounds: u32,
    /// A build without optimisation measures nothing.
    optimised: bool,
}

impl Conditions {
    pub fn here(postgres: &Path, args: &crate::Args) -> Conditions {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Conditions {
            processor: model.map_or("unknown".to_owned(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_at_start: load(),
            postgres: version(&postgres.join("postgres"), "--version"),
            pgbackrest: version(Path::new("pgbackrest"), "version"),
            rounds: args.rounds,
            optimised: !cfg!(debug_assertions),
        }
    }
}

fn version(program: &Path, argument: &str) -> String {
    let said = Command::new(program).arg(argument).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.unwrap_or_else(|_| "unknown".to_owned())
}

/// Ours by theirs, or theirs by ours, so that more than 1 is better for ours; of processor time ours by theirs.
fn ratios(samples: &Samples) -> Value {
    let by = |measure, ours, theirs| Some(samples.median(measure, ours)? / samples.median(measure, theirs)?);
    let own_time = |name| {
        let measure = "user time a segment, ms";
        Some(samples.median(measure, name)? - samples.median(measure, NOTHING)?)
    };
    let cpu = || Some(own_time("pgctl")? / own_time("pgBackRest")?);
    let floor = samples
        .median("drain, segments a second", FLOOR)
        .map(|rate: f64| 1000.0 / rate);
    json!({
        "drain_ratio": by("drain, segments a second", "pgctl", "pgBackRest"),
        "cpu_ratio": cpu(),
        "backup_ratio": by("backup, MB a second", "pgctl", "pgBackRest"),
        "restore_ratio": by("restore, MB a second", "pgctl", "pgBackRest"),
        "backup_by_pg_basebackup": by("backup, MB a second", "pgctl", crate::server::PLAIN),
        "floor_ms_per_segment": floor,
    })
}

pub fn write(file: &Path, conditions: &Conditions, ground: &Ground, samples: &Samples) -> Result<()> {
    let figures: Vec<Value> = samples
        .figures
        .iter()
        .map(|((measure, contestant), all)| {
            json!({
                "measure": measure,
                "contestant": contestant,
                "median": samples.median(measure, contestant),
                "all": all,
            })
        })
        .collect();
    let mut whole = json!({
        "conditions": conditions,
        "segments": ground.segments,
        "data_bytes": ground.data_bytes,
        "figures": figures,
    });
    if let (Value::Object(whole), Value::Object(ratios)) = (&mut whole, ratios(samples)) {
        whole.extend(ratios);
    }
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(&whole)?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

pub fn print(samples: &Samples) {
    for (measure, contestant) in samples.figures.keys() {
        if let Some(median) = samples.median(measure, contestant) {
            println!("{measure:32} {contestant:14} {median:10.1}");
        }
    }
    if let Value::Object(ratios) = ratios(samples) {
        for (name, ratio) in ratios {
            let ratio = ratio
                .as_f64()
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            println!("{name:32} {:14} {ratio:>10}", "");
        }
    }
}
