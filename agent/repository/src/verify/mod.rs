//! Reading a repository end to end, and mending what is damaged from another one.
//!
//! Every object is read, decrypted, decompressed and compared with its hash. Beyond that a base backup's archive is taken
//! apart: its files must be those of the server's own manifest, and its pages must have the right checksums. A segment
//! must be the one of its name, and no segment may be missing. With a share, a part of the objects is read, another one each
//! day, and all of them within as many days as the share goes into the whole.
//!
//! | file | does |
//! |---|---|
//! | `files`, `pages` | what is in a base backup's archive |
//! | `mend` | a damaged object is replaced by what another repository has |

#[cfg(test)]
mod damage_tests;
mod files;
mod mend;
mod pages;
mod reading;

pub use mend::{mend, mend_segment};

use crate::catalogue::{Catalogue, chain};
use crate::error::Error;
use crate::inventory::{Inventory, inventory};
use crate::layout::Line;
use crate::repository::Repository;
use crate::store::Listed;
use reading::Reading;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A part of what there is, another one in each round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// More than 0, at most 1.
    pub part: f64,
    /// The round's number; the day's is a good one.
    pub round: u64,
}

impl Share {
    /// Whether an object is among it: the rounds follow each other around the circle of all names.
    fn has(self, key: &str) -> bool {
        let hash = blake3::hash(key.as_bytes());
        let mut number = [0; 4];
        number.copy_from_slice(&hash.as_bytes()[..4]);
        let place = f64::from(u32::from_le_bytes(number)) / (f64::from(u32::MAX) + 1.0);
        // Rounds of a day fit into 32 bits for eleven million years.
        let round = f64::from(u32::try_from(self.round % u64::from(u32::MAX)).unwrap_or(0));
        let begin = (round * self.part).fract();
        let distance = (place - begin).rem_euclid(1.0);
        distance < self.part
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// It is not what was written.
    Damaged,
    /// It should be there.
    Missing,
    /// It holds something else than its name says.
    Misnamed,
    /// It was written as it is, and what was written is no whole copy of a server.
    Unsound,
    /// It could not be read: no key, or the store did not give it.
    Unreadable,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::Damaged => "damaged",
            Wrong::Missing => "missing",
            Wrong::Misnamed => "misnamed",
            Wrong::Unsound => "unsound",
            Wrong::Unreadable => "unreadable",
        })
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub key: String,
    pub wrong: Wrong,
    pub why: String,
    /// The repository that it was mended from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mended_from: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// What was read.
    pub objects: u64,
    pub stored_bytes: u64,
    /// What there is in all.
    pub all_objects: u64,
    pub all_stored_bytes: u64,
    /// Backups whose archive was taken apart.
    pub backups: u64,
    /// Of these, pages of relations with the right checksum.
    pub pages: u64,
    pub findings: Vec<Finding>,
}

/// Verifies one line of a repository, or a share of it, or one backup with its WAL. `progress` is told how many bytes were
/// read, as they are stored, and how many there are to read.
///
/// # Errors
/// The store does not list, or there is no such backup. What is wrong with objects is no error but a finding.
pub async fn verify(
    repository: &Repository,
    line: &Line,
    share: Option<Share>,
    backup: Option<&str>,
    progress: impl FnMut(u64, u64),
) -> Result<Verified, Error> {
    let all = repository.list(&line.to_string()).await?;
    let mut found = Findings::default();
    let entries = entries(repository, line, &all, &mut found).await?;
    let there = match inventory(repository, line).await {
        Ok(there) => Some(there),
        // Without its histories nothing can be said of holes.
        Err(Error::Damaged { key, why, .. }) => {
            found.add(&key, Wrong::Damaged, why);
            None
        }
        Err(error) => return Err(error),
    };
    let wanted: Vec<&Catalogue> = match backup {
        None => entries.iter().collect(),
        Some(id) => chain(&entries, id).ok_or_else(|| Error::Refused {
            name: format!("backup {id}"),
            why: "there is no finished backup of that name with all that it is an increment of".to_owned(),
        })?,
    };
    look_for_gaps(line, &all, &entries, &wanted, &mut found);
    if let Some(there) = &there {
        look_for_holes(line, there, &wanted, backup.is_none(), &mut found);
    }
    let needed = there
        .as_ref()
        .map(|there| names_of_wal(there, &wanted))
        .unwrap_or_default();
    let of_backup = |key: &str| {
        needed.contains(name_of(key))
            || wanted
                .iter()
                .any(|entry| key.starts_with(&format!("{}/", line.backup_folder(&entry.id))))
    };
    let chosen: Vec<&Listed> = all
        .iter()
        .filter(|listed| share.is_none_or(|share| share.has(&listed.key)))
        .filter(|listed| backup.is_none() || of_backup(&listed.key))
        .collect();
    let verified = Verified {
        all_objects: all.len() as u64,
        all_stored_bytes: all.iter().map(|listed| listed.bytes).sum(),
        ..Verified::default()
    };
    let reading = Reading {
        repository,
        line,
        all: chosen.iter().map(|listed| listed.bytes).sum(),
        progress,
        verified,
        found,
    };
    // A share has single parts; only of a whole archive the files can be told.
    let whole: &[&Catalogue] = if share.is_none() { &wanted } else { &[] };
    Ok(reading.read(&chosen, whole).await)
}

