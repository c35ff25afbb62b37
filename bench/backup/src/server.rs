//! The server that is archived and copied: made once, and begun from the same copy by everybody.

use crate::archiver::socket;
use crate::contestants::{Contestant, PEAK_OF_A_BACKUP, PEAK_OF_A_DRAIN};
use crate::measure::{self, Samples, drained, user_seconds, waiting};
use anyhow::{Context, Result, bail, ensure};
use lab::OsUser;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Names under which everybody who does nothing is noted.
pub const NOTHING: &str = "nothing";
pub const FLOOR: &str = "floor";
pub const PLAIN: &str = "pg_basebackup";

/// Settings of the server, for all alike.
const SETTINGS: &str = "
listen_addresses = ''
archive_mode = on
archive_command = ''
wal_level = replica
max_wal_senders = 4
shared_buffers = 256MB
max_wal_size = 64GB
checkpoint_timeout = 1h
autovacuum = off
logging_collector = off
";

pub struct Ground {
    dir: tempfile::TempDir,
    pub postgres: PathBuf,
    pub user: OsUser,
    pub port: u16,
    pub segments: u64,
    pub data_bytes: u64,
}

impl Ground {
    /// Makes a server with so many segments that wait, and stops it.
    pub fn prepare(below: &Path, postgres: &Path, segments: u64, scale: u32) -> Result<Ground> {
        let user = OsUser::for_servers()?;
        let dir = tempfile::Builder::new()
            .prefix("pgctl-bench-")
            .tempdir_in(below)?;
        user.make_dir(dir.path())?;
        let mut ground = Ground {
            dir,
            postgres: postgres.to_owned(),
            user,
            port: 5999,
            segments: 0,
            data_bytes: 0,
        };
        ground.user.make_dir(&ground.path("sockets"))?;
        let (base, sockets) = (ground.path("base"), ground.path("sockets"));
        ground.run(
            Command::new(postgres.join("initdb"))
                .args(["-A", "trust", "-k", "-U", "postgres", "-D"])
                .arg(&base),
        )?;
        let own = format!(
            "{SETTINGS}unix_socket_directories = '{}'\nport = {}\n",
            sockets.display(),
            ground.port
        );
        ground.configure(&base, &own)?;
        ground.start(&base)?;
        let client = |program: &str| {
            let mut command = Command::new(postgres.join(program));
            command
                .arg("-h")
                .arg(&sockets)
                .args(["-p", &ground.port.to_string(), "-U", "postgres"]);
            command
        };
        let made = (|| {
            // A load, small transactions, an index: as they come in life.
            ground.run(client("pgbench").args(["-q", "-i", "-s", &scale.to_string(), "postgres"]))?;
            while waiting(&base) < segments {
                ground.run(client("pgbench").args(["-c", "4", "-j", "2", "-T", "5", "-n", "postgres"]))?;
                let sql =
                    "CREATE INDEX CONCURRENTLY IF NOT EXISTS bench_index ON pgbench_accounts (bid, abalance);
                    REINDEX INDEX bench_index; SELECT pg_switch_wal()";
                for one in sql.split(';') {
                    ground.run(client("psql").args(["-X", "-q", "-d", "postgres", "-c", one]))?;
                }
            }
            Ok(())
        })();
        ground.stop(&base)?;
        made.and(Ok::<_, anyhow::Error>(()))?;
        ground.segments = waiting(&base);
        ground.data_bytes = bytes_of(&base)? - bytes_of(&base.join("pg_wal"))?;
        Ok(ground)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, data: &Path, text: &str) -> Result<()> {
        let file = data.join("postgresql.auto.conf");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .context("postgresql.auto.conf")?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Runs a program to its end, as the servers' user.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        command
            .uid(self.user.uid.as_raw())
            .gid(self.user.gid.as_raw())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        let output = command.output().with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!(
                "{command:?}: {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn start(&self, data: &Path) -> Result<()> {
        let log = self.path("log");
        // Its output must not be our pipe, or reading that would never end.
        let mut command = Command::new(self.postgres.join("pg_ctl"));
        command
            .args(["-s", "-w", "-t", "300", "-l"])
            .arg(&log)
            .arg("-D")
            .arg(data)
            .arg("start");
        command
            .uid(self.user.uid.as_raw())
            .gid(self.user.gid.as_raw())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status()?;
        ensure!(
            status.success(),
            "the server does not start: {}",
            fs::read_to_string(&log).unwrap_or_default()
        );
        Ok(())
    }

    fn stop(&self, data: &Path) -> Result<()> {
        self.run(
            Command::new(self.postgres.join("pg_ctl"))
                .args(["-s", "-w", "-m", "fast", "-D"])
                .arg(data)
                .arg("stop"),
        )?;
        Ok(())
    }

    /// A copy of the server as it was made, with this `archive_command`.
    fn fresh(&self, archive_command: &str) -> Result<PathBuf> {
        let data = self.path("data");
        remove(&data)?;
        self.run(Command::new("cp").arg("-a").arg(self.path("base")).arg(&data))?;
        self.configure(
            &data,
            &format!("archive_command = '{}'\n", archive_command.replace('\'', "''")),
        )?;
        nix::unistd::sync();
        Ok(data)
    }

    /// What the server and its archiver take by themselves.
    pub fn drain_nothing(&self, samples: &mut Samples) -> Result<()> {
        let data = self.fresh("true")?;
        self.measured_drain(&data, NOTHING, samples)
    }

    /// With `pgctl-wal` and somebody who answers at once.
    pub fn drain_floor(&self, samples: &mut Samples) -> Result<()> {
        let path = socket(&self.path("sockets"));
        remove(&path)?;
        let listener = UnixListener::bind(&path)?;
        nix::unistd::chown(&path, Some(self.user.uid), Some(self.user.gid))?;
        std::thread::spawn(move || {
            // Ends with the program, or when nobody can ask any more.
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_ok() {
                    let _ = stream.write_all(b"ok\n");
                }
            }
        });
        let data = self.fresh(&self.push_command()?)?;
        self.measured_drain(&data, FLOOR, samples)?;
        remove(&path)
    }

