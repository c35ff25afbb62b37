//! The comparison of what clients saw with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::TABLE;
use super::history::{History, RowId};
use crate::sql;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Rows in the table.
    pub present: u64,
    /// Acknowledged and not there: must be empty, whatever happened (in the modes that promise it).
    pub lost: Vec<RowId>,
    /// There more than once: must be empty.
    pub duplicates: Vec<RowId>,
    /// Unknown to the client, and there: allowed.
    pub unknown_present: u64,
    /// Unknown to the client, and not there: allowed.
    pub unknown_absent: u64,
    /// There, and never sent by any client of this history: must be empty.
    pub never_sent: Vec<RowId>,
}

impl Verdict {
    /// Whether nothing was lost, doubled or made up.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicates.is_empty() && self.never_sent.is_empty()
    }
}

/// Reads the table from `primary` and compares.
///
/// # Errors
/// The table cannot be read.
pub async fn verify(primary: SocketAddr, history: &History) -> Result<Verdict> {
    let rows = sql::query(
        primary,
        &format!("SELECT client, seq, count(*) FROM {TABLE} GROUP BY 1, 2"),
    )
    .await?;
    let mut present = BTreeMap::new();
    for row in &rows {
        let number = |i: usize| {
            row.get(i)
                .and_then(Option::as_deref)
                .and_then(|text| text.parse::<u64>().ok())
        };
        let (Some(client), Some(seq), Some(count)) = (number(0), number(1), number(2)) else {
            anyhow::bail!("unexpected row in {TABLE}: {row:?}");
        };
        present.insert((u32::try_from(client).context("a client's number")?, seq), count);
    }
    Ok(compare(history, &present))
}

fn compare(history: &History, present: &BTreeMap<RowId, u64>) -> Verdict {
    let acked: BTreeSet<RowId> = history.acks.iter().map(|ack| ack.id).collect();
    let unknown: BTreeSet<RowId> = history.unknown.iter().copied().collect();
    let unknown_present = unknown.iter().filter(|id| present.contains_key(id)).count() as u64;
    Verdict {
        present: present.values().sum(),
        lost: acked
            .iter()
            .filter(|id| !present.contains_key(id))
            .copied()
            .collect(),
        duplicates: present
            .iter()
            .filter(|(_, count)| **count > 1)
            .map(|(id, _)| *id)
            .collect(),
        unknown_present,
        unknown_absent: unknown.len() as u64 - unknown_present,
        never_sent: present
            .keys()
            .filter(|id| !acked.contains(id) && !unknown.contains(id))
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::workload::{Ack, Gap};

    fn history(acked: &[u64], unknown: &[u64]) -> History {
        let t = Mono::at_ms(1);
        let ack = |seq: &u64| Ack {
            id: (1, *seq),
            sent: t,
            acked: t,
            server: SocketAddr::from(([127, 0, 0, 1], 1)),
            timeline: 1,
        };
        History {
            run: Gap { from: t, to: t },
            acks: acked.iter().map(ack).collect(),
            unknown: unknown.iter().map(|seq| (1, *seq)).collect(),
            failures: BTreeMap::new(),
        }
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let present = BTreeMap::from([((1, 1), 1), ((1, 3), 2), ((1, 5), 1), ((9, 1), 1)]);
        let verdict = compare(&history(&[1, 2, 3], &[4, 5]), &present);
        assert_eq!(verdict.lost, [(1, 2)]);
        assert_eq!(verdict.duplicates, [(1, 3)]);
        assert_eq!(verdict.never_sent, [(9, 1)]);
        assert_eq!(
            (verdict.unknown_present, verdict.unknown_absent, verdict.present),
            (1, 1, 5)
        );
        assert!(!verdict.is_clean());
    }

    #[test]
    fn unknown_rows_may_be_there_or_not() {
        let present = BTreeMap::from([((1, 1), 1), ((1, 2), 1)]);
        assert!(compare(&history(&[1], &[2, 3]), &present).is_clean());
    }
}
