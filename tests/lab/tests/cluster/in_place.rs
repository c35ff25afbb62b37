//! The whole cluster goes back to a point in time: looked at, gone on from, given up, committed, whoever dies meanwhile.

use crate::archive::{Rescue, archived_up_to_now, place};
use crate::orders::events;
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, sql, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::Path;

/// Three nodes in sync with a backup, and rows before and after it.
struct Shop {
    cluster: Cluster,
    primary: String,
    /// Positions at which the table has 2000, and 2500 rows.
    two: String,
    more: String,
}

const CONTENT: &str = "SELECT count(*) || ' ' || coalesce(sum(id), 0) FROM goods";
const TWO: &str = "2000 2001000";
const MORE: &str = "2500 3126250";

impl Shop {
    async fn open(lab: &Lab, name: &str, repository: &Path) -> Result<Shop> {
        let mut cluster = Cluster::builder(lab, name)
            .timing("lan-fast")
            .repository(repository)
            .build()?;
        cluster.start().await?;
        let primary = cluster.wait_all_in_sync(RECOVERY).await?;
        let address = cluster.node(&primary).pg_address()?;
        sql::query(
            address,
            "CREATE TABLE goods AS SELECT g AS id FROM generate_series(1, 1000) g",
        )
        .await?;
        cluster.pgctl_ok(&["backup", "create"]).await?;
        let add =
            |from: u32, to: u32| format!("INSERT INTO goods SELECT g FROM generate_series({from}, {to}) g");
        let here = "SELECT pg_current_wal_lsn()";
        sql::query(address, &add(1001, 2000)).await?;
        let two = sql::value(address, here).await?;
        sql::query(address, &add(2001, 2500)).await?;
        let more = sql::value(address, here).await?;
        archived_up_to_now(&cluster, &primary).await?;
        sql::query(address, "DROP TABLE goods").await?;
        sql::query(address, "CREATE TABLE later AS SELECT 1 AS one").await?;
        Ok(Shop {
            cluster,
            primary,
            two,
            more,
        })
    }

    async fn restore(&self, args: &[&str]) -> Result<Value> {
        let all = [&["restore"], args, &["-o", "json"]].concat();
        let said = self.cluster.pgctl_ok(&all).await.with_context(|| self.logs())?;
        serde_json::from_str(&said).with_context(|| said)
    }

    fn logs(&self) -> String {
        let nodes = self.cluster.nodes().iter();
        let logs: Vec<String> = nodes
            .map(|node| format!("--- {}\n{}", node.name(), node.log_tail(40)))
            .collect();
        logs.join("\n")
    }

    /// The restored server can be read and has these rows, and no server takes writes.
    async fn shows(&self, node: &str, content: &str) -> Result<()> {
        let address = self.cluster.node(node).pg_address()?;
        let read = wait_until("the restored server shows its rows", RECOVERY, || async {
            let found = sql::value(address, CONTENT).await?;
            ensure!(found == content, "{found} instead of {content}");
            Ok(())
        })
        .await;
        read.with_context(|| self.logs())?;
        let refused = sql::query(address, "INSERT INTO goods VALUES (0)").await;
        ensure!(
            refused.is_err(),
            "the restored server takes writes before the commit"
        );
        for other in self.cluster.data_nodes().filter(|other| other.name() != node) {
            let answers = sql::value(other.pg_address()?, "SELECT 1").await;
            ensure!(answers.is_err(), "the server of {} runs", other.name());
        }
        Ok(())
    }

    async fn all_have(&self, content: &str) -> Result<()> {
        for node in self.cluster.data_nodes() {
            wait_until("every node has the restored rows", RECOVERY, || async {
                let found = sql::value(node.pg_address()?, CONTENT).await?;
                ensure!(found == content, "{}: {found} instead of {content}", node.name());
                Ok(())
            })
            .await
            .with_context(|| self.logs())?;
        }
        Ok(())
    }

    async fn kill_agent(&mut self, name: &str) -> Result<()> {
        self.cluster.node(name).signal_agent(Signal::SIGKILL)?;
        wait_until("the agent is gone", RECOVERY, || async {
            ensure!(self.cluster.node(name).agent_pid().is_none(), "it still runs");
            Ok(())
        })
        .await?;
        self.cluster.node_mut(name).start().await
    }

    async fn raft_leader(&self) -> Result<String> {
        wait_until("somebody leads", RECOVERY, || async {
            let shown: Value =
                serde_json::from_str(&self.cluster.pgctl_ok(&["status", "-o", "json"]).await?)?;
            let leader = shown["raft_leader"].as_str().filter(|name| !name.is_empty());
            leader.map(str::to_owned).with_context(|| shown.to_string())
        })
        .await
    }

