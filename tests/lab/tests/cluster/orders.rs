//! `pgctl` as an operator uses it: what it printed, what it complained of, and how it ended.

use anyhow::{Context, Result, ensure};
use lab::{Cluster, wait_until};
use serde_json::Value;
use std::time::Duration;

/// How one command ended.
#[derive(Debug)]
pub struct Told {
    /// The exit code, as documented in docs/pgctl.md.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub complaint: String,
}

/// Runs `pgctl` and tells how it ended, whichever way that was.
pub async fn tell(cluster: &Cluster, args: &[&str]) -> Result<Told> {
    let done = cluster.pgctl(args).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Told {
        code: done.status.code().context("pgctl was ended by a signal")?,
        out: text(&done.stdout),
        complaint: text(&done.stderr),
    })
}

/// Runs a command that must end with `code`, and say each of `words`.
pub async fn refused(cluster: &Cluster, args: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let told = tell(cluster, args).await?;
    let shown = format!("pgctl {}: {told:?}", args.join(" "));
    ensure!(told.code == code, "expected exit code {code}; {shown}");
    ensure!(told.out.is_empty(), "a refusal is no data; {shown}");
    for word in words {
        ensure!(told.complaint.contains(word), "it does not say {word:?}; {shown}");
    }
    Ok(())
}

/// What a command prints with `-o json`.
pub async fn json(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let out = cluster.pgctl_ok(&[args, &["-o", "json"]].concat()).await?;
    serde_json::from_str(&out).with_context(|| format!("pgctl {} printed no JSON: {out}", args.join(" ")))
}

/// The texts of the events of one kind, oldest first.
pub async fn events(cluster: &Cluster, kind: &str) -> Result<Vec<String>> {
    let out = cluster.pgctl_ok(&["events", "-o", "json"]).await?;
    let mut found = Vec::new();
    for line in out.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        if event["kind"] == kind {
            found.push(event["text"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(found)
}

/// The newest epoch.
pub async fn epoch(cluster: &Cluster) -> Result<u64> {
    let status = json(cluster, &["status"]).await?;
    status["epoch"]
        .as_u64()
        .with_context(|| format!("an epoch in {status}"))
}

/// One member as `pgctl` shows it; `None` if there is none of that name.
pub async fn member(cluster: &Cluster, name: &str) -> Result<Option<Value>> {
    let members = json(cluster, &["member", "list"]).await?;
    let members = members.as_array().context("a list of members")?;
    Ok(members.iter().find(|member| member["name"] == name).cloned())
}

/// Waits until `pgctl explain --node` says each of `words` of a node.
pub async fn wait_explained(cluster: &Cluster, node: &str, words: &[&str], deadline: Duration) -> Result<()> {
    wait_until(&format!("explain says {words:?} of {node}"), deadline, || async {
        let said = cluster.pgctl_ok(&["explain", "--node", node]).await?;
        ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        Ok(())
    })
    .await
}
