//! A program that runs on a host, seen from outside.

use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::DEADLINE;
use crate::condition::wait_until;
use crate::processes::{self, ProcessInfo};

/// A program started on a host.
#[derive(Debug)]
pub struct Program {
    name: String,
    /// The program's parent outside: it waits for it and passes its exit status on.
    nsenter: Arc<Mutex<Child>>,
}

impl Program {
    pub(crate) fn new(name: String, nsenter: Arc<Mutex<Child>>) -> Program {
        Program { name, nsenter }
    }

    fn parent(&self) -> i32 {
        lock(&self.nsenter).id() as i32
    }

    /// The program's own process id, outside; `None` once it has ended.
    pub fn pid(&self) -> Option<i32> {
        let child = processes::children_of(self.parent())
            .into_iter()
            .find(ProcessInfo::alive)?;
        Some(child.pid)
    }

    /// How the program ended; `None` while it runs.
    ///
    /// # Errors
    /// It is not ours to wait for (a bug of the lab).
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        lock(&self.nsenter)
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Sends a signal to the program itself (not to its children).
    ///
    /// # Errors
    /// The program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} is not running", self.name))?;
        processes::signal(pid, signal)?;
        if signal == Signal::SIGCONT || signal == Signal::SIGKILL {
            // nsenter stops itself along with its child, and must run again to reap it.
            processes::signal(self.parent(), Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Errors
    /// It still runs after the lab's general deadline.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let name = self.name.clone();
        let this = std::cell::RefCell::new(self);
        wait_until(&format!("{name} ends"), DEADLINE, || {
            let ended = this.borrow_mut().ended();
            async move { ended?.context("it still runs") }
        })
        .await
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
