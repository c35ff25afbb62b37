//! What can be learned from the files in `pg_wal`: names, timelines, where a record ends.

use super::PgError;
use super::control_file::ControlData;
use agent_core::pg::{Lsn, Position, TimelineHistory, TimelineId};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The header that opens each page of WAL, and the longer one that opens each segment, bytes.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;
/// Records begin at multiples of this many bytes.
const ALIGNMENT: u64 = 8;

pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("pg_wal")
}

/// The name of the segment file that holds the byte at `lsn`.
pub fn segment_name(timeline: TimelineId, lsn: Lsn, segment_size: u64) -> String {
    let number = lsn.0 / segment_size;
    let per_log = 0x1_0000_0000 / segment_size;
    format!(
        "{:08X}{:08X}{:08X}",
        timeline.0,
        number / per_log,
        number % per_log
    )
}

/// The timeline and the first byte of the segment with that file name; `None` for any other file.
pub fn parse_segment_name(name: &str, segment_size: u64) -> Option<(TimelineId, Lsn)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| u32::from_str_radix(&name[range], 16).ok();
    let (timeline, log, segment) = (part(0..8)?, part(8..16)?, part(16..24)?);
    if u64::from(segment) >= 0x1_0000_0000 / segment_size {
        return None;
    }
    Some((
        TimelineId(timeline),
        Lsn((u64::from(log) << 32) + u64::from(segment) * segment_size),
    ))
}

pub fn history_path(data_dir: &Path, timeline: TimelineId) -> PathBuf {
    folder(data_dir).join(format!("{:08X}.history", timeline.0))
}

/// The history of `timeline` as this data directory has it; the first timeline has no file and no ancestors.
pub fn history(data_dir: &Path, timeline: TimelineId) -> Result<TimelineHistory, PgError> {
    if timeline.0 <= 1 {
        return Ok(TimelineHistory {
            timeline,
            switches: Vec::new(),
        });
    }
    let path = history_path(data_dir, timeline);
    let content = std::fs::read_to_string(&path).map_err(PgError::file("read", &path))?;
    TimelineHistory::parse(timeline, &content).ok_or_else(|| PgError::Unusable {
        path,
        why: "it is no timeline history file; restore it from the archive or from another node".to_owned(),
    })
}

/// The highest timeline of which there is a segment file for the last byte before `end`.
pub fn newest_timeline_at(data_dir: &Path, end: Lsn, segment_size: u64) -> Option<TimelineId> {
    let last = Lsn(end.0.checked_sub(1)?);
    let start = Lsn(last.0 - last.0 % segment_size);
    let entries = std::fs::read_dir(folder(data_dir)).ok()?.flatten();
    let segments = entries.filter_map(|entry| parse_segment_name(entry.file_name().to_str()?, segment_size));
    segments
        .filter(|(_, first)| *first == start)
        .map(|(timeline, _)| timeline)
        .max()
}

/// The timeline that the last byte before `end` belongs to, in the history that leads to `history.timeline`.
///
/// A standby that follows a timeline may not have reached the point yet where it begins. Its WAL then still ends on
/// an ancestor, and to say otherwise would let a shorter tail win over a longer one when a new primary is chosen.
pub fn owner_of(history: &TimelineHistory, end: Lsn) -> TimelineId {
    let ancestor = history.switches.iter().find(|switch| end <= switch.end);
    ancestor.map_or(history.timeline, |switch| switch.timeline)
}

/// Where the record of the last checkpoint ends: after a clean shutdown, the end of all WAL.
pub fn end_of_checkpoint(data_dir: &Path, control: &ControlData) -> Result<Position, PgError> {
    let timeline = control.file.timeline;
    let start = control.file.checkpoint;
    let path = folder(data_dir).join(segment_name(timeline, start, control.segment_size));
    let mut length = [0u8; 4];
    let file = File::open(&path).map_err(PgError::file("open", &path))?;
    file.read_exact_at(&mut length, start.0 % control.segment_size)
        .map_err(PgError::file("read", &path))?;
    let lsn = record_end(
        start,
        u64::from(u32::from_ne_bytes(length)),
        control.segment_size,
        control.page_size,
    );
    Ok(Position { timeline, lsn })
}

