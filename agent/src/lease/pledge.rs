//! What a voter must not forget: its pledge, and how long its promises may be. One small file, written whole.

use crate::durable;
use agent_core::ids::Epoch;
use crc32c::crc32c;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAGIC: [u8; 8] = *b"pgPledg1";
const LENGTH: usize = 8 + 8 + 8 + 4;

/// The content of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pledge {
    /// No epoch below this one is supported.
    pub epoch: Epoch,
    /// No promise longer than this is given.
    pub promise_limit: Duration,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PledgeError {
    /// The operating system refused.
    #[error(
        "could not {doing} the pledge file {path}: {source}; free space, or mend the disk and its permissions"
    )]
    File {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The content is not what was written.
    #[error(
        "the pledge file {path} is damaged: this node may have promised things that it no longer knows of; \
         stop its agent, move its state_dir away, and start it again, so that it joins with a fresh identity"
    )]
    Damaged { path: PathBuf },
}

/// The file.
#[derive(Debug, Clone)]
pub struct PledgeFile {
    path: PathBuf,
}

impl PledgeFile {
    /// The file in the agent's state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> PledgeFile {
        PledgeFile {
            path: state_dir.join("pledge"),
        }
    }

    /// What it says; the default if there is none yet.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn load(&self) -> Result<Pledge, PledgeError> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut file) => file
                .read_to_end(&mut bytes)
                .map_err(|source| self.file("read", source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pledge::default()),
            Err(source) => return Err(self.file("open", source)),
        };
        let damaged = || PledgeError::Damaged {
            path: self.path.clone(),
        };
        if bytes.len() != LENGTH || bytes[..8] != MAGIC {
            return Err(damaged());
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        let mut sum = [0; 4];
        sum.copy_from_slice(&bytes[LENGTH - 4..]);
        if u32::from_be_bytes(sum) != crc32c(&bytes[..LENGTH - 4]) {
            return Err(damaged());
        }
        Ok(Pledge {
            epoch: Epoch(word(8)),
            promise_limit: Duration::from_millis(word(16)),
        })
    }

    /// Replaces it; durable on return.
    ///
    /// # Errors
    /// If it cannot be written; the old content then stands, or the new.
    pub fn store(&self, pledge: Pledge) -> Result<(), PledgeError> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&pledge.epoch.0.to_be_bytes());
        let limit = u64::try_from(pledge.promise_limit.as_millis()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&limit.to_be_bytes());
        bytes.extend_from_slice(&crc32c(&bytes).to_be_bytes());
        durable::replace(&self.path, &bytes).map_err(|source| self.file("write", source))
    }

    fn file(&self, doing: &'static str, source: io::Error) -> PledgeError {
        PledgeError::File {
            doing,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn it_is_read_as_it_was_written_and_its_absence_is_no_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = PledgeFile::new(dir.path());
        assert_eq!(file.load().expect("absent"), Pledge::default());
        let pledge = Pledge {
            epoch: Epoch(9),
            promise_limit: Duration::from_millis(2_300),
        };
        file.store(pledge).expect("written");
        assert_eq!(file.load().expect("present"), pledge);
    }

    #[test]
    fn a_flipped_or_missing_byte_is_damage_and_never_another_pledge() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = PledgeFile::new(dir.path());
        file.store(Pledge {
            epoch: Epoch(9),
            promise_limit: Duration::from_secs(1),
        })
        .expect("written");
        let good = fs::read(&file.path).expect("readable");
        for at in 0..good.len() {
            let mut wrong = good.clone();
            wrong[at] ^= 0x10;
            fs::write(&file.path, &wrong).expect("writable");
            assert!(
                matches!(file.load(), Err(PledgeError::Damaged { .. })),
                "byte {at}"
            );
            fs::write(&file.path, &good[..at]).expect("writable");
            assert!(
                matches!(file.load(), Err(PledgeError::Damaged { .. })),
                "cut at {at}"
            );
        }
    }

    proptest! {
        #![proptest_config(mangled::cases(64))]

        #[test]
        fn a_mangled_file_is_damage_that_names_it_and_the_way_back(
            (pledge, faults) in (any::<u64>(), 0..u64::MAX / 2).prop_flat_map(|(epoch, limit)| {
                let pledge = Pledge {
                    epoch: Epoch(epoch),
                    promise_limit: Duration::from_millis(limit),
                };
                let dir = tempfile::tempdir().expect("a temporary directory");
                let file = PledgeFile::new(dir.path());
                file.store(pledge).expect("written");
                (Just(pledge), mangled::bytes(&fs::read(&file.path).expect("readable")))
            }),
        ) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let file = PledgeFile::new(dir.path());
            fs::write(&file.path, &faults).expect("writable");
            match file.load() {
                Ok(found) => prop_assert_eq!(found, pledge),
                Err(error) => {
                    let told = error.to_string();
                    prop_assert!(told.contains("pledge") && told.contains("state_dir"), "{}", told);
                }
            }
        }
    }
}
