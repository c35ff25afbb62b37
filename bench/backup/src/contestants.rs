//! Who is compared: each archives, backs up and restores, with two workers, Zstandard at level 3, and everything flushed.

use crate::archiver::CLUSTER;
use crate::measure::{Samples, peak_mib};
use crate::server::{Ground, remove};
use anyhow::{Context, Result, ensure};
use lab::binaries;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is measured of a helper when it is ended.
pub const PEAK_OF_A_DRAIN: &str = "peak memory of a drain, MiB";
pub const PEAK_OF_A_BACKUP: &str = "peak memory of a backup, MiB";

/// What runs beside the server.
pub type Helpers = Option<Child>;

/// The next line that a helper writes; it writes no more than it is asked for.
fn answer(child: &mut Child) -> Result<String> {
    let output = child.stdout.as_mut().context("it has a pipe")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while output.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

pub trait Contestant {
    fn name(&self) -> &'static str;
    fn archive_command(&self, ground: &Ground) -> Result<String>;
    /// Makes an empty repository.
    fn prepare(&self, ground: &Ground, data: &Path) -> Result<()>;
    /// Starts what must run before the server.
    fn begin(&self, ground: &Ground, data: &Path) -> Result<Helpers>;
    /// Ends it, and waits for whatever else was started.
    fn end(&self, ground: &Ground, helpers: Helpers, peak: &'static str, samples: &mut Samples)
    -> Result<()>;
    fn back_up(&self, ground: &Ground, helpers: &mut Helpers) -> Result<()>;
    fn restore(&self, ground: &Ground, into: &Path, samples: &mut Samples) -> Result<()>;
}

/// What of the agent archives, by `pgctl-wal`; and `pgctl restore`.
pub struct Pgctl {
    config: PathBuf,
}

impl Pgctl {
    pub fn new(ground: &Ground) -> Result<Pgctl> {
        let config = ground.path("pgctl.toml");
        let text = format!(
            "[cluster]\nname = {CLUSTER:?}\n[[archive.repositories]]\nname = \"bench\"\npath = {:?}\n",
            ground.path("pgctl-repository")
        );
        fs::write(&config, text)?;
        Ok(Pgctl { config })
    }
}

impl Contestant for Pgctl {
    fn name(&self) -> &'static str {
        "pgctl"
    }

    fn archive_command(&self, ground: &Ground) -> Result<String> {
        ground.push_command()
    }

    fn prepare(&self, ground: &Ground, _: &Path) -> Result<()> {
        for name in ["pgctl-repository", "pgctl-state"] {
            remove(&ground.path(name))?;
            ground.user.make_dir(&ground.path(name))?;
        }
        Ok(())
    }

    fn begin(&self, ground: &Ground, data: &Path) -> Result<Helpers> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("archiver")
            .arg("--data")
            .arg(data)
            .arg("--programs")
            .arg(&ground.postgres)
            .arg("--sockets")
            .arg(ground.path("sockets"))
            .args(["--port", &ground.port.to_string()])
            .arg("--repository")
            .arg(ground.path("pgctl-repository"))
            .arg("--state")
            .arg(ground.path("pgctl-state"))
            .uid(ground.user.uid.as_raw())
            .gid(ground.user.gid.as_raw())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("the archiver does not start")?;
        let said = answer(&mut child)?;
        ensure!(said == "ready", "the archiver says {said:?}");
        Ok(Some(child))
    }

    fn end(&self, _: &Ground, helpers: Helpers, peak: &'static str, samples: &mut Samples) -> Result<()> {
        let Some(mut child) = helpers else { return Ok(()) };
        if let Some(mib) = peak_mib(child.id()) {
            samples.add(peak, self.name(), mib);
        }
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        // Somebody may have waited for it already.
        let _ = child.wait();
        Ok(())
    }

    fn back_up(&self, _: &Ground, helpers: &mut Helpers) -> Result<()> {
        let child = helpers.as_mut().context("the archiver runs")?;
        let input = child.stdin.as_mut().context("it has a pipe")?;
        writeln!(input, "bench-{}", std::process::id())?;
        let said = answer(child)?;
        ensure!(said == "done", "the backup failed: {said}");
        Ok(())
    }

    fn restore(&self, ground: &Ground, into: &Path, samples: &mut Samples) -> Result<()> {
        let mut command = Command::new(binaries::ours("pgctl")?);
        command
            .args(["restore", "--to-immediate", "--config"])
            .arg(&self.config)
            .arg("--into")
            .arg(into)
            .uid(ground.user.uid.as_raw())
            .gid(ground.user.gid.as_raw())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.spawn()?;
        let mut peak = 0.0_f64;
        let status = loop {
            peak = peak.max(peak_mib(child.id()).unwrap_or(0.0));
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        ensure!(status.success(), "pgctl restore: {status}");
        samples.add("peak memory of a restore, MiB", self.name(), peak);
        Ok(())
    }
}

/// pgBackRest, archiving asynchronously.
pub struct PgBackRest {
    config: PathBuf,
}

impl PgBackRest {
    pub fn new(ground: &Ground) -> Result<PgBackRest> {
        let config = ground.path("pgbackrest.conf");
        let place = |name: &str| ground.path(name).display().to_string();
        let text = format!(
            "[global]\nrepo1-path={}\nrepo1-bundle=y\ncompress-type=zst\ncompress-level=3\narchive-async=y\n\
             spool-path={}\nlock-path={}\nlog-path={}\nlog-level-file=off\nlog-level-console=warn\nprocess-max=2\nstart-fast=y\n\
             [bench]\npg1-path={}\npg1-socket-path={}\npg1-port={}\npg1-user=postgres\n",
            place("backrest-repository"),
            place("backrest-spool"),
            place("backrest-lock"),
            place("backrest-log"),
            place("data"),
            place("sockets"),
            ground.port
        );
        fs::write(&config, text)?;
        Ok(PgBackRest { config })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("pgbackrest");
        command
            .arg(format!("--config={}", self.config.display()))
            .arg("--stanza=bench");
        command
    }
}

impl Contestant for PgBackRest {
    fn name(&self) -> &'static str {
        "pgBackRest"
    }

    fn archive_command(&self, _: &Ground) -> Result<String> {
        Ok(format!(
            "pgbackrest --config={} --stanza=bench archive-push %p",
            self.config.display()
        ))
    }

    fn prepare(&self, ground: &Ground, _: &Path) -> Result<()> {
        for name in [
            "backrest-repository",
            "backrest-spool",
            "backrest-lock",
            "backrest-log",
        ] {
            remove(&ground.path(name))?;
            ground.user.make_dir(&ground.path(name))?;
        }
        ground.run(self.command().args(["--no-online", "stanza-create"]))?;
        Ok(())
    }

    fn begin(&self, _: &Ground, _: &Path) -> Result<Helpers> {
        Ok(None)
    }

    fn end(&self, ground: &Ground, _: Helpers, _: &'static str, _: &mut Samples) -> Result<()> {
        // Its workers live on for a moment, and hold a lock.
        let begun = Instant::now();
        loop {
            crate::measure::reap();
            let locks = fs::read_dir(ground.path("backrest-lock"))?.count();
            if locks == 0 || begun.elapsed() > Duration::from_secs(15) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn back_up(&self, ground: &Ground, _: &mut Helpers) -> Result<()> {
        ground.run(self.command().args(["--type=full", "backup"]))?;
        Ok(())
    }

    fn restore(&self, ground: &Ground, into: &Path, _: &mut Samples) -> Result<()> {
        ground.user.make_dir(into)?;
        ground.run(
            self.command()
                .arg(format!("--pg1-path={}", into.display()))
                .args(["--type=immediate", "restore"]),
        )?;
        Ok(())
    }
}
