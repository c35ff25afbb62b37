//! What the server is told to run for each file.

use crate::ports::WalCommands;
use std::path::{Path, PathBuf};

/// Where `pgctl-wal` asks the agent: beside the server's own socket, which the server's user can reach.
#[must_use]
pub fn socket_path(socket_dir: &Path, port: u16) -> PathBuf {
    socket_dir.join(format!(".pgctl-wal.{port}"))
}

/// What the server runs for its WAL. The helper lies beside the agent's own program.
///
/// # Errors
/// It is not there: nothing would ever be archived.
pub fn wal_commands(socket: &Path) -> Result<WalCommands, String> {
    let own = std::env::current_exe()
        .map_err(|error| format!("it is not known where the agent's program is: {error}"))?;
    let helper = own.with_file_name("pgctl-wal");
    if !helper.is_file() {
        return Err(format!(
            "{} is not there, and the server needs it to archive: install it beside the agent",
            helper.display()
        ));
    }
    let asks = |what: &str| format!("{} {} {what}", quoted(&helper), quoted(socket));
    Ok(WalCommands {
        push: asks("push %p"),
        follow: asks("get-or-stream %f %p"),
        exact: asks("get %f %p"),
        recover: asks("get-or-wait %f %p"),
    })
}

/// For the shell, and for the server, which takes `%` for the beginning of its own.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_themselves_to_the_shell_and_to_the_server() {
        assert_eq!(quoted(Path::new("/opt/a b")), "'/opt/a b'");
        assert_eq!(quoted(Path::new("/o'brien/%p")), r"'/o'\''brien/%%p'");
    }
}
