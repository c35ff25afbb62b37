//! Faults of processes and machines.

use anyhow::{Context, Result, bail};
use lab::{Node, processes};
use nix::sys::signal::Signal;
use std::fs;

/// The guards of a node: processes beside the agent whose command line says so.
pub fn guards(node: &Node) -> Vec<i32> {
    let is_guard = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words
            .next()
            .is_some_and(|program| program.ends_with(b"pgctl-agent"))
            && words.any(|word| word == b"guard")
    };
    let processes = node.host().processes().into_iter();
    processes
        .filter(processes::ProcessInfo::alive)
        .map(|process| process.pid)
        .filter(is_guard)
        .collect()
}

/// Sends a signal to each guard of a node.
pub fn signal_guards(node: &Node, signal: Signal) -> Result<String> {
    let guards = guards(node);
    if guards.is_empty() {
        bail!("no guard runs on {}", node.name());
    }
    for pid in &guards {
        processes::signal(*pid, signal)?;
    }
    Ok(format!("{} of {}", guards.len(), node.name()))
}

/// Sends a signal to one process of the server, not the main one.
pub fn signal_backend(node: &Node, pick: u64, signal: Signal) -> Result<String> {
    let postmaster = node
        .postmaster_pid()
        .with_context(|| format!("no server runs on {}", node.name()))?;
    let mut children = processes::children_of(postmaster);
    children.retain(processes::ProcessInfo::alive);
    children.sort_by_key(|child| child.pid);
    if children.is_empty() {
        bail!("the server of {} has no other processes", node.name());
    }
    let chosen = &children[(pick % children.len() as u64) as usize];
    let title = fs::read_to_string(format!("/proc/{}/cmdline", chosen.pid)).unwrap_or_default();
    processes::signal(chosen.pid, signal)?;
    let title = title.trim_matches([' ', '\0']);
    Ok(format!(
        "{} on {}",
        title.trim_start_matches("postgres: "),
        node.name()
    ))
}
