//! Small files of the agent's own that are either the old or the new one after a crash, never half of each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes `path` hold `bytes`; on return the content and the name are on disk. Nobody else may read it.
///
/// # Errors
/// If it cannot be written; the old content then stands, or the new.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let aside = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_replaces_all_of_the_old() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        replace(&path, b"a long content").expect("writable");
        replace(&path, b"short").expect("writable");
        assert_eq!(fs::read(&path).expect("readable"), b"short");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }
}
