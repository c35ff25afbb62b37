//! HAProxy in front of a cluster, with the settings that we ship.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::DEADLINE;
use crate::children::{self, Lifetime};
use crate::condition::wait_until;
use crate::lab::Lab;

/// The file that users are given: what the lab runs is this, with other addresses.
const SHIPPED: &str = include_str!("../../../deploy/haproxy/haproxy.cfg");

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub struct Haproxy {
    process: Child,
    lifetime: Lifetime,
    /// Leads to the primary.
    pub read_write: SocketAddr,
    /// Leads to the standbys.
    pub read_only: SocketAddr,
}

/// A server behind the proxy.
#[derive(Clone, Debug)]
pub struct Backend {
    /// `n1`
    pub name: String,
    /// Where PostgreSQL listens.
    pub postgres: SocketAddr,
    /// Where the agent's health endpoints are.
    pub http: SocketAddr,
}

impl Haproxy {
    /// Starts the proxy and waits until it has asked every server for its role: before that it takes all of them for
    /// primaries.
    ///
    /// # Errors
    /// HAProxy is not installed, or refuses the configuration.
    pub async fn start(lab: &Lab, backends: &[Backend]) -> Result<Haproxy> {
        let dir = lab.dir().join("haproxy");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let read_write = loopback(crate::ports::free_port()?);
        let read_only = loopback(crate::ports::free_port()?);
        let socket = dir.join("admin.sock");
        let text = adapted(
            SHIPPED,
            backends,
            read_write,
            read_only,
            &socket.to_string_lossy(),
        )?;
        let file = dir.join("haproxy.cfg");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let log = File::create(dir.join("haproxy.log")).context("cannot write haproxy.log")?;
        let mut command = children::command(program(), lab.lifetime());
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        command
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log);
        let mut proxy = Haproxy {
            process: children::spawn(command)?,
            lifetime: lab.lifetime(),
            read_write,
            read_only,
        };
        wait_until("HAProxy knows every server's role", DEADLINE, || {
            let ended = proxy.process.try_wait();
            let (log, socket) = (dir.join("haproxy.log"), socket.clone());
            async move {
                if let Some(status) = ended? {
                    bail!(
                        "it ended ({status}): {}",
                        fs::read_to_string(log).unwrap_or_default()
                    );
                }
                all_checked(&statistics(&socket).await?)
            }
        })
        .await?;
        Ok(proxy)
    }

    /// Its process, for a note on how to stop it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::WithUs {
            // It has no state worth a gentle end, and clients are meant to see a cut.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// What the admin socket says of each server, in CSV.
async fn statistics(socket: &Path) -> Result<String> {
    let mut stream = UnixStream::connect(socket)
        .await
        .context("nobody listens at the admin socket")?;
    stream.write_all(b"show stat\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// An error unless every server of the backend `primary` is down, or up for a reason.
fn all_checked(csv: &str) -> Result<()> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let column = |name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .with_context(|| format!("no column {name}"))
    };
    let (proxy, server, status, check) = (
        column("pxname")?,
        column("svname")?,
        column("status")?,
        column("check_status")?,
    );
    let mut seen = 0;
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |i: usize| fields.get(i).copied().unwrap_or_default();
        if field(proxy) != "primary" || field(server) == "BACKEND" {
            continue;
        }
        seen += 1;
        // "UP 1/2" is on its way down.
        if field(status) != "DOWN" && (field(status), field(check)) != ("UP", "L7OK") {
            bail!("{} is {} ({})", field(server), field(status), field(check));
        }
    }
    if seen == 0 {
        bail!("it knows no servers yet")
    } else {
        Ok(())
    }
}

/// Debian installs it where only root's path leads.
fn program() -> &'static str {
    if Path::new("/usr/sbin/haproxy").exists() {
        "/usr/sbin/haproxy"
    } else {
        "haproxy"
    }
}

/// The shipped file with our addresses in place of its own.
fn adapted(
    shipped: &str,
    backends: &[Backend],
    read_write: SocketAddr,
    read_only: SocketAddr,
    socket: &str,
) -> Result<String> {
    let mut text = String::new();
    let mut servers_of_section_written = false;
    for line in shipped.lines() {
        let line = line
            .replace("bind :5000", &format!("bind {read_write}"))
            .replace("bind :5001", &format!("bind {read_only}"))
            .replace("/run/haproxy/admin.sock", socket);
        if !line.starts_with([' ', '#']) {
            servers_of_section_written = false;
        }
        if !line.trim_start().starts_with("server ") {
            text.push_str(&line);
            text.push('\n');
            continue;
        }
        if !servers_of_section_written {
            for Backend { name, postgres, http } in backends {
                if postgres.ip() != http.ip() {
                    bail!("{name}: server and agent must share an address: {postgres}, {http}");
                }
                text.push_str(&format!(
                    "    server {name} {postgres} check port {}\n",
                    http.port()
                ));
            }
            servers_of_section_written = true;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_not_asked_yet_is_not_known() {
        let csv = |a: &str, b: &str| {
            format!(
                "# pxname,svname,status,check_status,\nprimary,a,{a},\nprimary,b,{b},\nprimary,BACKEND,UP,,\n"
            )
        };
        assert!(all_checked(&csv("UP,L7OK", "DOWN,L7STS")).is_ok());
        assert!(all_checked(&csv("DOWN,L4CON", "DOWN,L7STS")).is_ok());
        assert!(all_checked(&csv("UP,L7OK", "UP 1/2,L7STS")).is_err());
        assert!(all_checked(&csv("UP,INI", "UP,INI")).is_err());
        assert!(all_checked("# pxname,svname,status,check_status,\n").is_err());
    }

    #[test]
    fn the_shipped_file_is_adapted_in_each_place() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let backend = Backend {
            name: "x1".to_owned(),
            postgres: address(6001),
            http: address(6002),
        };
        let text = adapted(SHIPPED, &[backend], address(7001), address(7002), "/x/y.sock").expect("adapts");
        assert_eq!(
            text.matches("server x1 127.0.0.1:6001 check port 6002").count(),
            2
        );
        for gone in ["10.0.0.", ":5000", ":5001\n", "/run/haproxy"] {
            assert!(
                !text.lines().any(|l| !l.starts_with('#') && l.contains(gone)),
                "{gone} is still in:\n{text}"
            );
        }
        assert!(text.contains("bind 127.0.0.1:7001") && text.contains("bind 127.0.0.1:7002"));
    }
}
