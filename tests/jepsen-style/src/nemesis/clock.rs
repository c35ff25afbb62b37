//! Wall clocks of agents that jump. (Their servers start with a clean environment, and keep the true time.)

use anyhow::{Context, Result, bail};
use lab::{Cluster, Node};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = include_str!("shifted_clock.c");

/// How far clocks jump, in seconds: a little, an hour, years; both ways.
const JUMPS_S: [i64; 6] = [-2, 2, -3_600, 3_600, -200_000_000, 200_000_000];

/// Whether the nodes of a cluster have clocks that can be shifted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    there: bool,
}

impl Clocks {
    /// Prepares every node of a cluster that was not started yet.
    ///
    /// # Errors
    /// There is no C compiler (`cc`) on this machine.
    pub fn prepare(cluster: &mut Cluster) -> Result<Clocks> {
        let dir = cluster.lab().dir().to_owned();
        let (source, library) = (dir.join("shifted_clock.c"), dir.join("shifted_clock.so"));
        fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", source.display()))?;
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .args([&library, &source])
            .output()
            .context("cannot run cc")?;
        if !done.status.success() {
            bail!(
                "cc {}: {}",
                source.display(),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        let names: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect();
        for name in names {
            let node = cluster.node_mut(&name);
            let clock = clock_of(node).display().to_string();
            node.agent_env = vec![
                ("LD_PRELOAD".to_owned(), library.display().to_string()),
                ("PGCTL_JEPSEN_CLOCK".to_owned(), clock),
            ];
        }
        Ok(Clocks { there: true })
    }

    /// Whether they can.
    pub fn are_there(self) -> bool {
        self.there
    }

    /// Lets the clock of a node jump. Returns whose, and how far.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn shift(self, node: &Node, pick: u64) -> Result<String> {
        let jump = JUMPS_S[(pick % JUMPS_S.len() as u64) as usize];
        self.set(node, jump)?;
        Ok(format!("{}, {jump:+} s", node.name()))
    }

    /// Gives a node the true time back.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn set_right(self, node: &Node) -> Result<()> {
        self.set(node, 0)
    }

    fn set(self, node: &Node, offset_s: i64) -> Result<()> {
        if !self.there {
            return Ok(());
        }
        let clock = clock_of(node);
        // Beside it and then in its place: an agent that reads at this moment sees the old or the new one.
        let new = clock.with_extension("new");
        fs::write(&new, offset_s.to_string()).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &clock).with_context(|| format!("cannot write {}", clock.display()))
    }
}

fn clock_of(node: &Node) -> PathBuf {
    node.host().dir().join("clock")
}
