//! What a real server makes of the exit codes of `pgctl-wal`: the rules that it keeps are true of the server.
//!
//! A recovery that is told "not there" ends, and the server becomes writable; one that is told anything else must stop. A
//! standby that follows must never be stopped by its archive. An archiver that is told "no" must live on and count it.

use anyhow::{Context, Result, ensure};
use lab::{DEADLINE, Host, Lab, OsUser, binaries, sql, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What the agent in this test says.
#[derive(Default)]
struct Script {
    /// Segments and histories that it has.
    files: BTreeMap<String, Vec<u8>>,
    /// Names to which it answers with trouble.
    trouble: Vec<String>,
    /// Whether a push succeeds.
    takes: bool,
}

/// An agent that answers `pgctl-wal` from a script.
fn agent(socket: &Path, script: Arc<Mutex<Script>>) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut question = String::new();
            if BufReader::new(&stream).read_line(&mut question).is_err() {
                continue;
            }
            let script = script.lock().expect("not poisoned");
            let words: Vec<&str> = question.split_whitespace().collect();
            let answer = match words.as_slice() {
                ["push", path] => {
                    let name = path.rsplit('/').next().unwrap_or_default();
                    if script.takes && !script.trouble.iter().any(|it| it == name) {
                        b"ok\n".to_vec()
                    } else {
                        b"repository main: no answer\n".to_vec()
                    }
                }
                [_, name] if script.trouble.iter().any(|it| it == name) => {
                    b"repository main: no answer\n".to_vec()
                }
                [_, name] => match script.files.get(*name) {
                    Some(content) => [format!("content {}\n", content.len()).as_bytes(), content].concat(),
                    None => b"absent\n".to_vec(),
                },
                _ => b"what?\n".to_vec(),
            };
            // Whoever asked may be gone.
            let _ = (&stream).write_all(&answer);
        }
    });
    Ok(())
}

/// One server that no agent of ours looks after.
struct Plain {
    host: Host,
    user: OsUser,
    bin_dir: PathBuf,
    data: PathBuf,
    address: SocketAddr,
}

impl Plain {
    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.host.output(&self.user, &self.bin_dir.join(program), args)
    }

    fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let mut text = fs::read_to_string(self.data.join("postgresql.conf"))?;
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(self.data.join("postgresql.conf"), text)?;
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    fn start(&self) -> Result<()> {
        let (data, log) = (
            self.data.display().to_string(),
            self.data.with_extension("log").display().to_string(),
        );
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-W", "start"])
            .map(drop)
    }

    fn stop(&self, mode: &str) {
        // It may have stopped by itself: that is what some cases are about.
        let _ = self.run(
            "pg_ctl",
            &["-D", &self.data.display().to_string(), "-m", mode, "stop"],
        );
    }

    fn runs(&self) -> bool {
        self.host.postmaster_pid(&self.data).is_some()
    }

    async fn value(&self, query: &str) -> Result<String> {
        sql::value(self.address, query).await
    }
}

struct Bench {
    plain: Plain,
    /// The data directory as it was backed up.
    copy: PathBuf,
    socket: PathBuf,
    helper: PathBuf,
    script: Arc<Mutex<Script>>,
    /// The archived segments, oldest first; the last one has the last rows.
    segments: Vec<String>,
}

const ROWS: &str = "SELECT count(*) FROM rows";

