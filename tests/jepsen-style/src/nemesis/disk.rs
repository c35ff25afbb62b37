//! Disks of a limited size: a filesystem in memory for each node, mounted in this program's own mount namespace.

use anyhow::{Context, Result, bail};
use lab::{Cluster, Node};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Far more than a run writes: copies that rejoins set aside are removed between the steps.
const SIZE_BYTES: u64 = 4 << 30;

/// The nodes' disks.
#[derive(Debug, Default)]
pub struct Disks {
    mounted: Vec<PathBuf>,
}

impl Disks {
    /// Gives every node of a cluster that was not started yet a disk, with its data and its agent's state on it.
    ///
    /// # Errors
    /// Not root.
    pub fn mount(cluster: &mut Cluster) -> Result<Disks> {
        let user = cluster.lab().servers_run_as().clone();
        let names: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect();
        let mut disks = Disks::default();
        for name in names {
            let node = cluster.node_mut(&name);
            let disk = disk_of(node);
            fs::create_dir_all(&disk).with_context(|| format!("cannot make {}", disk.display()))?;
            let options = format!("size={SIZE_BYTES},mode=755,uid={},gid={}", user.uid, user.gid);
            mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &disk)?;
            disks.mounted.push(disk.clone());
            node.config.node.state_dir = disk.join("state");
            if let Some(postgres) = &mut node.config.postgres {
                postgres.data_dir = disk.join("data");
            }
        }
        Ok(disks)
    }

    /// Whether there are any.
    pub fn are_there(&self) -> bool {
        !self.mounted.is_empty()
    }

    /// Makes the disk of a node as small as what is on it.
    ///
    /// # Errors
    /// It has none of its own.
    pub fn fill(&self, node: &Node) -> Result<()> {
        let disk = disk_of(node);
        if !self.mounted.contains(&disk) {
            bail!("{} has no disk of its own", node.name());
        }
        for slack in [0, 1 << 20, 8 << 20] {
            let stat = nix::sys::statvfs::statvfs(&disk).context("cannot ask for free space")?;
            let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
            // Refused if more was written in between.
            if resize(&disk, used + slack).is_ok() {
                return Ok(());
            }
        }
        bail!("cannot make the disk of {} smaller", node.name())
    }

    /// Gives every disk its space back.
    ///
    /// # Errors
    /// The mount is gone.
    pub fn relieve(&self) -> Result<()> {
        self.mounted.iter().try_for_each(|disk| resize(disk, SIZE_BYTES))
    }
}

/// Removes what rejoins have set aside beside a node's data: an operator would, in the end.
pub fn remove_set_aside(node: &Node) -> Result<()> {
    let Ok(data) = node.data_dir() else { return Ok(()) };
    let name = data
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let beside = data.parent().unwrap_or(Path::new("/"));
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{name}.diverged"))
        {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn disk_of(node: &Node) -> PathBuf {
    node.host().dir().join("disk")
}

fn resize(disk: &Path, bytes: u64) -> Result<()> {
    mount(&["-o", &format!("remount,size={bytes}")], disk)
}

fn mount(args: &[&str], at: &Path) -> Result<()> {
    let done = Command::new("mount").args(args).arg(at).output();
    let done = done.context("cannot run mount")?;
    if !done.status.success() {
        bail!(
            "mount {} {}: {}",
            args.join(" "),
            at.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}
