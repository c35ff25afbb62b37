//! The program itself, for some minutes, as a part of `make test`: three nodes in quorum mode, and every fault that this machine
//! can make.

use anyhow::{Context, Result, ensure};
use lab::children::{self, Lifetime};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;

/// How long faults are made, seconds.
const TIME: &str = "600";

/// Always the same schedule, so that a red run can be repeated; `make jepsen` is for new ones.
#[test]
fn a_short_run_holds() -> Result<()> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jepsen");
    let mut command = children::command(env!("CARGO_BIN_EXE_jepsen"), Lifetime::WithUs);
    command
        .args([
            "--seed",
            "1",
            "--nemeses",
            "all",
            "--time",
            TIME,
            "--nodes",
            "3",
            "--mode",
            "quorum",
            "--profile",
            "default",
        ])
        .arg("--out")
        .arg(&out)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = children::spawn(command)?.wait_with_output()?;
    let said = format!(
        "{}\n{}",
        String::from_utf8_lossy(&done.stderr),
        String::from_utf8_lossy(&done.stdout)
    );
    ensure!(done.status.success(), "{}\n{said}", done.status);
    let summary = std::fs::read_to_string(out.join("summary.json")).context("a summary")?;
    let summary: Value = serde_json::from_str(&summary).context("JSON")?;
    ensure!(summary["held"] == true && summary["lost"] == 0, "{said}");
    let faults = summary["faults"].as_array().context("a list of faults")?;
    let made = faults.iter().filter(|fault| fault["note"].is_null());
    ensure!(made.count() >= 10, "hardly anything was broken:\n{said}");
    for workload in [
        "set",
        "register",
        "append",
        "bank",
        "read-after-write",
        "procedure",
    ] {
        let acked = summary["acked_of"][workload].as_u64().unwrap_or(0);
        ensure!(acked >= 500, "{workload}: {acked}\n{said}");
    }
    // What was skipped is for people to see.
    eprintln!("{said}");
    Ok(())
}
