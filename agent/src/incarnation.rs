//! Counts the starts of this agent, durably: the number tells a lease's renewals, and its receipts, from those of the
//! agent's former lives.

use crate::durable;
use std::fs;
use std::io;
use std::path::Path;

/// The number of this start: one higher than any before, safe on disk.
///
/// # Errors
/// If the file in `state_dir` cannot be read or written, or holds no number.
pub fn next(state_dir: &Path) -> io::Result<u64> {
    let path = state_dir.join("incarnation");
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} holds no number", path.display()),
            )
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0_u64,
        Err(error) => return Err(error),
    };
    durable::replace(&path, (last + 1).to_string().as_bytes())?;
    Ok(last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_gets_a_higher_number() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(next(dir.path()).expect("first"), 1);
        assert_eq!(next(dir.path()).expect("second"), 2);
    }

    #[test]
    fn a_file_without_a_number_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("incarnation"), "x").expect("writable");
        assert!(next(dir.path()).is_err());
    }
}
