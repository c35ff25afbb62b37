//! What of the agent archives and backs up, with a server that no agent has made.

use agent::archive::{Archive, ArchiveConfig, ArchiveService, Sight};
use agent::ports::{ArchiveStream, BackupSource, SourceFacts};
use agent_core::pg::{Lsn, SystemId, TimelineHistory, TimelineId};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use proto::archive::archive_server::ArchiveServer;
use repository::RepositoryConfig;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};

/// The name under which the line lies in the repository.
pub const CLUSTER: &str = "bench";

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    data: PathBuf,
    /// The folder of PostgreSQL's programs
    #[arg(long)]
    programs: PathBuf,
    /// Where the server's socket and ours are
    #[arg(long)]
    sockets: PathBuf,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    repository: PathBuf,
    #[arg(long)]
    state: PathBuf,
    /// Where backups are asked for
    #[arg(long)]
    listen: SocketAddr,
}

/// Where `pgctl-wal` asks.
pub fn socket(sockets: &Path) -> PathBuf {
    sockets.join("archiver")
}

pub fn run(args: &Args) -> Result<()> {
    let source = Arc::new(Server {
        data: args.data.clone(),
        programs: args.programs.clone(),
        sockets: args.sockets.clone(),
        port: args.port,
    });
    let config = ArchiveConfig {
        cluster: CLUSTER.to_owned(),
        node: "bench".to_owned(),
        data_dir: args.data.clone(),
        state_dir: args.state.clone(),
        socket: socket(&args.sockets),
        owner: (
            nix::unistd::Uid::effective().as_raw(),
            nix::unistd::Gid::effective().as_raw(),
        ),
        repositories: vec![RepositoryConfig::directory("bench", &args.repository)],
    };
    let holder = Sight {
        holds: true,
        ..Sight::default()
    };
    let archive =
        Archive::start(config, source, move || holder.clone()).context("the archive does not start")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(
        tonic::transport::Server::builder()
            .add_service(ArchiveServer::new(ArchiveService::new(Some(archive))))
            .serve(args.listen),
    )?;
    Ok(())
}

/// A server that runs, for the archive.
struct Server {
    data: PathBuf,
    programs: PathBuf,
    sockets: PathBuf,
    port: u16,
}

impl Server {
    /// The control file's first bytes: which database cluster it is.
    fn system_id(&self) -> Option<SystemId> {
        let control = std::fs::read(self.data.join("global/pg_control")).ok()?;
        let first: [u8; 8] = control.get(..8)?.try_into().ok()?;
        Some(SystemId(u64::from_le_bytes(first)))
    }

    async fn ask(&self, sql: &str) -> Result<String, String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-d", "postgres", "-c", sql])
            .arg("-h")
            .arg(&self.sockets)
            .args(["-p", &self.port.to_string()])
            .output()
            .await
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl BackupSource for Server {
    fn facts(&self) -> BoxFuture<'_, Result<SourceFacts, String>> {
        Box::pin(async move {
            let version = self.ask("SHOW server_version_num").await?;
            Ok(SourceFacts {
                system_id: self.system_id().ok_or("it has no control file")?,
                segment_bytes: 16 << 20,
                server_version: version
                    .parse()
                    .map_err(|_| format!("{version:?} is no version"))?,
                standby: false,
            })
        })
    }

    fn stream(&self, max_rate_kb: Option<u32>) -> BoxFuture<'_, Result<Box<dyn ArchiveStream>, String>> {
        Box::pin(async move {
            let mut command = Command::new(self.programs.join("pg_basebackup"));
            // As the agent runs it.
            command
                .args([
                    "--pgdata=-",
                    "--format=tar",
                    "--wal-method=fetch",
                    "--checkpoint=fast",
                    "--no-password",
                ])
                .arg(format!("--host={}", self.sockets.display()))
                .arg(format!("--port={}", self.port))
                .stdout(Stdio::piped())
                .kill_on_drop(true);
            if let Some(rate) = max_rate_kb {
                command.arg(format!("--max-rate={rate}k"));
            }
            let mut child = command.spawn().map_err(|error| error.to_string())?;
            let output = child.stdout.take().ok_or("it has no pipe")?;
            Ok(Box::new(Stream {
                output: Box::new(output),
                child,
            }) as Box<dyn ArchiveStream>)
        })
    }

    fn switch_wal(&self) -> BoxFuture<'_, Result<Lsn, String>> {
        Box::pin(async move {
            let lsn = self.ask("SELECT pg_switch_wal()").await?;
            lsn.parse().map_err(|_| format!("{lsn:?} is no position"))
        })
    }

    fn history_of(&self, _: TimelineId) -> Option<TimelineHistory> {
        None
    }

    fn identity(&self) -> Option<(SystemId, bool)> {
        Some((self.system_id()?, false))
    }
}

struct Stream {
    output: Box<dyn AsyncRead + Send + Unpin>,
    child: Child,
}

impl ArchiveStream for Stream {
    fn bytes(&mut self) -> &mut (dyn AsyncRead + Send + Unpin) {
        &mut self.output
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let status = self.child.wait().await.map_err(|error| error.to_string())?;
            status
                .success()
                .then_some(())
                .ok_or_else(|| format!("pg_basebackup: {status}"))
        })
    }
}
