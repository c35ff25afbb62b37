//! What the driver must know of the data directory after a restart: on whose line the data is, and whether a rewind was
//! left half done. Kept in the agent's state directory, beside the data and not in it, so that no copy inherits it.

use crate::durable;
use crate::sealed::{self, Sealed};
use agent_core::ids::Epoch;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The content of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

    /// What it says; where there is none, nothing was marked. Damage counts as a half-done rewind, which would be
    /// forgotten otherwise.
    pub(super) fn load(&self) -> Marks {
        match fs::read(&self.path) {
            Ok(bytes) => read(&bytes).unwrap_or(DAMAGED),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Marks::default(),
            Err(_) => DAMAGED,
        }
    }

    pub(super) fn store(&self, marks: Marks) -> io::Result<()> {
        durable::replace(
            &self.path,
            sealed::seal(&serde_json::to_string(&marks)?).as_bytes(),
        )
    }
}

const DAMAGED: Marks = Marks {
    lineage: None,
    broken: true,
};

fn read(bytes: &[u8]) -> Option<Marks> {
    match sealed::open(bytes) {
        Sealed::Whole(text) => serde_json::from_str(text).ok(),
        // By an agent that knew no seal. Not to know the lineage costs a comparison with the primary and no more.
        Sealed::Plain(bytes) => serde_json::from_slice(bytes).ok().map(|marks: Marks| Marks {
            lineage: None,
            ..marks
        }),
        Sealed::Damaged => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks() -> impl Strategy<Value = Marks> {
        (proptest::option::of(any::<u64>()), any::<bool>()).prop_map(|(lineage, broken)| Marks {
            lineage: lineage.map(Epoch),
            broken,
        })
    }

    #[test]
    fn marks_are_read_as_they_were_written_and_without_a_file_there_are_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = MarksFile::new(dir.path());
        assert_eq!(file.load(), Marks::default());
        let marks = Marks {
            lineage: Some(Epoch(7)),
            broken: false,
        };
        file.store(marks).expect("written");
        assert_eq!(file.load(), marks);
    }

    #[test]
    fn a_flipped_bit_in_the_name_of_a_mark_does_not_take_the_mark_away() {
        let written = Marks {
            lineage: Some(Epoch(7)),
            broken: true,
        };
        let plain = serde_json::to_vec(&written).expect("plain data");
        let sealed = sealed::seal(std::str::from_utf8(&plain).expect("text")).into_bytes();
        for good in [plain, sealed] {
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    let found = read(&bad).unwrap_or(DAMAGED);
                    assert!(found.broken, "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_counts_as_a_rewind_under_way() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = MarksFile::new(dir.path());
        fs::create_dir(&file.path).expect("a folder in the place of the file");
        assert_eq!(file.load(), DAMAGED);
    }

    #[test]
    fn marks_of_an_agent_that_knew_no_seal_are_read() {
        let found = read(br#"{"lineage":3,"broken":true}"#).expect("read");
        assert!(found.broken);
        let found = read(br#"{"lineage":3,"broken":false}"#).expect("read");
        assert_eq!(found, Marks::default());
    }

    proptest! {
        #[test]
        fn damage_is_never_read_as_all_is_well(
            (written, found) in marks().prop_flat_map(|marks| {
                let text = serde_json::to_string(&marks).expect("plain data");
                (Just(marks), mangled::bytes(sealed::seal(&text).as_bytes()))
            }),
        ) {
            let found = read(&found).unwrap_or(DAMAGED);
            prop_assert!(found.broken || found == written || (found == Marks::default() && !written.broken));
        }

        #[test]
        fn rubbish_counts_as_a_rewind_under_way(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(read(&bytes).unwrap_or(DAMAGED), DAMAGED);
        }
    }
}
