//! `pgctl-agent guard`: how the agent starts its guard, and what the guard is made of.

use crate::config::{Log, LogFormat};
use crate::fencing::guard::{self, Duties};
use crate::lease::clock;
use crate::postgres::TreeKiller;
use crate::telemetry;
use agent_core::sabotage::Rule;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// What a guard must know of its node: no configuration file, which may have been changed since the agent read it.
#[derive(Debug, Clone, Args)]
pub struct GuardArguments {
    /// The agent's state directory, for the guard's socket and lock
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The data directory whose server is to be ended
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The cluster's name
    #[arg(long)]
    pub cluster: String,
    /// The node's name
    #[arg(long)]
    pub node: String,
    /// As `log.level` of the configuration
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// As `log.format` of the configuration
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

impl GuardArguments {
    /// The arguments as a command line.
    #[must_use]
    pub fn as_command_line(&self) -> Vec<OsString> {
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let mut line: Vec<OsString> = vec!["guard".into()];
        for (name, value) in [
            ("--state-dir", self.state_dir.clone().into_os_string()),
            ("--data-dir", self.data_dir.clone().into_os_string()),
            ("--cluster", self.cluster.clone().into()),
            ("--node", self.node.clone().into()),
            ("--log-level", self.log_level.clone().into()),
            ("--log-format", format.into()),
        ] {
            line.push(name.into());
            line.push(value);
        }
        line
    }

    /// Runs the guard until nobody needs it.
    ///
    /// # Errors
    /// If another one is at work for this node, or its socket cannot be made.
    pub fn run(&self) -> anyhow::Result<()> {
        let log = Log {
            level: self.log_level.clone(),
            format: self.log_format,
        };
        telemetry::start(&log).map_err(anyhow::Error::msg)?;
        let killer = TreeKiller::of(&self.cluster, &self.node, &self.data_dir);
        let known = killer.clone();
        guard::run(&Duties {
            state_dir: self.state_dir.clone(),
            now: clock::read,
            look_up: Box::new(move || known.look_up()),
            kill: Box::new(move |deadline| match Rule::Guard.is_off() {
                true => Ok(0),
                false => killer.fence(deadline),
            }),
        })?;
        Ok(())
    }
}