    async fn inspecting(&self) -> Result<()> {
        wait_until("the restored server can be read", RECOVERY, || async {
            let shown = self.restore(&["--status"]).await?;
            ensure!(shown["phase"] == "inspecting", "{shown}");
            Ok(())
        })
        .await
        .with_context(|| self.logs())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_goes_back_forward_and_back_and_stays_where_it_is_committed() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut shop = Shop::open(&lab, "back", &repository).await?;
    let (two, more, node) = (shop.two.clone(), shop.more.clone(), shop.primary.clone());
    let preview = shop
        .restore(&["--in-place", "--preview", "--to-lsn", &two])
        .await?;
    ensure!(
        preview["phase"] == "" && preview["node"] == node.as_str(),
        "{preview}"
    );
    let far = shop
        .cluster
        .pgctl(&["restore", "--in-place", "--yes", "--to-lsn", "FF/0"])
        .await?;
    ensure!(
        far.status.code() == Some(1),
        "a target beyond the archive: {far:?}"
    );
    ensure!(
        shop.cluster.primary().await? == node,
        "nothing was stopped for it"
    );

    let reached = shop.restore(&["--in-place", "--yes", "--to-lsn", &two]).await?;
    ensure!(
        reached["phase"] == "inspecting" && reached["node"] == node.as_str(),
        "{reached}"
    );
    shop.shows(&node, TWO).await?;
    shop.restore(&["--step", "--to-lsn", &more]).await?;
    shop.shows(&node, MORE).await?;
    // Back again, with every agent killed on the way: those of the node and of the Raft leader while it is restored.
    let leader = shop.raft_leader().await?;
    let mut step = std::process::Command::new(lab::binaries::ours("pgctl")?)
        .args(["restore", "--step", "--to-lsn", &two])
        .env("PGCTL_ENDPOINT", shop.cluster.endpoints())
        .spawn()?;
    wait_until("the step is taken", RECOVERY, || async {
        let shown = shop.restore(&["--status"]).await?;
        ensure!(shown["round"] == 3, "{shown}");
        Ok(())
    })
    .await?;
    shop.kill_agent(&node).await?;
    if leader != node {
        shop.kill_agent(&leader).await?;
    }
    shop.inspecting().await?;
    // It may have lost sight of the agents; the restore has not.
    step.wait()?;
    shop.shows(&node, TWO).await?;
    let names: Vec<String> = shop
        .cluster
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    for name in &names {
        shop.kill_agent(name).await?;
    }
    shop.inspecting().await?;
    shop.shows(&node, TWO).await?;

    let served = shop.restore_and_serve().await?;
    ensure!(served["holder"] == node.as_str(), "{served}");
    let primary = shop
        .cluster
        .wait_all_in_sync(RECOVERY)
        .await
        .with_context(|| shop.logs())?;
    ensure!(primary == node, "{primary} became the primary");
    shop.all_have(TWO).await?;
    for kind in [
        "restore-begins",
        "restore-stopped",
        "restore-reached",
        "restore-committed",
        "restored-data-kept",
    ] {
        let told = events(&shop.cluster, kind).await?;
        ensure!(!told.is_empty(), "no event {kind}");
    }
    // The archive goes on without a hole, and so does the cluster.
    let address = shop.cluster.node(&primary).pg_address()?;
    sql::query(address, "INSERT INTO goods VALUES (5)").await?;
    archived_up_to_now(&shop.cluster, &primary)
        .await
        .with_context(|| shop.logs())?;
    wait_until("the ordered backup is complete", RECOVERY, || async {
        let told = events(&shop.cluster, "backup-complete").await?;
        ensure!(!told.is_empty(), "it is not");
        Ok(())
    })
    .await
    .with_context(|| shop.logs())?;
    shop.cluster.node_mut(&primary).power_off()?;
    let next = wait_until("another node takes over", RECOVERY, || async {
        let now = shop.cluster.primary().await?;
        ensure!(now != primary, "{now} still is");
        Ok(now)
    })
    .await
    .with_context(|| shop.logs())?;
    let address = shop.cluster.node(&next).pg_address()?;
    let found = sql::value(address, CONTENT).await?;
    ensure!(found == "2001 2001005", "{found}");
    shop.cluster.node_mut(&primary).start().await?;
    shop.cluster.wait_all_in_sync(RECOVERY).await?;
    archived_up_to_now(&shop.cluster, &next).await?;
    Ok(())
}

impl Shop {
    async fn restore_and_serve(&self) -> Result<Value> {
        self.restore(&["--commit", "--yes"]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_given_up_leaves_everything_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut shop = Shop::open(&lab, "givenup", &repository).await?;
    let (two, before) = (shop.two.clone(), shop.primary.clone());
    let node = shop
        .cluster
        .data_nodes()
        .map(|node| node.name().to_owned())
        .find(|name| *name != before)
        .context("a standby")?;
    let reached = shop
        .restore(&["--in-place", "--node", &node, "--yes", "--to-lsn", &two])
        .await?;
    ensure!(reached["node"] == node.as_str(), "{reached}");
    shop.shows(&node, TWO).await?;
    shop.kill_agent(&node).await?;
    shop.cluster
        .pgctl_ok(&["restore", "--abort", "--yes"])
        .await
        .with_context(|| shop.logs())?;
    shop.cluster
        .wait_all_in_sync(RECOVERY)
        .await
        .with_context(|| shop.logs())?;
    for node in shop.cluster.data_nodes() {
        let address = node.pg_address()?;
        let found = sql::value(
            address,
            "SELECT one || ' ' || (to_regclass('goods') IS NULL) FROM later",
        )
        .await?;
        ensure!(found == "1 true", "{}: {found}", node.name());
    }
    let left: Vec<String> = std::fs::read_dir(
        shop.cluster
            .node(&node)
            .data_dir()?
            .parent()
            .context("a folder")?,
    )?
    .flatten()
    .map(|entry| entry.file_name().to_string_lossy().into_owned())
    .filter(|name| name.contains("before-restore") || name.contains("diverged"))
    .collect();
    ensure!(left.is_empty(), "{left:?}");
    let primary = shop.cluster.wait_for_primary(RECOVERY).await?;
    archived_up_to_now(&shop.cluster, &primary).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_comes_out_of_a_copy_and_a_copy_does_not_archive_into_its_source() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let shop = Shop::open(&lab, "table", &repository).await?;
    let address = shop.cluster.node(&shop.primary).pg_address()?;
    let rescue = Rescue::new(&lab, &shop.cluster, "bare").await?;
    let home = rescue.into.parent().context("a folder")?.display().to_string();
    let config = shop.cluster.node("n1").host().dir().join("node.toml");
    let (config, bin_dir) = (config.display().to_string(), rescue.bin_dir.display().to_string());
    let target = format!(
        "host={} port={} user=postgres dbname=postgres",
        address.ip(),
        address.port()
    );
    let program = lab::binaries::ours("pgctl")?;
    let scratch = [
        "restore",
        "--config",
        &config,
        "--scratch",
        &home,
        "--bin-dir",
        &bin_dir,
        "--to-lsn",
        &shop.two,
    ];
    let out = ["--table", "postgres.public.goods", "--dbname", &target];
    rescue.run(&program, &[&scratch[..], &out[..]].concat())?;
    ensure!(
        sql::value(address, CONTENT).await? == TWO,
        "what the table had then"
    );
    let again = rescue.run(&program, &[&scratch[..], &out[..]].concat());
    ensure!(again.is_err(), "the table is there, and was loaded over");
    ensure!(
        sql::value(address, CONTENT).await? == TWO,
        "a failed load changes nothing"
    );
    let file = format!("{home}/all.dump");
    rescue.run(
        &program,
        &[&scratch[..], &["--database", "postgres", "--dump", &file]].concat(),
    )?;
    ensure!(
        std::fs::metadata(&file)?.len() > 1000,
        "the dump has something in it"
    );
    let left: Vec<String> = std::fs::read_dir(&home)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("scratch"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");

    // A cluster of its own on a copy, under the same name and with the same repository.
    rescue.restore(&["--to-lsn", &shop.more])?;
    rescue.start().await?;
    let over = ["--delta", "--to-lsn", &shop.two];
    ensure!(rescue.restore(&over).is_err(), "a server runs on it");
    let into = rescue.into.display().to_string();
    let stop = ["-D", &into, "-m", "fast", "-w", "stop"];
    rescue.run(&rescue.bin_dir.join("pg_ctl"), &stop)?;
    // Over what that one has left, its own timeline included.
    rescue.restore(&over)?;
    rescue.start().await?;
    wait_until("the copy is recovered", RECOVERY, || async {
        let recovers = sql::value(rescue.address, "SELECT pg_is_in_recovery()").await?;
        ensure!(recovers == "f", "not yet");
        Ok(())
    })
    .await?;
    let rows = sql::value(rescue.address, CONTENT)
        .await
        .with_context(|| rescue.said())?;
    ensure!(rows == TWO, "{rows}");
    rescue.run(&rescue.bin_dir.join("pg_ctl"), &stop)?;
    let mut copy = Cluster::builder(&lab, "copy")
        .data_nodes(1)
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    let own = &mut copy.node_mut("n1").config;
    own.cluster
        .name
        .clone_from(&shop.cluster.node("n1").config.cluster.name);
    "c1".clone_into(&mut own.node.name);
    for member in &mut own.cluster.members {
        "c1".clone_into(&mut member.name);
    }
    std::fs::rename(&rescue.into, copy.node("c1").data_dir()?)?;
    copy.start().await?;
    copy.wait_for_primary(RECOVERY).await?;
    let said = wait_until("it is refused", RECOVERY, || async {
        let shown = copy.pgctl_ok(&["wal", "status", "-o", "json"]).await?;
        ensure!(
            shown.contains("cluster.name") && shown.contains("take-over"),
            "{shown}"
        );
        Ok(shown)
    })
    .await;
    said.with_context(|| copy.node("c1").log_tail(40))?;
    archived_up_to_now(&shop.cluster, &shop.primary).await
}
