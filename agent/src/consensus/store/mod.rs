//! What a node keeps on disk: its votes and its log, and one snapshot of the replicated state.
//!
//! It must never forget what it has acknowledged, for a voter that forgets may elect two leaders. Therefore:
//!
//! * **S-1** One durable write is one frame: length, checksums, one [`Batch`](proto::peer::Batch). It is appended and
//!   `fdatasync`ed before anything in it is acknowledged.
//! * **S-2** A frame that a crash has torn can only be the last one, and is recognised by what a crash leaves behind:
//!   the file ends inside it, or a disk sector of it was never written and reads as zeros. It is cut off, for nobody
//!   was told of it.
//! * **S-3** Every other damage makes the node refuse to start ([`OpenError::Damaged`]): what is damaged was
//!   acknowledged. Its peers have it all, so the way back is to join them anew.
//! * **S-4** After a failed write or `fdatasync` the store is dead until the agent restarts: the kernel may have
//!   dropped the very pages whose writing failed, and would call a second `fdatasync` a success.
//! * **S-5** Whole files are replaced by writing another, syncing it, renaming it and syncing the directory.
//!
//! All writing happens on one thread of its own, in order; nothing else in the agent waits for a disk because of it.

mod content;
mod directory;
mod frame;
mod log_store;
mod snapshot_file;
mod worker;

pub use content::LogContent;
pub(super) use directory::read as read_file;
pub use directory::{AppendFile, Directory, StateDir};
pub use log_store::LogStore;
pub use worker::{DiskHealth, DiskJobs, DiskWorker};

use std::io;
use std::path::PathBuf;

/// The file of the log in the state directory.
pub const LOG_FILE: &str = "raft.log";
/// The file of the snapshot in the state directory.
pub const SNAPSHOT_FILE: &str = "raft.snapshot";

/// How a node whose Raft state is unusable gets back into its cluster.
pub const RECOVERY: &str = "its peers have all that was agreed on: stop the agent, move the state directory aside, \
                            and start the agent again; it joins its cluster anew, under a fresh node number";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another agent ({holder}) uses the state directory {}: stop it, or give this one a directory of its own", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error(
        "{what} {path}: {source}; check the directory's owner, its permissions and the space left on its disk"
    )]
    Io {
        what: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("{path} is damaged at byte {offset}: {why}; {RECOVERY}")]
    Damaged { path: String, offset: u64, why: String },
    #[error("{path} has format {found}, and this agent reads format {known}: install a newer pgctl")]
    Newer { path: String, found: u8, known: u8 },
    #[error(
        "{path} belongs to the node {found}, and this agent is configured as {configured}: correct node.name or \
         node.state_dir"
    )]
    OtherNode {
        path: String,
        found: String,
        configured: String,
    },
    #[error("{path}: {why}; {RECOVERY}")]
    Incomplete { path: String, why: String },
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