impl Bench {
    /// A server that has archived 3 segments with 1,000 rows each since its backup was taken.
    async fn new(lab: &Lab, bin_dir: PathBuf, name: &str) -> Result<Bench> {
        let mut host = lab.host(name)?;
        host.power_on().await?;
        let user = lab.servers_run_as().clone();
        let home = host.dir().join("home");
        user.make_dir(&home)?;
        let plain = Plain {
            address: SocketAddr::new(host.ip().into(), lab.port_for(5432)?),
            data: home.join("data"),
            host,
            user,
            bin_dir,
        };
        let (data, archived) = (plain.data.display().to_string(), home.join("archived"));
        plain.run(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "--no-instructions",
            ],
        )?;
        fs::write(
            plain.data.join("pg_hba.conf"),
            "local all all trust\nlocal replication all trust\nhost all all all trust\n",
        )?;
        plain.user.make_dir(&archived)?;
        plain.configure(&[
            ("listen_addresses", &plain.address.ip().to_string()),
            ("port", &plain.address.port().to_string()),
            ("unix_socket_directories", &home.display().to_string()),
            ("archive_mode", "on"),
            ("archive_command", &format!("cp %p {}/%f", archived.display())),
            ("fsync", "off"),
        ])?;
        plain.start()?;
        let (address, copy) = (plain.address, home.join("copy"));
        wait_until("the server answers", DEADLINE, || async {
            sql::value(address, "SELECT 1").await
        })
        .await?;
        let (socket_dir, port) = (home.display().to_string(), address.port().to_string());
        let copy_text = copy.display().to_string();
        plain.run(
            "pg_basebackup",
            &[
                "-U",
                "postgres",
                "-h",
                &socket_dir,
                "-p",
                &port,
                "-D",
                &copy_text,
                "-X",
                "none",
                "--no-manifest",
                "-c",
                "fast",
            ],
        )?;
        sql::query(address, "CREATE TABLE rows AS SELECT 1 AS n LIMIT 0").await?;
        for _ in 0..3 {
            sql::query(
                address,
                "INSERT INTO rows SELECT g FROM generate_series(1, 1000) g",
            )
            .await?;
            sql::query(address, "SELECT pg_switch_wal()").await?;
        }
        wait_until("all is archived", DEADLINE, || async {
            let waiting = sql::value(
                address,
                "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
            )
            .await?;
            ensure!(waiting == "0", "{waiting} files wait");
            Ok(())
        })
        .await?;
        plain.stop("fast");
        fs::remove_dir_all(&plain.data)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&archived)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(entry.path())?);
        }
        let segments: Vec<String> = files.keys().filter(|name| name.len() == 24).cloned().collect();
        ensure!(segments.len() >= 3, "{segments:?}");
        let script = Arc::new(Mutex::new(Script {
            files,
            takes: true,
            ..Script::default()
        }));
        let socket = home.join("s");
        agent(&socket, Arc::clone(&script))?;
        Ok(Bench {
            plain,
            copy,
            socket,
            helper: binaries::ours("pgctl-wal")?,
            script,
            segments,
        })
    }

    /// Puts the backup in place, to recover with `verb`, and starts it.
    fn recover(&self, signal: &str, verb: &str, more: &[(&str, &str)]) -> Result<()> {
        self.plain.stop("immediate");
        if self.plain.data.exists() {
            fs::remove_dir_all(&self.plain.data)?;
        }
        let _ = fs::remove_file(self.plain.data.with_extension("log"));
        let (from, to) = (
            self.copy.display().to_string(),
            self.plain.data.display().to_string(),
        );
        self.plain
            .host
            .output(&self.plain.user, Path::new("cp"), &["-a", &from, &to])?;
        let restore = format!("{} {} {verb} %f %p", self.helper.display(), self.socket.display());
        self.plain
            .configure(&[("archive_mode", "off"), ("restore_command", &restore)])?;
        self.plain.configure(more)?;
        fs::write(self.plain.data.join(signal), "")?;
        self.plain.start()
    }

    async fn ends_with(&self, rows: &str) -> Result<()> {
        let reached = wait_until("recovery has ended", DEADLINE, || async {
            ensure!(
                self.plain.value("SELECT pg_is_in_recovery()").await? == "f",
                "in recovery"
            );
            Ok(())
        })
        .await;
        reached.with_context(|| self.plain.log())?;
        let found = self.plain.value(ROWS).await?;
        ensure!(found == rows, "{found} rows: {}", self.plain.log());
        Ok(())
    }

    async fn stops(&self) -> Result<()> {
        let stopped = wait_until("the server has stopped", DEADLINE, || async {
            ensure!(!self.plain.runs(), "it runs");
            ensure!(self.plain.log().contains("FATAL"), "it has not said why");
            Ok(())
        })
        .await;
        stopped.with_context(|| self.plain.log())?;
        ensure!(
            self.plain.data.join("recovery.signal").exists(),
            "the recovery was ended: {}",
            self.plain.log()
        );
        Ok(())
    }

    fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().expect("not poisoned"));
    }
}

