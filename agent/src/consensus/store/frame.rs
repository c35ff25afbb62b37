//! How records lie in a file: a header, then frames of length, checksums and contents.

/// The first bytes of a file: what it is, and in which format.
pub const HEADER_LEN: usize = 16;
/// The format that this agent writes, and the newest that it reads.
pub const FORMAT: u8 = 1;

const FRAME_HEAD: usize = 12;
/// No frame is longer; a length above it is damage. Far more than the whole replicated state.
const FRAME_MAX: usize = 256 << 20;
/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// The header of a file of the kind that `magic` names.
pub fn header(magic: [u8; 8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&magic);
    header[8] = FORMAT;
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// What is wrong with a header.
#[derive(Debug, PartialEq, Eq)]
pub enum BadHeader {
    Damaged(&'static str),
    Newer { found: u8 },
}

/// Whether `bytes` begin with a header for `magic` in a format that this agent reads.
pub fn check_header(bytes: &[u8], magic: [u8; 8]) -> Result<(), BadHeader> {
    let Some(header) = bytes.get(..HEADER_LEN) else {
        return Err(BadHeader::Damaged("the file is shorter than its header"));
    };
    if header[..8] != magic {
        return Err(BadHeader::Damaged("this is not the file that its name says"));
    }
    if crc32c::crc32c(&header[..12]).to_le_bytes() != header[12..] {
        return Err(BadHeader::Damaged("the header's checksum is wrong"));
    }
    match header[8] {
        1..=FORMAT => Ok(()),
        found => Err(BadHeader::Newer { found }),
    }
}

/// `contents` as a frame.
pub fn frame(contents: &[u8]) -> Option<Vec<u8>> {
    if contents.is_empty() || contents.len() > FRAME_MAX {
        return None;
    }
    let length = u32::try_from(contents.len()).ok()?;
    let mut frame = Vec::with_capacity(FRAME_HEAD + contents.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(contents).to_le_bytes());
    let head_crc = crc32c::crc32c(&frame);
    frame.extend_from_slice(&head_crc.to_le_bytes());
    frame.extend_from_slice(contents);
    Some(frame)
}

/// What stands at one place of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum At<'a> {
    /// A whole frame; the next one begins at `next`.
    Frame { contents: &'a [u8], next: usize },
    /// The end of the file.
    End,
    /// The last write before a crash, which did not reach the disk as a whole.
    Torn,
    /// Something that was whole once.
    Damaged(&'static str),
}

/// Looks at byte `offset` of the file `bytes`.
pub fn look(bytes: &[u8], offset: usize) -> At<'_> {
    let rest = &bytes[offset.min(bytes.len())..];
    if rest.is_empty() {
        return At::End;
    }
    match whole_frame(rest) {
        Ok(contents) => At::Frame {
            contents,
            next: offset + FRAME_HEAD + contents.len(),
        },
        Err(flaw) => {
            // A torn frame is the last one: what follows a bad frame and is good was written later, and so the bad
            // one was durable.
            if (1..rest.len()).any(|ahead| whole_frame(&rest[ahead..]).is_ok()) {
                return At::Damaged("what follows it is whole, so it was whole once");
            }
            match flaw {
                Flaw::CutShort => At::Torn,
                _ if has_unwritten_sector(rest, offset) => At::Torn,
                Flaw::Head => At::Damaged("the record's head does not match its checksum"),
                Flaw::Contents => At::Damaged("the record does not match its checksum"),
            }
        }
    }
}

enum Flaw {
    /// The file ends inside the frame.
    CutShort,
    Head,
    Contents,
}

fn whole_frame(bytes: &[u8]) -> Result<&[u8], Flaw> {
    let Some(head) = bytes.get(..FRAME_HEAD) else {
        return Err(Flaw::CutShort);
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = word(0) as usize;
    if length == 0 || length > FRAME_MAX || crc32c::crc32c(&head[..8]) != word(8) {
        return Err(Flaw::Head);
    }
    match bytes.get(FRAME_HEAD..FRAME_HEAD + length) {
        None => Err(Flaw::CutShort),
        Some(contents) if crc32c::crc32c(contents) == word(4) => Ok(contents),
        Some(_) => Err(Flaw::Contents),
    }
}

/// Whether a stretch of `rest` that lies within one sector of the disk is all zeros: the file had grown, and that
/// sector had not been written yet.
fn has_unwritten_sector(rest: &[u8], offset: usize) -> bool {
    let first = (SECTOR - offset % SECTOR).min(rest.len());
    let (head, tail) = rest.split_at(first);
    std::iter::once(head)
        .chain(tail.chunks(SECTOR))
        .any(|part| part.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"pgctltst";

    fn file(contents: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header(MAGIC).to_vec();
        let mut starts = Vec::new();
        for one in contents {
            starts.push(bytes.len());
            bytes.extend(frame(one).expect("fits"));
        }
        (bytes, starts)
    }

    fn walk(bytes: &[u8]) -> (usize, At<'_>) {
        let (mut offset, mut frames) = (HEADER_LEN, 0);
        loop {
            match look(bytes, offset) {
                At::Frame { next, .. } => (offset, frames) = (next, frames + 1),
                end => return (frames, end),
            }
        }
    }

    #[test]
    fn frames_are_read_back_in_order() {
        let (bytes, starts) = file(&[b"one", &[7; 3000], b"three"]);
        assert_eq!(
            look(&bytes, starts[0]),
            At::Frame {
                contents: b"one",
                next: starts[1]
            }
        );
        assert_eq!(walk(&bytes), (3, At::End));
    }

    #[test]
    fn a_file_that_ends_anywhere_inside_its_last_frame_is_torn_there() {
        let (bytes, starts) = file(&[b"one", b"two", &[9; 700]]);
        for len in starts[2] + 1..bytes.len() {
            assert_eq!(walk(&bytes[..len]), (2, At::Torn), "cut at {len}");
        }
    }

    #[test]
    fn sectors_that_were_never_written_are_a_torn_frame() {
        let (bytes, starts) = file(&[b"one", &[9; 3000]]);
        for from in [starts[1], 512, 1024] {
            for to in [1024, 2048, bytes.len()] {
                if from >= to {
                    continue;
                }
                let mut torn = bytes.clone();
                torn[from..to].fill(0);
                assert_eq!(walk(&torn), (1, At::Torn), "zeros from {from} to {to}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_damage_and_never_torn() {
        let (bytes, starts) = file(&[b"one", b"a record in the middle", b"the last one"]);
        for at in starts[0]..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(
                    matches!(walk(&flipped).1, At::Damaged(_)),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_header_is_checked_byte_by_byte_and_a_newer_format_is_named() {
        let good = header(MAGIC);
        assert_eq!(check_header(&good, MAGIC), Ok(()));
        for at in 0..HEADER_LEN {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(
                matches!(check_header(&bad, MAGIC), Err(BadHeader::Damaged(_))),
                "byte {at}"
            );
            assert!(check_header(&good[..at], MAGIC).is_err());
        }
        let mut newer = good;
        newer[8] = FORMAT + 1;
        let crc = crc32c::crc32c(&newer[..12]);
        newer[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            check_header(&newer, MAGIC),
            Err(BadHeader::Newer { found: FORMAT + 1 })
        );
    }

    #[test]
    fn what_is_empty_or_absurdly_long_is_no_frame() {
        assert_eq!(frame(b""), None);
        let mut head = 0_u32.to_le_bytes().to_vec();
        head.extend([0; 8]);
        assert!(whole_frame(&head).is_err());
    }
}
