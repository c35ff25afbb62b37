//! Being told to stop.

use anyhow::{Error, anyhow};
use tokio::signal::unix::{SignalKind, signal};

/// Comes back when this process is told to end, by Ctrl-C or SIGTERM, with an error that says so. To be awaited beside
/// the work, which is then dropped, and cleans up after itself as it does after a failure.
pub async fn interrupted() -> Error {
    let term = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            // Without the handler SIGTERM simply ends the process, and the kernel ends its children.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => anyhow!("interrupted"),
        _ = term => anyhow!("told to end"),
    }
}
