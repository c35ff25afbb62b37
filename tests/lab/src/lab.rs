//! The lab itself: a folder, a network if wanted, and what both need to vanish afterwards.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::children::Lifetime;
use crate::host::Host;
use crate::network::Network;
use crate::os_user::OsUser;

/// A place for one or more clusters. Clones are the same lab; the last one to go, hosts included, cleans up.
#[derive(Clone, Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped in this order: the network's processes before the folder.
    network: Option<Arc<Network>>,
    dir: TempDir,
    run: String,
    lifetime: Lifetime,
    servers_run_as: OsUser,
    hosts: AtomicU8,
}

/// Where agents make control groups for their servers: version 2 alone, or beside version 1.
pub const CONTROL_GROUPS: [&str; 2] = ["/sys/fs/cgroup/pgctl", "/sys/fs/cgroup/unified/pgctl"];

impl Drop for Inner {
    /// A machine that loses its power loses its control groups too; ours share this machine's, so the empty ones that
    /// carry this run's letters in their names are removed.
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Own {
            return;
        }
        for groups in CONTROL_GROUPS {
            for group in fs::read_dir(groups).into_iter().flatten().flatten() {
                if group.file_name().to_string_lossy().contains(&self.run) {
                    // One that is not empty is somebody's, and stays.
                    let _ = fs::remove_dir(group.path());
                }
            }
        }
    }
}

impl Lab {
    /// A lab whose hosts share this machine's loopback: each listens on ports of its own at 127.0.0.1.
    ///
    /// Its folder is made below `PGCTL_LAB_DIR`, by default the system's folder for temporary files.
    ///
    /// # Errors
    /// The folder cannot be made, or no account is fit for servers.
    pub fn new() -> Result<Lab> {
        Lab::build(Lifetime::WithUs, false)
    }

    /// A lab whose hosts have networks of their own, with cables to cut: each its own address, the usual ports.
    ///
    /// # Errors
    /// As for [`Lab::new`]; also without root, or where the kernel has no bridges.
    pub fn with_hosts() -> Result<Lab> {
        Lab::build(Lifetime::WithUs, true)
    }

    /// A lab on loopback that stays, with all that runs in it, when this process ends or the lab is dropped.
    ///
    /// # Errors
    /// As for [`Lab::new`].
    pub fn that_stays() -> Result<Lab> {
        Lab::build(Lifetime::Own, false)
    }

    fn build(lifetime: Lifetime, with_network: bool) -> Result<Lab> {
        let below = std::env::var_os("PGCTL_LAB_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let mut dir = tempfile::Builder::new()
            .prefix("pgctl-lab-")
            .tempdir_in(&below)
            .with_context(|| format!("cannot make a folder in {}", below.display()))?;
        dir.disable_cleanup(lifetime == Lifetime::Own);
        // A server runs under another account and must be able to pass through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot open {} to the servers' account", dir.path().display()))?;
        let run = dir
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        let run = run
            .trim_start_matches("pgctl-lab-")
            .trim_start_matches('.')
            .to_owned();
        let network = if with_network {
            Some(Arc::new(Network::new(lifetime)?))
        } else {
            None
        };
        let servers_run_as = OsUser::for_servers()?;
        Ok(Lab {
            inner: Arc::new(Inner {
                network,
                dir,
                run,
                lifetime,
                servers_run_as,
                hosts: AtomicU8::new(0),
            }),
        })
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        self.inner.dir.path()
    }

    /// A few letters that no other run has: for names that are global on the machine.
    pub fn run(&self) -> &str {
        &self.inner.run
    }

    /// The account that servers run under.
    pub fn servers_run_as(&self) -> &OsUser {
        &self.inner.servers_run_as
    }

    /// Whether what runs in the lab dies with this process.
    pub fn lifetime(&self) -> Lifetime {
        self.inner.lifetime
    }

    /// Whether hosts have addresses of their own.
    pub fn has_network(&self) -> bool {
        self.inner.network.is_some()
    }

    /// The switch, for cuts between hosts that are in no [`crate::Cluster`].
    ///
    /// # Errors
    /// The lab has none: it was made with [`Lab::new`].
    pub fn network(&self) -> Result<&Network> {
        let network = self.inner.network.as_deref();
        network.context("this lab has no network to cut; make it with Lab::with_hosts()")
    }

    /// Our own address on the network, where hosts can send to; loopback if there is none.
    pub fn our_address(&self) -> Ipv4Addr {
        self.inner
            .network
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |network| network.our_address())
    }

    /// A new host, still off, with a folder `name` as its disk that belongs to the servers' account.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn host(&self, name: &str) -> Result<Host> {
        let dir = self.dir().join(name);
        self.inner.servers_run_as.make_dir(&dir)?;
        let link = self.inner.network.as_ref().map(|network| {
            let index = self.inner.hosts.fetch_add(1, Ordering::Relaxed) + 1;
            (Arc::clone(network), network.port(index))
        });
        Ok(Host::new(name, &dir, self.lifetime(), link))
    }

    /// A port for a service of `host`: `usual` if the host has an address of its own, else a free one on loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn port_for(&self, usual: u16) -> Result<u16> {
        if self.has_network() {
            Ok(usual)
        } else {
            crate::ports::free_port()
        }
    }
}
