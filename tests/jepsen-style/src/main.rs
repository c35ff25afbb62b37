//! `jepsen`: see `jepsen --help`.

use anyhow::{Context, Result};
use clap::Parser;
use jepsen::nemesis::Fault;
use jepsen::run::{self, Options};
use jepsen::workload::Kind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        list();
        return ExitCode::SUCCESS;
    }
    let done = in_own_mounts().and_then(|()| judged(&options));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("jepsen: {why:?}");
            ExitCode::from(2)
        }
    }
}

/// Becomes itself again in a mount namespace of its own, where it has not: what is mounted there goes with this process,
/// however it ends.
fn in_own_mounts() -> Result<()> {
    if std::env::var_os(jepsen::OWN_MOUNTS).is_some() || !nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let failed = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(jepsen::OWN_MOUNTS, "1")
        .exec();
    eprintln!("jepsen: no mount namespace of its own, so no full disks: {failed}");
    Ok(())
}

#[tokio::main]
async fn judged(options: &Options) -> Result<bool> {
    let summary = tokio::select! {
        summary = run::run(options) => summary?,
        why = lab::interrupted() => return Err(why),
    };
    run::print(&summary);
    Ok(summary.held)
}

#[allow(clippy::print_stdout, reason = "the list is this program's output")]
fn list() {
    println!("Workloads: {}", Kind::ALL.map(Kind::name).join(", "));
    println!("Faults, with the family that stands for all of its kind:");
    for fault in Fault::ALL {
        println!(
            "  {:14} {:10} {}",
            fault.name(),
            fault.family().name(),
            fault.what()
        );
    }
}
