//! Checksums of the pages of a base backup, as the server computes them.

use crate::tar::Entry;
use agent_core::pg::Lsn;

/// Bytes of a page, where it is the default; of other sizes nothing is said.
const PAGE: usize = 8192;
/// Pages of one file: a larger relation has several.
const PAGES_OF_FILE: u32 = 131_072;
/// Where the control file says how large pages are and whether they have checksums; the same in every version from 13 to 18.
const CONTROL_PAGE_SIZE: usize = 224;
const CONTROL_CHECKSUMS: usize = 252;
/// How many bad pages of one backup are named.
const NAMED: usize = 20;

/// Looks at the pages of an archive as they go by.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Pages that were changed after this point may be torn; the WAL has them whole.
    begun: Lsn,
    page: Vec<u8>,
    next: u32,
    control: Vec<u8>,
    seen: u64,
    bad: Vec<String>,
    all_bad: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PagesSay {
    /// So many pages have the right checksum.
    Right(u64),
    /// The server has none.
    NoChecksums,
    /// These have a wrong one, and so many in all.
    Wrong(Vec<String>, u64),
}

impl Pages {
    pub(super) fn since(begun: Lsn) -> Pages {
        Pages {
            begun,
            ..Pages::default()
        }
    }

    pub(super) fn begin(&mut self, entry: &Entry) {
        self.page.clear();
        self.next = first_page(&entry.path).unwrap_or(0);
    }

    pub(super) fn content(&mut self, entry: &Entry, mut piece: &[u8]) {
        if entry.path == "global/pg_control" {
            self.control.extend_from_slice(piece);
        }
        if first_page(&entry.path).is_none() {
            return;
        }
        while !piece.is_empty() {
            if self.page.is_empty() && piece.len() >= PAGE {
                let (page, rest) = piece.split_at(PAGE);
                self.look(&entry.path, page);
                piece = rest;
                continue;
            }
            let (now, rest) = piece.split_at(piece.len().min(PAGE - self.page.len()));
            self.page.extend_from_slice(now);
            piece = rest;
            if self.page.len() == PAGE {
                let page = std::mem::take(&mut self.page);
                self.look(&entry.path, &page);
                self.page = page;
                self.page.clear();
            }
        }
    }

    fn look(&mut self, path: &str, page: &[u8]) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let two = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let four = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let changed = Lsn(u64::from(four(0)) << 32 | u64::from(four(4)));
        // A page that was never used has no end of its line pointers.
        if two(14) == 0 || changed >= self.begun {
            return;
        }
        self.seen += 1;
        if checksum(page, number) != two(8) {
            self.all_bad += 1;
            if self.bad.len() < NAMED {
                self.bad
                    .push(format!("page {} of {path}", number % PAGES_OF_FILE));
            }
        }
    }

    pub(super) fn say(self) -> PagesSay {
        let four = |at: usize| {
            let bytes = self.control.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let checked =
            four(CONTROL_PAGE_SIZE) == Some(8192) && four(CONTROL_CHECKSUMS).is_some_and(|it| it != 0);
        match (checked, self.all_bad) {
            (false, _) => PagesSay::NoChecksums,
            (true, 0) => PagesSay::Right(self.seen),
            (true, all) => PagesSay::Wrong(self.bad, all),
        }
    }
}

