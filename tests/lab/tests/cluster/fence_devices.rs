//! Fence devices: the machine of a lost primary is off before another node takes over, where that is required. The
//! device is a fence agent of the ClusterLabs protocol whose power switch is the test itself.

use crate::orders::{epoch, json, member, refused, wait_explained};
use crate::scene::{RECOVERY, Scene};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, Mono, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A power distribution unit: agents press its buttons, and the test is the electricity.
struct Pdu {
    folder: PathBuf,
}

impl Pdu {
    /// In a folder of its own, with the program that agents run.
    fn new(folder: PathBuf) -> Result<Pdu> {
        fs::create_dir_all(&folder)?;
        let at = folder.display();
        let agent = format!(
            "#!/bin/sh
             while IFS='=' read -r name value; do
               case $name in action) action=$value;; plug) plug=$value;; esac
             done
             [ -e {at}/broken ] && {{ echo 'the device does not answer' >&2; exit 1; }}
             case $action in
               off) touch {at}/pressed-$plug; echo 'Success: Powered OFF'; exit 0;;
               status) [ -e {at}/off-$plug ] && {{ echo 'Status: OFF'; exit 2; }}; echo 'Status: ON'; exit 0;;
             esac
             exit 1
             "
        );
        let program = folder.join("fence_lab");
        fs::write(&program, agent)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Pdu { folder })
    }

    /// The devices of every node, as each node's file has them.
    fn wire(&self, cluster: &mut Cluster) -> Result<()> {
        let names: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect();
        let devices = names.iter().map(|name| {
            let options = toml::Table::from_iter([
                ("plug".to_owned(), toml::Value::from(name.as_str())),
                ("password".to_owned(), toml::Value::from("hunter2")),
            ]);
            let agent = self.folder.join("fence_lab").display().to_string();
            toml::Value::Table(toml::Table::from_iter([
                ("node".to_owned(), toml::Value::from(name.as_str())),
                ("agent".to_owned(), toml::Value::from(agent)),
                ("options".to_owned(), toml::Value::Table(options)),
            ]))
        });
        let devices = toml::Value::Array(devices.collect());
        for name in &names {
            let fencing = &mut cluster.node_mut(name).config.fencing;
            fencing.insert("devices".to_owned(), devices.clone());
        }
        Ok(())
    }

    fn file(&self, what: &str) -> PathBuf {
        self.folder.join(what)
    }

    async fn pressed(&self, node: &str) -> Result<()> {
        let button = self.file(&format!("pressed-{node}"));
        wait_until("an agent presses the button", RECOVERY, || async {
            ensure!(button.exists(), "{} is not there", button.display());
            Ok(())
        })
        .await
    }
}

