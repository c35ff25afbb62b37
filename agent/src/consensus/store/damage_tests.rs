//! Logs and snapshots that a bad disk or a bad hand has changed. Whatever is read of them was written once; the rest is
//! an error that names the file and the way back.

use super::content::{self, LogContent, MAGIC};
use super::frame;
use super::{OpenError, RECOVERY, snapshot_file};
use crate::consensus::types::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, RaftNode, Snapshot, SnapshotMeta,
    StoredMembership, Vote,
};
use agent_core::cluster::Command;
use agent_core::time::WallTime;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use proto::peer;
use std::collections::BTreeMap;

const PATH: &str = "state/raft.log";

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id: 1 },
        index,
    }
}

fn membership() -> Membership {
    let node = RaftNode {
        name: "n1".to_owned(),
        peer: "n1:7432".to_owned(),
    };
    let nodes: BTreeMap<u64, RaftNode> = [(1, node.clone()), (2, node)].into();
    Membership::new(vec![[1].into(), [1, 2].into()], nodes).expect("valid")
}

/// What a history consists of; an entry takes the next place.
#[derive(Debug, Clone)]
enum Step {
    Vote(u64),
    Note(String),
    Members,
    Truncate(u64),
    Committed(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..9_u64).prop_map(Step::Vote),
        4 => mangled::any_text(0..60).prop_map(Step::Note),
        1 => Just(Step::Members),
        1 => (0..4_u64).prop_map(Step::Truncate),
        1 => (0..9_u64).prop_map(Step::Committed),
    ]
}

/// The log's bytes, and its contents as they were after each durable write.
fn written(steps: &[Step]) -> (Vec<u8>, Vec<LogContent>) {
    let mut bytes = frame::header(MAGIC).to_vec();
    let mut stages = vec![LogContent::default()];
    for step in steps {
        let mut after = stages.last().expect("the first").clone();
        let next = after.last().map_or(0, |last| last.index + 1);
        let record = match step {
            Step::Vote(term) => {
                let vote = Vote {
                    leader_id: LeaderId {
                        term: *term,
                        node_id: 2,
                    },
                    committed: term % 2 == 0,
                };
                after.vote = Some(vote);
                content::vote_record(&vote)
            }
            Step::Note(text) => {
                let note = Command::Note {
                    kind: "test".to_owned(),
                    text: text.clone(),
                    at: WallTime(next),
                };
                put(&mut after, next, Payload::Normal(Proposal(note)))
            }
            Step::Members => put(&mut after, next, Payload::Membership(membership())),
            Step::Truncate(back) => {
                let last = next.checked_sub(1 + back).map(|index| log_id(1, index));
                after.truncate_after(last);
                content::truncate_record(last.as_ref())
            }
            Step::Committed(index) => {
                after.committed = Some(log_id(1, *index));
                content::committed_record(&log_id(1, *index))
            }
        };
        let batch = peer::Batch {
            records: vec![record],
        };
        bytes.extend(frame::frame(&batch.encode_to_vec()).expect("fits"));
        stages.push(after);
    }
    (bytes, stages)
}

fn put(content: &mut LogContent, index: u64, payload: Payload) -> peer::Record {
    let entry = Entry {
        log_id: log_id(1, index),
        payload,
    };
    let record = content::entry_record(&entry);
    content.put(entry).expect("the next one");
    record
}

fn says_the_way_back(error: &OpenError, path: &str) -> bool {
    let told = error.to_string();
    let way = told.contains(RECOVERY) || matches!(error, OpenError::Newer { .. });
    told.contains(path) && way
}

/// A batch that nobody in this house writes, with numbers from all over their range.
fn any_record() -> impl Strategy<Value = peer::Record> {
    use peer::record::Record;
    let number = || prop_oneof![0..6_u64, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()];
    let id = move || {
        (number(), number(), number()).prop_map(|(term, node, index)| peer::LogId { term, node, index })
    };
    let payload = prop_oneof![
        Just(None),
        vec(any::<u8>(), 0..20).prop_map(|json| Some(peer::entry::Payload::Command(json))),
        (vec(vec(number(), 0..3), 0..3), vec(number(), 0..3)).prop_map(|(sets, nodes)| {
            let voters = sets.into_iter().map(|nodes| peer::VoterSet { nodes }).collect();
            let nodes = nodes.into_iter().map(|id| peer::RaftNode {
                id,
                ..Default::default()
            });
            Some(peer::entry::Payload::Membership(peer::Membership {
                voters,
                nodes: nodes.collect(),
            }))
        }),
    ];
    prop_oneof![
        (number(), number(), any::<bool>()).prop_map(|(term, node, committed)| Record::Vote(peer::Vote {
            term,
            node,
            committed
        })),
        (proptest::option::of(id()), payload)
            .prop_map(|(id, payload)| Record::Entry(peer::Entry { id, payload })),
        id().prop_map(Record::Committed),
        proptest::option::of(id()).prop_map(|last| Record::Truncate(peer::Truncation { last })),
        id().prop_map(Record::Purged),
    ]
    .prop_map(|record| peer::Record { record: Some(record) })
}

