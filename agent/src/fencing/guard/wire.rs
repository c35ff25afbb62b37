//! What the agent and its guard tell each other: frames of one length over a local socket that keeps them apart.

use agent_core::ids::Epoch;
use agent_core::time::ClockReading;

/// Changes when frames change. A guard may be older than its agent: it outlives upgrades.
const VERSION: u32 = 1;
/// The length of every frame, bytes.
pub const LENGTH: usize = 32;

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// From the agent: are you there?
    Ask,
    /// From the agent: the server may write under `epoch` until `until`, and then it must end.
    Arm { epoch: Epoch, until: ClockReading },
    /// From the agent: the server of `epoch` has ended, and what it was armed for is over.
    Disarm { epoch: Epoch },
    /// From the agent: end yourself, another guard takes over.
    Retire,
    /// From the guard: it has taken this over, and ends the server at `until` unless it hears more.
    Armed { epoch: Epoch, until: ClockReading },
    /// From the guard: nothing is armed. It has ended the server of `fenced`, and of every epoch before; 0 if none.
    Idle { fenced: Epoch },
}

impl Frame {
    /// The frame as it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; LENGTH] {
        let none = ClockReading::default();
        let (kind, epoch, until) = match self {
            Frame::Ask => (1_u32, Epoch(0), none),
            Frame::Arm { epoch, until } => (2, epoch, until),
            Frame::Disarm { epoch } => (3, epoch, none),
            Frame::Retire => (4, Epoch(0), none),
            Frame::Armed { epoch, until } => (5, epoch, until),
            Frame::Idle { fenced } => (6, fenced, none),
        };
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&epoch.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&until.boot_ns.to_le_bytes());
        bytes[24..].copy_from_slice(&until.raw_ns.to_le_bytes());
        bytes
    }

    /// Reads a frame; `None` if it is of another version, or no frame at all.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Frame> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let half = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let word = |at: usize| u64::from(half(at)) | (u64::from(half(at + 4)) << 32);
        let epoch = Epoch(word(8));
        let until = ClockReading {
            boot_ns: word(16),
            raw_ns: word(24),
        };
        match (half(0), half(4)) {
            (VERSION, 1) => Some(Frame::Ask),
            (VERSION, 2) => Some(Frame::Arm { epoch, until }),
            (VERSION, 3) => Some(Frame::Disarm { epoch }),
            (VERSION, 4) => Some(Frame::Retire),
            (VERSION, 5) => Some(Frame::Armed { epoch, until }),
            (VERSION, 6) => Some(Frame::Idle { fenced: epoch }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_survives_the_way() {
        let until = ClockReading {
            boot_ns: u64::MAX - 1,
            raw_ns: 0x0102_0304_0506_0708,
        };
        let epoch = Epoch(0x0a0b_0c0d_0e0f_1011);
        for frame in [
            Frame::Ask,
            Frame::Arm { epoch, until },
            Frame::Disarm { epoch },
            Frame::Retire,
            Frame::Armed { epoch, until },
            Frame::Idle { fenced: epoch },
        ] {
            assert_eq!(Frame::decode(&frame.encode()), Some(frame));
        }
    }

    #[test]
    fn a_frame_of_another_version_is_not_read() {
        let mut bytes = Frame::Ask.encode();
        bytes[0] += 1;
        assert_eq!(Frame::decode(&bytes), None);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Frame::decode(&bytes);
        }

        #[test]
        fn what_is_read_of_a_mangled_frame_is_what_stands_in_it(
            bytes in (any::<[u64; 3]>(), 0..2_usize).prop_flat_map(|([epoch, boot_ns, raw_ns], kind)| {
                let (epoch, until) = (Epoch(epoch), ClockReading { boot_ns, raw_ns });
                let frame = [Frame::Arm { epoch, until }, Frame::Armed { epoch, until }][kind];
                mangled::bytes(&frame.encode())
            }),
        ) {
            let read = Frame::decode(&bytes);
            prop_assert!(read.is_none() || bytes.len() == LENGTH);
            // A deadline is never made up: it is in the bytes, or there is none.
            if let Some(Frame::Arm { epoch, until } | Frame::Armed { epoch, until }) = read {
                let kind = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                let again = if kind == 2 { Frame::Arm { epoch, until } } else { Frame::Armed { epoch, until } };
                prop_assert_eq!(again.encode().to_vec(), bytes);
            }
        }
    }
}
