//! What a base backup is read from: the server's own copy of its data directory, as one archive.

use super::session::Session;
use super::{Instance, PgError};
use crate::ports::{ArchiveStream, BackupSource, SourceFacts};
use agent_core::pg::{ControlState, Lsn, SystemId, TimelineHistory, TimelineId};
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;

const SQL_WITHIN: Duration = Duration::from_secs(5);
/// A checkpoint writes everything that is dirty.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);
/// Gives a program the disk only when nobody else wants it.
const IONICE: &str = "/usr/bin/ionice";
/// How much of what the program says is kept, in lines.
const SAID_LINES: usize = 8;

impl Instance {
    async fn source_facts(&self) -> Result<SourceFacts, PgError> {
        let control = self.existing_control()?;
        let session = self.session(&[], SQL_WITHIN).await?;
        let standby = session
            .text(
                "ask whether it is a standby",
                "SELECT pg_is_in_recovery()",
                SQL_WITHIN,
            )
            .await?;
        Ok(SourceFacts {
            system_id: control.file.system_id,
            segment_bytes: control.segment_size,
            server_version: self.version_num(),
            standby: standby.as_deref() != Some("f"),
        })
    }

    /// The server's archive of its data directory, WAL that makes it consistent included. A slot that ends with the stream
    /// keeps that WAL meanwhile.
    async fn archive_stream(
        &self,
        max_rate_kb: Option<u32>,
        since: Option<Vec<u8>>,
    ) -> Result<ServerArchive, PgError> {
        let session = self.session(&[], SQL_WITHIN).await?;
        let outside = "SELECT string_agg(spcname, ', ' ORDER BY spcname) FROM pg_tablespace \
                       WHERE pg_tablespace_location(oid) LIKE '/%'";
        let outside = session.text("look for tablespaces", outside, SQL_WITHIN).await?;
        if let Some(names) = outside.filter(|names| !names.is_empty()) {
            return Err(PgError::Unusable {
                path: self.config().data_dir.clone(),
                why: format!(
                    "it has tablespaces outside of it ({names}), which are not backed up yet: move what is in them \
                     (ALTER TABLE ... SET TABLESPACE pg_default) and drop them, or back up with pg_basebackup meanwhile"
                ),
            });
        }
        let slot =
            "SELECT pg_create_physical_replication_slot('pgctlbackup_' || pg_backend_pid(), true, true)";
        session.execute("keep WAL for a backup", slot, SQL_WITHIN).await?;
        let path = self.binaries().program("pg_basebackup");
        let process = |action: &str| {
            let action = format!("{action} {}", path.display());
            move |source| PgError::Process { action, source }
        };
        let mut command = self.account().command(&path, |_| {});
        command
            .args([
                "--pgdata=-",
                "--format=tar",
                "--wal-method=fetch",
                "--checkpoint=fast",
            ])
            .args(["--no-password", "--label=pgctl"])
            .arg(format!("--host={}", self.config().socket_dir.display()))
            .arg(format!("--port={}", self.config().port))
            .arg(format!("--username={}", super::hba::AGENT_ROLE));
        if let Some(rate) = max_rate_kb {
            command.arg(format!("--max-rate={rate}k"));
        }
        let manifest = since.map(|since| self.lend_manifest(&since)).transpose()?;
        if let Some(manifest) = &manifest {
            command.arg(format!("--incremental={}", manifest.path.display()));
        }
        command.env("LC_ALL", "C").env("PGAPPNAME", "pgctl-backup");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(process("start"))?;
        let no_pipe = || std::io::Error::other("it has no pipe");
        let output = child
            .stdout
            .take()
            .ok_or_else(no_pipe)
            .map_err(process("read from"))?;
        let errors = child
            .stderr
            .take()
            .ok_or_else(no_pipe)
            .map_err(process("read from"))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < SAID_LINES {
                    kept.push(line);
                }
            }
        });
        Ok(ServerArchive {
            output: Box::new(output),
            child,
            said,
            _slot: session,
            _manifest: manifest,
        })
    }

    /// The manifest of the backup before, where the server's own user can read it; it goes when the copy is made.
    fn lend_manifest(&self, manifest: &[u8]) -> Result<Lent, PgError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let name = format!(".pgctl-manifest.{}", self.config().port);
        let lent = Lent {
            path: self.config().socket_dir.join(name),
        };
        // One of an agent that was killed.
        let _ = std::fs::remove_file(&lent.path);
        let mut options = std::fs::File::options();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lent.path)
            .and_then(|mut file| file.write_all(manifest))
            .map_err(PgError::file("write", &lent.path))?;
        self.account().own(&lent.path)?;
        Ok(lent)
    }

    async fn make_checkpoint(&self) -> Result<(), PgError> {
        let session = self.session(&[], CHECKPOINT_WITHIN).await?;
        session
            .execute("make a checkpoint", "CHECKPOINT", CHECKPOINT_WITHIN)
            .await?;
        Ok(())
    }

    async fn close_segment(&self) -> Result<Lsn, PgError> {
        let doing = "switch to a new WAL segment";
        let session = self.session(&[], SQL_WITHIN).await?;
        let lsn = session.text(doing, "SELECT pg_switch_wal()", SQL_WITHIN).await?;
        lsn.and_then(|lsn| lsn.parse().ok()).ok_or(PgError::Deadline {
            doing,
            after: SQL_WITHIN,
            why: "the server gave no position".to_owned(),
        })
    }
}

