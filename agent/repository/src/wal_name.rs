//! The names of files in `pg_wal` that a server archives.

use agent_core::pg::{Lsn, TimelineId};
use std::fmt;

/// A WAL segment by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    pub timeline: TimelineId,
    /// The middle and the last eight digits of the name.
    pub log: u32,
    pub part: u32,
}

/// What an archived file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalName {
    /// `000000010000000000000003`
    Segment(Segment),
    /// `000000010000000000000003.partial`: where a timeline was left.
    Partial(Segment),
    /// `00000002.history`
    History(TimelineId),
    /// `000000010000000000000003.00000028.backup`
    Label(Segment, u32),
}

impl WalName {
    /// Reads a file name; `None` for what no server archives.
    #[must_use]
    pub fn parse(name: &str) -> Option<WalName> {
        if let Some(stem) = name.strip_suffix(".history") {
            return Some(WalName::History(TimelineId(number(stem)?)));
        }
        if let Some(stem) = name.strip_suffix(".partial") {
            return Segment::parse(stem).map(WalName::Partial);
        }
        if let Some(stem) = name.strip_suffix(".backup") {
            let (segment, offset) = stem.split_once('.')?;
            return Some(WalName::Label(Segment::parse(segment)?, number(offset)?));
        }
        Segment::parse(name).map(WalName::Segment)
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalName::Segment(segment) => write!(f, "{segment}"),
            WalName::Partial(segment) => write!(f, "{segment}.partial"),
            WalName::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            WalName::Label(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.part)
    }
}

impl Segment {
    /// Reads 24 hexadecimal digits.
    #[must_use]
    pub fn parse(name: &str) -> Option<Segment> {
        if name.len() != 24 || !name.is_ascii() {
            return None;
        }
        Some(Segment {
            timeline: TimelineId(number(&name[..8])?),
            log: number(&name[8..16])?,
            part: number(&name[16..])?,
        })
    }

    /// The segment number `number` of `timeline`, counted from the first byte of WAL.
    #[must_use]
    pub fn numbered(timeline: TimelineId, number: u64, segment_bytes: u64) -> Segment {
        let per_log = (1 << 32) / segment_bytes;
        // A number that does not fit belongs to WAL of more than 2^64 bytes, which there is not.
        Segment {
            timeline,
            log: u32::try_from(number / per_log).unwrap_or(u32::MAX),
            part: u32::try_from(number % per_log).unwrap_or(u32::MAX),
        }
    }

    /// Its number, counted from the first byte of WAL.
    #[must_use]
    pub fn number(self, segment_bytes: u64) -> u64 {
        u64::from(self.log) * ((1 << 32) / segment_bytes) + u64::from(self.part)
    }

    /// Its first byte.
    #[must_use]
    pub fn start(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number(segment_bytes).saturating_mul(segment_bytes))
    }
}

fn number(digits: &str) -> Option<u32> {
    let plain = digits.len() == 8
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_as_the_server_does() {
        for name in [
            "0000000100000016000000B3",
            "0000000100000016000000B3.partial",
            "0000000A.history",
            "0000000100000016000000B3.00000028.backup",
        ] {
            assert_eq!(
                WalName::parse(name).map(|name| name.to_string()),
                Some(name.to_owned())
            );
        }
        for name in [
            "",
            "x",
            "0000000100000016000000b3",
            "0000000100000016000000B",
            "../0000000100000016000000B3",
            "1.history",
            "0000000100000016000000B3.backup",
            "RECOVERYXLOG",
            "0000000100000016000000B3.0000002/.backup",
        ] {
            assert_eq!(WalName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn segments_are_counted_from_the_first_byte() {
        for bytes in [1 << 20, 16 << 20, 1 << 30] {
            for number in [0, 1, 255, 256, 4095, 4096, 70_000] {
                let segment = Segment::numbered(TimelineId(3), number, bytes);
                assert_eq!(segment.number(bytes), number);
                assert_eq!(segment.start(bytes), Lsn(number * bytes));
            }
        }
        let segment = Segment::parse("0000000100000002000000FF").expect("a segment");
        assert_eq!(segment.number(16 << 20), 2 * 256 + 255);
    }
}
