//! What the agents cost while nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use lab::Mono;
use lab::processes::Footprint;

use crate::sample::{Samples, median};
use crate::system::System;

/// Long enough for two of Patroni's rounds of 10 s, and to make one 10 ms step of the kernel's clock small.
const IDLE: Duration = Duration::from_secs(25);
const MIB: f64 = 1024.0 * 1024.0;

/// Measures memory and processor time over [`IDLE`].
///
/// # Errors
/// An agent ended meanwhile.
pub async fn measure<S: System>(system: &S, samples: &mut Samples) -> Result<()> {
    let nodes = system.health().len();
    let agents: Vec<Vec<i32>> = (0..nodes).map(|node| system.agent_pids(node)).collect();
    let store = system.store_pids();
    let cpu = |pids: &[i32]| -> Result<BTreeMap<i32, u64>> {
        pids.iter()
            .map(|pid| Ok((*pid, Footprint::read(*pid)?.cpu_ms)))
            .collect()
    };
    let all: Vec<i32> = agents.iter().flatten().chain(&store).copied().collect();
    let (began, before) = (Mono::now(), cpu(&all)?);
    tokio::time::sleep(IDLE).await;
    let (after, elapsed) = (cpu(&all)?, Mono::now().since(began).as_secs_f64() * 1000.0);
    let used = |pids: &[i32]| -> f64 {
        let ms = pids
            .iter()
            .map(|pid| after[pid].saturating_sub(before[pid]) as f64);
        100.0 * ms.sum::<f64>() / elapsed
    };
    let memory = |pids: &[i32]| -> Result<(f64, f64)> {
        let each: Result<Vec<Footprint>> = pids.iter().map(|pid| Footprint::read(*pid)).collect();
        let each = each?;
        let sum = |of: fn(&Footprint) -> u64| each.iter().map(|f| of(f) as f64).sum::<f64>() / MIB;
        Ok((sum(|f| f.rss_bytes), sum(|f| f.pss_bytes)))
    };
    let per_node: Result<Vec<(f64, f64)>> = agents.iter().map(|pids| memory(pids)).collect();
    let per_node = per_node?;
    let of_nodes = |values: Vec<f64>| median(&values);
    samples.add(
        "agent memory, resident",
        "MiB",
        of_nodes(per_node.iter().map(|m| m.0).collect()),
    );
    samples.add(
        "agent memory, proportional",
        "MiB",
        of_nodes(per_node.iter().map(|m| m.1).collect()),
    );
    samples.add(
        "agent processor, idle",
        "% of a core",
        of_nodes(agents.iter().map(|pids| used(pids)).collect()),
    );
    if !store.is_empty() {
        let (resident, proportional) = memory(&store)?;
        samples.add("store memory, resident", "MiB", resident);
        samples.add("store memory, proportional", "MiB", proportional);
        samples.add("store processor, idle", "% of a core", used(&store));
    }
    Ok(())
}
