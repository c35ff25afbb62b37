//! Faults of the network.

use super::fault::Fault;
use anyhow::{Result, bail};
use lab::{Cluster, End, Shape};

/// Makes one; `node` is whom it is for. Returns who was hit.
pub fn make(cluster: &Cluster, fault: Fault, node: &str, pick: u64) -> Result<String> {
    let names: Vec<&str> = cluster.nodes().iter().map(lab::Node::name).collect();
    let others: Vec<&str> = names.iter().copied().filter(|name| *name != node).collect();
    let other = others[(pick % others.len() as u64) as usize];
    let end = || cluster.node(node).host().end();
    match fault {
        Fault::Isolate | Fault::Flapping => cluster.isolate(node)?,
        Fault::IsolatePeers => cluster.isolate_from_peers(node)?,
        Fault::Mute => cluster.mute(node)?,
        Fault::Deafen => cluster.deafen(node)?,
        Fault::OneWay => {
            cluster.cut_one_way(other, node)?;
            return Ok(format!("{node} does not hear {other}"));
        }
        Fault::Pair => {
            cluster.cut(node, other)?;
            return Ok(format!("{node} and {other}"));
        }
        Fault::Halves => {
            // The one that it is for is in the minority.
            let minority = (names.len() - 1) / 2;
            let rotated = others.iter().cycle().skip((pick % others.len() as u64) as usize);
            let mut small: Vec<&str> = vec![node];
            small.extend(rotated.take(minority.saturating_sub(1)));
            for a in &small {
                for b in names.iter().filter(|name| !small.contains(name)) {
                    cluster.cut(a, b)?;
                }
            }
            return Ok(format!("{} | the others", small.join(", ")));
        }
        Fault::Ring => {
            for (i, a) in names.iter().enumerate() {
                for (j, b) in names.iter().enumerate().skip(i + 1) {
                    let neighbours = j - i == 1 || j - i == names.len() - 1;
                    if !neighbours {
                        cluster.cut(a, b)?;
                    }
                }
            }
            return Ok("everybody".to_owned());
        }
        Fault::Loss => {
            let percent = 10 + (pick % 31) as u8;
            let network = cluster.lab().network()?;
            network.lose(end()?, End::Any, percent)?;
            network.lose(End::Any, end()?, percent)?;
            return Ok(format!("{node}, {percent} %"));
        }
        Fault::SlowLink => cluster
            .lab()
            .network()?
            .shape(&end()?, Shape::Rate { kbit: 1_000 })?,
        Fault::LateAnswers => cluster
            .lab()
            .network()?
            .shape(&end()?, Shape::Datagrams { bytes: 150 })?,
        Fault::Delay => {
            let ms = 20 + (pick % 200) as u32;
            cluster.lab().network()?.shape(&end()?, Shape::Delay { ms })?;
            return Ok(format!("{node}, {ms} ms"));
        }
        _ => bail!("{} is no fault of the network", fault.name()),
    }
    Ok(node.to_owned())
}
