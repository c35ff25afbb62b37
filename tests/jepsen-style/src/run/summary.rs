//! `summary.json`.

use super::{Options, Story, make_dir};
use crate::checker::recovery::longest_gap;
use crate::checker::{Finding, Nanos, Outcome, one_writer};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A run in figures. Times of the run are seconds since the clients began.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// No violation, and enough traffic.
    pub held: bool,
    pub seed: u64,
    /// What makes the same schedule again.
    pub again: String,
    pub time_s: u64,
    pub nodes: String,
    pub mode: String,
    pub profile: String,
    pub nemeses: Vec<String>,
    pub workloads: Vec<String>,
    /// What this machine cannot do, and why.
    pub skipped: BTreeMap<String, String>,
    pub faults: Vec<FaultSummary>,
    /// Acknowledged writes and confirmed reads, of each workload and together.
    pub acked: u64,
    pub acked_of: BTreeMap<&'static str, u64>,
    /// Calls of unknown end, as far as checkers count them.
    pub unknown: u64,
    /// Failed calls and connections by reason, the most frequent first; at most 15.
    pub failed: Vec<(u64, String)>,
    /// Acknowledged writes that are not there.
    pub lost: u64,
    pub violations: Vec<String>,
    pub findings: Vec<Finding>,
    /// Who wrote when.
    pub reigns: Vec<ReignSummary>,
    pub longest_gap_ms: u64,
    pub longest_gap_at_s: f64,
    /// How many epochs of which cause.
    pub epochs: BTreeMap<String, u64>,
    pub agents_ended_by_themselves: u64,
    pub took_s: u64,
    /// Where histories and logs are, if they were kept.
    pub evidence: Option<String>,
}

/// One fault.
#[derive(Debug, Serialize)]
pub struct FaultSummary {
    pub step: u64,
    pub fault: &'static str,
    pub target: String,
    pub at_s: f64,
    pub undone_s: f64,
    /// The longest time without an acknowledged write from this fault to the next step.
    pub gap_ms: u64,
    /// Why it could not be made.
    pub note: Option<String>,
}

/// One server writing one timeline.
#[derive(Debug, Serialize)]
pub struct ReignSummary {
    pub timeline: u32,
    pub server: String,
    pub first_s: f64,
    pub last_s: f64,
    pub acks: u64,
}

/// Puts the figures together.
pub fn make(options: &Options, seed: u64, story: &Story, findings: Vec<Finding>, took: Duration) -> Summary {
    let since = |at: Nanos| at.saturating_sub(story.run.0) as f64 / 1e9;
    let acked: Vec<Nanos> = story.history.acks.iter().map(|ack| ack.acked).collect();
    let (gap_from, gap) = longest_gap(&acked, story.run, story.run.0, story.run.1);
    let faults = story.made.iter().map(|one| {
        let next = story.made.iter().find(|other| other.step > one.step);
        let until = next.map_or(story.run.1, |next| next.at);
        FaultSummary {
            step: one.step,
            fault: one.fault,
            target: one.target.clone(),
            at_s: since(one.at),
            undone_s: since(one.undone),
            gap_ms: longest_gap(&acked, story.run, one.at, until).1 / 1_000_000,
            note: one.note.clone(),
        }
    });
    let mut failed: Vec<(u64, String)> = Vec::new();
    for (why, times) in &story.history.failures {
        failed.push((*times, why.clone()));
    }
    failed.sort_by(|a, b| b.cmp(a));
    failed.truncate(15);
    let mut epochs = BTreeMap::new();
    for epoch in story.epochs.as_array().into_iter().flatten() {
        let cause = epoch["cause"].as_str().unwrap_or("?").to_owned();
        *epochs.entry(cause).or_default() += 1;
    }
    let sum = |figure: &str| {
        findings
            .iter()
            .filter_map(|finding| finding.figures.get(figure))
            .sum()
    };
    let violated = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Violated);
    let violations: Vec<String> = violated
        .flat_map(|finding| {
            finding
                .details
                .iter()
                .map(|detail| format!("{}: {detail}", finding.checker))
        })
        .collect();
    let reigns = one_writer::reigns(&story.history.acks)
        .into_iter()
        .map(|reign| ReignSummary {
            timeline: reign.timeline,
            server: reign.server,
            first_s: since(reign.first),
            last_s: since(reign.last),
            acks: reign.acks,
        });
    Summary {
        held: findings
            .iter()
            .all(|finding| finding.outcome != Outcome::Violated),
        seed,
        again: options.again(seed),
        time_s: options.time,
        nodes: options.nodes.clone(),
        mode: options.mode.clone(),
        profile: options.profile.clone(),
        nemeses: options.nemeses.clone(),
        workloads: options.workloads.clone(),
        skipped: story.skipped.iter().cloned().collect(),
        faults: faults.collect(),
        acked: acked.len() as u64,
        acked_of: story.history.acked_of.clone(),
        unknown: story.history.unknown(),
        failed,
        lost: sum("lost"),
        violations,
        reigns: reigns.collect(),
        longest_gap_ms: gap / 1_000_000,
        longest_gap_at_s: since(gap_from),
        epochs,
        agents_ended_by_themselves: story.ended_by_themselves.len() as u64,
        took_s: took.as_secs(),
        evidence: None,
        findings,
    }
}

impl Summary {
    /// Writes `summary.json` into a folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        make_dir(folder)?;
        let file = folder.join("summary.json");
        std::fs::write(&file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
