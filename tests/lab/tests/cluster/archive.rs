//! WAL and backups: what was lost comes back, and a failover leaves no hole.

use crate::scene::{RECOVERY, Scene, check};
use anyhow::{Context, Result, ensure};
use lab::{Cluster, DEADLINE, Host, Lab, Mono, binaries, sql, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An empty place for a repository.
pub fn place(lab: &Lab) -> Result<PathBuf> {
    let path = lab.dir().join("repository");
    fs::create_dir(&path)?;
    Ok(path)
}

/// Where a copy is restored to: a machine that has nothing but the programs, and that knows of no agent.
pub(crate) struct Rescue {
    lab: Lab,
    host: Host,
    config: PathBuf,
    pub(crate) bin_dir: PathBuf,
    pub(crate) into: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Rescue {
    pub(crate) async fn new(lab: &Lab, cluster: &Cluster, name: &str) -> Result<Rescue> {
        let mut host = lab.host(name)?;
        host.power_on().await?;
        lab.servers_run_as().make_dir(&host.dir().join("home"))?;
        let node = cluster.node("n1");
        let postgres = node.config.postgres.as_ref().context("n1 has a server")?;
        Ok(Rescue {
            lab: lab.clone(),
            into: host.dir().join("home/data"),
            config: node.host().dir().join("node.toml"),
            bin_dir: postgres.bin_dir.clone(),
            address: SocketAddr::new(host.ip().into(), lab.port_for(5432)?),
            host,
        })
    }

    pub(crate) fn run(&self, program: &Path, args: &[&str]) -> Result<String> {
        self.host.output(self.lab.servers_run_as(), program, args)
    }

    /// `pgctl restore`, with these options for the target.
    pub(crate) fn restore(&self, target: &[&str]) -> Result<String> {
        let (config, into) = (self.config.display().to_string(), self.into.display().to_string());
        let (port, sockets) = (
            self.address.port().to_string(),
            self.host.dir().join("home").display().to_string(),
        );
        let fixed = [
            "restore",
            "--config",
            &config,
            "--into",
            &into,
            "--port",
            &port,
            "--socket-dir",
            &sockets,
        ];
        self.run(&binaries::ours("pgctl")?, &[&fixed, target].concat())
    }

    /// Begins a restore and kills it after a while; whether it leaves what a server would start from without recovering. What it
    /// leaves is removed.
    pub(crate) fn restore_killed_after(&self, pause: Duration) -> Result<bool> {
        let (config, into) = (self.config.display().to_string(), self.into.display().to_string());
        let words = ["restore", "--config", &config, "--into", &into];
        let pgctl = binaries::ours("pgctl")?;
        let log = self.host.dir().join("killed.log");
        let mut run = self.host.run(self.lab.servers_run_as(), &log, &pgctl, &words)?;
        std::thread::sleep(pause);
        let over = run.ended()?.is_some();
        if !over {
            run.signal(Signal::SIGKILL)?;
        }
        // The control file comes last: without it nothing starts, and with it the server has to know that it recovers.
        let has = |file: &str| self.into.join(file).exists();
        let promotes_early = has("global/pg_control") && !has("recovery.signal");
        fs::remove_dir_all(&self.into).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(promotes_early)
    }

    fn start_only(&self) -> Result<()> {
        let into = self.into.display().to_string();
        // The lab's hosts have addresses of their own.
        let listen = format!("-c listen_addresses={}", self.address.ip());
        let log = self.host.dir().join("home/log").display().to_string();
        let started = self.run(
            &self.bin_dir.join("pg_ctl"),
            &["-D", &into, "-l", &log, "-o", &listen, "-W", "start"],
        );
        started.map(drop)
    }

    pub(crate) async fn start(&self) -> Result<()> {
        self.start_only()?;
        let answers = wait_until("the restored server answers", DEADLINE, || async {
            sql::value(self.address, "SELECT 1").await
        })
        .await;
        answers.with_context(|| self.said())?;
        Ok(())
    }

    /// The end of what the restored server has logged.
    pub(crate) fn said(&self) -> String {
        let mut all = fs::read_to_string(self.host.dir().join("home/log")).unwrap_or_default();
        for entry in fs::read_dir(self.into.join("log"))
            .into_iter()
            .flatten()
            .flatten()
        {
            all.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub(crate) fn stop(&self) -> Result<()> {
        let into = self.into.display().to_string();
        self.run(
            &self.bin_dir.join("pg_ctl"),
            &["-D", &into, "-m", "immediate", "stop"],
        )?;
        fs::remove_dir_all(&self.into)?;
        Ok(())
    }
}

/// Where the newest segment lies.
pub fn newest_segment(repository: &Path) -> Result<PathBuf> {
    let mut folders = vec![repository.to_owned()];
    let mut segments = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.len() == 24 && path.to_string_lossy().contains("/wal/") {
                segments.push((name, path));
            }
        }
    }
    segments.sort();
    Ok(segments.pop().context("there is a segment")?.1)
}

/// What `pgctl wal holes` says of the repository, holes or none.
async fn holes(cluster: &Cluster) -> Result<Value> {
    let config = cluster.node("n1").host().dir().join("node.toml");
    let config = config.display().to_string();
    let done = cluster
        .pgctl(&["wal", "holes", "-o", "json", "--config", &config])
        .await?;
    serde_json::from_slice(&done.stdout)
        .with_context(|| format!("pgctl wal holes: {}", String::from_utf8_lossy(&done.stderr)))
}

/// Closes the primary's segment, and waits until everything up to here is archived, without a hole.
pub async fn archived_up_to_now(cluster: &Cluster, primary: &str) -> Result<()> {
    let address = cluster.node(primary).pg_address()?;
    let segment = sql::value(address, "SELECT pg_walfile_name(pg_switch_wal())").await?;
    wait_until(&format!("{segment} is archived"), RECOVERY, || async {
        let found = holes(cluster).await?;
        let timelines = found["timelines"].as_array().context("a list")?;
        let last = timelines
            .last()
            .and_then(|it| it["last"].as_str())
            .unwrap_or_default()
            .to_owned();
        let none = found["holes"].as_array().is_some_and(Vec::is_empty);
        ensure!(none && last >= segment, "{found}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_table_comes_back_from_the_repository_alone() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "rescue")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    sql::query(
        address,
        "CREATE TABLE goods AS SELECT g AS id FROM generate_series(1, 1000) g",
    )
    .await?;
    let backup: Value = serde_json::from_str(&cluster.pgctl_ok(&["backup", "create", "-o", "json"]).await?)?;
    ensure!(
        backup["succeeded"] == true && backup["node"] != primary.as_str(),
        "{backup}"
    );
    sql::query(
        address,
        "INSERT INTO goods SELECT g FROM generate_series(1001, 2000) g",
    )
    .await?;
    let before = sql::value(address, "SELECT now()::timestamptz(3) + '1 ms'").await?;
    let lsn = sql::value(address, "SELECT pg_current_wal_lsn()").await?;
    sql::query(address, "SELECT pg_create_restore_point('before the drop')").await?;
    sql::query(address, "SELECT pg_sleep(0.1)").await?;
    sql::query(address, "DROP TABLE goods").await?;
    sql::query(address, "CREATE TABLE later AS SELECT 1 AS one").await?;
    archived_up_to_now(&cluster, &primary).await?;
    // Every agent and every server is gone.
    let names: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    for name in names {
        cluster.node_mut(&name).power_off()?;
    }
    let rescue = Rescue::new(&lab, &cluster, "bare").await?;
    // At a time the server may stop within the transaction that drops the table, whose lock is taken already: promoted, it
    // lets go of that.
    let targets: [&[&str]; 3] = [
        &["--to-time", &before],
        &["--to-lsn", &lsn, "--action", "pause"],
        &["--to-name", "before the drop"],
    ];
    for target in targets {
        rescue.restore(target).with_context(|| format!("{target:?}"))?;
        rescue.start().await?;
        let promotes = !target.contains(&"pause");
        let reached = wait_until("recovery has reached its target", DEADLINE, || async {
            let asked = if promotes {
                "SELECT NOT pg_is_in_recovery()"
            } else {
                "SELECT pg_get_wal_replay_pause_state() = 'paused'"
            };
            ensure!(sql::value(rescue.address, asked).await? == "t", "not yet");
            Ok(())
        })
        .await;
        reached.with_context(|| rescue.said())?;
        let found = sql::value(rescue.address, "SELECT count(*) || ' ' || sum(id) FROM goods").await?;
        ensure!(found == "2000 2001000", "{target:?}: {found}");
        let mode = sql::value(rescue.address, "SHOW archive_mode").await?;
        ensure!(mode == "off", "a restored server archives: {mode}");
        rescue.stop()?;
    }
    // A segment that must be there is damaged: the server stops, instead of taking it for the end of all WAL.
    let path = newest_segment(&repository)?;
    let whole = fs::read(&path)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, damaged)?;
    rescue.restore(&[])?;
    // It may have stopped by the time somebody asks.
    let _ = rescue.start_only();
    wait_until("the server has stopped", DEADLINE, || async {
        let said = rescue.said();
        ensure!(said.contains("the recovery stops here"), "{said}");
        ensure!(rescue.host.postmaster_pid(&rescue.into).is_none(), "it runs");
        Ok(())
    })
    .await?;
    ensure!(
        fs::exists(rescue.into.join("recovery.signal"))?,
        "it was promoted without its last WAL: {}",
        rescue.said()
    );
    fs::write(&path, whole)?;
    rescue.start().await?;
    let promoted = wait_until("all that was archived is replayed", DEADLINE, || async {
        let writable = sql::value(rescue.address, "SELECT NOT pg_is_in_recovery()").await?;
        ensure!(writable == "t", "still in recovery");
        Ok(())
    })
    .await;
    promoted.with_context(|| rescue.said())?;
    ensure!(
        sql::value(rescue.address, "SELECT one FROM later").await? == "1",
        "the newest rows are there"
    );
    rescue.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_primary_had_not_archived_is_archived_by_a_standby() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let cluster = Cluster::builder(&lab, "hole")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    let mut scene = Scene::of(cluster).await?;
    let first = scene.first.clone();
    scene.cluster.pgctl_ok(&["backup", "create"]).await?;
    // From here on nothing that the primary writes is archived by it.
    let postgres = scene
        .cluster
        .node(&first)
        .config
        .postgres
        .clone()
        .context("a server")?;
    fs::remove_file(
        postgres
            .socket_dir
            .join(format!(".pgctl-wal.{}", postgres.listen.port())),
    )?;
    for _ in 0..4 {
        scene.writer.wait_for_acks(20, DEADLINE).await?;
        sql::query(postgres.listen, "SELECT pg_switch_wal()").await?;
    }
    let off: Mono = scene.cluster.node_mut(&first).power_off()?;
    let second = scene.writable_after(off).await?;
    ensure!(second != first, "a node without power cannot be the primary");
    scene.writer.wait_for_acks(50, DEADLINE).await?;
    scene.cluster.node_mut(&first).start().await?;
    let primary = scene.cluster.wait_all_in_sync(RECOVERY).await?;
    let history = scene.writer.stop().await;
    check(&scene.cluster, &primary, &history).await?;
    archived_up_to_now(&scene.cluster, &primary).await?;

    let rescue = Rescue::new(&lab, &scene.cluster, "bare").await?;
    rescue.restore(&[])?;
    rescue.start().await?;
    let content =
        "SELECT count(*) || ' ' || md5(string_agg(w::text, ',' ORDER BY w::text)) FROM public.lab_writes w";
    let ours = sql::value(scene.cluster.node(&primary).pg_address()?, content).await?;
    let same = wait_until("the restored server has every row", DEADLINE, || async {
        let theirs = sql::value(rescue.address, content).await?;
        ensure!(theirs == ours, "{theirs} instead of {ours}");
        Ok(())
    })
    .await;
    same.with_context(|| rescue.said())?;
    rescue.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dumped_table_is_loaded_into_another_database() -> Result<()> {
    let lab = Lab::new()?;
    let repository = place(&lab)?;
    let mut cluster = Cluster::builder(&lab, "dumps")
        .timing("lan-fast")
        .repository(&repository)
        .build()?;
    cluster.start().await?;
    let primary = cluster.wait_all_in_sync(RECOVERY).await?;
    let address = cluster.node(&primary).pg_address()?;
    // A name that a shell, a connection string and an object store would each take for something else.
    for text in [
        "CREATE DATABASE \"it's /x\"",
        "CREATE DATABASE rescue",
        "CREATE ROLE seller",
        "CREATE TABLE goods AS SELECT g AS id FROM generate_series(1, 1000) g",
        "CREATE TABLE other AS SELECT 1 AS one",
    ] {
        sql::query(address, text).await?;
    }
    // A dump holds what its standby has replayed when it begins.
    for node in cluster.data_nodes() {
        wait_until("the last table is replayed", RECOVERY, || async {
            let there = sql::value(node.pg_address()?, "SELECT to_regclass('other') IS NOT NULL").await?;
            ensure!(there == "t", "not on {} yet", node.name());
            Ok(())
        })
        .await?;
    }
    let taken: Value = serde_json::from_str(&cluster.pgctl_ok(&["dump", "create", "-o", "json"]).await?)?;
    let of = |database: &str| -> Result<String> {
        let all = taken.as_array().context("a list")?;
        let found = all.iter().find(|dump| dump["database"] == database);
        let id = found.and_then(|dump| dump["id"].as_str());
        id.map(str::to_owned)
            .with_context(|| format!("{database}: {taken}"))
    };
    of("it's /x")?;
    let config = cluster.node("n1").host().dir().join("node.toml");
    let config = config.display().to_string();
    let listed: Value = serde_json::from_str(
        &cluster
            .pgctl_ok(&["dump", "list", "-o", "json", "--config", &config])
            .await?,
    )?;
    ensure!(listed.as_array().is_some_and(|all| all.len() == 4), "{listed}");
    let target = format!(
        "host={} port={} user=postgres dbname=rescue",
        address.ip(),
        address.port()
    );
    let goods = of("postgres")?;
    let postgres = cluster.node("n1").config.postgres.clone().context("a server")?;
    let bin_dir = postgres.bin_dir.display().to_string();
    cluster
        .pgctl_ok(&[
            "dump",
            "restore",
            &goods,
            "--dbname",
            &target,
            "--table",
            "goods",
            "--bin-dir",
            &bin_dir,
            "--config",
            &config,
        ])
        .await?;
    let file = lab.dir().join("globals.sql");
    let globals = of("")?;
    let path = file.display().to_string();
    cluster
        .pgctl_ok(&["dump", "restore", &globals, "--file", &path, "--config", &config])
        .await?;
    let text = fs::read_to_string(&file)?;
    ensure!(text.contains("CREATE ROLE seller"), "{text}");
    let (client, connection) = tokio_postgres::connect(&target, tokio_postgres::NoTls).await?;
    let driving = tokio::spawn(connection);
    let rows = client
        .query_one("SELECT count(*), to_regclass('other') IS NULL FROM goods", &[])
        .await?;
    ensure!(
        rows.get::<_, i64>(0) == 1000 && rows.get::<_, bool>(1),
        "{rows:?}"
    );
    driving.abort();
    let nowhere = cluster
        .pgctl(&["dump", "create", "--database", "nowhere"])
        .await?;
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    ensure!(
        nowhere.status.code() == Some(1) && said.contains("nowhere"),
        "{said}"
    );
    Ok(())
}
