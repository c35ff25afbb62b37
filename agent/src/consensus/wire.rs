//! Between Raft's types and the messages that travel and are kept on disk.
//!
//! Nothing is trusted on the way in: whatever a message lacks or gets wrong becomes a [`WireError`], never a panic
//! and never a default that could be taken for a vote.

use super::types::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, RaftNode, Snapshot, SnapshotMeta,
    StoredMembership, Vote,
};
use proto::peer;
use std::collections::{BTreeMap, BTreeSet};

/// A message that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the message has no {0}")]
    Missing(&'static str),
    #[error("the {what} in the message cannot be read: {why}")]
    Unreadable { what: &'static str, why: String },
}

/// A field that must be there.
pub(super) fn required<T>(field: Option<T>, name: &'static str) -> Result<T, WireError> {
    field.ok_or(WireError::Missing(name))
}

/// A value of the core that travels as JSON.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
) -> Result<T, WireError> {
    serde_json::from_slice(bytes).map_err(|error| WireError::Unreadable {
        what,
        why: error.to_string(),
    })
}

/// The other way. The core's types are plain data: maps have keys that JSON can write.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with string or integer keys can always be written as JSON")
}

pub(super) fn vote_out(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(super) fn vote_in(vote: peer::Vote) -> Result<Vote, WireError> {
    in_range(vote.term, "term")?;
    Ok(Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    })
}

pub(super) fn log_id_out(id: &LogId) -> peer::LogId {
    peer::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(super) fn log_id_in(id: peer::LogId) -> Result<LogId, WireError> {
    in_range(id.term, "term")?;
    in_range(id.index, "index")?;
    Ok(LogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.node,
        },
        index: id.index,
    })
}

/// Terms and indices are counted up from zero, so that no cluster comes near this in its life. A vote for the highest
/// term there is would be the last one, and would be kept on disk.
const COUNTED_AT_MOST: u64 = 1 << 56;

fn in_range(number: u64, what: &'static str) -> Result<(), WireError> {
    if number <= COUNTED_AT_MOST {
        return Ok(());
    }
    Err(WireError::Unreadable {
        what,
        why: format!("{number} is beyond {COUNTED_AT_MOST}, which no cluster reaches"),
    })
}

pub(super) fn membership_out(membership: &Membership) -> peer::Membership {
    peer::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| peer::VoterSet {
                nodes: set.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| peer::RaftNode {
                id: *id,
                name: node.name.clone(),
                peer: node.peer.clone(),
            })
            .collect(),
    }
}

pub(super) fn membership_in(message: peer::Membership) -> Result<Membership, WireError> {
    let sets: Vec<BTreeSet<u64>> = message
        .voters
        .into_iter()
        .map(|set| set.nodes.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, RaftNode> = message
        .nodes
        .into_iter()
        .map(|node| {
            (
                node.id,
                RaftNode {
                    name: node.name,
                    peer: node.peer,
                },
            )
        })
        .collect();
    Membership::new(sets, nodes).map_err(|error| WireError::Unreadable {
        what: "membership",
        why: error.to_string(),
    })
}

pub(super) fn entry_out(entry: &Entry) -> peer::Entry {
    let payload = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(proposal) => Some(peer::entry::Payload::Command(to_json(&proposal.0))),
        Payload::Membership(membership) => Some(peer::entry::Payload::Membership(membership_out(membership))),
    };
    peer::Entry {
        id: Some(log_id_out(&entry.log_id)),
        payload,
    }
}

pub(super) fn entry_in(message: peer::Entry) -> Result<Entry, WireError> {
    let payload = match message.payload {
        None => Payload::Blank,
        Some(peer::entry::Payload::Command(json)) => Payload::Normal(Proposal(from_json(&json, "command")?)),
        Some(peer::entry::Payload::Membership(membership)) => Payload::Membership(membership_in(membership)?),
    };
    Ok(Entry {
        log_id: log_id_in(required(message.id, "entry's place")?)?,
        payload,
    })
}

pub(super) fn stored_membership_out(stored: &StoredMembership) -> peer::StoredMembership {
    peer::StoredMembership {
        id: stored.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(stored.membership())),
    }
}

pub(super) fn stored_membership_in(message: peer::StoredMembership) -> Result<StoredMembership, WireError> {
    let membership = membership_in(required(message.membership, "membership")?)?;
    Ok(StoredMembership::new(
        message.id.map(log_id_in).transpose()?,
        membership,
    ))
}

pub(super) fn snapshot_out(snapshot: &Snapshot) -> peer::Snapshot {
    peer::Snapshot {
        last_applied: snapshot.meta.last_log_id.as_ref().map(log_id_out),
        membership: Some(stored_membership_out(&snapshot.meta.last_membership)),
        state: snapshot.snapshot.clone(),
    }
}

