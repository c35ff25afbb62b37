//! A machine to switch on and off: PID, IPC and mount namespaces of its own, on request a network too.
//!
//! Its first process ("init") is a shell that reaps orphans, as a real init does. Killing it makes the kernel kill
//! every other process of the host at once: that is the power cut. The disk, a folder, stays.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::children::{self, Lifetime};
use crate::clock::Mono;
use crate::network::{End, Network, PortOfHost};
use crate::os_user::OsUser;
use crate::processes::{self, ProcessInfo};
use crate::program::{Program, lock};

/// What init runs. A private `/dev/shm` takes the server's shared memory with it when the power goes; `wait` reaps
/// adopted orphans while `sleep` keeps it from ever having nothing to wait for.
const INIT: &str = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm && echo up && exec >/dev/null && sleep infinity & \
                    wait";

/// A machine of the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    dir: PathBuf,
    lifetime: Lifetime,
    link: Option<(Arc<Network>, PortOfHost)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// `unshare`, which waits outside for init; init dies with it.
    unshare: Child,
    init: i32,
    /// The outside parent of each program that was started here.
    parents: Mutex<Vec<Arc<Mutex<Child>>>>,
}

impl Host {
    /// A host that is still switched off, with `dir` as its disk. With `link` it has a network of its own.
    pub(crate) fn new(
        name: &str,
        dir: &Path,
        lifetime: Lifetime,
        link: Option<(Arc<Network>, PortOfHost)>,
    ) -> Host {
        Host {
            name: name.to_owned(),
            dir: dir.to_owned(),
            lifetime,
            link,
            running: None,
        }
    }

