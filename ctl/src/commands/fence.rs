//! `pgctl fence`: keeping a node out by hand, and trying fence devices.

use super::Frame;
use super::pause::report;
use crate::failure::Failure;
use crate::output::{self, Format, confirm, text_or_dash};
use crate::session::{Client, Intent, Session};
use crate::wall_time::span;
use clap::Subcommand;
use proto::control::{
    ConfirmOffRequest, FenceNodeRequest, FenceTest, FenceTestResult, GetSettingsRequest, TestFenceRequest,
};
use std::time::Duration;

/// Keeps a node out until `pgctl unfence`: it holds no lease, and its server is stopped and not started
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  pgctl fence n2 --reason 'memory errors'
  pgctl unfence n2
  pgctl fence n1 --yes-fence-primary      # n1 is the primary: this is a failover
  pgctl fence test n2                     # who can reach the fence device of n2?
  pgctl fence test n2 --off               # really turns the machine of n2 off
  pgctl fence confirm n1                  # I have seen that the lost primary n1 is off"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The node to keep out
    #[arg(required = true, value_name = "NODE")]
    node: Option<String>,
    /// Why; shown by list, status and explain
    #[arg(long, default_value = "")]
    reason: String,
    /// Fence it even if it is the primary, which makes another node take over
    #[arg(long)]
    yes_fence_primary: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Asks the fence devices of every other agent whether a node's machine is on
    ///
    /// Any of the agents may have to turn the machine off one day, so each is asked with its own configuration. Nothing
    /// is turned off without --off. Exit code 1 if an agent does not reach the device.
    #[command(after_help = "\
Examples:
  pgctl fence test n2
  pgctl fence test n2 -o json | jq '.results[] | select(.error != \"\")'
  pgctl fence test n2 --off")]
    Test {
        #[arg(value_name = "NODE")]
        node: String,
        /// Then really turn the machine off
        #[arg(long)]
        off: bool,
        /// Turn it off even if it is the primary
        #[arg(long, requires = "off")]
        yes_fence_primary: bool,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Gives your word that the machine of a lost primary is off, where its fence device cannot
    ///
    /// With stonith = required nothing fails over before a device says that the old primary is off. If the device is
    /// broken and you have seen that the machine is off, say so. If it is not off, commits may be lost.
    #[command(after_help = "Examples:\n  pgctl fence confirm n1")]
    Confirm {
        #[arg(value_name = "NODE")]
        node: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        None => fence(frame, args).await,
        Some(Verb::Test {
            node,
            off,
            yes_fence_primary,
            yes,
        }) => {
            if *off {
                confirm(&format!("Turn the machine of {node} off?"), *yes)?;
            }
            let request = TestFenceRequest {
                name: node.clone(),
                off: *off,
                even_primary: *yes_fence_primary,
            };
            test(frame, request).await
        }
        Some(Verb::Confirm { node, yes }) => {
            confirm(
                &format!(
                    "Have you seen that the machine of {node} is off? If it is not, commits may be lost."
                ),
                *yes,
            )?;
            let request = ConfirmOffRequest {
                request: Session::request_id(),
                name: node.clone(),
            };
            let ask = async |mut client: Client| client.confirm_off(request.clone()).await;
            let change = frame.session.call(Intent::Write, ask).await?;
            let done =
                format!("noted: {node} is off; see `pgctl explain` for what else a failover waits for");
            report(frame, &change, &done, "that was known already")
        }
    }
}

async fn fence(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let Some(node) = &args.node else {
        return Err(Failure::usage("which node? pgctl fence NODE"));
    };
    let question = if args.yes_fence_primary {
        format!("End the server of {node} at once, and let another node take over if it is the primary?")
    } else {
        format!("Stop the server of {node} and keep it stopped?")
    };
    confirm(&question, args.yes)?;
    let request = FenceNodeRequest {
        request: Session::request_id(),
        name: node.clone(),
        reason: args.reason.clone(),
        even_primary: args.yes_fence_primary,
    };
    let ask = async |mut client: Client| client.fence_node(request.clone()).await;
    let change = frame.session.call(Intent::Write, ask).await?;
    let done = format!("{node} is fenced: it holds no lease and runs no server until `pgctl unfence {node}`");
    report(frame, &change, &done, "it was fenced already")
}

