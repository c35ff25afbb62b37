//! The file with the figures, and the table.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::conditions::Conditions;
use crate::sample::{Samples, Summary};

/// Ours and what it is compared with.
const PAIRS: [(&str, &str); 3] = [
    ("pgctl", "Patroni"),
    ("pgctl lan-fast", "Patroni 20/1/3"),
    ("pgctl wan", "Patroni"),
];
/// With at least so many values, the table shows the 99th percentile beside the median.
const MANY: usize = 20;

/// Writes everything measured so far.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, conditions: &Conditions, samples: &Samples) -> Result<()> {
    let summaries = samples.summaries();
    let ratios: Vec<_> = measures(&summaries)
        .iter()
        .flat_map(|(measure, _)| PAIRS.map(|pair| (measure, pair)))
        .filter_map(|(measure, (ours, theirs))| {
            let ratio = ratio(&summaries, measure, ours, theirs)?;
            Some(json!({ "measure": measure, "ours": ours, "theirs": theirs, "times_better": ratio }))
        })
        .collect();
    let failures: Vec<_> = samples
        .failures()
        .iter()
        .map(|(system, why)| json!({ "system": system, "why": why }))
        .collect();
    let text = serde_json::to_string_pretty(&json!({
        "conditions": conditions,
        "medians": summaries,
        "ratios": ratios,
        "failed_runs": failures,
    }))?;
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

/// Prints medians side by side, each pair with its ratio.
pub fn print(samples: &Samples) {
    let summaries = samples.summaries();
    let took_part = |system: &str| summaries.iter().any(|summary| summary.system == system);
    let systems: Vec<[&str; 2]> = PAIRS.map(|(ours, theirs)| [ours, theirs]).into();
    let systems: Vec<[&str; 2]> = systems
        .into_iter()
        .filter(|pair| pair.iter().any(|s| took_part(s)))
        .collect();
    print!("{:52}", "median (p99)");
    for [ours, theirs] in &systems {
        print!("{ours:>16}{theirs:>16}{:>8}", "ratio");
    }
    println!();
    for (measure, unit) in measures(&summaries) {
        print!("{:52}", format!("{measure} [{unit}]"));
        for [ours, theirs] in &systems {
            print!(
                "{:>16}{:>16}",
                cell(&summaries, &measure, ours),
                cell(&summaries, &measure, theirs)
            );
            let ratio = ratio(&summaries, &measure, ours, theirs);
            print!(
                "{:>8}",
                ratio.map_or(String::new(), |ratio| format!("{ratio:.1}"))
            );
        }
        println!();
    }
    for (system, why) in samples.failures() {
        println!(
            "a run of {system} failed: {}",
            why.lines().next().unwrap_or_default()
        );
    }
}

/// Each measure once, with its unit, in order of appearance.
fn measures(summaries: &[Summary]) -> Vec<(String, &'static str)> {
    let mut measures = Vec::new();
    for summary in summaries {
        if !measures.iter().any(|(measure, _)| *measure == summary.measure) {
            measures.push((summary.measure.clone(), summary.unit));
        }
    }
    measures
}

fn find<'a>(summaries: &'a [Summary], measure: &str, system: &str) -> Option<&'a Summary> {
    summaries
        .iter()
        .find(|summary| summary.measure == measure && summary.system == system)
}

fn cell(summaries: &[Summary], measure: &str, system: &str) -> String {
    let Some(summary) = find(summaries, measure, system) else {
        return "-".to_owned();
    };
    let digits = if summary.median < 10.0 { 2 } else { 0 };
    let at_least = if summary.at_least { "≥ " } else { "" };
    let tail = if summary.values.len() < MANY {
        String::new()
    } else {
        format!(" ({:.digits$})", summary.p99)
    };
    format!("{at_least}{:.digits$}{tail}", summary.median)
}

/// How many times better ours is: theirs by ours, or ours by theirs where more is better; none if either is missing or zero.
fn ratio(summaries: &[Summary], measure: &str, ours: &str, theirs: &str) -> Option<f64> {
    let (ours, theirs) = (find(summaries, measure, ours)?, find(summaries, measure, theirs)?);
    let more_is_better = ours.unit.ends_with("/s");
    let (ours, theirs) = (ours.median, theirs.median);
    let ratio = if more_is_better {
        ours / theirs
    } else {
        theirs / ours
    };
    (ours > 0.0 && theirs > 0.0).then_some(ratio)
}
