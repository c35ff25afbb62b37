//! Small texts on disk that carry a checksum, so that damage is never read as something that was not written.

/// The line before the text.
const FIRST: &str = "sealed";

/// What stands in a file that should hold a sealed text.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed<'a> {
    /// What was written.
    Whole(&'a str),
    /// No sealed text: one that an agent wrote before texts were sealed, or damage.
    Plain(&'a [u8]),
    /// It was sealed and is not what was written.
    Damaged,
}

/// `text`, which holds no line break, between a line that says that it is sealed and one with its checksum.
#[must_use]
pub fn seal(text: &str) -> String {
    format!("{FIRST}\n{text}\n{:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// Reads what [`seal`] made.
#[must_use]
pub fn open(bytes: &[u8]) -> Sealed<'_> {
    let Some(rest) = bytes.strip_prefix(FIRST.as_bytes()) else {
        return Sealed::Plain(bytes);
    };
    let whole = std::str::from_utf8(rest).ok().and_then(|rest| {
        let (text, sum) = rest.strip_prefix('\n')?.split_once('\n')?;
        let right = format!("{:08x}\n", crc32c::crc32c(text.as_bytes()));
        (sum == right).then_some(text)
    });
    whole.map_or(Sealed::Damaged, Sealed::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_is_read_as_it_was_sealed_or_not_at_all(
            (text, found) in "[ -~]{0,60}".prop_flat_map(|text| {
                (Just(text.clone()), mangled::bytes(seal(&text).as_bytes()))
            }),
        ) {
            let sealed = seal(&text);
            prop_assert_eq!(open(sealed.as_bytes()), Sealed::Whole(text.as_str()));
            match open(&found) {
                Sealed::Whole(read) => prop_assert_eq!(read, text.as_str()),
                Sealed::Plain(_) | Sealed::Damaged => {}
            }
        }
    }
}
