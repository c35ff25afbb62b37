//! Child processes that cannot outlive the run that made them.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result, anyhow};

/// Whether a child dies with this process, however this process ends (SIGKILL included), or lives on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    /// The kernel kills the child when this process ends.
    WithUs,
    /// The child lives on: for `make demo KEEP=1`.
    Own,
}

/// A command for `program`, to be completed by the caller and started with [`spawn`].
///
/// It will get no signals from the terminal (it has its own process group): whoever holds the lab decides when it
/// ends, in what order, and cleans up.
pub fn command(program: impl AsRef<OsStr>, lifetime: Lifetime) -> Command {
    let mut command = match lifetime {
        Lifetime::Own => Command::new(program),
        // `setpriv` sets the parent-death signal and becomes the program: no unsafe `pre_exec` needed.
        Lifetime::WithUs => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
    };
    command.process_group(0);
    command
}

/// Starts a command made by [`command`].
///
/// # Errors
/// The program cannot be started; the error names it.
pub fn spawn(command: Command) -> Result<Child> {
    let name = format!("{command:?}");
    let (answer, result) = channel();
    spawner()
        .send((command, answer))
        .map_err(|_| anyhow!("the lab's spawner thread died"))?;
    result
        .recv()
        .context("the lab's spawner thread died")?
        .with_context(|| format!("cannot start {name}; scripts/install-deps installs what the lab needs"))
}

type Job = (Command, Sender<std::io::Result<Child>>);

/// "Dies with its parent" means in Linux: with the *thread* that made it. Test threads and runtime workers come and
/// go, so one thread that lives as long as the process makes all children.
fn spawner() -> &'static Sender<Job> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nobody waits for the answer any more only if the caller's thread panicked: nothing to tell then.
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    })
}