/// One of each object: it may be found more than once.
#[derive(Debug, Default)]
struct Findings {
    found: BTreeMap<String, Finding>,
}

impl Findings {
    fn add(&mut self, key: &str, wrong: Wrong, why: impl Into<String>) {
        self.found.entry(key.to_owned()).or_insert_with(|| Finding {
            key: key.to_owned(),
            wrong,
            why: why.into(),
            mended_from: None,
        });
    }
}

async fn entries(
    repository: &Repository,
    line: &Line,
    all: &[Listed],
    found: &mut Findings,
) -> Result<Vec<Catalogue>, Error> {
    let mut entries: Vec<Catalogue> = Vec::new();
    let folder = format!("{}/", line.backups());
    let of_entries = all
        .iter()
        .filter(|listed| listed.key.starts_with(&folder) && listed.key.ends_with("/backup"));
    for listed in of_entries {
        match repository.read_json::<Catalogue>(&listed.key).await {
            Ok(entry) if listed.key == line.backup(&entry.id) => entries.push(entry),
            Ok(entry) => found.add(
                &listed.key,
                Wrong::Misnamed,
                format!("it is the entry of {}", entry.id),
            ),
            Err(Error::Damaged { why, .. }) => found.add(&listed.key, Wrong::Damaged, why),
            Err(error @ Error::Key { .. }) => found.add(&listed.key, Wrong::Unreadable, error.to_string()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    entries.sort_by(|a, b| (a.ended_ms, &a.id).cmp(&(b.ended_ms, &b.id)));
    Ok(entries)
}

/// Parts that the catalogue names and that are not there, and increments of what is not there.
fn look_for_gaps(
    line: &Line,
    all: &[Listed],
    entries: &[Catalogue],
    wanted: &[&Catalogue],
    found: &mut Findings,
) {
    let keys: BTreeSet<&str> = all.iter().map(|listed| listed.key.as_str()).collect();
    for entry in wanted {
        for number in 0..entry.parts.len() {
            let key = line.part(&entry.id, number);
            if !keys.contains(key.as_str()) {
                found.add(&key, Wrong::Missing, format!("backup {} needs it", entry.id));
            }
        }
        if chain(entries, &entry.id).is_none() {
            let parent = entry.parent.as_deref().unwrap_or_default();
            let why = format!("it is an increment of {parent}, and that or one before it is not there");
            found.add(&line.backup(&entry.id), Wrong::Unsound, why);
        }
    }
}

fn look_for_holes(
    line: &Line,
    there: &Inventory,
    wanted: &[&Catalogue],
    everywhere: bool,
    found: &mut Findings,
) {
    let spans = wanted
        .iter()
        .flat_map(|entry| {
            entry
                .own_spans(there)
                .into_iter()
                .map(move |span| (span, Some(entry)))
        })
        .flat_map(|(span, entry)| there.gaps(span).into_iter().map(move |gap| (gap, entry)));
    let holes = there.unexpected_gaps().into_iter().map(|gap| (gap, None));
    for (gap, entry) in spans.chain(holes.filter(|_| everywhere)) {
        for number in gap.first..=gap.last {
            if entry.is_none() && there.was_given_up(gap.timeline, number) {
                // It was told loudly, and nobody has it.
                continue;
            }
            let key = line.segment_key(&there.name_of(gap.timeline, number));
            let why = match entry {
                Some(entry) => format!("backup {} needs it", entry.id),
                None => "what is before and behind it is there".to_owned(),
            };
            found.add(&key, Wrong::Missing, why);
        }
    }
}

fn names_of_wal(there: &Inventory, wanted: &[&Catalogue]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for span in wanted.iter().flat_map(|entry| entry.own_spans(there)) {
        names.extend((span.first..=span.last).map(|number| there.name_of(span.timeline, number)));
    }
    names
}

fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_of_a_share_read_everything() {
        let keys: Vec<String> = (0..2000).map(|n| format!("demo/1/wal/{n}")).collect();
        for (part, rounds) in [(0.05, 20), (0.3, 4), (1.0, 1)] {
            for first in [0, 20_778, u64::MAX - 100] {
                let mut read: BTreeSet<&String> = BTreeSet::new();
                for round in first..first + rounds {
                    let share = Share { part, round };
                    let now: Vec<&String> = keys.iter().filter(|key| share.has(key)).collect();
                    let expected = 2000.0 * part;
                    assert!(
                        (now.len() as f64 - expected).abs() < 120.0,
                        "{part}: {}",
                        now.len()
                    );
                    read.extend(now);
                }
                assert_eq!(read.len(), 2000, "{part} from round {first} on");
            }
        }
    }
}
