//! The configuration of one node: a TOML file, and environment variables over it.
//!
//! [`load`] reads, checks everything, and touches nothing: no directory is made, no port opened. What is wrong is told
//! all at once. Settings of the whole cluster live in the replicated state instead; `[bootstrap]` only says what they
//! are at its creation.

mod archive;
mod build;
mod contradictions;
mod dump;
mod fencing;
mod keys;
mod model;
mod nearest;
mod problem;
mod reader;
mod reference;

#[cfg(test)]
mod odd_text_tests;
#[cfg(test)]
mod tests;

pub use fencing::is_secret;
pub use model::{
    Cluster, ClusterMember, FenceDevice, FenceMethod, FencePolicy, Fencing, HostPort, HttpCall, Listener,
    Log, LogFormat, Node, NodeConfig, Postgres,
};
pub use nearest::nearest;
pub use problem::{ConfigError, Problem};
pub use reference::reference;

use reader::Reader;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A valid configuration, and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: NodeConfig,
    /// What is allowed and probably not meant; for the log and for `--check-config`.
    pub warnings: Vec<String>,
    origins: BTreeMap<String, String>,
}

impl Loaded {
    /// The effective configuration as TOML, each value with where it came from: what `--dump-config` prints. It is a
    /// valid configuration file itself.
    #[must_use]
    pub fn dump(&self) -> String {
        dump::dump(&self.config, &self.origins)
    }

    /// What `--check-config` prints of a valid configuration: the warnings, and the arithmetic of the timing.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut lines = vec![format!("the configuration of {} is valid", self.config.node.name)];
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        for check in self.config.bootstrap.timing.check() {
            lines.push(format!("timing: {}: {}", check.rule, check.arithmetic));
        }
        if self.config.fencing.watchdog != FencePolicy::Off {
            let timeout = self.config.fencing.watchdog_timeout_s;
            for check in self.config.bootstrap.timing.watchdog_check(timeout) {
                lines.push(format!("watchdog: {}: {}", check.rule, check.arithmetic));
            }
        }
        lines.join("\n")
    }
}

/// Reads the file at `path`, with `environment` over it: `PGCTL_NODE__NAME` stands for `node.name`.
///
/// # Errors
/// The file cannot be read, or everything that is wrong in it; a program should end with [`ConfigError::EXIT_CODE`].
pub fn load(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        file: file.clone(),
        error,
    })?;
    let mut loaded = parse(&file, &text, environment)?;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 && !loaded.config.fencing.devices.is_empty() {
        loaded.warnings.push(format!(
            "everybody on this host can read {file}, and it may hold the passwords of fence devices: chmod 600 it"
        ));
    }
    Ok(loaded)
}

/// The same with the file's content at hand; `file` is its name, for messages.
///
/// # Errors
/// Everything that is wrong in it.
pub fn parse(
    file: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut reader = Reader::new(file, text, environment)?;
    let built = build::build(&mut reader);
    let (problems, origins) = reader.finish();
    match built {
        Some((config, warnings)) if problems.is_empty() => Ok(Loaded {
            config,
            warnings,
            origins,
        }),
        _ => Err(ConfigError::Invalid { problems }),
    }
}

/// This process's environment, without what is not UTF-8.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
