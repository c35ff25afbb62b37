//! An empty server of the same version, to try statements on. It listens on a socket in a folder of its own, and ends and
//! vanishes with the value that stands for it.

use super::Instance;
use super::hba::AGENT_ROLE;
use super::schema_server::not_opened;
use super::session::Session;
use crate::ports::{ScratchServer, SqlError, SqlRole, SqlSession};
use futures::future::BoxFuture;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Its port is only a part of its socket's name.
const PORT: u16 = 5432;

/// A running server and its folder.
pub(super) struct Scratch {
    /// Before the folder, so that nothing runs in a folder that is being removed.
    process: Postmaster,
    _folder: Folder,
    socket_dir: PathBuf,
    rollout_role: Option<String>,
}

struct Postmaster(Child);

impl Drop for Postmaster {
    fn drop(&mut self) {
        // An immediate shutdown: it takes its children with it, and keeps nothing.
        let pid = i32::try_from(self.0.id()).map(nix::unistd::Pid::from_raw);
        let told = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT));
        if !matches!(told, Ok(Ok(()))) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the scratch server's folder was not removed");
        }
    }
}

/// Makes and starts one.
pub(super) async fn start(instance: &Instance) -> Result<Scratch, String> {
    let folder = tokio::task::spawn_blocking({
        let instance = instance.clone();
        move || folder(&instance)
    });
    let folder = folder.await.map_err(|error| error.to_string())??;
    let data = folder.0.join("data");
    let initdb = instance.binaries().program("initdb");
    let mut command = instance.account().command(&initdb, |_| {});
    command
        .args([
            "--username=postgres",
            "--auth=peer",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ])
        .arg(format!("--pgdata={}", data.display()))
        .current_dir(&folder.0)
        .stdin(Stdio::null());
    let made = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("could not start {}: {error}", initdb.display()))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(format!(
            "initdb of the scratch server: {}: {}",
            made.status,
            said.trim()
        ));
    }
    write_access(instance, &data)?;
    let postgres = instance.binaries().program("postgres");
    let mut command = instance.account().command(&postgres, |_| {});
    command
        .arg("-D")
        .arg(&data)
        .args([
            "-F",
            "-c",
            "listen_addresses=",
            "-c",
            "autovacuum=off",
            "-c",
            "shared_buffers=16MB",
        ])
        .args([
            "-c",
            "max_connections=10",
            "-c",
            "wal_level=logical",
            "-c",
            "log_min_messages=fatal",
        ])
        .args(["-c", &format!("port={PORT}")])
        .args(["-c", &format!("unix_socket_directories={}", folder.0.display())])
        .current_dir(&folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    dies_with_the_agent(&mut command);
    let process = command
        .spawn()
        .map_err(|error| format!("could not start {}: {error}", postgres.display()))?;
    let scratch = Scratch {
        process: Postmaster(process),
        socket_dir: folder.0.clone(),
        rollout_role: instance.config().rollout_role.clone(),
        _folder: folder,
    };
    scratch.ready().await?;
    Ok(scratch)
}

/// The kernel ends it with the agent: nobody else knows of it. To the kernel the parent is the thread that starts it, so that
/// has to be one of the runtime's own, which last as long as the agent, and none of those that it lends for blocking work.
#[allow(unsafe_code, reason = "the signal is asked for between fork and exec")]
fn dies_with_the_agent(command: &mut std::process::Command) {
    // SAFETY: between fork and exec this makes one system call and allocates nothing.
    unsafe {
        // Behind the change of user, which would take it back.
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGQUIT).map_err(std::io::Error::from)
        });
    }
}

/// A folder of the server's user's, where paths of sockets are short. What an agent that died has left of one is removed.
fn folder(instance: &Instance) -> Result<Folder, String> {
    let name = format!("pgctl-scratch-{}", instance.config().port);
    let path = std::env::temp_dir().join(name);
    if path.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(&path)
            .map_err(|error| format!("{} is in the way and cannot be removed: {error}", path.display()))?;
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|error| format!("could not make {}: {error}", path.display()))?;
    let made = Folder(path);
    instance
        .account()
        .own(&made.0)
        .map_err(|error| error.to_string())?;
    Ok(made)
}

/// Lets the agent in, and nobody else who is not the server's own user.
fn write_access(instance: &Instance, data: &Path) -> Result<(), String> {
    let name = &instance.account().name;
    for (file, text) in [
        ("pg_hba.conf", "local all all peer map=pgctl\n".to_owned()),
        (
            "pg_ident.conf",
            super::hba::identities(name, instance.config().rollout_role.as_deref()),
        ),
    ] {
        let path = data.join(file);
        std::fs::write(&path, text)
            .map_err(|error| format!("could not write {}: {error}", path.display()))?;
    }
    Ok(())
}

impl Scratch {
    async fn ready(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.connect(AGENT_ROLE, &[]).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > READY_WITHIN => {
                    return Err(format!("the scratch server did not come up: {error}"));
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn connect(&self, role: &str, settings: &[&str]) -> Result<Session, SqlError> {
        let options: Vec<String> = settings.iter().map(|setting| format!("-c {setting}")).collect();
        let mut libpq = tokio_postgres::Config::new();
        libpq
            .host_path(&self.socket_dir)
            .port(PORT)
            .user(role)
            .dbname("postgres")
            .options(options.join(" "));
        let to = format!("the scratch server {}", self.process.0.id());
        Session::open(&libpq, to, CONNECT_WITHIN)
            .await
            .map_err(|error| not_opened(&error))
    }
}

impl ScratchServer for Scratch {
    fn open<'a>(
        &'a self,
        role: SqlRole,
        settings: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Box<dyn SqlSession>, SqlError>> {
        Box::pin(async move {
            let role = match (role, &self.rollout_role) {
                (SqlRole::Rollout, Some(role)) => role,
                _ => AGENT_ROLE,
            };
            let session = self.connect(role, settings).await?;
            Ok(Box::new(session) as Box<dyn SqlSession>)
        })
    }
}
