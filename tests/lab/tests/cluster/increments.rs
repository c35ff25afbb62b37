//! A chain of backups of a real server: increments, what is verified of them, what expires, and what comes back.

use crate::archive::{Rescue, archived_up_to_now, place};
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, DEADLINE, Lab, binaries, sql, wait_until};
use serde_json::Value;
use std::path::Path;

struct Chain {
    cluster: Cluster,
    config: String,
}

impl Chain {
    async fn backup(&self, arguments: &[&str]) -> Result<Value> {
        let all = [&["backup", "create", "-o", "json"], arguments].concat();
        let backup: Value = serde_json::from_str(&self.cluster.pgctl_ok(&all).await?)?;
        ensure!(backup["succeeded"] == true, "{backup}");
        Ok(backup)
    }

    /// A command that reads the repository, with its answer.
    async fn read(&self, arguments: &[&str]) -> Result<Value> {
        let all = [arguments, &["--config", &self.config, "-o", "json"]].concat();
        Ok(serde_json::from_str(&self.cluster.pgctl_ok(&all).await?)?)
    }
}

/// All rows of all tables that the test makes.
const CONTENT: &str =
    "SELECT (SELECT count(*) || ' ' || sum(id) || ' ' || md5(string_agg(t, ',' ORDER BY id)) FROM goods)
    || ' ' || coalesce(to_regclass('dropped')::text, '-') || ' ' || (SELECT count(*) FROM made_later)
    || ' ' || (SELECT count(*) FROM emptied)";

fn verified(program: &Path, rescue: &Rescue) -> Result<String> {
    let into = rescue.into.display().to_string();
    rescue.run(program, &["--no-parse-wal", &into])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_increments_comes_back_as_one_and_expires_as_one() -> Result<()> {
    let newest = binaries::newest_postgres()?;
    let makes_increments = binaries::major_version(&newest) >= 17;
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "chain")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    let config = cluster.node("n1").host().dir().join("node.toml");
    let chain = Chain {
        config: config.display().to_string(),
        cluster,
    };
    for statement in [
        "CREATE TABLE goods AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 20000) g",
        "CREATE TABLE dropped AS SELECT g FROM generate_series(1, 5000) g",
        "CREATE TABLE emptied AS SELECT g FROM generate_series(1, 5000) g",
        "CREATE INDEX goods_t ON goods (t)",
    ] {
        sql::query(address, statement).await?;
    }
    // Without one before, the first is a full one.
    let full = chain.backup(&["--incremental"]).await?;
    ensure!(full["parent"] == "", "{full}");
    // Nothing at all has happened since: a standby has made no restartpoint by itself.
    let idle = chain.backup(&["--incremental"]).await?;
    for statement in [
        "UPDATE goods SET t = 'changed' WHERE id % 100 = 0",
        "DROP TABLE dropped",
        "DELETE FROM emptied",
        "VACUUM emptied",
        "CREATE TABLE made_later AS SELECT g FROM generate_series(1, 777) g",
    ] {
        sql::query(address, statement).await?;
    }
    let last = chain.backup(&["--incremental"]).await?;
    let of = |backup: &Value, name: &str| backup[name].as_str().unwrap_or_default().to_owned();
    if makes_increments {
        ensure!(of(&idle, "parent") == of(&full, "id"), "{idle}");
        ensure!(of(&last, "parent") == of(&idle, "id"), "{last}");
        ensure!(
            last["bytes"].as_u64() < full["bytes"].as_u64(),
            "{last} is no smaller than {full}"
        );
    } else {
        ensure!(
            of(&idle, "parent").is_empty() && of(&last, "parent").is_empty(),
            "{last}"
        );
    }
    let content = sql::value(address, CONTENT).await?;
    archived_up_to_now(&chain.cluster, &primary).await?;

    // What is there is what was written, down to the checksums of pages.
    let verified_all = chain.read(&["backup", "verify"]).await?;
    let found = &verified_all[0];
    ensure!(found["findings"].as_array().is_some_and(Vec::is_empty), "{found}");
    ensure!(
        found["backups"] == 3 && found["pages"].as_u64() > Some(100),
        "{found}"
    );

    let rescue = Rescue::new(&lab, &chain.cluster, "bare").await?;
    rescue.restore(&["--backup", &of(&last, "id")])?;
    let label = std::fs::read_to_string(rescue.into.join("backup_label"))?;
    ensure!(!label.contains("INCREMENTAL"), "{label}");
    rescue.start().await?;
    let same = wait_until("the restored server has every row", DEADLINE, || async {
        let theirs = sql::value(rescue.address, CONTENT).await?;
        ensure!(theirs == content, "{theirs} instead of {content}");
        Ok(())
    })
    .await;
    same.with_context(|| rescue.said())?;
    // Through the index, and through the table.
    let by_index = "SET enable_seqscan = off; SELECT count(*) FROM goods WHERE t = 'changed'";
    sql::query(rescue.address, by_index).await?;
    rescue.stop()?;

    // The server's own judgement of the files, as they came out and before anything was recovered.
    rescue.restore(&["--backup", &of(&last, "id"), "--to-immediate"])?;
    for name in ["recovery.signal", "pgctl.recovery.json"] {
        std::fs::remove_file(rescue.into.join(name))?;
    }
    let judged = verified_but_for_settings(&rescue)?;
    ensure!(judged.is_empty(), "{judged}");

    // Retention takes a chain as one, and a pin on the last increment keeps all of it.
    let again = chain.backup(&[]).await?;
    let preview = chain
        .read(&["backup", "expire", "--preview", "--last", "1"])
        .await?;
    let going = preview[0]["going"].as_array().context("a list")?.len();
    ensure!(going == 3, "{preview}");
    chain
        .read(&["backup", "pin", &of(&last, "id"), "--reason", "a test"])
        .await?;
    let expired = chain
        .read(&["backup", "expire", "--last", "1", "--grace", "0s"])
        .await?;
    let deleted = expired[0]["deleted"]["backups"]
        .as_array()
        .context("a list")?
        .len();
    ensure!(deleted == if makes_increments { 0 } else { 2 }, "{expired}");
    chain.read(&["backup", "unpin", &of(&last, "id")]).await?;
    chain
        .read(&["backup", "expire", "--last", "1", "--grace", "0s"])
        .await?;
    let left = chain.read(&["backup", "list"]).await?;
    ensure!(
        left.as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["id"] == again["id"]),
        "{left}"
    );
    let holes = chain.read(&["wal", "holes"]).await?;
    ensure!(holes["holes"].as_array().is_some_and(Vec::is_empty), "{holes}");
    let verified_rest = chain.read(&["backup", "verify"]).await?;
    ensure!(
        verified_rest[0]["findings"].as_array().is_some_and(Vec::is_empty),
        "{verified_rest}"
    );
    Ok(())
}

/// What pg_verifybackup finds wrong, other than what a restore writes and leaves out.
fn verified_but_for_settings(rescue: &Rescue) -> Result<String> {
    let program = rescue.bin_dir.join("pg_verifybackup");
    let said = match verified(&program, rescue) {
        Ok(_) => return Ok(String::new()),
        Err(error) => format!("{error:#}"),
    };
    let wrong = said.lines().filter(|line| line.contains("error:"));
    let meant = ["postgresql.auto.conf", "pgctl.pass", "standby.signal"];
    let unexpected: Vec<&str> = wrong
        .filter(|line| !meant.iter().any(|name| line.contains(name)))
        .collect();
    Ok(unexpected.join("; "))
}
