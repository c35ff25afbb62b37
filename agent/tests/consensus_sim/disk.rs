//! A simulated node's disk: it survives crashes, may be slow, and may tear the last write.

use super::random::Random;
use agent::consensus::store::{AppendFile, Directory, LOG_FILE};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    files: BTreeMap<String, Vec<u8>>,
    /// Where the last record of the log begins.
    last_record: usize,
}

impl SimDisk {
    /// What a crash does: half of the time, the beginning of a write that nobody was told of is left behind.
    pub fn crash(&self, random: &mut Random) {
        let mut contents = self.0.lock().expect("no panic");
        let from = contents.last_record;
        let Some(log) = contents.files.get_mut(LOG_FILE) else {
            return;
        };
        let last = log[from.min(log.len())..].to_vec();
        if last.len() > 1 && random.chance(50) {
            let torn = 1 + usize::try_from(random.below(last.len() as u64 - 1)).expect("small");
            log.extend_from_slice(&last[..torn]);
        }
    }

    /// What no disk may do: the last record is gone, though it was acknowledged.
    pub fn forget(&self) {
        let mut contents = self.0.lock().expect("no panic");
        let from = contents.last_record;
        if let Some(log) = contents.files.get_mut(LOG_FILE)
            && from > 0
        {
            log.truncate(from);
        }
    }
}

impl Directory for SimDisk {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().expect("no panic").files.get(name).cloned())
    }
    fn replace(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        if name == LOG_FILE {
            disk.last_record = contents.len();
        }
        disk.files.insert(name.to_owned(), contents.to_vec());
        Ok(())
    }
    fn open_to_append(&mut self, _name: &str) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(self.clone()))
    }
    fn show(&self, name: &str) -> String {
        format!("disk/{name}")
    }
}

impl AppendFile for SimDisk {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        let len = usize::try_from(len).expect("small");
        disk.files.get_mut(LOG_FILE).expect("a log").truncate(len);
        disk.last_record = len;
        Ok(())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        let log = disk.files.get_mut(LOG_FILE).expect("a log");
        let from = log.len();
        log.extend_from_slice(bytes);
        disk.last_record = from;
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