/// A file that goes with it.
struct Lent {
    path: PathBuf,
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Left behind it is replaced by the next one.
        let _ = std::fs::remove_file(&self.path);
    }
}

struct ServerArchive {
    output: Box<dyn AsyncRead + Send + Unpin>,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    /// Its temporary slot goes with it.
    _slot: Session,
    _manifest: Option<Lent>,
}

impl ArchiveStream for ServerArchive {
    fn bytes(&mut self) -> &mut (dyn AsyncRead + Send + Unpin) {
        &mut self.output
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let status = self.child.wait().await.map_err(|error| error.to_string())?;
            if status.success() {
                return Ok(());
            }
            let said = self
                .said
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .join(" | ");
            Err(format!("pg_basebackup: {status}: {said}"))
        })
    }
}

impl BackupSource for Instance {
    fn facts(&self) -> BoxFuture<'_, Result<SourceFacts, String>> {
        Box::pin(async move { self.source_facts().await.map_err(|error| error.to_string()) })
    }

    fn stream(
        &self,
        max_rate_kb: Option<u32>,
        since: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<Box<dyn ArchiveStream>, String>> {
        Box::pin(async move {
            let stream = self
                .archive_stream(max_rate_kb, since)
                .await
                .map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as Box<dyn ArchiveStream>)
        })
    }

    fn switch_wal(&self) -> BoxFuture<'_, Result<Lsn, String>> {
        Box::pin(async move { self.close_segment().await.map_err(|error| error.to_string()) })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.make_checkpoint().await.map_err(|error| error.to_string()) })
    }

    fn history_of(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        self.history(timeline).ok()
    }

    fn identity(&self) -> Option<(SystemId, bool)> {
        let control = self.control_data().ok().flatten()?;
        let stopping = matches!(
            control.file.state,
            ControlState::ShutDown | ControlState::ShutDownInRecovery | ControlState::ShuttingDown
        );
        Some((control.file.system_id, stopping))
    }

    fn at_low_priority(&self, program: &str) -> std::process::Command {
        let path = self.binaries().program(program);
        let mut command = self.account().command(Path::new("nice"), |_| {});
        command.args(["-n", "19"]);
        if Path::new(IONICE).exists() {
            command.args([IONICE, "-c", "3"]);
        }
        command.arg(path).env("LC_ALL", "C");
        command
    }

    fn segment_bytes(&self) -> Option<u64> {
        Some(self.control_data().ok().flatten()?.segment_size)
    }
}
