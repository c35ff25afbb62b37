//! The datagrams of the lease: fixed size, authenticated, and of no use outside their cluster.

use agent_core::ids::{Epoch, NodeId};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// `magic, version, kind, 2 spare | from, to | epoch, round | incarnation, duration` and half an HMAC-SHA256.
pub const LENGTH: usize = 8 + 6 * 8 + TAG;
const TAG: usize = 16;
const MAGIC: [u8; 4] = *b"pgLs";
const VERSION: u8 = 1;

/// Authenticates the datagrams of one cluster.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// The key that follows from the cluster's identity and a secret that only its members have.
    #[must_use]
    pub fn derive(cluster_id: &str, secret: &str) -> Key {
        let mut hash = Sha256::new();
        for part in ["pgctl lease", cluster_id, secret] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Key(hash.finalize().into())
    }

    fn tag(&self, message: &[u8]) -> [u8; TAG] {
        // HMAC takes keys of any length, so this cannot fail; a zero tag would only make the message refused.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return [0; TAG];
        };
        mac.update(message);
        let mut tag = [0; TAG];
        tag.copy_from_slice(&mac.finalize().into_bytes()[..TAG]);
        tag
    }

    fn verifies(&self, message: &[u8], tag: &[u8]) -> bool {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return false;
        };
        mac.update(message);
        mac.verify_truncated_left(tag).is_ok()
    }
}

/// One datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    pub from: NodeId,
    pub to: NodeId,
    pub epoch: Epoch,
    /// Which renewal it belongs to.
    pub round: u64,
    /// Of the holder's agent.
    pub incarnation: u64,
    pub kind: Kind,
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Be bound to the epoch for so long.
    Renew { promise: Duration },
    /// I am.
    Granted,
    /// I have pledged to this epoch.
    Pledged { to: Epoch },
    /// My disk does not cover so long a promise yet.
    TooLong,
}

impl Datagram {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self, key: &Key) -> [u8; LENGTH] {
        let (kind, number) = match self.kind {
            Kind::Renew { promise } => (1, u64::try_from(promise.as_nanos()).unwrap_or(u64::MAX)),
            Kind::Granted => (2, 0),
            Kind::Pledged { to } => (3, to.0),
            Kind::TooLong => (4, 0),
        };
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = kind;
        let words = [
            self.from.0,
            self.to.0,
            self.epoch.0,
            self.round,
            self.incarnation,
            number,
        ];
        for (index, word) in words.into_iter().enumerate() {
            bytes[8 + index * 8..16 + index * 8].copy_from_slice(&word.to_be_bytes());
        }
        let tag = key.tag(&bytes[..LENGTH - TAG]);
        bytes[LENGTH - TAG..].copy_from_slice(&tag);
        bytes
    }

    /// Reads a datagram; `None` for anything that is not one of this cluster.
    #[must_use]
    pub fn decode(bytes: &[u8], key: &Key) -> Option<Datagram> {
        if bytes.len() != LENGTH || bytes[..4] != MAGIC || bytes[4] != VERSION {
            return None;
        }
        let (message, tag) = bytes.split_at(LENGTH - TAG);
        if !key.verifies(message, tag) {
            return None;
        }
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&message[8 + index * 8..16 + index * 8]);
            u64::from_be_bytes(word)
        };
        let kind = match bytes[5] {
            1 => Kind::Renew {
                promise: Duration::from_nanos(word(5)),
            },
            2 => Kind::Granted,
            3 => Kind::Pledged { to: Epoch(word(5)) },
            4 => Kind::TooLong,
            _ => return None,
        };
        Some(Datagram {
            from: NodeId(word(0)),
            to: NodeId(word(1)),
            epoch: Epoch(word(2)),
            round: word(3),
            incarnation: word(4),
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn renewal() -> Datagram {
        Datagram {
            from: NodeId(1),
            to: NodeId(2),
            epoch: Epoch(7),
            round: 9,
            incarnation: 3,
            kind: Kind::Renew {
                promise: Duration::from_millis(2_300),
            },
        }
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        let key = Key::derive("c", "s");
        for kind in [
            renewal().kind,
            Kind::Granted,
            Kind::Pledged { to: Epoch(8) },
            Kind::TooLong,
        ] {
            let datagram = Datagram { kind, ..renewal() };
            assert_eq!(Datagram::decode(&datagram.encode(&key), &key), Some(datagram));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let key = Key::derive("c", "s");
        let bytes = renewal().encode(&key);
        for at in 0..bytes.len() {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(Datagram::decode(&wrong, &key), None, "byte {at}");
        }
    }

    #[test]
    fn another_clusters_datagram_garbage_and_nothing_are_refused() {
        let key = Key::derive("c", "s");
        assert_eq!(
            Datagram::decode(&renewal().encode(&Key::derive("d", "s")), &key),
            None
        );
        assert_eq!(
            Datagram::decode(&renewal().encode(&Key::derive("cs", "")), &key),
            None
        );
        assert_eq!(Datagram::decode(b"", &key), None);
        assert_eq!(Datagram::decode(&[0x55; LENGTH], &key), None);
        assert_eq!(Datagram::decode(&[0x55; 9_000], &key), None);
    }

    fn datagram() -> impl Strategy<Value = Datagram> {
        let kind = prop_oneof![
            any::<u64>().prop_map(|ns| Kind::Renew {
                promise: Duration::from_nanos(ns)
            }),
            Just(Kind::Granted),
            any::<u64>().prop_map(|to| Kind::Pledged { to: Epoch(to) }),
            Just(Kind::TooLong),
        ];
        (any::<[u64; 5]>(), kind).prop_map(|([from, to, epoch, round, incarnation], kind)| Datagram {
            from: NodeId(from),
            to: NodeId(to),
            epoch: Epoch(epoch),
            round,
            incarnation,
            kind,
        })
    }

    proptest! {
        #[test]
        fn a_datagram_is_read_as_it_was_sent_and_a_mangled_one_not_at_all(
            (sent, found) in datagram().prop_flat_map(|datagram| {
                let bytes = datagram.encode(&Key::derive("c", "s"));
                (Just(datagram), mangled::bytes(&bytes))
            }),
        ) {
            let key = Key::derive("c", "s");
            let bytes = sent.encode(&key);
            prop_assert_eq!(Datagram::decode(&bytes, &key), Some(sent));
            if found != bytes {
                prop_assert_eq!(Datagram::decode(&found, &key), None);
            }
        }

        #[test]
        fn rubbish_of_any_length_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Datagram::decode(&bytes, &Key::derive("c", "s")), None);
        }
    }
}