/// The position after a record of `length` bytes that begins at `start`, page headers on the way counted.
fn record_end(start: Lsn, length: u64, segment_size: u64, page_size: u64) -> Lsn {
    let mut at = start.0;
    let mut left = length.next_multiple_of(ALIGNMENT);
    loop {
        let page_end = at - at % page_size + page_size;
        let room = page_end - at;
        if left <= room {
            return Lsn(at + left);
        }
        left -= room;
        at = page_end
            + if page_end.is_multiple_of(segment_size) {
                SEGMENT_HEADER
            } else {
                PAGE_HEADER
            };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::pg::TimelineSwitch;
    use proptest::prelude::*;

    const MIB_16: u64 = 16 << 20;

    #[test]
    fn names_segments_as_the_server_does() {
        let name = segment_name(TimelineId(3), Lsn(0x16_B374_D848), MIB_16);
        assert_eq!(name, "0000000300000016000000B3");
        assert_eq!(
            parse_segment_name(&name, MIB_16),
            Some((TimelineId(3), Lsn(0x16_B300_0000)))
        );
        assert_eq!(parse_segment_name("00000003.history", MIB_16), None);
        assert_eq!(
            parse_segment_name("0000000300000016000000B3.partial", MIB_16),
            None
        );
    }

    #[test]
    fn a_record_within_a_page_ends_aligned() {
        assert_eq!(
            record_end(Lsn(0x0100_0028), 114, MIB_16, 8192),
            Lsn(0x0100_0028 + 120)
        );
    }

    #[test]
    fn a_record_across_pages_and_segments_skips_their_headers() {
        let start = 0x0100_0000 + 8192 - 16;
        assert_eq!(
            record_end(Lsn(start), 114, MIB_16, 8192),
            Lsn(start + 120 + PAGE_HEADER)
        );
        let start = 0x0200_0000 - 16;
        assert_eq!(
            record_end(Lsn(start), 114, MIB_16, 8192),
            Lsn(start + 120 + SEGMENT_HEADER)
        );
        let start = 0x0100_0000 + 8192 - 120;
        assert_eq!(
            record_end(Lsn(start), 114, MIB_16, 8192),
            Lsn(start + 120),
            "ends with the page, not beyond"
        );
    }

    #[test]
    fn a_tail_that_has_not_reached_the_switch_belongs_to_the_ancestor() {
        let switch = |timeline, end| TimelineSwitch {
            timeline: TimelineId(timeline),
            end: Lsn(end),
        };
        let history = TimelineHistory {
            timeline: TimelineId(5),
            switches: vec![switch(1, 100), switch(2, 200)],
        };
        assert_eq!(owner_of(&history, Lsn(99)), TimelineId(1));
        assert_eq!(
            owner_of(&history, Lsn(100)),
            TimelineId(1),
            "nothing of the next one is there yet"
        );
        assert_eq!(owner_of(&history, Lsn(101)), TimelineId(2));
        assert_eq!(owner_of(&history, Lsn(201)), TimelineId(5));
    }

    #[test]
    fn a_name_of_a_segment_that_no_log_has_is_no_segments_name() {
        // The second half counts the segments of 4 GiB: with 16 MiB there are 256.
        assert_eq!(parse_segment_name("00000001FFFFFFFFFFFFFFFF", MIB_16), None);
        assert_eq!(parse_segment_name("000000010000000000000100", MIB_16), None);
        assert_eq!(
            parse_segment_name("00000001FFFFFFFF000000FF", MIB_16),
            Some((TimelineId(1), Lsn(0xFFFF_FFFF_FF00_0000)))
        );
    }

    fn segment_size() -> impl Strategy<Value = u64> {
        (20..31_u32).prop_map(|bits| 1 << bits)
    }

    proptest! {
        #[test]
        fn every_segments_name_is_read_as_it_was_made(
            timeline in any::<u32>().prop_map(TimelineId),
            lsn in any::<u64>(),
            size in segment_size(),
        ) {
            let name = segment_name(timeline, Lsn(lsn), size);
            prop_assert_eq!(parse_segment_name(&name, size), Some((timeline, Lsn(lsn - lsn % size))));
        }

        #[test]
        fn whatever_lies_in_pg_wal_is_a_segment_by_its_right_name_or_none(
            name in prop_oneof![
                mangled::any_text(0..30),
                "[0-9A-Fa-f]{24}",
                mangled::text("0000000300000016000000B3"),
            ],
            size in segment_size(),
        ) {
            if let Some((timeline, first)) = parse_segment_name(&name, size) {
                prop_assert_eq!(segment_name(timeline, first, size), name.to_ascii_uppercase());
            }
        }

        #[test]
        fn a_record_of_any_length_ends_behind_its_beginning(
            start in 0..u64::MAX / 2,
            length in 0..=1_u32 << 22,
            size in segment_size(),
            page in 10..17_u32,
        ) {
            let end = record_end(Lsn(start), u64::from(length), size, 1 << page);
            let bytes = u64::from(length).next_multiple_of(ALIGNMENT);
            let pages = bytes / ((1 << page) - SEGMENT_HEADER) + 2;
            prop_assert!(end.0 - start >= bytes);
            prop_assert!(end.0 - start <= bytes + pages * SEGMENT_HEADER);
        }
    }
}
