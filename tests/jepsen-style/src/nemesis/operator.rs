//! What operators do, and what is to be done to end it.

use super::fault::Fault;
use anyhow::{Context, Result, bail};
use lab::{Cluster, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;
use std::{fmt, fs};
use tokio::time::{sleep, timeout};

/// How long one order may take.
const ORDER: Duration = Duration::from_secs(30);

/// How long something may take that a cluster without other faults does in moments.
const SOON: Duration = Duration::from_secs(60);

/// What ends it, once all else is healed.
#[derive(Clone, Debug)]
pub enum Undo {
    /// An order.
    Order(Vec<String>),
    /// The removal of a member.
    Remove(String),
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undo::Order(words) => write!(f, "pgctl {}", words.join(" ")),
            Undo::Remove(name) => write!(f, "the removal of {name}"),
        }
    }
}

/// Gives an order to the cluster.
///
/// # Errors
/// It was refused, or it took too long.
pub async fn order(cluster: &Cluster, words: &[&str]) -> Result<()> {
    let given = timeout(ORDER, cluster.pgctl_ok(words)).await;
    given
        .with_context(|| format!("pgctl {} took longer than {ORDER:?}", words.join(" ")))?
        .map(drop)
}

/// The terms that a change leads to from those of the run. From `wan` a failover takes ten seconds: rarely.
fn other_terms(profile: &str, pick: u64) -> &'static str {
    let all = ["lan-fast", "default", "lan-fast", "default", "wan"];
    let others: Vec<&str> = all.into_iter().filter(|name| *name != profile).collect();
    others[(pick % others.len() as u64) as usize]
}

/// Starts one of the faults that an order makes. Returns who was hit, and what ends it.
pub async fn make(
    cluster: &mut Cluster,
    fault: Fault,
    node: &str,
    pick: u64,
    profile: &str,
) -> Result<(String, Option<Undo>)> {
    let set = async |cluster: &Cluster, change: &str, back: &str| {
        order(cluster, &["config", "set", change]).await?;
        let undo = ["config", "set", back].map(str::to_owned).to_vec();
        Ok((change.to_owned(), Some(Undo::Order(undo))))
    };
    match fault {
        Fault::Switchover => {
            let primary = cluster.primary().await?;
            let others = cluster.data_nodes().map(lab::Node::name);
            let others: Vec<&str> = others.filter(|name| *name != primary).collect();
            let target = others[(pick % others.len() as u64) as usize];
            let done = order(cluster, &["switchover", "--to", target, "--yes"]).await;
            done.with_context(|| format!("from {primary} to {target}"))?;
            Ok((format!("{primary} to {target}"), None))
        }
        Fault::RestartAgents => {
            restart_agents(cluster).await?;
            Ok(("everybody".to_owned(), None))
        }
        Fault::WipeNode => {
            wipe(cluster, node).await?;
            Ok((node.to_owned(), None))
        }
        Fault::AddRemove => {
            let name = format!("x{}", pick % 100_000);
            let mut spare = cluster.spare(&name)?;
            let peer = spare.peer_address().to_string();
            // Clients do not know its address: it must not become primary.
            order(
                cluster,
                &["member", "add", &name, "--peer", &peer, "--nofailover"],
            )
            .await?;
            let started = spare.start().await;
            cluster.take_in(spare);
            started?;
            Ok((name.clone(), Some(Undo::Remove(name))))
        }
        Fault::PauseCluster => {
            order(cluster, &["pause", "--reason", "jepsen"]).await?;
            Ok((
                "everybody".to_owned(),
                Some(Undo::Order(vec!["resume".to_owned()])),
            ))
        }
        Fault::Timing => {
            let other = other_terms(profile, pick);
            set(cluster, &format!("timing={other}"), &format!("timing={profile}")).await
        }
        Fault::SyncStandbys => set(cluster, "sync_standbys=2", "sync_standbys=1").await,
        Fault::SyncMode => set(cluster, "sync_mode=strict", "sync_mode=quorum").await,
        _ => bail!("{} is no order", fault.name()),
    }
}

/// One after the other, as a careful upgrade does it; the servers go on.
async fn restart_agents(cluster: &mut Cluster) -> Result<()> {
    let names: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    for name in names {
        cluster.node(&name).signal_agent(Signal::SIGTERM)?;
        wait_until("the agent has ended", SOON, || async {
            match cluster.node(&name).agent_pid() {
                None => Ok(()),
                Some(pid) => bail!("{pid} still runs"),
            }
        })
        .await?;
        cluster.node_mut(&name).start().await?;
        sleep(Duration::from_secs(2)).await;
    }
    Ok(())
}

/// A standby loses all it has. Only while all others have everything: two copies lost at once are lost.
async fn wipe(cluster: &mut Cluster, node: &str) -> Result<()> {
    let primary = cluster.wait_all_in_sync(ORDER).await?;
    if primary == node || cluster.node(node).is_witness() {
        bail!("{node} is no standby at this moment");
    }
    let victim = cluster.node_mut(node);
    let (state, data) = (
        victim.config.node.state_dir.clone(),
        victim.data_dir()?.to_owned(),
    );
    victim.power_off()?;
    for folder in [state, data] {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Ends what [`make()`] started.
pub async fn undo(cluster: &mut Cluster, undo: &Undo) -> Result<()> {
    match undo {
        Undo::Order(words) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            wait_until(&format!("pgctl {}", words.join(" ")), SOON, || {
                order(cluster, &words)
            })
            .await
        }
        Undo::Remove(name) => {
            let this = &*cluster;
            let orders: [&[&str]; 2] = [
                &["member", "maintenance", name, "on"],
                &["member", "remove", name, "--yes"],
            ];
            for words in orders {
                wait_until(&format!("pgctl {}", words.join(" ")), SOON, || order(this, words)).await?;
            }
            drop(cluster.take_out(name));
            Ok(())
        }
    }
}
