//! `pgctl failover`: the promotion of one node by order.

use super::Frame;
use super::switchover::{finish, tell};
use crate::failure::Failure;
use crate::output::{self, Format, bytes, confirm, or_dash};
use crate::session::{Intent, Session};
use crate::wall_time::span;
use proto::control::{FailoverRequest, FailoverRisk, PreviewFailoverRequest};

/// Promotes one node by order, after saying what may be lost
///
/// For when the primary is gone and the cluster does not fail over by itself (see `pgctl explain`). While the primary is
/// well, `pgctl switchover` is the command: it loses nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl failover --to n3 --preview             # what would be lost, and nothing else
  pgctl failover --to n3                       # refused if acknowledged commits may be lost
  pgctl failover --to n3 --accept-data-loss    # says how much, and asks")]
pub struct Args {
    /// The new primary
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Promote it although acknowledged commits may be lost
    #[arg(long)]
    accept_data_loss: bool,
    /// Only say what would be lost
    #[arg(long, conflicts_with_all = ["accept_data_loss", "yes"])]
    preview: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let question = PreviewFailoverRequest { to: args.to.clone() };
    let ask = async |mut client: crate::session::Client| client.preview_failover(question.clone()).await;
    let risk = frame.session.call(Intent::Read, ask).await?;
    if args.preview {
        return match frame.format {
            Format::Json => output::json(&risk),
            Format::Table => output::line(describe(&risk).join("\n")),
        };
    }
    for line in describe(&risk) {
        eprintln!("{}", output::plain(&line));
    }
    if !risk.acknowledged_is_safe && !args.accept_data_loss {
        return Err(Failure::Refused {
            id: "data-loss-not-accepted".to_owned(),
            message: format!(
                "{} may lack acknowledged commits, and --accept-data-loss was not given",
                risk.to
            ),
            next: "bring back the nodes that `pgctl explain` names, or repeat with --accept-data-loss"
                .to_owned(),
        });
    }
    confirm(&format!("Promote {}?", risk.to), args.yes)?;
    let request = FailoverRequest {
        request: Session::request_id(),
        to: args.to.clone(),
        accept_data_loss: args.accept_data_loss,
    };
    let end = frame
        .session
        .follow(async |mut client| client.failover(request.clone()).await, tell)
        .await?;
    finish(frame, &end)
}

fn describe(risk: &FailoverRisk) -> Vec<String> {
    let age = |ms: Option<u64>| {
        ms.map_or_else(
            || "never heard of".to_owned(),
            |ms| format!("heard of {} ago", span(ms)),
        )
    };
    let mut lines = vec![
        format!(
            "{}: at {}, {}",
            risk.to,
            or_dash(risk.target_lsn.as_deref()),
            age(risk.target_report_age_ms)
        ),
        format!(
            "primary: at {} at least, {}",
            or_dash(risk.primary_lsn.as_deref()),
            age(risk.primary_report_age_ms)
        ),
    ];
    lines.push(if risk.acknowledged_is_safe {
        "at risk: nothing that was acknowledged".to_owned()
    } else {
        format!(
            "at risk: {} of WAL, commits of at most the last {}",
            risk.bytes_at_risk.map_or_else(
                || "an unknown amount".to_owned(),
                |count| format!("{} ({count} bytes)", bytes(count))
            ),
            risk.span_at_risk_ms.map_or_else(|| "(unknown)".to_owned(), span),
        )
    });
    if !risk.target_ready {
        lines.push(format!(
            "{} is no running standby now, and cannot be promoted before it is one",
            risk.to
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_risk_is_told_in_bytes_and_seconds() {
        let risk = FailoverRisk {
            to: "n3".to_owned(),
            bytes_at_risk: Some(4096),
            span_at_risk_ms: Some(2_500),
            target_ready: true,
            ..FailoverRisk::default()
        };
        assert_eq!(
            describe(&risk)[2],
            "at risk: 4.0 kB (4096 bytes) of WAL, commits of at most the last 2.5 s"
        );
        let unknown = FailoverRisk {
            bytes_at_risk: None,
            span_at_risk_ms: None,
            ..risk.clone()
        };
        assert!(describe(&unknown)[2].contains("an unknown amount"));
        let safe = FailoverRisk {
            acknowledged_is_safe: true,
            ..risk
        };
        assert_eq!(describe(&safe)[2], "at risk: nothing that was acknowledged");
    }
}
