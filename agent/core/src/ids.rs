//! Names of things: nodes, epochs, requests.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A node's number in the Raft group. Given once, never used again: a wiped or re-added node gets a fresh one,
/// because a voter that forgot its vote under an old number could vote twice.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// Reads a number, and a number in quotes: JSON writes the keys of a map as text, and where the map is part of a
/// tagged enum (a [`Command`](crate::cluster::Command)) the reader sees that text and not a number.
impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl serde::de::Visitor<'_> for NumberOrText {
            type Value = NodeId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node number")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<NodeId, E> {
                Ok(NodeId(number))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<NodeId, E> {
                text.parse()
                    .map(NodeId)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(NumberOrText)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The fencing token of the right to run a writable primary: one higher at each grant, also to the same node.
/// Zero means that no grant was ever made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that the next grant will carry.
    #[must_use]
    pub fn next(self) -> Epoch {
        // No cluster lives through so many grants; but a message may name any number.
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Chosen by the client for each request, so that the same request sent twice is carried out once.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "is")]
    enum Tagged {
        Map { by_node: BTreeMap<NodeId, NodeId> },
    }

    #[test]
    fn a_node_number_is_read_back_as_a_key_within_a_tagged_enum() {
        let value = Tagged::Map {
            by_node: BTreeMap::from([(NodeId(1), NodeId(2)), (NodeId(u64::MAX), NodeId(0))]),
        };
        let json = serde_json::to_string(&value).expect("writes");
        assert_eq!(serde_json::from_str::<Tagged>(&json).expect("reads"), value);
    }

    #[test]
    fn a_word_is_no_node_number() {
        assert!(serde_json::from_str::<NodeId>("\"n1\"").is_err());
        assert!(serde_json::from_str::<NodeId>("-1").is_err());
    }
}
