//! Whether a segment is what its name says: by the header of its first page.

use crate::error::Error;
use crate::wal_name::Segment;
use agent_core::pg::SystemId;

/// `XLP_LONG_HEADER`: the first page of each segment has the long header.
const LONG_HEADER: u16 = 2;
const HEADER_BYTES: usize = 40;

/// What a segment's first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    pub system_id: SystemId,
    /// Bytes of each segment.
    pub segment_bytes: u64,
}

/// Refuses what is not the segment of that name, whole, of that database cluster: files of another cluster, recycled
/// files that were not written yet, and files that were cut off.
///
/// # Errors
/// [`Error::Refused`] with what is wrong.
pub fn check_segment(segment: Segment, system_id: SystemId, content: &[u8]) -> Result<SegmentFacts, Error> {
    let facts = read(segment, content).map_err(|why| refused(segment, why))?;
    if facts.system_id != system_id {
        let why = format!(
            "it belongs to the database cluster {}, and this repository's line is that of {system_id}",
            facts.system_id
        );
        return Err(refused(segment, why));
    }
    Ok(facts)
}

fn refused(segment: Segment, why: String) -> Error {
    Error::Refused {
        name: segment.to_string(),
        why,
    }
}

fn read(segment: Segment, content: &[u8]) -> Result<SegmentFacts, String> {
    if content.len() < HEADER_BYTES {
        return Err(format!("it has {} bytes only", content.len()));
    }
    let two = |at: usize| u16::from_le_bytes([content[at], content[at + 1]]);
    let four =
        |at: usize| u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
    let eight = |at: usize| u64::from(four(at)) | u64::from(four(at + 4)) << 32;
    let (info, timeline, address) = (two(2), four(4), eight(8));
    let (system_id, segment_bytes) = (SystemId(eight(24)), u64::from(four(32)));
    if two(0) == 0 || info & LONG_HEADER == 0 {
        return Err("it does not begin with the header of a segment".to_owned());
    }
    if !segment_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_bytes) {
        return Err(format!(
            "its header names a segment size of {segment_bytes} bytes"
        ));
    }
    if content.len() as u64 != segment_bytes {
        return Err(format!(
            "it has {} bytes, a segment has {segment_bytes}: it was cut off, or is not finished",
            content.len()
        ));
    }
    if address != segment.start(segment_bytes).0 {
        return Err(format!(
            "its first page is for {}, not for {}: it is a recycled file or has another's name",
            agent_core::pg::Lsn(address),
            segment.start(segment_bytes)
        ));
    }
    // The first segment of a timeline begins with pages that were copied from its parent.
    if timeline > segment.timeline.0 {
        return Err(format!(
            "its first page is of timeline {timeline}, later than its name says"
        ));
    }
    Ok(SegmentFacts {
        system_id,
        segment_bytes,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MIB: u64 = 1 << 20;

    /// A segment of 1 MiB with `fill` in it.
    pub(crate) fn segment_file(segment: Segment, system_id: u64, fill: u8) -> Vec<u8> {
        let mut content = vec![fill; 1 << 20];
        content[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        content[2..4].copy_from_slice(&2_u16.to_le_bytes());
        content[4..8].copy_from_slice(&segment.timeline.0.to_le_bytes());
        content[8..16].copy_from_slice(&segment.start(MIB).0.to_le_bytes());
        content[16..24].fill(0);
        content[24..32].copy_from_slice(&system_id.to_le_bytes());
        content[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        content[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        content
    }

    #[test]
    fn only_the_segment_of_that_name_and_cluster_is_taken() {
        let segment = Segment::parse("000000020000000000000005").expect("a segment");
        let ours = SystemId(77);
        let good = segment_file(segment, 77, 1);
        let facts = SegmentFacts {
            system_id: ours,
            segment_bytes: MIB,
        };
        assert_eq!(check_segment(segment, ours, &good).expect("taken"), facts);
        let copied = {
            let mut copied = good.clone();
            copied[4] = 1;
            copied
        };
        assert!(
            check_segment(segment, ours, &copied).is_ok(),
            "begun by a copy of its parent's"
        );
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        for (what, content) in [
            ("another cluster's", with(24, 78)),
            ("a recycled file", with(10, 1)),
            ("no header", with(2, 0)),
            ("not written yet", vec![0; 1 << 20]),
            ("a later timeline's", with(4, 3)),
            ("cut off", good[..good.len() - 1].to_vec()),
            ("empty", Vec::new()),
            ("a strange segment size", with(33, 1)),
        ] {
            assert!(check_segment(segment, ours, &content).is_err(), "{what}");
        }
    }
}