async fn matrix(lab: &Lab, bin_dir: PathBuf, name: &str) -> Result<()> {
    let bench = Bench::new(lab, bin_dir, name).await?;
    let last = bench.segments[bench.segments.len() - 1].clone();
    let middle = bench.segments[bench.segments.len() - 2].clone();

    // All that there is, and then "absent": recovery ends there.
    bench.recover("recovery.signal", "get", &[])?;
    bench.ends_with("3000").await?;

    // Trouble with a segment that is there: the server stops, and goes on once the trouble is over.
    bench.script(|script| script.trouble = vec![middle.clone()]);
    bench.recover("recovery.signal", "get", &[])?;
    bench.stops().await?;
    bench.script(|script| script.trouble.clear());
    bench.plain.start()?;
    bench.ends_with("3000").await?;

    // With 1 instead, as other tools end for an outage, the server is promoted without its rows: why 200 is needed.
    bench.script(|script| script.trouble = vec![last.clone()]);
    bench.recover("recovery.signal", "get-or-stream", &[])?;
    bench.ends_with("2000").await?;

    // No agent at all: the same as trouble.
    let nobody = format!(
        "{} {} get %f %p",
        bench.helper.display(),
        bench.socket.with_extension("gone").display()
    );
    bench.recover("recovery.signal", "get", &[("restore_command", &nobody)])?;
    bench.stops().await?;

    // A mistake in the command line.
    let mistaken = format!("{} {} get %f", bench.helper.display(), bench.socket.display());
    bench.recover("recovery.signal", "get", &[("restore_command", &mistaken)])?;
    bench.stops().await?;

    // A target that is not reached ends in an error whatever the code was.
    bench.script(|script| script.trouble = vec![last.clone()]);
    bench.recover(
        "recovery.signal",
        "get-or-stream",
        &[("recovery_target_time", "2100-01-01 00:00:00+00")],
    )?;
    bench.stops().await?;

    // A standby goes on through all trouble, and takes the segment when that is over.
    bench.recover(
        "standby.signal",
        "get-or-stream",
        &[("wal_retrieve_retry_interval", "100ms")],
    )?;
    let reached = |rows: &'static str| {
        let bench = &bench;
        async move {
            let seen = wait_until("the standby has the rows", DEADLINE, || async {
                let found = bench.plain.value(ROWS).await?;
                ensure!(found == rows, "{found}");
                Ok(())
            })
            .await;
            seen.with_context(|| bench.plain.log())
        }
    };
    reached("2000").await?;
    ensure!(
        bench.plain.value("SELECT pg_is_in_recovery()").await? == "t",
        "it was promoted"
    );
    bench.script(|script| script.trouble.clear());
    reached("3000").await?;
    ensure!(
        bench.plain.value("SELECT pg_is_in_recovery()").await? == "t",
        "it was promoted"
    );

    // 200 takes a standby down: why it is never given to one.
    bench.script(|script| script.trouble = vec![last.clone()]);
    bench.recover(
        "standby.signal",
        "get",
        &[("wal_retrieve_retry_interval", "100ms")],
    )?;
    let down = wait_until("the standby is down", DEADLINE, || async {
        ensure!(!bench.plain.runs(), "it runs");
        Ok(())
    })
    .await;
    down.with_context(|| bench.plain.log())?;

    pushes(&bench).await?;
    bench.plain.stop("fast");
    Ok(())
}

/// The archiver's half.
async fn pushes(bench: &Bench) -> Result<()> {
    bench.script(|script| {
        script.trouble.clear();
        script.takes = false;
    });
    let push = format!("{} {} push %p", bench.helper.display(), bench.socket.display());
    bench.recover(
        "recovery.signal",
        "get",
        &[("archive_mode", "on"), ("archive_command", &push)],
    )?;
    bench.ends_with("3000").await?;
    let plain = &bench.plain;
    plain.value("SELECT pg_switch_wal()").await?;
    wait_until("the refusal is counted", DEADLINE, || async {
        let failed: u64 = plain
            .value("SELECT failed_count FROM pg_stat_archiver")
            .await?
            .parse()?;
        ensure!(failed >= 1, "not counted");
        Ok(())
    })
    .await?;
    let archiver = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'";
    let before = plain.value(archiver).await?;
    bench.script(|script| script.takes = true);
    wait_until("all is archived once it is taken", DEADLINE, || async {
        let waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let waiting = plain.value(waiting).await?;
        ensure!(waiting == "0", "{waiting} files wait");
        Ok(())
    })
    .await
    .with_context(|| plain.log())?;
    ensure!(
        plain.value(archiver).await? == before,
        "the archiver died of a refusal"
    );
    // A helper that is not there ends with 127, which nobody counts: that is why waiting files are looked at instead.
    let counted = plain.value("SELECT failed_count FROM pg_stat_archiver").await?;
    let missing = format!(
        "{}.gone {} push %p",
        bench.helper.display(),
        bench.socket.display()
    );
    sql::query(
        plain.address,
        &format!("ALTER SYSTEM SET archive_command = '{missing}'"),
    )
    .await?;
    plain.value("SELECT pg_reload_conf()").await?;
    plain.value("SELECT pg_switch_wal()").await?;
    wait_until("the archiver has died of it", DEADLINE, || async {
        ensure!(plain.log().contains("127"), "not yet");
        Ok(())
    })
    .await
    .with_context(|| plain.log())?;
    let now = plain.value("SELECT failed_count FROM pg_stat_archiver").await?;
    ensure!(now == counted, "it is counted after all: {counted}, {now}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_codes_do_to_a_server_what_they_are_for() -> Result<()> {
    let lab = Lab::new()?;
    for (index, bin_dir) in binaries::postgres_bin_dirs()?.into_iter().enumerate() {
        matrix(&lab, bin_dir.clone(), &format!("plain{index}"))
            .await
            .with_context(|| bin_dir.display().to_string())?;
    }
    Ok(())
}
