//! Netlink messages, written into a buffer that is used again and again: nothing is allocated for a renewal.

use super::netfilter::{FAMILY, SUBSYSTEM};

/// More than the largest batch, the creation of the table, needs.
const ROOM: usize = 8 * 1024;
/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER: usize = 16;
/// `sizeof(struct nfgenmsg)`, behind that header in each message of netfilter.
pub(super) const FAMILY_HEADER: usize = 4;
/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK` without the two flags on top.
const KIND_MASK: u16 = !(3 << 14);

/// Messages for the kernel, one behind the other.
pub(super) struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
    confirmations: usize,
}

impl Messages {
    pub(super) fn new() -> Messages {
        Messages {
            bytes: Vec::with_capacity(ROOM),
            sequence: 0,
            confirmations: 0,
        }
    }

    /// What is to be sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number that the answers to these messages carry.
    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// How many confirmations the kernel owes for these messages.
    pub(super) fn confirmations(&self) -> usize {
        self.confirmations
    }

    /// Starts again, with one question that changes nothing.
    pub(super) fn question(&mut self, kind: u16, fill: impl FnOnce(&mut Messages)) {
        self.restart();
        self.one(SUBSYSTEM | kind, libc::NLM_F_ACK as u16, FAMILY, 0, fill);
    }

    /// Starts again, with a batch: the kernel does all of it at one instant, or nothing.
    pub(super) fn batch(&mut self, fill: impl FnOnce(&mut Messages)) {
        self.restart();
        let subsystem = libc::NFNL_SUBSYS_NFTABLES as u16;
        let edge = libc::AF_UNSPEC as u8;
        self.one(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, edge, subsystem, |_| {});
        fill(self);
        self.one(libc::NFNL_MSG_BATCH_END as u16, 0, edge, subsystem, |_| {});
    }

    /// Adds one change to a batch. The kernel is asked to confirm each.
    pub(super) fn change(&mut self, kind: u16, flags: i32, fill: impl FnOnce(&mut Messages)) {
        let flags = (flags | libc::NLM_F_ACK) as u16;
        self.one(SUBSYSTEM | kind, flags, FAMILY, 0, fill);
    }

    fn restart(&mut self) {
        self.bytes.clear();
        self.sequence = self.sequence.wrapping_add(1);
        self.confirmations = 0;
    }

    fn one(&mut self, kind: u16, flags: u16, family: u8, resource: u16, fill: impl FnOnce(&mut Messages)) {
        let start = self.bytes.len();
        self.confirmations += usize::from(flags & libc::NLM_F_ACK as u16 != 0);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes
            .extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        // The sender's port number; the kernel knows it.
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, libc::NFNETLINK_V0 as u8]);
        self.bytes.extend(resource.to_be_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute with plain bytes in it.
    pub(super) fn bytes_of(&mut self, kind: u16, value: &[u8]) {
        self.bytes_with(kind, |bytes| bytes.extend(value));
    }

    /// The same, for bytes that are put together.
    pub(super) fn bytes_with(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        self.attribute(kind, |m| fill(&mut m.bytes));
    }

    /// An attribute with a number in it, in network byte order as nf_tables has all of them.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes_of(kind, &value.to_be_bytes());
    }

    /// The same with 64 bits.
    pub(super) fn long_number(&mut self, kind: u16, value: u64) {
        self.bytes_of(kind, &value.to_be_bytes());
    }

    /// An attribute with a text in it, ended by a zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |m| {
            m.bytes.extend(value.as_bytes());
            m.bytes.push(0);
        });
    }

    /// An attribute with attributes in it.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Messages)) {
        self.attribute(kind | NESTED, fill);
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Messages)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        // The length counts what is inside, but not the padding behind it. No attribute of ours comes near 64 KiB.
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    pub(super) sequence: u32,
    /// What follows the netlink header.
    pub(super) body: &'a [u8],
}

impl Answer<'_> {
    /// For `NLMSG_ERROR`: the error, 0 for a confirmation. `None` for any other message.
    pub(super) fn errno(&self) -> Option<i32> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        // A mangled answer is no confirmation.
        let code = self
            .body
            .first_chunk::<4>()
            .map_or(-libc::EBADMSG, |b| i32::from_ne_bytes(*b));
        Some(code.wrapping_neg())
    }
}

/// Takes a datagram of the kernel apart.
pub(super) fn answers(datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let header = rest.get(..HEADER)?;
        let answer = Answer {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body: rest.get(HEADER..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The value of the first attribute of that kind.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A text attribute's value, without the zero at its end.
pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::netfilter as nf;
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_batch_is_laid_out_byte_for_byte_as_the_kernel_reads_it() {
        let mut messages = Messages::new();
        messages.batch(|m| {
            m.change(nf::message::NEWSETELEM, libc::NLM_F_CREATE, |m| {
                m.text(nf::NFTA_SET_ELEM_LIST_TABLE, "t");
                m.nest(nf::NFTA_SET_ELEM_LIST_ELEMENTS, |m| {
                    m.nest(nf::NFTA_LIST_ELEM, |m| {
                        m.long_number(nf::NFTA_SET_ELEM_TIMEOUT, 500)
                    });
                });
            });
        });
        #[rustfmt::skip]
        let expected = [
            // NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, sequence 1; for nf_tables (10).
            20, 0, 0, 0,  0x10, 0,  1, 0,  1, 0, 0, 0,  0, 0, 0, 0,   0, 0, 0, 10,
            // NFT_MSG_NEWSETELEM (12) of subsystem 10, REQUEST | ACK | CREATE; NFPROTO_INET (1).
            48, 0, 0, 0,  12, 10,  5, 4,  1, 0, 0, 0,  0, 0, 0, 0,   1, 0, 0, 0,
            // The table's name, padded.
            6, 0, 1, 0,  b't', 0, 0, 0,
            // A list of one element with its timeout, in network byte order.
            20, 0, 3, 0x80,  16, 0, 1, 0x80,  12, 0, 4, 0,  0, 0, 0, 0, 0, 0, 1, 0xf4,
            // NFNL_MSG_BATCH_END.
            20, 0, 0, 0,  0x11, 0,  1, 0,  1, 0, 0, 0,  0, 0, 0, 0,   0, 0, 0, 10,
        ];
        assert_eq!(messages.bytes(), expected);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut messages = Messages::new();
        messages.question(nf::message::GETTABLE, |m| {
            m.text(nf::NFTA_TABLE_NAME, "a name");
            m.nest(nf::NFTA_TABLE_USERDATA, |m| m.number(7, 9));
        });
        let read: Vec<Answer> = answers(messages.bytes()).collect();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].sequence, messages.sequence());
        let attributes = &read[0].body[FAMILY_HEADER..];
        assert_eq!(
            attribute(attributes, nf::NFTA_TABLE_NAME).and_then(text),
            Some("a name")
        );
        let nested = attribute(attributes, nf::NFTA_TABLE_USERDATA).expect("there");
        assert_eq!(attribute(nested, 7), Some([0, 0, 0, 9].as_slice()));
        assert_eq!(attribute(attributes, nf::NFTA_TABLE_FLAGS), None);
    }

    #[test]
    fn mangled_answers_are_neither_confirmations_nor_a_panic() {
        for length in 0..64_u32 {
            let mut bytes = vec![0xff; 40];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
            for answer in answers(&bytes) {
                assert_ne!(answer.errno(), Some(0));
                let _ = attribute(answer.body, 1);
            }
        }
        assert_eq!(answers(&[]).next(), None);
        assert_eq!(attribute(&[0, 0, 1, 0], 1), None);
    }

    /// What is read of an answer, whatever the answer is.
    fn read_all(datagram: &[u8]) -> Vec<(Option<i32>, usize)> {
        let mut read = Vec::new();
        for answer in answers(datagram) {
            let attributes = answer.body.get(FAMILY_HEADER..).unwrap_or_default();
            for kind in 0..8 {
                if let Some(value) = attribute(attributes, kind) {
                    let _ = (text(value), super::super::ruleset::comment_text(value));
                    assert!(value.len() <= attributes.len());
                }
            }
            read.push((answer.errno(), answer.body.len()));
        }
        read
    }

    #[test]
    fn the_lowest_error_number_is_an_error_and_not_a_panic() {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend((libc::NLMSG_ERROR as u16).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(i32::MIN.to_ne_bytes());
        let codes: Vec<_> = answers(&bytes).map(|answer| answer.errno()).collect();
        assert_eq!(codes, [Some(i32::MIN)]);
    }

    proptest! {
        #[test]
        fn answers_of_any_form_are_taken_apart_within_their_bounds(
            datagram in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                Just(()).prop_flat_map(|()| {
                    let mut messages = Messages::new();
                    messages.batch(|m| {
                        m.change(nf::message::NEWSETELEM, libc::NLM_F_CREATE, |m| {
                            m.text(nf::NFTA_SET_ELEM_LIST_TABLE, "t");
                            m.nest(nf::NFTA_SET_ELEM_LIST_ELEMENTS, |m| m.long_number(nf::NFTA_SET_ELEM_TIMEOUT, 5));
                        });
                    });
                    mangled::bytes(messages.bytes())
                }),
            ],
        ) {
            let bodies: usize = read_all(&datagram).iter().map(|(_, length)| length + HEADER).sum();
            prop_assert!(bodies <= datagram.len());
        }

        #[test]
        fn a_mangled_refusal_never_becomes_a_confirmation_unless_its_number_is_zero(
            code in 1..4096_i32,
            faults in Just(()).prop_flat_map(|()| mangled::bytes_once(&[0; 36])),
            struck in any::<proptest::sample::Index>(),
        ) {
            // struct nlmsgerr: the error, then the header of the message that is refused.
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend((libc::NLMSG_ERROR as u16).to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend((-code).to_ne_bytes());
            bytes.extend([0; 16]);
            // Anywhere but in the number itself.
            let at = struck.index(bytes.len());
            if !(16..20).contains(&at) {
                bytes[at] ^= faults.first().copied().unwrap_or(1) | 1;
            }
            prop_assert!(answers(&bytes).all(|answer| answer.errno() != Some(0)));
        }
    }
}
