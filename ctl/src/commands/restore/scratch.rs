//! A restored server that is thrown away.

use super::{Args, planned, restore};
use crate::failure::Failure;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The number in the name of its socket.
pub(super) const PORT: u16 = 5432;
const ACCESS: &str = "pgctl-scratch-hba.conf";
const POLL: Duration = Duration::from_millis(200);
/// How long it may take to end by itself.
const ENDS_WITHIN: u32 = 50;

/// No network, little memory, and nothing that need survive a crash.
pub(super) fn settings(data: &Path) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("listen_addresses", String::new()),
        ("hba_file", data.join(ACCESS).display().to_string()),
        ("ssl", text("off")),
        ("logging_collector", text("off")),
        ("log_destination", text("stderr")),
        ("autovacuum", text("off")),
        ("shared_buffers", text("64MB")),
        ("huge_pages", text("off")),
        ("fsync", text("off")),
        ("full_page_writes", text("off")),
    ]
}

/// The folder, and the server in it. Both go with the value.
pub(super) struct Scratch {
    folder: PathBuf,
    server: Option<Child>,
    bin_dir: Option<PathBuf>,
}

impl Scratch {
    /// Restores a backup into a folder of its own below `below`, and recovers it to the target.
    pub(super) async fn restore(args: &Args, below: &Path) -> Result<Scratch, Failure> {
        let opened = args.which.open().await?;
        let found = planned(args, &opened).await?;
        let folder = below
            .canonicalize()
            .map_err(|error| Failure::local(format!("{}: {error}", below.display())))?
            .join(format!("pgctl-scratch-{}", std::process::id()));
        let failed = |error: std::io::Error| Failure::local(format!("{}: {error}", folder.display()));
        DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        let mut scratch = Scratch {
            folder: folder.clone(),
            server: None,
            bin_dir: args.bin_dir.clone(),
        };
        let own = Args {
            port: PORT,
            socket_dir: folder.clone(),
            action: super::Action::Promote,
            ..args.clone()
        };
        let data = folder.join("data");
        restore(&own, &data, &opened, &found.there, &found.plan, &found.entry).await?;
        // Nobody else reaches the folder of its socket.
        fs::write(data.join(ACCESS), "local all all trust\n").map_err(failed)?;
        scratch.start(&data).await?;
        Ok(scratch)
    }

    /// One of the server's programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        match &self.bin_dir {
            Some(folder) => folder.join(name),
            None => PathBuf::from(name),
        }
    }

    /// Where the socket is.
    pub(super) fn socket_dir(&self) -> &Path {
        &self.folder
    }

    async fn start(&mut self, data: &Path) -> Result<(), Failure> {
        let log = self.folder.join("log");
        let failed = |error: std::io::Error| Failure::local(format!("{}: {error}", log.display()));
        let file = File::create(&log).map_err(failed)?;
        let again = file.try_clone().map_err(failed)?;
        let program = self.program("postgres");
        let server = Command::new(&program)
            .arg("-D")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn();
        let server = server.map_err(|error| {
            Failure::local(format!(
                "{}: {error}: say where the server's programs are with --bin-dir",
                program.display()
            ))
        })?;
        self.server = Some(server);
        eprintln!("the copy recovers");
        while !self.is_recovered()? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn is_recovered(&mut self) -> Result<bool, Failure> {
        let ended = self.server.as_mut().map(Child::try_wait);
        if let Some(Ok(Some(status))) = ended {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let said = lines[lines.len().saturating_sub(8)..].join("\n");
            return Err(Failure::local(format!(
                "the restored server ended ({status}):\n{said}"
            )));
        }
        let mut question = Command::new(self.program("psql"));
        question
            .args([
                "-X",
                "-A",
                "-t",
                "-q",
                "--no-password",
                "--username=postgres",
                "--dbname=postgres",
            ])
            .arg(format!("--host={}", self.folder.display()))
            .arg(format!("--port={PORT}"))
            .args(["--command", "SELECT pg_is_in_recovery()"])
            .stdin(Stdio::null());
        let answer = question
            .output()
            .map_err(|error| Failure::local(format!("psql: {error}: say where it is with --bin-dir")))?;
        Ok(answer.status.success() && answer.stdout.starts_with(b"f"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // Nothing that it has is needed: it is told to end at once, and killed if it does not.
            let _ = Command::new("kill")
                .arg("-QUIT")
                .arg(server.id().to_string())
                .status();
            let mut looks = 0;
            while !matches!(server.try_wait(), Ok(Some(_)) | Err(_)) {
                if looks == ENDS_WITHIN {
                    let _ = server.kill();
                }
                looks += 1;
                std::thread::sleep(POLL);
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{} is left over: {error}: remove it", self.folder.display());
        }
    }
}