/// The number of the first page in a file of a relation; `None` for every other file.
fn first_page(path: &str) -> Option<u32> {
    let (folder, name) = path.rsplit_once('/')?;
    let words: Vec<&str> = folder.split('/').collect();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_relations = match words.as_slice() {
        ["global"] => true,
        ["base", database] => number(database),
        ["pg_tblspc", space, _, database] => number(space) && number(database),
        _ => false,
    };
    let (stem, part) = match name.split_once('.') {
        Some((stem, part)) => (stem, part.parse::<u32>().ok()?),
        None => (name, 0),
    };
    let relation = match stem.split_once('_') {
        Some((relation, "fsm" | "vm" | "init")) => relation,
        Some(_) => return None,
        None => stem,
    };
    (of_relations && number(relation)).then(|| part.wrapping_mul(PAGES_OF_FILE))
}

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
/// Where the checksums begin, so that a page of zeros has one of its own (PostgreSQL's checksum_impl.h).
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum that page `number` of its relation should have: that of its content with the field itself as zero.
fn checksum(page: &[u8], number: u32) -> u16 {
    let mut sums = OFFSETS;
    let mix = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    for (row, words) in page.chunks_exact(4 * SUMS).enumerate() {
        for (column, bytes) in words.chunks_exact(4).enumerate() {
            let mut word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if (row, column) == (0, 2) {
                // The checksum's own two bytes.
                word &= 0xFFFF_0000;
            }
            sums[column] = mix(sums[column], word);
        }
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ number;
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::EntryKind;

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.to_owned(),
            kind: EntryKind::File,
            mode: 0o600,
            bytes: 0,
        }
    }

    fn control(checksums: u32) -> Vec<u8> {
        let mut control = vec![0; 8192];
        control[CONTROL_PAGE_SIZE..CONTROL_PAGE_SIZE + 4].copy_from_slice(&8192_u32.to_le_bytes());
        control[CONTROL_CHECKSUMS..CONTROL_CHECKSUMS + 4].copy_from_slice(&checksums.to_le_bytes());
        control
    }

    /// A page that was changed at `lsn`, with its checksum.
    fn page(number: u32, lsn: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE).map(|at| (at % 251) as u8).collect();
        page[0..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        let sum = checksum(&page, number);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn said(files: &[(&str, Vec<u8>)], step: usize) -> PagesSay {
        let mut pages = Pages::since(Lsn(1000));
        for (path, content) in files {
            pages.begin(&entry(path));
            for piece in content.chunks(step) {
                pages.content(&entry(path), piece);
            }
        }
        pages.say()
    }

    #[test]
    fn files_of_relations_are_known_by_name() {
        for (path, first) in [
            ("base/5/1259", Some(0)),
            ("base/5/1259.2", Some(2 * PAGES_OF_FILE)),
            ("base/5/1259_fsm", Some(0)),
            ("base/5/1259_vm.1", Some(PAGES_OF_FILE)),
            ("global/1260", Some(0)),
            ("pg_tblspc/16400/PG_15_202209061/5/1259", Some(0)),
            ("base/5/pg_filenode.map", None),
            ("base/5/PG_VERSION", None),
            ("base/5/INCREMENTAL.1259", None),
            ("global/pg_control", None),
            ("pg_wal/000000010000000000000001", None),
            ("base/pgsql_tmp/1", None),
        ] {
            assert_eq!(first_page(path), first, "{path}");
        }
    }

    #[test]
    fn a_bad_page_is_found_however_the_archive_is_cut() {
        let good = [page(0, 10), page(1, 999), vec![0; PAGE]].concat();
        let mut bad = good.clone();
        bad[PAGE + 5000] ^= 1;
        let mut torn = page(0, 1000);
        torn[5000] ^= 1;
        let exchanged = [page(1, 10), page(0, 10)].concat();
        for step in [1, 1000, PAGE, 20_000] {
            let of = |content: &[u8], checksums| {
                said(
                    &[
                        ("base/5/1259", content.to_vec()),
                        ("global/pg_control", control(checksums)),
                    ],
                    step,
                )
            };
            assert_eq!(of(&good, 1), PagesSay::Right(2), "in steps of {step}");
            let wrong = PagesSay::Wrong(vec!["page 1 of base/5/1259".to_owned()], 1);
            assert_eq!(of(&bad, 1), wrong);
            assert_eq!(of(&bad, 0), PagesSay::NoChecksums);
            assert_eq!(of(&torn, 1), PagesSay::Right(0), "its WAL mends it");
            assert!(matches!(of(&exchanged, 1), PagesSay::Wrong(_, 2)));
        }
    }
}