    /// Its name: `n1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its disk.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Switches the host on; nothing runs on it yet. Does nothing if it is on.
    ///
    /// # Errors
    /// Namespaces cannot be made here (a container without privileges, a kernel that forbids them to users).
    pub async fn power_on(&mut self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        let mut command = children::command("unshare", self.lifetime);
        if !Uid::effective().is_root() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "--ipc",
        ]);
        if self.link.is_some() {
            command.arg("--net");
        }
        command
            .args(["sh", "-c", INIT])
            // To be seen in the process table: whose host is this?
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut unshare = children::spawn(command)?;
        let stdout = unshare.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot hear from the new host")?;
        if line.trim() != "up" {
            let heard = unshare
                .wait_with_output()
                .context("the new host's first process vanished")?;
            bail!(
                "cannot make namespaces for host {}: {}; the lab needs root, or a kernel that lets users make \
                 namespaces",
                self.name,
                String::from_utf8_lossy(&heard.stderr).trim()
            );
        }
        let unshare_pid = unshare.id() as i32;
        let init = processes::children_of(unshare_pid)
            .first()
            .map(|process| process.pid)
            .context("the new host has no init")?;
        self.running = Some(Running {
            unshare,
            init,
            parents: Mutex::default(),
        });
        if let Some((network, port)) = &self.link {
            network.plug_in(port, init)?;
        }
        Ok(())
    }

    /// Whether the host is switched on.
    pub fn is_on(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| ProcessInfo::read(running.init).is_some_and(|p| p.alive()))
    }

    /// Cuts the power: every process of the host is gone when this returns. The moment returned is the one just
    /// before the cut. Does nothing but tell the time if the host is off.
    ///
    /// # Errors
    /// The host's init cannot be killed (it is not ours any more: a bug of the lab).
    pub fn power_off(&mut self) -> Result<Mono> {
        let Some(mut running) = self.running.take() else {
            return Ok(Mono::now());
        };
        let at = Mono::now();
        if ProcessInfo::read(running.init).is_some() {
            processes::signal(running.init, Signal::SIGKILL)?;
        }
        for parent in lock(&running.parents).drain(..) {
            let mut parent = lock(&parent);
            // A parent stops itself along with a frozen child; it must run to reap it, and be reaped itself.
            if let Ok(None) = parent.try_wait() {
                processes::signal(parent.id() as i32, Signal::SIGCONT)?;
                parent
                    .wait()
                    .with_context(|| format!("cannot wait for programs of host {}", self.name))?;
            }
        }
        // Init can be reaped only after the kernel has ended everything else in its namespace.
        running
            .unshare
            .wait()
            .with_context(|| format!("cannot wait for the end of host {}", self.name))?;
        Ok(at)
    }

    /// The process whose end cuts the power; for a note on how to end a host that outlives us.
    pub fn power_button(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.unshare.id())
    }

    /// Starts a program on the host, as `user`, with its output appended to `log`.
    ///
    /// # Errors
    /// The host is off, or the log cannot be written.
    pub fn run(&self, user: &OsUser, log: &Path, program: &Path, args: &[&str]) -> Result<Program> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.enter(user, self.lifetime)?;
        command
            .arg(program)
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null());
        command
            .stdout(output.try_clone().context("cannot share the log")?)
            .stderr(output);
        let nsenter = Arc::new(Mutex::new(children::spawn(command)?));
        if let Some(running) = &self.running {
            lock(&running.parents).push(Arc::clone(&nsenter));
        }
        Ok(Program::new(program.display().to_string(), nsenter))
    }

    /// Runs a program on the host to its end and returns its standard output.
    ///
    /// # Errors
    /// The host is off, or the program fails; the error holds what it printed.
    pub fn output(&self, user: &OsUser, program: &Path, args: &[&str]) -> Result<String> {
        let mut command = self.enter(user, Lifetime::WithUs)?;
        command
            .arg(program)
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let done = children::spawn(command)?.wait_with_output();
        let done = done.with_context(|| format!("cannot wait for {}", program.display()))?;
        if !done.status.success() {
            bail!(
                "{} {}: {}",
                program.display(),
                args.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn enter(&self, user: &OsUser, lifetime: Lifetime) -> Result<Command> {
        let Some(running) = &self.running else {
            bail!("host {} is off; switch it on first", self.name)
        };
        let mut command = children::command("nsenter", lifetime);
        command
            .arg("--target")
            .arg(running.init.to_string())
            .args(["--pid", "--mount", "--ipc"]);
        if self.link.is_some() {
            command.arg("--net");
        }
        if !Uid::effective().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--");
        if Uid::effective().is_root() && user.uid != Uid::current() {
            let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
            command.args(["setpriv", "--reuid", &uid, "--regid", &gid, "--init-groups"]);
            if self.link.is_some() {
                // Its network is its own, so it may make rules there, as an agent under systemd may.
                command.args(["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]);
            }
            command.arg("--");
        }
        Ok(command)
    }

    /// Every process of the host, init included; empty if it is off.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        self.running
            .as_ref()
            .map(|running| processes::in_namespace_of(running.init))
            .unwrap_or_default()
    }

    /// The outer process id of what the host itself calls `inner_pid`.
    pub fn outer_pid(&self, inner_pid: i32) -> Option<i32> {
        self.processes()
            .into_iter()
            .find(|process| process.inner_pid == inner_pid)
            .map(|process| process.pid)
    }

    /// The running server of a data directory on this host, by its `postmaster.pid`: its outer process id.
    pub fn postmaster_pid(&self, data_dir: &Path) -> Option<i32> {
        let file = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
        let inner: i32 = file.lines().next()?.trim().parse().ok()?;
        let process = self
            .processes()
            .into_iter()
            .find(|process| process.inner_pid == inner)?;
        // A stale file may name a process that is something else by now.
        (process.alive() && process.name.starts_with("postgres")).then_some(process.pid)
    }

    /// Stops every process of the host but init, as a hypervisor's pause would (the clock runs on).
    ///
    /// # Errors
    /// The host is off.
    pub fn freeze(&self) -> Result<Mono> {
        let at = Mono::now();
        self.signal_all(Signal::SIGSTOP)?;
        Ok(at)
    }

    /// Lets every process of the host go on.
    ///
    /// # Errors
    /// The host is off.
    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        let Some(running) = &self.running else {
            bail!("host {} is off", self.name)
        };
        for process in self.processes() {
            if process.pid != running.init && process.alive() {
                // It may end by itself between the listing and the signal.
                let _ = processes::signal(process.pid, signal);
            }
        }
        Ok(())
    }

    /// The address at which this host listens: its own, or loopback.
    pub fn ip(&self) -> Ipv4Addr {
        self.link
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |(_, port)| port.address)
    }

    /// This host as an end of a cut.
    ///
    /// # Errors
    /// It has no network of its own.
    pub fn end(&self) -> Result<End> {
        match &self.link {
            Some((_, port)) => Ok(End::Host(port.clone())),
            None => bail!(
                "{} has no network of its own; make the lab with Lab::with_hosts()",
                self.name
            ),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::WithUs
            && let Err(e) = self.power_off()
        {
            eprintln!("lab: {e:#}");
        }
    }
}
