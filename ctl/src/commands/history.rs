//! `pgctl history`: every epoch, when and why.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format, bytes, or_dash};
use crate::wall_time::{span, utc};
use proto::control::{EpochRecord, StonithProof};

/// Lists the epochs: when, who, why, how long until writable, timeline and LSN
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl history
  pgctl history --last 5 --proof     # with the gates that stood open
  pgctl history -o json | jq '.[-1].why'")]
pub struct Args {
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    /// Also what was proven before each grant
    #[arg(long)]
    proof: bool,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let mut records = frame.session.cluster().await?.history;
    if let Some(last) = args.last {
        records.drain(..records.len().saturating_sub(last));
    }
    if frame.format == Format::Json {
        return output::json(&records);
    }
    output::table(
        &[
            "EPOCH",
            "HOLDER",
            "CAUSE",
            "GRANTED",
            "WRITABLE AFTER",
            "TL",
            "LSN",
            "MAY HAVE LOST",
            "WHY",
        ],
        records.iter().map(row),
    )?;
    if args.proof {
        for record in &records {
            output::line(format!(
                "\nepoch {}:\n  {}",
                record.epoch,
                record.proof.join("\n  ")
            ))?;
        }
    }
    for record in &records {
        for proof in &record.stonith {
            output::line(turned_off(record.epoch, proof))?;
        }
    }
    Ok(())
}

pub(super) fn turned_off(epoch: u64, proof: &StonithProof) -> String {
    let code = proof
        .exit_code
        .map(|code| format!(", exit code {code}"))
        .unwrap_or_default();
    let said = if proof.output.is_empty() {
        String::new()
    } else {
        format!(": {}", proof.output)
    };
    format!(
        "{}: {}, the holder of epoch {epoch}, was turned off by {} with {}{code}{said}",
        utc(proof.at_unix_ms),
        proof.node,
        proof.by,
        proof.device
    )
}

pub(super) fn row(record: &EpochRecord) -> Vec<String> {
    // Two clocks of two nodes: a difference below zero shows as zero.
    let took = record
        .opened_at_unix_ms
        .map(|opened| span(opened.saturating_sub(record.granted_at_unix_ms)));
    vec![
        record.epoch.to_string(),
        record.holder.clone(),
        record.cause.clone(),
        utc(record.granted_at_unix_ms),
        or_dash(took),
        record.timeline.to_string(),
        or_dash(record.lsn.as_deref()),
        or_dash(record.may_have_lost_bytes.map(bytes)),
        record.why.clone(),
    ]
}