/// Each index once, from the one after `purged` on.
fn is_without_a_gap(content: &LogContent) -> bool {
    let indices: Vec<u64> = content.entries.keys().copied().collect();
    let follows = indices.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let starts = match (content.purged, indices.first()) {
        (Some(purged), Some(first)) => purged.index + 1 == *first,
        _ => true,
    };
    follows && starts
}

proptest! {
    #[test]
    fn a_mangled_log_is_refused_or_read_up_to_some_write_and_never_as_anything_else(
        (whole, stages, found) in vec(step(), 0..12).prop_flat_map(|steps| {
            let (bytes, stages) = written(&steps);
            (Just(bytes.clone()), Just(stages), mangled::bytes(&bytes))
        }),
    ) {
        let (content, length) = LogContent::read(&whole, PATH).expect("sound");
        prop_assert_eq!((&content, length), (stages.last().expect("the first"), whole.len()));
        match LogContent::read(&found, PATH) {
            Ok((content, sound)) => {
                prop_assert!(stages.contains(&content), "{:?} was never written", content);
                prop_assert!(sound <= found.len() && whole.starts_with(&found[..sound]));
            }
            Err(error) => prop_assert!(says_the_way_back(&error, PATH), "{}", error),
        }
    }

    #[test]
    fn rubbish_is_no_log_with_or_without_a_header(
        rubbish in vec(any::<u8>(), 0..600),
        with_header in any::<bool>(),
    ) {
        let bytes = if with_header { [frame::header(MAGIC).as_slice(), &rubbish].concat() } else { rubbish };
        match LogContent::read(&bytes, PATH) {
            Ok((content, _)) => prop_assert_eq!(content, LogContent::default()),
            Err(error) => prop_assert!(says_the_way_back(&error, PATH), "{}", error),
        }
    }

    #[test]
    fn records_with_any_numbers_under_right_checksums_leave_a_log_without_a_gap(
        batches in vec(vec(any_record(), 1..4), 1..5),
    ) {
        let mut bytes = frame::header(MAGIC).to_vec();
        for records in batches {
            bytes.extend(frame::frame(&peer::Batch { records }.encode_to_vec()).expect("fits"));
        }
        match LogContent::read(&bytes, PATH) {
            Ok((content, _)) => prop_assert!(is_without_a_gap(&content), "{:?}", content),
            Err(error) => prop_assert!(says_the_way_back(&error, PATH), "{}", error),
        }
    }

    #[test]
    fn mangled_records_under_right_checksums_are_read_or_refused(
        contents in vec(step(), 1..6).prop_flat_map(|steps| {
            let (bytes, _) = written(&steps);
            let frame::At::Frame { contents, .. } = frame::look(&bytes, frame::HEADER_LEN) else {
                return mangled::bytes(&[]);
            };
            mangled::bytes(contents)
        }),
    ) {
        let mut bytes = frame::header(MAGIC).to_vec();
        bytes.extend(frame::frame(&contents).unwrap_or_default());
        match LogContent::read(&bytes, PATH) {
            Ok((content, _)) => prop_assert!(is_without_a_gap(&content)),
            Err(error) => prop_assert!(says_the_way_back(&error, PATH), "{}", error),
        }
    }

    #[test]
    fn a_mangled_snapshot_is_the_one_that_was_written_or_refused(
        (snapshot, found) in vec(any::<u8>(), 0..900).prop_flat_map(|state| {
            let snapshot = Snapshot {
                meta: SnapshotMeta {
                    last_log_id: Some(log_id(3, 17)),
                    last_membership: StoredMembership::new(Some(log_id(1, 2)), membership()),
                },
                snapshot: state,
            };
            let bytes = snapshot_file::write(&snapshot).expect("fits");
            (Just(snapshot), mangled::bytes(&bytes))
        }),
    ) {
        match snapshot_file::read(&found, "state/raft.snapshot") {
            Ok(read) => prop_assert!((&read.meta, &read.snapshot) == (&snapshot.meta, &snapshot.snapshot)),
            Err(error) => prop_assert!(says_the_way_back(&error, "state/raft.snapshot"), "{}", error),
        }
    }
}