pub(super) fn snapshot_in(message: peer::Snapshot) -> Result<Snapshot, WireError> {
    let meta = SnapshotMeta {
        last_log_id: message.last_applied.map(log_id_in).transpose()?,
        last_membership: stored_membership_in(required(message.membership, "membership")?)?,
    };
    Ok(Snapshot {
        meta,
        snapshot: message.state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::cluster::Command;
    use agent_core::time::WallTime;
    use proptest::prelude::*;
    use prost::Message;

    fn id(term: u64, node: u64, index: u64) -> LogId {
        LogId {
            leader_id: LeaderId { term, node_id: node },
            index,
        }
    }

    #[test]
    fn each_kind_of_entry_comes_back_as_it_was_sent() {
        let note = Command::Note {
            kind: "test".into(),
            text: "ä \0 ✓".into(),
            at: WallTime(7),
        };
        let nodes: BTreeMap<u64, RaftNode> = [1, 2, 9]
            .map(|n| {
                (
                    n,
                    RaftNode {
                        name: format!("n{n}"),
                        peer: format!("host{n}:7432"),
                    },
                )
            })
            .into();
        let joint = Membership::new(vec![[1, 2].into(), [2, 9].into()], nodes).expect("valid");
        for payload in [
            Payload::Blank,
            Payload::Normal(Proposal(note)),
            Payload::Membership(joint),
        ] {
            let entry = Entry {
                log_id: id(3, 2, 17),
                payload,
            };
            assert_eq!(entry_in(entry_out(&entry)), Ok(entry));
        }
    }

    #[test]
    fn a_message_without_a_needed_part_is_refused_and_never_defaulted() {
        let entry = peer::Entry {
            id: None,
            payload: None,
        };
        assert_eq!(entry_in(entry), Err(WireError::Missing("entry's place")));
        let garbage = peer::Entry {
            id: Some(log_id_out(&id(1, 1, 1))),
            payload: Some(peer::entry::Payload::Command(b"{\"do\":\"unheard-of\"}".to_vec())),
        };
        assert!(matches!(
            entry_in(garbage),
            Err(WireError::Unreadable { what: "command", .. })
        ));
        let voter_without_address = peer::Membership {
            voters: vec![peer::VoterSet { nodes: vec![4] }],
            nodes: Vec::new(),
        };
        assert!(matches!(
            membership_in(voter_without_address),
            Err(WireError::Unreadable {
                what: "membership",
                ..
            })
        ));
    }

    #[test]
    fn numbers_after_which_nothing_can_be_counted_are_refused() {
        for (term, index) in [(u64::MAX, 1), (1, u64::MAX), (COUNTED_AT_MOST + 1, 1)] {
            let id = peer::LogId { term, node: 1, index };
            assert!(matches!(log_id_in(id), Err(WireError::Unreadable { .. })));
        }
        let vote = peer::Vote {
            term: u64::MAX,
            node: 1,
            committed: true,
        };
        assert!(matches!(
            vote_in(vote),
            Err(WireError::Unreadable { what: "term", .. })
        ));
    }

    #[test]
    fn a_proposal_is_shown_without_what_it_holds() {
        let proposal = Proposal(Command::Note {
            kind: "k".into(),
            text: "secret".into(),
            at: WallTime(0),
        });
        assert_eq!(proposal.to_string(), "Note");
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let payload = prop_oneof![
            Just(Payload::Blank),
            mangled::any_text(0..40).prop_map(|text| {
                Payload::Normal(Proposal(Command::Note {
                    kind: "test".into(),
                    text,
                    at: WallTime(7),
                }))
            }),
            proptest::collection::btree_set(any::<u64>(), 1..4).prop_map(|voters| {
                let nodes: BTreeMap<u64, RaftNode> =
                    voters.iter().map(|id| (*id, RaftNode::default())).collect();
                Payload::Membership(Membership::new(vec![voters], nodes).expect("valid"))
            }),
        ];
        let number = || 0..=COUNTED_AT_MOST;
        (number(), any::<u64>(), number(), payload).prop_map(|(term, node, index, payload)| Entry {
            log_id: id(term, node, index),
            payload,
        })
    }

    proptest! {
        #[test]
        fn any_entry_comes_back_and_a_mangled_one_is_refused_or_one_that_can_be_sent(
            (entry, found) in any_entry().prop_flat_map(|entry| {
                let bytes = entry_out(&entry).encode_to_vec();
                (Just(entry), mangled::bytes(&bytes))
            }),
        ) {
            prop_assert_eq!(entry_in(entry_out(&entry)), Ok(entry));
            if let Some(read) = peer::Entry::decode(found.as_slice()).ok().and_then(|read| entry_in(read).ok()) {
                prop_assert_eq!(entry_in(entry_out(&read)), Ok(read));
            }
        }

        #[test]
        fn a_mangled_snapshot_is_refused_or_one_that_can_be_sent(
            found in Just(()).prop_flat_map(|()| {
                let voters: BTreeSet<u64> = [1, 2].into();
                let nodes: BTreeMap<u64, RaftNode> = voters.iter().map(|id| (*id, RaftNode::default())).collect();
                let membership = Membership::new(vec![voters], nodes).expect("valid");
                let meta = SnapshotMeta {
                    last_log_id: Some(id(2, 1, 9)),
                    last_membership: StoredMembership::new(Some(id(1, 1, 3)), membership),
                };
                let snapshot = Snapshot { meta, snapshot: b"{}".to_vec() };
                mangled::bytes(&snapshot_out(&snapshot).encode_to_vec())
            }),
        ) {
            if let Some(read) = peer::Snapshot::decode(found.as_slice()).ok().and_then(|read| snapshot_in(read).ok()) {
                let again = snapshot_in(snapshot_out(&read)).expect("it was read once");
                prop_assert!((&again.meta, &again.snapshot) == (&read.meta, &read.snapshot));
            }
        }
    }
}
