//! What every test begins and ends with.

use anyhow::{Result, bail, ensure};
use lab::{Cluster, ClusterBuilder, DEADLINE, History, Lab, Mono, Target, Writer, WriterOptions, verify};
use std::time::Duration;

/// How long a cluster may take to be back to normal: far longer than it does on an idle machine.
pub const RECOVERY: Duration = Duration::from_secs(120);

/// A cluster in sync, with clients writing.
pub struct Scene {
    pub cluster: Cluster,
    pub writer: Writer,
    /// The primary at the beginning.
    pub first: String,
    /// The other data nodes.
    pub others: Vec<String>,
}

impl Scene {
    /// Starts a cluster as `shape` makes it, waits until all of it is in sync, and lets clients write.
    pub async fn start(
        lab: &Lab,
        name: &str,
        shape: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Result<Scene> {
        Scene::of(shape(Cluster::builder(lab, name)).build()?).await
    }

    /// The same with a cluster that is prepared already.
    pub async fn of(mut cluster: Cluster) -> Result<Scene> {
        cluster.start().await?;
        let first = cluster.wait_all_in_sync(RECOVERY).await?;
        Writer::prepare(cluster.node(&first).pg_address()?).await?;
        let writer = Writer::start(Target::Hosts(cluster.pg_addresses()), WriterOptions::default());
        writer.wait_for_acks(50, DEADLINE).await?;
        let others = cluster
            .data_nodes()
            .map(|node| node.name().to_owned())
            .filter(|name| *name != first)
            .collect();
        Ok(Scene {
            cluster,
            writer,
            first,
            others,
        })
    }

    /// Waits until somebody acknowledges rows again that were sent after `at`, and names the primary.
    pub async fn writable_after(&self, at: Mono) -> Result<String> {
        if let Err(error) = self.writer.wait_for_ack_after(at, RECOVERY).await {
            let logs = self
                .cluster
                .nodes()
                .iter()
                .map(|node| format!("--- {}\n{}", node.name(), node.log_tail(40)));
            let logs: Vec<String> = logs.collect();
            return Err(error.context(format!(
                "clients could not write again; the agents' logs end with:\n{}",
                logs.join("\n")
            )));
        }
        self.cluster.wait_for_primary(RECOVERY).await
    }

    /// Waits until all nodes are in sync, ends the clients, and checks what they saw.
    pub async fn end(self) -> Result<History> {
        let primary = self.cluster.wait_all_in_sync(RECOVERY).await?;
        let history = self.writer.stop().await;
        check(&self.cluster, &primary, &history).await?;
        Ok(history)
    }
}

/// Nothing lost, nothing doubled, never two writers.
pub async fn check(cluster: &Cluster, primary: &str, history: &History) -> Result<()> {
    ensure!(
        history.acked() > 100,
        "only {} rows were written: this run shows nothing",
        history.acked()
    );
    let verdict = verify(cluster.node(primary).pg_address()?, history).await?;
    ensure!(verdict.is_clean(), "rows are not as they must be: {verdict:?}");
    if let Some((earlier, later)) = history.two_writers() {
        bail!("two servers acknowledged at once: {earlier:?} and {later:?}");
    }
    Ok(())
}
