//! A load beside the clients that are measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long pgbench may take to fill its tables.
const FILL: Duration = Duration::from_secs(60);
/// pgbench ends when its servers do; so long until it is started again.
const AGAIN: Duration = Duration::from_millis(50);

/// pgbench, as it is to be run.
#[derive(Clone, Debug)]
pub struct Pgbench {
    /// The program itself.
    pub program: PathBuf,
    /// Transactions (TPC-B-like, scale 10) per second that it aims at: a share of what three servers on one machine can do,
    /// so that the fault and not the queue is measured.
    pub rate: u32,
}

/// A running load; it ends when this is dropped.
pub struct Load(JoinHandle<()>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pgbench {
    /// The program beside PostgreSQL's others.
    pub fn beside(postgres: &Path, rate: u32) -> Pgbench {
        Pgbench {
            program: postgres.join("pgbench"),
            rate,
        }
    }

    /// Fills pgbench's tables on the primary, and keeps four clients busy on whichever server is writable.
    ///
    /// # Errors
    /// The tables cannot be filled; says what pgbench said.
    pub async fn start(&self, servers: &[SocketAddr], primary: SocketAddr) -> Result<Load> {
        let mut fill = self.command(&[primary]);
        fill.args(["--initialize", "--scale=10", "--quiet"]);
        let done = tokio::time::timeout(FILL, fill.output())
            .await
            .with_context(|| format!("pgbench did not fill its tables within {FILL:?}"))?
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !done.status.success() {
            bail!("pgbench --initialize: {}", String::from_utf8_lossy(&done.stderr));
        }
        let mut run = self.command(servers);
        run.args(["--client=4", "--jobs=1", "--time=86400", "--no-vacuum"])
            .arg(format!("--rate={}", self.rate))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        Ok(Load(tokio::spawn(async move {
            loop {
                // However it ended, its servers are the ones that are measured, and say what is wrong with them.
                let _ended = run.status().await;
                sleep(AGAIN).await;
            }
        })))
    }

    fn command(&self, servers: &[SocketAddr]) -> Command {
        let list = |of: &dyn Fn(&SocketAddr) -> String| servers.iter().map(of).collect::<Vec<_>>().join(",");
        let mut command = Command::new(&self.program);
        command
            .env("PGHOST", list(&|server| server.ip().to_string()))
            .env("PGPORT", list(&|server| server.port().to_string()))
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("PGTARGETSESSIONATTRS", "read-write")
            .env("PGCONNECT_TIMEOUT", "2")
            .kill_on_drop(true);
        command
    }
}
