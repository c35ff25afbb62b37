//! What the driver must know of the data directory after a restart: on whose line the data is, and whether a rewind was
//! left half done. Kept in the agent's state directory, beside the data and not in it, so that no copy inherits it.

use crate::durable;
use agent_core::ids::Epoch;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The content of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Marks {
    /// The data lies on the line of this epoch's holder.
    pub lineage: Option<Epoch>,
    /// A rewind or a copy was begun and has not ended.
    pub broken: bool,
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct MarksFile {
    path: PathBuf,
}

impl MarksFile {
    pub(super) fn new(state_dir: &Path) -> MarksFile {
        MarksFile {
            path: state_dir.join("data-marks.json"),
        }
    }

    /// What it says. A file that cannot be read says nothing, which costs a comparison with the primary and no more;
    /// but a half-done rewind would be forgotten, so damage counts as one.
    pub(super) fn load(&self) -> Marks {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or(Marks {
                lineage: None,
                broken: true,
            }),
            Err(_) => Marks::default(),
        }
    }

    pub(super) fn store(&self, marks: Marks) -> io::Result<()> {
        durable::replace(&self.path, &serde_json::to_vec(&marks)?)
    }
}
