//! What is needed to understand a violation.

use super::{Options, Story, Summary, make_dir};
use anyhow::{Context, Result};
use lab::Cluster;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Copies logs and writes histories, one line each, to a folder of the seed's name. Returns the folder.
///
/// # Errors
/// It cannot be written.
pub async fn keep(
    options: &Options,
    seed: u64,
    cluster: &Cluster,
    story: &Story,
    summary: &Summary,
) -> Result<PathBuf> {
    let folder = options.out.join(seed.to_string());
    make_dir(&folder)?;
    for node in cluster.nodes() {
        copy(
            &node.log_path(),
            &folder.join(format!("{}-agent.log", node.name())),
        )?;
        if let Ok(data) = node.data_dir() {
            for entry in fs::read_dir(data.with_extension("log"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let name = format!("{}-{}", node.name(), entry.file_name().to_string_lossy());
                copy(&entry.path(), &folder.join(name))?;
            }
        }
    }
    for words in ["list", "explain", "history", "events", "status"] {
        let said = match cluster.pgctl_ok(&[words]).await {
            Ok(said) => said,
            Err(why) => format!("{why:#}"),
        };
        write(&folder.join(format!("pgctl-{words}.txt")), &said)?;
    }
    let since = |at: u64| format!("{:.6}", at.saturating_sub(story.run.0) as f64 / 1e9);
    let mut acks = String::from("# sent, acknowledged (s), server, timeline, client\n");
    for ack in &story.history.acks {
        writeln!(
            acks,
            "{} {} {} {} {}",
            since(ack.sent),
            since(ack.acked),
            ack.server,
            ack.timeline,
            ack.client
        )?;
    }
    write(&folder.join("acks.txt"), &acks)?;
    let mut calls = String::from("# key, called, returned (s), call, answer\n");
    for op in &story.history.ops {
        writeln!(
            calls,
            "{} {} {} {:?} {:?}",
            op.key,
            since(op.invoked),
            since(op.returned),
            op.call,
            op.answer
        )?;
    }
    write(&folder.join("registers.txt"), &calls)?;
    let mut txns = String::from("# who, began, returned (s), end, steps\n");
    for txn in &story.history.txns {
        writeln!(
            txns,
            "{} {} {} {:?} {:?}",
            txn.who,
            since(txn.invoked),
            since(txn.returned),
            txn.end,
            txn.steps
        )?;
    }
    write(&folder.join("transactions.txt"), &txns)?;
    let mut looks = String::new();
    for look in &story.history.looks {
        writeln!(looks, "{} {look:?}", since(look.at))?;
    }
    write(&folder.join("looks.txt"), &looks)?;
    if let Some(last) = &story.last {
        write(&folder.join("last.txt"), &format!("{last:#?}"))?;
    }
    summary.write(&folder)?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    // A node that never started has no log.
    let bytes = fs::read(from).unwrap_or_default();
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
