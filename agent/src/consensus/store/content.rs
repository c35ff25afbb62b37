//! The log as it stands after all its records, and the records that bring it there.

use super::frame::{self, At, BadHeader, HEADER_LEN};
use super::{LOG_FILE, OpenError};
use crate::consensus::types::{Entry, LogId, Vote};
use crate::consensus::wire;
use prost::Message;
use proto::peer::{self, record};
use std::collections::BTreeMap;

pub(super) const MAGIC: [u8; 8] = *b"pgctlrft";

/// Vote, log and committed index of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogContent {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    /// Everything up to here is in the snapshot only.
    pub purged: Option<LogId>,
    /// By index, without a gap.
    pub entries: BTreeMap<u64, Entry>,
}

impl LogContent {
    /// The last entry, or the last purged one.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.entries
            .last_key_value()
            .map(|(_, entry)| entry.log_id)
            .or(self.purged)
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        *self == LogContent::default()
    }

    /// Reads a log file. Also says how long its sound part is: what lies behind was torn by a crash.
    pub(super) fn read(bytes: &[u8], path: &str) -> Result<(LogContent, usize), OpenError> {
        let damaged = |offset: usize, why: &str| OpenError::Damaged {
            path: path.to_owned(),
            offset: offset as u64,
            why: why.to_owned(),
        };
        frame::check_header(bytes, MAGIC).map_err(|bad| match bad {
            BadHeader::Damaged(why) => damaged(0, why),
            BadHeader::Newer { found } => OpenError::Newer {
                path: path.to_owned(),
                found,
                known: frame::FORMAT,
            },
        })?;
        let mut content = LogContent::default();
        let mut offset = HEADER_LEN;
        loop {
            match frame::look(bytes, offset) {
                At::End => return Ok((content, offset)),
                At::Torn => {
                    tracing::warn!(
                        file = LOG_FILE,
                        offset,
                        lost = bytes.len() - offset,
                        "cutting off a record that a crash has torn; nobody was told of it"
                    );
                    return Ok((content, offset));
                }
                At::Damaged(why) => return Err(damaged(offset, why)),
                At::Frame { contents, next } => {
                    let batch =
                        peer::Batch::decode(contents).map_err(|error| damaged(offset, &error.to_string()))?;
                    for record in batch.records {
                        content.take(record).map_err(|why| damaged(offset, &why))?;
                    }
                    offset = next;
                }
            }
        }
    }

    /// One batch of records that brings an empty log to this one.
    pub(super) fn as_batch(&self) -> peer::Batch {
        let mut records = Vec::with_capacity(self.entries.len() + 3);
        records.extend(self.purged.as_ref().map(purged_record));
        records.extend(self.vote.as_ref().map(vote_record));
        records.extend(self.entries.values().map(entry_record));
        records.extend(self.committed.as_ref().map(committed_record));
        peer::Batch { records }
    }

    fn take(&mut self, record: peer::Record) -> Result<(), String> {
        let unreadable = |error: wire::WireError| error.to_string();
        match record
            .record
            .ok_or("a record of a kind that this agent does not know")?
        {
            record::Record::Vote(vote) => self.vote = Some(wire::vote_in(vote).map_err(unreadable)?),
            record::Record::Committed(id) => {
                self.committed = Some(wire::log_id_in(id).map_err(unreadable)?);
            }
            record::Record::Truncate(at) => {
                let last = at.last.map(wire::log_id_in).transpose().map_err(unreadable)?;
                self.truncate_after(last);
            }
            record::Record::Purged(id) => {
                self.purge(wire::log_id_in(id).map_err(unreadable)?);
                let first = self.entries.first_key_value().map(|(index, _)| *index);
                if first.is_some_and(|first| id.index.checked_add(1) != Some(first)) {
                    return Err(format!(
                        "the entries do not follow entry {}, which was purged",
                        id.index
                    ));
                }
            }
            record::Record::Entry(entry) => self.put(wire::entry_in(entry).map_err(unreadable)?)?,
        }
        Ok(())
    }

    /// Stores an entry behind the last one, or in the place of one that is there.
    pub(super) fn put(&mut self, entry: Entry) -> Result<(), String> {
        let index = entry.log_id.index;
        let fits = match self.last() {
            None => true,
            Some(last) => last.index.checked_add(1) == Some(index) || self.entries.contains_key(&index),
        };
        if !fits {
            return Err(format!("entry {index} does not follow the ones before it"));
        }
        self.entries.insert(index, entry);
        Ok(())
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        match last {
            Some(last) => self.entries.retain(|index, _| *index <= last.index),
            None => self.entries.clear(),
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.entries.retain(|index, _| *index > upto.index);
        self.purged = self.purged.max(Some(upto));
    }
}

pub(super) fn vote_record(vote: &Vote) -> peer::Record {
    peer::Record {
        record: Some(record::Record::Vote(wire::vote_out(vote))),
    }
}

pub(super) fn entry_record(entry: &Entry) -> peer::Record {
    peer::Record {
        record: Some(record::Record::Entry(wire::entry_out(entry))),
    }
}

pub(super) fn committed_record(id: &LogId) -> peer::Record {
    peer::Record {
        record: Some(record::Record::Committed(wire::log_id_out(id))),
    }
}

pub(super) fn truncate_record(last: Option<&LogId>) -> peer::Record {
    let last = last.map(wire::log_id_out);
    peer::Record {
        record: Some(record::Record::Truncate(peer::Truncation { last })),
    }
}

fn purged_record(id: &LogId) -> peer::Record {
    peer::Record {
        record: Some(record::Record::Purged(wire::log_id_out(id))),
    }
}
