//! Counts the starts of this agent, durably: the number tells a lease's renewals, and its receipts, from those of the
//! agent's former lives.

use crate::durable;
use crate::sealed::{self, Sealed};
use std::fs;
use std::io;
use std::path::Path;

/// The number of this start: one higher than any before, safe on disk.
///
/// # Errors
/// If the file in `state_dir` cannot be read or written, or does not hold the number that was written.
pub fn next(state_dir: &Path) -> io::Result<u64> {
    let path = state_dir.join("incarnation");
    let last = match fs::read(&path) {
        Ok(bytes) => read(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
        Err(error) => return Err(error),
    };
    let next = last.and_then(|last| last.checked_add(1)).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is damaged: stop the agent, move its state directory aside, and start it again, so that it joins with \
                 a fresh identity",
                path.display()
            ),
        )
    })?;
    durable::replace(&path, sealed::seal(&next.to_string()).as_bytes())?;
    Ok(next)
}

fn read(bytes: &[u8]) -> Option<u64> {
    match sealed::open(bytes) {
        Sealed::Whole(text) => text.parse().ok(),
        // By an agent that knew no seal.
        Sealed::Plain(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Sealed::Damaged => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn the_file_of_an_agent_that_knew_no_seal_is_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("incarnation"), "41").expect("writable");
        assert_eq!(next(dir.path()).expect("read"), 42);
        assert_eq!(next(dir.path()).expect("read"), 43);
    }

    #[test]
    fn after_the_last_number_there_is_none_and_not_zero_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("incarnation"), u64::MAX.to_string()).expect("writable");
        let error = next(dir.path()).expect_err("no number is left").to_string();
        assert!(
            error.contains("incarnation") && error.contains("state directory"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn a_damaged_number_is_never_another_one(
            (written, found) in any::<u64>().prop_flat_map(|number| {
                (Just(number), mangled::bytes_once(sealed::seal(&number.to_string()).as_bytes()))
            }),
        ) {
            prop_assert!(read(&found).is_none_or(|number| number == written));
        }

        #[test]
        fn rubbish_is_no_number(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let digits = std::str::from_utf8(&bytes)
                .is_ok_and(|text| text.trim_start_matches('+').chars().all(|c| c.is_ascii_digit()));
            prop_assert!(digits || read(&bytes).is_none());
        }
    }
}
