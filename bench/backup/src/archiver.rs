//! What of the agent archives and backs up, with a server that no agent has made.

use agent::archive::{Archive, ArchiveConfig, Sight};
use agent::ports::{ArchiveStream, BackupSource, SourceFacts};
use agent_core::pg::{Lsn, SystemId, TimelineHistory, TimelineId};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use repository::{BackupFacts, BackupWriter, Line, Repository, RepositoryConfig, inventory};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
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
}

/// Where `pgctl-wal` asks.
pub fn socket(sockets: &Path) -> PathBuf {
    sockets.join("archiver")
}

pub fn run(args: &Args) -> Result<()> {
    agent::hardening::keep_no_large_blocks();
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
        cluster_id: CLUSTER.to_owned(),
        ..Sight::default()
    };
    let archive = Archive::start(config, Arc::clone(&source) as Arc<dyn BackupSource>, move || {
        holder.clone()
    });
    let _archive = archive.context("the archive does not start")?;
    println!("ready");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(6)
        .enable_all()
        .build()?;
    // Each line asks for a backup of that name.
    for line in std::io::stdin().lines() {
        let said = match runtime.block_on(back_up(&args.repository, &source, line?)) {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("{error:#}").replace('\n', " "),
        };
        println!("{said}");
    }
    Ok(())
}

/// As the agent does it: the server's archive into the repository, and then the WAL that it needs is waited for.
async fn back_up(repository: &Path, source: &Server, id: String) -> Result<()> {
    let said = |error: String| anyhow::anyhow!(error);
    let facts = source.facts().await.map_err(said)?;
    let line = Line::new(CLUSTER, facts.system_id);
    let repository = Repository::open(&RepositoryConfig::directory("bench", repository)).await?;
    let facts = BackupFacts {
        id,
        line: line.clone(),
        system_id: facts.system_id,
        node: CLUSTER.to_owned(),
        from_standby: facts.standby,
        server_version: facts.server_version,
        segment_bytes: facts.segment_bytes,
        begun_ms: 0,
        parent: None,
    };
    let mut writer = BackupWriter::begin(std::slice::from_ref(&repository), facts).await?;
    let mut stream = source.stream(None, None).await.map_err(said)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        let length = stream.bytes().read(&mut piece).await?;
        if length == 0 {
            break;
        }
        writer.write(&piece[..length]).await?;
    }
    stream.ended().await.map_err(said)?;
    let entry = writer.finish(1).await?;
    source.switch_wal().await.map_err(said)?;
    while !entry.lacks(&inventory(&repository, &line).await?).is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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

    fn at_low_priority(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new("nice");
        command.args(["-n", "19"]).arg(self.programs.join(program));
        command
    }

    fn segment_bytes(&self) -> Option<u64> {
        Some(16 << 20)
    }

    fn stream(
        &self,
        max_rate_kb: Option<u32>,
        _: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<Box<dyn ArchiveStream>, String>> {
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

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.ask("CHECKPOINT").await.map(drop) })
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
