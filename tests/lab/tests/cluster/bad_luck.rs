//! Bad input: each gets a clear refusal, and nothing is touched.

use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, wait_until};
use std::io::Write;
use std::net::{TcpStream, UdpSocket};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "garbage").timing("lan-fast").build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let noise: Vec<u8> = (0..20_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for node in cluster.nodes() {
        for address in [node.peer_address(), node.http_address()] {
            for chunk in [&noise[..1], &noise[..100], &noise[..]] {
                if let Ok(mut stream) = TcpStream::connect(address) {
                    // The other side may hang up in the middle of it, and should.
                    let _ = stream.write_all(chunk);
                }
            }
        }
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        for length in [0, 1, 71, 72, 73, 1_400] {
            udp.send_to(&noise[..length], node.peer_address())?;
        }
    }
    ensure!(
        cluster.wait_all_in_sync(RECOVERY).await? == primary,
        "garbage moved the primary"
    );
    for node in cluster.nodes() {
        ensure!(
            node.agent_pid().is_some(),
            "the agent of {} died of garbage",
            node.name()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_database_is_refused_and_never_touched() -> Result<()> {
    let lab = Lab::new()?;
    let mut donor = Cluster::builder(&lab, "donor").data_nodes(1).build()?;
    donor.start().await?;
    donor.wait_for_primary(RECOVERY).await?;
    donor.node_mut("n1").power_off()?;
    let mut cluster = Cluster::builder(&lab, "foreign").timing("lan-fast").build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let victim = cluster
        .data_nodes()
        .map(|n| n.name().to_owned())
        .find(|n| *n != primary)
        .context("a standby")?;
    cluster.node_mut(&victim).power_off()?;
    let ours = cluster.node(&victim).data_dir()?.to_owned();
    let theirs = donor.node("n1").data_dir()?.to_owned();
    std::fs::rename(&ours, ours.with_extension("kept"))?;
    std::fs::rename(&theirs, &ours)?;
    let before = std::fs::read(ours.join("global/pg_control"))?;
    cluster.node_mut(&victim).start().await?;
    wait_until("the foreign data is named", RECOVERY, || async {
        let said = cluster.pgctl_ok(&["explain", "--node", &victim]).await?;
        ensure!(said.contains("data-is-of-this-cluster"), "{said}");
        Ok(())
    })
    .await?;
    ensure!(
        std::fs::read(ours.join("global/pg_control"))? == before,
        "the foreign data directory was written to"
    );
    ensure!(
        cluster.node(&victim).postmaster_pid().is_none(),
        "a server was started on foreign data"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_raft_log_is_refused_with_the_way_back() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "damage").timing("lan-fast").build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let victim = cluster
        .data_nodes()
        .map(|n| n.name().to_owned())
        .find(|n| *n != primary)
        .context("a standby")?;
    cluster.node_mut(&victim).power_off()?;
    let state = cluster
        .node(&victim)
        .data_dir()?
        .parent()
        .context("a home")?
        .join("state");
    let log = state.join("raft.log");
    let mut bytes = std::fs::read(&log)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    std::fs::write(&log, bytes)?;
    cluster.node_mut(&victim).start().await?;
    wait_until("the agent refuses and says why", RECOVERY, || async {
        let said = cluster.node(&victim).log_tail(20);
        ensure!(
            said.contains("damaged") && said.contains("move the state directory"),
            "{said}"
        );
        ensure!(cluster.node(&victim).agent_pid().is_none(), "it still runs");
        Ok(())
    })
    .await?;
    // The way back that it named works.
    cluster.node_mut(&victim).power_off()?;
    std::fs::rename(&state, state.with_extension("damaged"))?;
    cluster.node_mut(&victim).start().await?;
    cluster.wait_all_in_sync(RECOVERY).await?;
    Ok(())
}
