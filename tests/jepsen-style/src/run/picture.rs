//! `timeline.svg`: faults, reigns, acknowledgements and gaps of a run on one axis, for a person to look at.

use super::summary::Summary;
use crate::checker::Nanos;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// Where the axis begins and ends, pixels.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 1_560.0;
const ROW: f64 = 16.0;
/// The height of the row of acknowledgements, pixels.
const TRAFFIC: f64 = 60.0;
/// A time without an acknowledged write that is worth a mark, seconds.
const GAP_S: f64 = 1.0;
const REIGNS: [&str; 6] = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2"];

/// Writes the picture into a folder.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path, summary: &Summary, run: (Nanos, Nanos), acked: &[Nanos]) -> Result<()> {
    let file = folder.join("timeline.svg");
    std::fs::write(&file, draw(summary, run, acked))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The picture. `acked` are the times of all acknowledgements, sorted.
fn draw(summary: &Summary, run: (Nanos, Nanos), acked: &[Nanos]) -> String {
    let length = run.1.saturating_sub(run.0) as f64 / 1e9;
    let mut picture = Picture {
        body: String::new(),
        length: length.max(1.0),
        y: 50.0,
    };
    picture.traffic(run, acked);
    picture.reigns(summary);
    picture.faults(summary);
    let bottom = picture.y;
    // Behind all the rest.
    let rows = std::mem::take(&mut picture.body);
    picture.axis(bottom);
    picture.body.push_str(&rows);
    for (at, violation) in summary.violations.iter().enumerate() {
        let first_line = violation.lines().next().unwrap_or_default();
        let y = bottom + 40.0 + at as f64 * ROW;
        let text = escaped(first_line);
        let _ = writeln!(
            picture.body,
            r##"<text x="10" y="{y}" fill="#c00">{text}</text>"##
        );
    }
    let height = bottom + 60.0 + summary.violations.len() as f64 * ROW;
    let verdict = if summary.held { "held" } else { "VIOLATED" };
    let title = escaped(&format!(
        "seed {}: {verdict}; {} nodes, {} mode, {} profile; {} calls acknowledged, {} lost, longest gap {:.1} s",
        summary.seed,
        summary.nodes,
        summary.mode,
        summary.profile,
        summary.acked,
        summary.lost,
        summary.longest_gap_ms as f64 / 1e3
    ));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="1600" height="{height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="24" font-size="15">{title}</text>
{}</svg>
"##,
        picture.body
    )
}

struct Picture {
    body: String,
    /// Of the run, seconds.
    length: f64,
    /// Where the next row begins.
    y: f64,
}

impl Picture {
    fn x(&self, second: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (second / self.length).clamp(0.0, 1.0)
    }