    pub fn push_command(&self) -> Result<String> {
        let helper = lab::binaries::ours("pgctl-wal")?;
        let socket = socket(&self.path("sockets"));
        Ok(format!("'{}' '{}' push %p", helper.display(), socket.display()))
    }

    fn measured_drain(&self, data: &Path, name: &'static str, samples: &mut Samples) -> Result<()> {
        let before = user_seconds()?;
        let (all, begun) = (waiting(data), Instant::now());
        self.start(data)?;
        let rate = drained(data, all, begun);
        self.stop(data)?;
        samples.add("drain, segments a second", name, rate?);
        let user = user_seconds()? - before;
        samples.add(
            "user time a segment, ms",
            name,
            user * 1000.0 / self.segments as f64,
        );
        Ok(())
    }

    pub fn drain(&self, contestant: &dyn Contestant, samples: &mut Samples) -> Result<()> {
        let data = self.fresh(&contestant.archive_command(self)?)?;
        contestant.prepare(self, &data)?;
        nix::unistd::sync();
        let before = user_seconds()?;
        let helpers = contestant.begin(self, &data)?;
        let (all, begun) = (waiting(&data), Instant::now());
        self.start(&data)?;
        let rate = drained(&data, all, begun);
        self.stop(&data)?;
        contestant.end(self, helpers, PEAK_OF_A_DRAIN, samples)?;
        samples.add("drain, segments a second", contestant.name(), rate?);
        let user = user_seconds()? - before;
        samples.add(
            "user time a segment, ms",
            contestant.name(),
            user * 1000.0 / self.segments as f64,
        );
        Ok(())
    }

    /// Of the server whose backlog this contestant has drained.
    pub fn back_up_and_restore(&self, contestant: &dyn Contestant, samples: &mut Samples) -> Result<()> {
        let data = self.path("data");
        let mut helpers = contestant.begin(self, &data)?;
        self.start(&data)?;
        nix::unistd::sync();
        let begun = Instant::now();
        let backed_up = contestant.back_up(self, &mut helpers);
        let took = begun.elapsed();
        self.stop(&data)?;
        contestant.end(self, helpers, PEAK_OF_A_BACKUP, samples)?;
        backed_up?;
        self.speed(
            samples,
            "backup, MB a second",
            contestant.name(),
            took.as_secs_f64(),
        );
        let into = self.path("restored");
        remove(&into)?;
        remove(&data)?;
        nix::unistd::sync();
        let begun = Instant::now();
        contestant.restore(self, &into, samples)?;
        // What one has flushed by itself is flushed for the other.
        nix::unistd::sync();
        self.speed(
            samples,
            "restore, MB a second",
            contestant.name(),
            begun.elapsed().as_secs_f64(),
        );
        let restored = bytes_of(&into)?;
        ensure!(
            restored > self.data_bytes / 10 * 9,
            "only {restored} bytes were restored"
        );
        remove(&into)
    }

    /// `pg_basebackup` into a directory, compressed by itself, for comparison.
    pub fn plain_copy(&self, samples: &mut Samples) -> Result<()> {
        let data = self.fresh("true")?;
        let into = self.path("copied");
        remove(&into)?;
        self.start(&data)?;
        nix::unistd::sync();
        let begun = Instant::now();
        let copied = self.run(
            Command::new(self.postgres.join("pg_basebackup"))
                .args([
                    "-F",
                    "tar",
                    "-X",
                    "fetch",
                    "-c",
                    "fast",
                    "-Z",
                    "client-zstd:level=3",
                    "-D",
                ])
                .arg(&into)
                .arg("-h")
                .arg(self.path("sockets"))
                .args(["-p", &self.port.to_string(), "-U", "postgres"]),
        );
        let took = begun.elapsed();
        self.stop(&data)?;
        copied?;
        self.speed(samples, "backup, MB a second", PLAIN, took.as_secs_f64());
        remove(&into)
    }

    fn speed(&self, samples: &mut Samples, measure: &'static str, name: &'static str, seconds: f64) {
        samples.add(measure, name, self.data_bytes as f64 / 1e6 / seconds);
        measure::reap();
    }
}

pub fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() {
            bytes_of(&entry.path())?
        } else {
            about.len()
        };
    }
    Ok(bytes)
}
