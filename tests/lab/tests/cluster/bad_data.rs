//! Data directories that must not be touched, and ports that are taken: each is named, with what to do about it, and
//! when that is done the node goes on.

use crate::orders::wait_explained;
use crate::scene::RECOVERY;
use anyhow::{Context, Result, ensure};
use lab::{Cluster, Lab, OsUser, binaries, wait_until};
use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// Waits until the agent has given up, with each of `words` in its log.
async fn gives_up(cluster: &mut Cluster, words: &[&str]) -> Result<()> {
    cluster.node_mut("n1").start().await?;
    let status = cluster
        .node_mut("n1")
        .agent()
        .context("it was started")?
        .wait()
        .await?;
    let said = cluster.node("n1").log_tail(10);
    ensure!(!status.success(), "it ended as if all were well: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(
        words.iter().all(|word| said.contains(word)),
        "{words:?} is not in:\n{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named_and_taken_up_when_it_is_free() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "ports")
        .data_nodes(1)
        .timing("lan-fast")
        .build()?;
    let (peer, http) = (
        cluster.node("n1").peer_address(),
        cluster.node("n1").http_address(),
    );
    let postgres = cluster.node("n1").pg_address()?;
    let taken = TcpListener::bind(peer)?;
    gives_up(&mut cluster, &["peer.listen", &peer.to_string()]).await?;
    drop(taken);
    let taken = TcpListener::bind(http)?;
    gives_up(&mut cluster, &["http.listen", &http.to_string()]).await?;
    drop(taken);
    let taken = UdpSocket::bind(peer)?;
    gives_up(&mut cluster, &["UDP", "peer.listen", &peer.to_string()]).await?;
    drop(taken);
    let taken = TcpListener::bind(postgres)?;
    cluster.node_mut("n1").start().await?;
    let words = [&postgres.port().to_string(), "in use"];
    wait_until("the server's port is named", RECOVERY, || async {
        let shown = cluster.pgctl_ok(&["list", "-o", "json"]).await?;
        ensure!(
            words.iter().all(|word| shown.to_lowercase().contains(word)),
            "{shown}"
        );
        Ok(())
    })
    .await?;
    drop(taken);
    cluster.wait_for_primary(RECOVERY).await?;
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", path.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_not_fit_is_left_alone_until_it_is() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "unfit")
        .data_nodes(1)
        .timing("lan-fast")
        .build()?;
    let data = cluster.node("n1").data_dir()?.to_owned();
    let owner = lab.servers_run_as().clone();
    // Somebody's files.
    fs::create_dir(&data)?;
    fs::write(data.join("thesis.tex"), "years of work")?;
    chown(&data, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    set_mode(&data, 0o700)?;
    cluster.node_mut("n1").start().await?;
    let unusable = "data-directory-usable";
    wait_explained(
        &cluster,
        "n1",
        &[unusable, "not a PostgreSQL data directory", "move its content"],
        RECOVERY,
    )
    .await?;
    ensure!(
        fs::read_to_string(data.join("thesis.tex"))? == "years of work",
        "somebody's file was touched"
    );
    ensure!(
        fs::read_dir(&data)?.count() == 1,
        "something was added to somebody's files"
    );
    fs::remove_file(data.join("thesis.tex"))?;
    cluster.wait_for_primary(RECOVERY).await?;

    cluster.node_mut("n1").power_off()?;
    set_mode(&data, 0o777)?;
    cluster.node_mut("n1").start().await?;
    wait_explained(&cluster, "n1", &[unusable, "chmod 0700"], RECOVERY).await?;
    set_mode(&data, 0o700)?;
    cluster.wait_for_primary(RECOVERY).await?;

    if OsUser::current()?.uid.is_root() {
        cluster.node_mut("n1").power_off()?;
        chown(&data, Some(0), Some(0))?;
        cluster.node_mut("n1").start().await?;
        wait_explained(&cluster, "n1", &[unusable, "chown -R"], RECOVERY).await?;
        chown(&data, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        cluster.wait_for_primary(RECOVERY).await?;
    } else {
        eprintln!("skipped: a wrong owner; only root can give files away");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_another_server_version_are_left_alone() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::builder(&lab, "version")
        .data_nodes(1)
        .timing("lan-fast")
        .build()?;
    cluster.start().await?;
    cluster.wait_for_primary(RECOVERY).await?;
    cluster.node_mut("n1").power_off()?;
    let version = cluster.node("n1").data_dir()?.join("PG_VERSION");
    let right = fs::read_to_string(&version)?;
    // A directory that says so is all that the agent looks at; the real thing follows where two versions are there.
    fs::write(&version, "13\n")?;
    gives_up(&mut cluster, &["PostgreSQL 13", "bin_dir"]).await?;
    fs::write(&version, &right)?;
    let other = binaries::postgres_bin_dirs()?.into_iter().next();
    let ours = binaries::newest_postgres()?;
    if let Some(other) = other.filter(|other| *other != ours) {
        let set = |cluster: &mut Cluster, bin_dir: &Path| {
            if let Some(postgres) = &mut cluster.node_mut("n1").config.postgres {
                postgres.bin_dir = bin_dir.to_owned();
            }
        };
        set(&mut cluster, &other);
        gives_up(&mut cluster, &[right.trim(), "bin_dir"]).await?;
        set(&mut cluster, &ours);
    } else {
        eprintln!("skipped: programs of another version; there is one version only");
    }
    cluster.node_mut("n1").start().await?;
    cluster.wait_for_primary(RECOVERY).await?;
    Ok(())
}