    fn label(&mut self, text: &str) {
        let (x, y) = (LEFT - 8.0, self.y + ROW - 5.0);
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            r##"<text x="{x}" y="{y}" text-anchor="end">{text}</text>"##
        );
    }

    /// A bar that tells more when the pointer rests on it.
    fn bar(&mut self, from: f64, to: f64, height: f64, colour: &str, tells: &str) {
        let (x, y) = (self.x(from), self.y);
        let width = (self.x(to) - x).max(1.5);
        let tells = escaped(tells);
        let _ = writeln!(
            self.body,
            r##"<rect x="{x:.1}" y="{y}" width="{width:.1}" height="{height}" fill="{colour}"><title>{tells}</title></rect>"##
        );
    }

    /// Acknowledgements by time, and the gaps between them.
    fn traffic(&mut self, run: (Nanos, Nanos), acked: &[Nanos]) {
        self.label("acknowledged");
        let columns = (RIGHT - LEFT) as usize / 2;
        let mut counts = vec![0_u64; columns];
        let since = |at: Nanos| at.saturating_sub(run.0) as f64 / 1e9;
        for at in acked {
            let column = (since(*at) / self.length * columns as f64) as usize;
            counts[column.min(columns - 1)] += 1;
        }
        let mut last = run.0;
        for at in acked.iter().copied().chain([run.1]) {
            let (from, to) = (since(last), since(at));
            if to - from >= GAP_S {
                let tells = format!("no write acknowledged for {:.2} s from {from:.1} s on", to - from);
                self.bar(from, to, TRAFFIC, "#f4b6b6", &tells);
            }
            last = last.max(at);
        }
        let most = counts.iter().copied().max().unwrap_or(1).max(1);
        for (column, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let height = (TRAFFIC * count as f64 / most as f64).max(1.0);
            let (x, y) = (LEFT + 2.0 * column as f64, self.y + TRAFFIC - height);
            let _ = writeln!(
                self.body,
                r##"<rect x="{x}" y="{y:.1}" width="2" height="{height:.1}" fill="#888"/>"##
            );
        }
        self.y += TRAFFIC + 10.0;
    }

    /// Who wrote when, a row for each server.
    fn reigns(&mut self, summary: &Summary) {
        let mut servers: Vec<&str> = summary.reigns.iter().map(|reign| reign.server.as_str()).collect();
        servers.sort_unstable();
        servers.dedup();
        for server in servers {
            self.label(server);
            for reign in summary.reigns.iter().filter(|reign| reign.server == server) {
                let colour = REIGNS[reign.timeline as usize % REIGNS.len()];
                let tells = format!(
                    "timeline {}: {} writes from {:.3} s to {:.3} s",
                    reign.timeline, reign.acks, reign.first_s, reign.last_s
                );
                self.bar(reign.first_s, reign.last_s, ROW - 3.0, colour, &tells);
                let (x, y) = (self.x(reign.first_s) + 2.0, self.y + ROW - 6.0);
                let _ = writeln!(
                    self.body,
                    r##"<text x="{x:.1}" y="{y}" fill="#fff" font-size="9">{}</text>"##,
                    reign.timeline
                );
            }
            self.y += ROW;
        }
        self.y += 10.0;
    }

    /// A row for each kind of fault, in the order in which they came.
    fn faults(&mut self, summary: &Summary) {
        let mut kinds: Vec<&str> = Vec::new();
        for fault in &summary.faults {
            if !kinds.contains(&fault.fault) {
                kinds.push(fault.fault);
            }
        }
        for kind in kinds {
            self.label(kind);
            for fault in summary.faults.iter().filter(|fault| fault.fault == kind) {
                let colour = if fault.note.is_some() { "#ccc" } else { "#e45756" };
                let note = fault.note.as_deref().unwrap_or("made");
                let tells = format!(
                    "step {}: {kind} {} from {:.1} s to {:.1} s, then {:.2} s without a write at most ({note})",
                    fault.step,
                    fault.target,
                    fault.at_s,
                    fault.undone_s,
                    fault.gap_ms as f64 / 1e3
                );
                self.bar(fault.at_s, fault.undone_s, ROW - 4.0, colour, &tells);
            }
            self.y += ROW;
        }
    }

    fn axis(&mut self, bottom: f64) {
        let steps = [
            1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0,
        ];
        let step = steps.into_iter().find(|step| self.length / step <= 24.0);
        let step = step.unwrap_or(7_200.0);
        let mut second = 0.0;
        while second <= self.length {
            let x = self.x(second);
            let _ = writeln!(
                self.body,
                r##"<line x1="{x:.1}" y1="45" x2="{x:.1}" y2="{bottom}" stroke="#ddd"/><text x="{x:.1}" y="{}" text-anchor="middle">{second} s</text>"##,
                bottom + 16.0
            );
            second += step;
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::{FaultSummary, ReignSummary};

    #[test]
    fn faults_reigns_and_gaps_are_in_the_picture() {
        let second = 1_000_000_000;
        let summary = Summary {
            seed: 7,
            violations: vec!["set: <row 3> & more are lost\nsecond line".to_owned()],
            faults: vec![FaultSummary {
                step: 1,
                fault: "power-cut",
                target: "n1".to_owned(),
                at_s: 2.0,
                undone_s: 4.0,
                gap_ms: 3_000,
                note: None,
            }],
            reigns: vec![ReignSummary {
                timeline: 2,
                server: "10.0.0.1:5432".to_owned(),
                first_s: 0.0,
                last_s: 2.0,
                acks: 3,
            }],
            ..Summary::default()
        };
        let svg = draw(
            &summary,
            (0, 10 * second),
            &[second, 2 * second, 5 * second, 10 * second],
        );
        for expected in [
            "seed 7: VIOLATED",
            ">power-cut</text>",
            "step 1: power-cut n1 from 2.0 s to 4.0 s",
            "timeline 2: 3 writes from 0.000 s to 2.000 s",
            "no write acknowledged for 3.00 s from 2.0 s on",
            "set: &lt;row 3&gt; &amp; more are lost</text>",
        ] {
            assert!(svg.contains(expected), "{expected} is not in {svg}");
        }
        assert!(!svg.contains("second line"));
    }
}
