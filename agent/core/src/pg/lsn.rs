use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log, written `high/low` in hexadecimal as PostgreSQL does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes of WAL from `earlier` to here; zero if `earlier` lies ahead.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not of the form `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an LSN: expected two hexadecimal numbers such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseLsnError(text.to_owned());
        let (high, low) = text.trim().split_once('/').ok_or_else(wrong)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| wrong())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| wrong())?;
        Ok(Lsn((u64::from(high) << 32) | u64::from(low)))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = ParseLsnError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_as_postgresql_does() {
        for text in ["0/0", "0/16B3748", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(
                text.parse::<Lsn>().map(|lsn| lsn.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn says_what_an_lsn_looks_like_when_it_gets_something_else() {
        for text in ["", "5", "0/", "/5", "0/XYZ", "100000000/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text} was taken for an LSN");
        }
    }

    proptest! {
        #[test]
        fn every_lsn_is_read_as_it_was_written(lsn in any::<u64>().prop_map(Lsn)) {
            prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }

        #[test]
        fn what_is_taken_for_an_lsn_is_two_hexadecimal_numbers(
            text in prop_oneof![
                mangled::any_text(0..20),
                any::<u64>().prop_flat_map(|lsn| mangled::text(&Lsn(lsn).to_string())),
            ],
        ) {
            let digits = |half: &str| {
                (!half.is_empty() && half.chars().all(|c| c.is_ascii_hexdigit()))
                    .then(|| half.trim_start_matches('0').to_ascii_uppercase())
            };
            let halves = text.trim().split_once('/');
            let written = halves.and_then(|(high, low)| Some((digits(high)?, digits(low)?)));
            match text.parse::<Lsn>() {
                Ok(lsn) => {
                    let read = lsn.to_string();
                    let (high, low) = read.split_once('/').expect("two halves");
                    prop_assert_eq!(Some((digits(high).unwrap(), digits(low).unwrap())), written, "{}", text);
                }
                Err(error) => {
                    prop_assert!(error.to_string().contains(&text));
                    let fits = |half: &String| half.len() <= 8;
                    prop_assert!(!written.is_some_and(|(high, low)| fits(&high) && fits(&low)), "{}", text);
                }
            }
        }
    }
}
