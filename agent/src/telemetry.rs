//! The agent's log.

use crate::config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Sends the log to standard error, where systemd picks it up. `level` is a level or tracing's directives.
///
/// # Errors
/// If the level is not understood.
pub fn start(log: &Log) -> Result<(), String> {
    // openraft tells of each step at `debug`, thousands of lines a second.
    let directives = format!(
        "openraft=warn,h2=warn,hyper=warn,tonic=warn,tower=warn,{}",
        log.level
    );
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("log.level: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    }
    .map_err(|error| format!("the log cannot be started: {error}"))
}