async fn test(frame: &Frame, request: TestFenceRequest) -> Result<(), Failure> {
    let mut session = frame.session.clone();
    if request.off {
        // As long as the agents themselves would give the device, and the questions before.
        let ask = async |mut client: Client| client.get_settings(GetSettingsRequest {}).await;
        let settings = frame.session.call(Intent::Read, ask).await?.settings;
        let deadline = settings
            .iter()
            .find(|setting| setting.key == "stonith_deadline_ms")
            .and_then(|setting| setting.value.parse().ok())
            .unwrap_or(60_000);
        session = session.at_least(Duration::from_millis(deadline) + Duration::from_secs(10));
    }
    let intent = if request.off { Intent::Write } else { Intent::Read };
    let ask = async |mut client: Client| client.test_fence(request.clone()).await;
    let test = session.call(intent, ask).await?;
    match frame.format {
        Format::Json => output::json(&test)?,
        Format::Table => output::table(
            &["AGENT", "SAYS", "DEVICE", "TOOK", "DETAIL"],
            test.results.iter().chain(&test.turned_off).map(row),
        )?,
    }
    verdict(&test, request.off)
}

fn row(result: &FenceTestResult) -> Vec<String> {
    let detail = if result.error.is_empty() {
        &result.output
    } else {
        &result.error
    };
    vec![
        result.by.clone(),
        if result.power.is_empty() {
            "NO ANSWER".to_owned()
        } else {
            result.power.clone()
        },
        text_or_dash(&result.device),
        span(result.elapsed_ms),
        text_or_dash(detail),
    ]
}

fn verdict(test: &FenceTest, off: bool) -> Result<(), Failure> {
    let node = &test.node;
    let refuse = |id: &str, message: String, next: &str| {
        Err(Failure::Refused {
            id: id.to_owned(),
            message,
            next: next.to_owned(),
        })
    };
    let turned_off = test.turned_off.as_ref();
    if off && turned_off.is_none_or(|result| !result.error.is_empty() || result.power != "off") {
        return refuse(
            "not-turned-off",
            format!("the machine of {node} was not turned off"),
            "see the detail above; nothing else was done",
        );
    }
    let blind: Vec<&str> = test
        .results
        .iter()
        .filter(|result| !result.error.is_empty())
        .map(|result| result.by.as_str())
        .collect();
    if blind.is_empty() {
        return Ok(());
    }
    refuse(
        "device-not-reached",
        format!("{} could not ask the device of {node}", blind.join(", ")),
        "give fencing.devices of those nodes the same entry as the others', and let them reach the device",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(by: &str, power: &str, error: &str) -> FenceTestResult {
        FenceTestResult {
            by: by.to_owned(),
            power: power.to_owned(),
            error: error.to_owned(),
            ..FenceTestResult::default()
        }
    }

    #[test]
    fn one_agent_that_does_not_reach_the_device_is_a_failure() {
        let mut test = FenceTest {
            node: "n2".to_owned(),
            results: vec![said("n1", "on", ""), said("n3", "on", "")],
            turned_off: None,
        };
        assert_eq!(verdict(&test, false), Ok(()));
        test.results[1] = said("n3", "", "no route");
        let failure = verdict(&test, false).expect_err("n3 is blind");
        assert_eq!(failure.code(), 1);
        assert!(format!("{failure:?}").contains("n3 could not ask"), "{failure:?}");
    }

    #[test]
    fn a_machine_that_was_to_be_off_and_is_not_is_a_failure() {
        let mut test = FenceTest {
            node: "n2".to_owned(),
            results: vec![said("n1", "on", "")],
            turned_off: None,
        };
        assert!(verdict(&test, true).is_err(), "nobody tried");
        for (result, is_off) in [
            (said("n1", "on", ""), false),
            (said("n1", "", "no answer"), false),
            (said("n1", "off", ""), true),
        ] {
            test.turned_off = Some(result);
            assert_eq!(verdict(&test, true).is_ok(), is_off, "{test:?}");
        }
    }
}
