//! What schema changes ask of this server: sessions, its schema as SQL, and an empty server of the same version.

use super::hba::AGENT_ROLE;
use super::session::{Session, said};
use super::{Instance, PgError};
use crate::ports::{SchemaServer, ScratchServer, SqlError, SqlRole, SqlRows, SqlSession};
use futures::future::BoxFuture;
use std::process::Stdio;
use std::time::Duration;
use tokio_postgres::error::SqlState;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The name by which sessions of rollouts are known to the server, and found again if their agent has died.
pub const ROLLOUT_APPLICATION: &str = "pgctl-rollout";
/// How the agent's own watching sessions are called.
const WATCHER_APPLICATION: &str = "pgctl-agent";
/// A schema that takes longer to be written is no schema.
const DUMP_WITHIN: Duration = Duration::from_secs(120);

impl SqlSession for Session {
    fn rows<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<SqlRows, SqlError>> {
        Box::pin(async move { self.answer(sql).await.map_err(|error| sql_error(&error)) })
    }

    fn take_notices(&mut self) -> Vec<String> {
        Session::take_notices(self)
    }
}

fn sql_error(error: &tokio_postgres::Error) -> SqlError {
    SqlError {
        code: error
            .code()
            .filter(|_| !error.is_closed())
            .map(|code| code.code().to_owned()),
        message: said(error),
    }
}

/// A refusal to let a session in is as good as an answer where the server says why.
pub(super) fn not_opened(error: &PgError) -> SqlError {
    let message = error.to_string();
    let refused = [
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_PASSWORD,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    let code = refused
        .iter()
        .map(SqlState::code)
        .find(|code| message.contains(&format!("SQLSTATE {code}")));
    SqlError {
        code: code.map(str::to_owned),
        message,
    }
}

impl SchemaServer for Instance {
    fn open<'a>(
        &'a self,
        database: &'a str,
        role: SqlRole,
        settings: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Box<dyn SqlSession>, SqlError>> {
        Box::pin(async move {
            let mut startup = self.untroubled();
            startup.push("default_transaction_read_only=off");
            let (name, application) = match role {
                SqlRole::Agent => {
                    startup.push("search_path=pg_catalog");
                    (AGENT_ROLE, WATCHER_APPLICATION)
                }
                SqlRole::Rollout => {
                    let role = self.rollout_role().ok_or_else(|| SqlError {
                        code: Some(SqlState::INSUFFICIENT_PRIVILEGE.code().to_owned()),
                        message: "rollout.role is not set in this node's configuration".to_owned(),
                    })?;
                    if self.major() >= 14 {
                        // An agent that dies must not leave a statement behind that runs for hours.
                        startup.push("client_connection_check_interval=1000");
                    }
                    (role, ROLLOUT_APPLICATION)
                }
            };
            startup.extend(settings);
            let session = self
                .session_as(name, database, application, &startup, CONNECT_WITHIN)
                .await
                .map_err(|error| not_opened(&error))?;
            Ok(Box::new(session) as Box<dyn SqlSession>)
        })
    }

    fn dump<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async move {
            let path = self.binaries().program("pg_dump");
            let mut command = self.account().command(&path, |_| {});
            command
                .args(["--schema-only", "--no-password", "--exclude-schema=pgctl"])
                // Waiting for a lock, it would stand in the queue behind a change.
                .arg("--lock-wait-timeout=5000")
                .arg(format!("--host={}", self.config().socket_dir.display()))
                .arg(format!("--port={}", self.config().port))
                .arg(format!("--username={AGENT_ROLE}"))
                .arg(format!(
                    "--dbname={}",
                    super::conf_text::write_conninfo(&[("dbname", database)])
                ))
                .env("LC_ALL", "C")
                .env("PGAPPNAME", WATCHER_APPLICATION)
                .stdin(Stdio::null());
            let mut command = tokio::process::Command::from(command);
            let done = tokio::time::timeout(DUMP_WITHIN, command.kill_on_drop(true).output())
                .await
                .map_err(|_| format!("pg_dump was not done within {DUMP_WITHIN:?}"))?
                .map_err(|error| format!("could not start {}: {error}", path.display()))?;
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr);
                return Err(format!("pg_dump: {}: {}", done.status, said.trim()));
            }
            String::from_utf8(done.stdout).map_err(|error| format!("the dump is not UTF-8: {error}"))
        })
    }

    fn scratch(&self) -> BoxFuture<'_, Result<Box<dyn ScratchServer>, String>> {
        Box::pin(async move {
            let server = super::scratch::start(self).await?;
            Ok(Box::new(server) as Box<dyn ScratchServer>)
        })
    }

    fn server_version(&self) -> u32 {
        self.version_num()
    }

    fn rollout_role(&self) -> Option<&str> {
        self.config().rollout_role.as_deref()
    }

    fn archive_queue(&self) -> u64 {
        let status = self.config().data_dir.join("pg_wal").join("archive_status");
        let ready = std::fs::read_dir(status)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "ready")
            });
        ready.count() as u64
    }

    fn room(&self) -> Option<(u64, u64)> {
        let data = &self.config().data_dir;
        [data.clone(), data.join("pg_wal")]
            .iter()
            .filter_map(|folder| nix::sys::statvfs::statvfs(folder).ok())
            .map(|found| {
                let unit = found.fragment_size();
                (found.blocks_available() * unit, found.blocks() * unit)
            })
            .min()
    }
}