/// Whether any of the nodes says that it is primary.
async fn nobody_serves(cluster: &Cluster) -> Result<()> {
    for node in cluster.data_nodes() {
        ensure!(!node.says("/primary").await, "{} is primary", node.name());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_promoted_before_the_device_says_that_the_old_primary_is_off() -> Result<()> {
    let lab = match Lab::with_hosts() {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("skipped: no network namespaces here: {error:#}");
            return Ok(());
        }
    };
    let mut cluster = Cluster::builder(&lab, "stonith").timing("lan-fast").build()?;
    let folder = cluster.node("n1").host().dir().join("pdu");
    let pdu = Pdu::new(folder)?;
    pdu.wire(&mut cluster)?;
    let mut scene = Scene::of(cluster).await?;
    let first = scene.first.clone();
    let set = ["config", "set", "stonith=required", "stonith_pause_ms=300"];
    scene.cluster.pgctl_ok(&set).await?;
    test_in_peace(&scene, &pdu).await?;

    // The device is broken: nobody takes over, and the operator is told why.
    let before = epoch(&scene.cluster).await?;
    fs::write(pdu.file("broken"), "")?;
    scene.cluster.isolate(&first)?;
    wait_until("explain names the broken device", RECOVERY, || async {
        let gates = json(&scene.cluster, &["explain", "--shut"]).await?;
        let gates = gates["cluster"].as_array().cloned().unwrap_or_default();
        let found = |id: &str| {
            let gate = gates.iter().find(|gate| gate["id"] == id);
            gate.and_then(|gate| gate["found"].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        ensure!(found("old-holder-is-off").contains(&first), "{gates:?}");
        let device = found("fence-device-works");
        ensure!(device.contains("does not answer"), "{gates:?}");
        let attempts = device
            .split(' ')
            .next()
            .and_then(|count| count.parse::<u32>().ok());
        ensure!(
            attempts.is_some_and(|attempts| attempts >= 3),
            "it is tried again and again: {device}"
        );
        Ok(())
    })
    .await?;
    ensure!(epoch(&scene.cluster).await? == before, "an epoch was granted");
    nobody_serves(&scene.cluster).await?;

    // It is mended; the button is pressed, and nothing happens before the machine is off.
    fs::remove_file(pdu.file("broken"))?;
    pdu.pressed(&first).await?;
    ensure!(
        epoch(&scene.cluster).await? == before,
        "an epoch was granted too early"
    );
    nobody_serves(&scene.cluster).await?;
    let at = scene.cluster.node_mut(&first).power_off()?;
    fs::write(pdu.file(&format!("off-{first}")), "")?;
    scene.writable_after(at).await?;
    proof_is_kept(&scene, &first, before).await?;

    fs::remove_file(pdu.file(&format!("off-{first}")))?;
    scene.cluster.heal()?;
    scene.cluster.node_mut(&first).start().await?;
    scene.cluster.wait_all_in_sync(RECOVERY).await?;
    fenced_by_hand(&scene).await?;
    scene.end().await?;
    Ok(())
}

async fn test_in_peace(scene: &Scene, pdu: &Pdu) -> Result<()> {
    let target = &scene.others[0];
    let test = json(&scene.cluster, &["fence", "test", target]).await?;
    let results = test["results"].as_array().context("results")?;
    ensure!(results.len() == 2, "every other agent is asked: {test}");
    ensure!(results.iter().all(|one| one["power"] == "on"), "{test}");
    ensure!(!test.to_string().contains("hunter2"), "a secret is told: {test}");
    ensure!(
        !pdu.file(&format!("pressed-{target}")).exists(),
        "to ask presses nothing"
    );
    let first = ["fence", "test", scene.first.as_str(), "--off", "--yes"];
    refused(&scene.cluster, &first, 1, &["is the primary"]).await?;
    fs::write(pdu.file("broken"), "")?;
    let told = crate::orders::tell(&scene.cluster, &["fence", "test", target]).await?;
    ensure!(told.code == 1 && told.out.contains("does not answer"), "{told:?}");
    fs::remove_file(pdu.file("broken"))?;
    Ok(())
}

async fn proof_is_kept(scene: &Scene, first: &str, before: u64) -> Result<()> {
    let history = json(&scene.cluster, &["history"]).await?;
    let history = history.as_array().context("a list of epochs")?;
    let ended = history.iter().find(|record| record["epoch"] == before);
    let proof = &ended.context("the epoch that ended")?["stonith"][0];
    ensure!(proof["node"] == first && proof["exit_code"] == 2, "{proof}");
    ensure!(proof["output"] == "Status: OFF", "{proof}");
    let told = scene.cluster.pgctl_ok(&["history"]).await?;
    ensure!(told.contains("was turned off by"), "{told}");
    let granted = history.last().context("the newest epoch")?;
    ensure!(
        granted["proof"].to_string().contains("was turned off by"),
        "the grant names its proof: {granted}"
    );
    Ok(())
}

/// A standby and then the primary are kept out, and let in again.
async fn fenced_by_hand(scene: &Scene) -> Result<()> {
    let cluster = &scene.cluster;
    let primary = cluster.primary().await?;
    let standby = cluster
        .data_nodes()
        .map(lab::Node::name)
        .find(|name| *name != primary);
    let standby = standby.context("a standby")?;
    cluster
        .pgctl_ok(&["fence", standby, "--reason", "memory errors", "--yes"])
        .await?;
    wait_until("the fenced server is stopped", RECOVERY, || async {
        ensure!(cluster.node(standby).postmaster_pid().is_none(), "it runs");
        let shown = member(cluster, standby).await?.context("a member")?;
        ensure!(shown["fenced"]["reason"] == "memory errors", "{shown}");
        Ok(())
    })
    .await?;
    wait_explained(
        cluster,
        standby,
        &["not-fenced-by-hand", "memory errors"],
        RECOVERY,
    )
    .await?;
    refused(
        cluster,
        &["switchover", "--to", standby, "--yes"],
        1,
        &["fenced by hand"],
    )
    .await?;
    cluster.wait_in_sync(1, RECOVERY).await?;
    cluster.pgctl_ok(&["unfence", standby]).await?;
    cluster.wait_all_in_sync(RECOVERY).await?;

    refused(cluster, &["fence", &primary, "--yes"], 1, &["is the primary"]).await?;
    cluster
        .pgctl_ok(&["fence", &primary, "--yes-fence-primary", "--yes"])
        .await?;
    wait_until("another node is primary", RECOVERY, || async {
        let next = cluster.primary().await?;
        ensure!(next != primary, "{primary} still is");
        Ok(())
    })
    .await?;
    scene.writable_after(Mono::now()).await?;
    ensure!(
        cluster.node(&primary).postmaster_pid().is_none(),
        "its server runs"
    );
    cluster.pgctl_ok(&["unfence", &primary]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_requires_a_watchdog_does_not_start_without_one_and_one_that_would_like_one_does()
-> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "dog").timing("lan-fast").build()?;
    let want = |cluster: &mut Cluster, node: &str, how: &str| {
        let fencing = &mut cluster.node_mut(node).config.fencing;
        fencing.insert("watchdog".to_owned(), toml::Value::from(how));
        fencing.insert(
            "watchdog_device".to_owned(),
            toml::Value::from("/nowhere/watchdog"),
        );
    };
    want(&mut cluster, "n1", "required");
    cluster.node_mut("n1").start().await?;
    wait_until("the agent refuses", RECOVERY, || async {
        let log = cluster.node("n1").log_tail(20);
        ensure!(log.contains("/nowhere/watchdog cannot be used"), "{log}");
        ensure!(cluster.node("n1").agent_pid().is_none(), "it runs");
        Ok(())
    })
    .await?;
    want(&mut cluster, "n1", "automatic");
    cluster.start().await?;
    cluster.wait_in_sync(2, RECOVERY).await?;
    wait_until("the missing device is told", RECOVERY, || async {
        let shown = member(&cluster, "n1").await?.context("a member")?;
        ensure!(shown["watchdog"]["state"] == "absent", "{shown}");
        let status = cluster.pgctl_ok(&["status"]).await?;
        ensure!(status.contains("watchdog absent"), "{status}");
        Ok(())
    })
    .await
}
