//! Two repositories: both get everything, one is mended from the other, and either is enough.

use crate::archive::{Rescue, archived_up_to_now, place};
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, DEADLINE, Lab, sql, wait_until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Every object below a folder that has `word` in its name, by its path below it.
fn objects(folder: &Path, word: &str) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(one) = folders.pop() {
        for entry in fs::read_dir(&one)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.display().to_string().contains(word) {
                found.push(path.strip_prefix(folder)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_repository_lost_is_taken_from_the_other() -> Result<()> {
    let lab = Lab::new()?;
    let near = place(&lab)?;
    let far = lab.dir().join("far");
    fs::create_dir(&far)?;
    let key = lab.dir().join("repository.key");
    fs::write(&key, "0f".repeat(32))?;
    let mut cluster = Cluster::builder(&lab, "two")
        .data_nodes(1)
        .timing("lan-fast")
        .repository(&near)
        .encrypted_repository("far", &far, &key)
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
    sql::query(
        address,
        "INSERT INTO goods SELECT g FROM generate_series(1001, 2000) g",
    )
    .await?;
    archived_up_to_now(&cluster, &primary).await?;
    archived_up_to_now(&cluster, &primary).await?;
    for word in ["/wal/", "/parts/", "/backup"] {
        wait_until("both have the same", DEADLINE, || async {
            let (here, there) = (objects(&near, word)?, objects(&far, word)?);
            ensure!(
                here == there && !here.is_empty(),
                "{word}: {here:?} here, {there:?} there"
            );
            Ok(())
        })
        .await?;
    }

    // A segment is lost, a part is damaged.
    let segments = objects(&near, "/wal/")?;
    let segment = near.join(&segments[segments.len() - 2]);
    fs::remove_file(&segment)?;
    let part = near.join(objects(&near, "/parts/")?.pop().context("a part")?);
    let mut bytes = fs::read(&part)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, &bytes)?;
    let config = cluster
        .node(&primary)
        .host()
        .dir()
        .join("node.toml")
        .display()
        .to_string();
    let bad = cluster
        .pgctl(&["backup", "verify", "--config", &config, "-o", "json"])
        .await?;
    ensure!(bad.status.code() == Some(1), "{bad:?}");
    let mended = cluster
        .pgctl_ok(&["backup", "verify", "--repair", "--config", &config, "-o", "json"])
        .await?;
    let mended: Value = serde_json::from_str(&mended)?;
    let findings = mended[0]["findings"].as_array().context("a list")?;
    let all_mended = findings.iter().all(|finding| finding["mended_from"] == "far");
    ensure!(findings.len() == 2 && all_mended, "{mended}");
    ensure!(
        mended[1]["findings"].as_array().is_some_and(Vec::is_empty),
        "{mended}"
    );
    cluster
        .pgctl_ok(&["backup", "verify", "--config", &config])
        .await?;

    // The near one is gone with all the machines.
    cluster.node_mut(&primary).power_off()?;
    fs::remove_dir_all(&near)?;
    let rescue = Rescue::new(&lab, &cluster, "bare").await?;
    rescue.restore(&["--repository", "far"])?;
    rescue.start().await?;
    let same = wait_until("every row is back", DEADLINE, || async {
        let found = sql::value(rescue.address, "SELECT count(*) || ' ' || sum(id) FROM goods").await?;
        ensure!(found == "2000 2001000", "{found}");
        Ok(())
    })
    .await;
    same.with_context(|| rescue.said())?;
    rescue.stop()
}
