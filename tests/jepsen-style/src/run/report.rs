//! What is printed for a person.

use super::Summary;
use crate::checker::{Nanos, Outcome};
use crate::nemesis::Made;

/// Tells of the faults of a step, when they are over.
pub fn tell(run_from: Nanos, made: &[Made]) {
    for one in made {
        let since = |at: Nanos| at.saturating_sub(run_from) as f64 / 1e9;
        let note = one.note.as_ref().map_or(String::new(), |note| {
            format!("  NOT MADE: {}", note.lines().next().unwrap_or_default())
        });
        eprintln!(
            "jepsen: {:7.1} s - {:7.1} s  {:>3}. {} {}{note}",
            since(one.at),
            since(one.undone),
            one.step,
            one.fault,
            one.target
        );
    }
}

/// Prints the verdict.
#[allow(clippy::print_stdout, reason = "the report is this program's output")]
pub fn print(summary: &Summary) {
    println!(
        "\n{} nodes, {} mode, profile {}, {} s of faults, seed {}; took {} s",
        summary.nodes, summary.mode, summary.profile, summary.time_s, summary.seed, summary.took_s
    );
    for (what, why) in &summary.skipped {
        println!("skipped    {what}: {why}");
    }
    let made = summary.faults.iter().filter(|fault| fault.note.is_none());
    println!(
        "faults     {} made, {} could not be made",
        made.clone().count(),
        summary.faults.len() - made.count()
    );
    println!("epochs     {:?}", summary.epochs);
    println!(
        "calls      {} acknowledged {:?}, {} of unknown end, {} lost",
        summary.acked, summary.acked_of, summary.unknown, summary.lost
    );
    println!(
        "gaps       longest without a write: {} ms, from {:.1} s on",
        summary.longest_gap_ms, summary.longest_gap_at_s
    );
    if summary.agents_ended_by_themselves > 0 {
        println!(
            "agents     {} ended by themselves and were started again",
            summary.agents_ended_by_themselves
        );
    }
    for finding in &summary.findings {
        let word = match finding.outcome {
            Outcome::Holds => "holds",
            Outcome::Undecided => "UNDECIDED",
            Outcome::Violated => "VIOLATED",
        };
        println!(
            "{:10} {} ({} looked at) {:?}",
            word, finding.checker, finding.looked_at, finding.figures
        );
        for detail in &finding.details {
            println!("           - {detail}");
        }
    }
    if let Some(evidence) = &summary.evidence {
        println!("evidence   {evidence}");
    }
    if summary.held {
        println!("HELD");
    } else {
        println!("VIOLATED; the same schedule again: {}", summary.again);
    }
}
